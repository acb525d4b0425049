"""Learn the lists of an index from a seeded sample of its pixels, and hold some out to measure it by."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from indexing.index.ann import Parameters, Quantiser
from indexing.index.manifest import FileRecord, QuantiserRecord, name_of, write_durably
from indexing.index.segment import part_of, put_in_place
from indexing.index.truth import HELD_OUT, held_out
from service.errors import NotFound, SmaltiError
from service.grid import Block, Zone
from service.store.contract import Store
from service.values import BLOCK, Int8Array, Window

BLOCKS_SAMPLED: Final = 256
"""The most blocks that are read for the sample."""
_BLOCKS_MEASURED: Final = 64
"""Blocks that pixels to measure by come from where there are more than are read for the sample."""


def learn(
    store: Store,
    window: Window,
    level: int,
    blocks: Sequence[tuple[Block, str]],
    seed: int,
    home: Path,
    salt: Sequence[str],
    on_block: Callable[[], None],
) -> QuantiserRecord:
    """Make a quantiser for some blocks, or find it made.

    Args:
        store: Where the vectors are.
        window: One of its windows.
        level: One of its levels.
        blocks: All that will be indexed, with their versions.
        seed: What sampling and clustering start from.
        home: The folder of the index.
        salt: What else tells it from others: only one made with the same is taken for it.
        on_block: Called after each block that is read.

    Raises:
        NotFound: The blocks hold no pixel.
        Corrupt: A block cannot be read.
    """
    told = [[block.name, version] for block, version in blocks]
    name = name_of("q", str(store.identity), store.dims, str(window), level, seed, list(salt), told)
    done = _finished(home / name)
    if done is not None:
        return done
    random = np.random.default_rng(seed)
    held, sample, pixels = _sample(store, window, [block for block, _ in blocks], seed, random, on_block)
    if not len(sample):
        raise NotFound(f"there is no pixel to index in window {window}.", field="window")
    queries = held_out(held if len(held) else sample[:HELD_OUT], random)
    parameters = Parameters.of(pixels, store.dims, seed)
    quantiser = Quantiser.trained(parameters, sample[: parameters.sample])
    scratch = part_of(home)
    try:
        quantiser.write(scratch / "centres.faiss")
        np.save(scratch / "held-out.npy", queries)
        files = tuple(FileRecord.of(scratch / each) for each in ("centres.faiss", "held-out.npy"))
        layout = Parameters(store.dims, quantiser.lists, parameters.bits, seed)
        record = QuantiserRecord(name, pixels, layout, files)
        write_durably(scratch / "quantiser.json", json.dumps(asdict(record)))
        put_in_place(scratch, home / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return record


def _finished(folder: Path) -> QuantiserRecord | None:
    try:
        record = QuantiserRecord.from_document(json.loads((folder / "quantiser.json").read_text()))
        for file in record.files:
            file.check(folder)
    except (OSError, ValueError, KeyError, TypeError, SmaltiError):
        return None
    return record


def _sample(
    store: Store,
    window: Window,
    blocks: Sequence[Block],
    seed: int,
    random: np.random.Generator,
    on_block: Callable[[], None],
) -> tuple[Int8Array, Int8Array, int]:
    """(h, d) codes to measure by and (n, d) to learn from, in a random order; and about how many pixels there are.

    Both come from all over whole blocks: lists that were learnt from a part of each lie close to what that part holds
    and far from what lies beside it. Where not every block is read, what is measured by comes from blocks of its own,
    drawn among all of them alike.
    """
    chosen = [blocks[n] for n in random.permutation(len(blocks))[:BLOCKS_SAMPLED]]
    most = Parameters.of(len(blocks) * BLOCK * BLOCK, store.dims, seed).sample + HELD_OUT
    sample, seen = _drawn(store, window, chosen, most, random, on_block)
    pixels = round(seen * len(blocks) / max(len(chosen), 1))
    if len(blocks) > len(chosen):
        others = [blocks[n] for n in random.permutation(len(blocks))[:_BLOCKS_MEASURED]]
        held, _ = _drawn(store, window, others, HELD_OUT, random, lambda: None)
        return held[:HELD_OUT], sample, pixels
    held = sample[: min(HELD_OUT, max(1, len(sample) // 4))]
    return held, sample[len(held) :] if len(sample) > len(held) else sample, pixels


def _drawn(
    store: Store,
    window: Window,
    blocks: Sequence[Block],
    most: int,
    random: np.random.Generator,
    on_block: Callable[[], None],
) -> tuple[Int8Array, int]:
    """(n, d) codes of about so many pixels that have a direction, in a random order; and how many there are in all."""
    quota, seen = -(-most // max(len(blocks), 1)), 0
    parts = [np.empty((0, store.dims), np.int8)]
    for block in blocks:
        vectors = store.read(Zone.parse(block.zone), window, block.rows, block.cols, level=block.level)
        able = np.flatnonzero((vectors.valid & vectors.codes.any(axis=-1)).ravel())
        seen += len(able)
        taken = able[random.permutation(len(able))[:quota]]
        parts.append(vectors.codes.reshape(-1, store.dims)[taken])
        on_block()
    sample = np.concatenate(parts)
    return sample[random.permutation(len(sample))], seen
