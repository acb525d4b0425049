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
_WHOLE_UP_TO: Final = 16
"""Of more blocks than this a quarter of each is read: one chunk of those that we write."""
_HALF: Final = BLOCK // 2


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
    sample, pixels = _sample(store, window, [block for block, _ in blocks], seed, random, on_block)
    if not len(sample):
        raise NotFound(f"there is no pixel to index in window {window}.", field="window")
    held = min(HELD_OUT, max(1, len(sample) // 4))
    queries = held_out(sample[:held], random)
    parameters = Parameters.of(pixels, store.dims, seed)
    quantiser = Quantiser.trained(parameters, (sample[held:] if len(sample) > held else sample)[: parameters.sample])
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
) -> tuple[Int8Array, int]:
    """(n, d) codes in a random order, out of blocks chosen at random; and about how many pixels all blocks hold."""
    chosen = [blocks[n] for n in random.permutation(len(blocks))[:BLOCKS_SAMPLED]]
    most = Parameters.of(len(blocks) * BLOCK * BLOCK, store.dims, seed).sample + HELD_OUT
    quota = -(-most // max(len(chosen), 1))
    for whole in (len(blocks) <= _WHOLE_UP_TO, True):
        parts, seen, looked = [np.empty((0, store.dims), np.int8)], 0, 0
        for block in chosen:
            top, left = (0, 0) if whole else (_HALF * random.integers(0, 2, 2)).tolist()
            codes, area = _pixels(store, window, block, top, left, BLOCK if whole else _HALF)
            seen, looked = seen + len(codes), looked + area
            parts.append(codes[random.permutation(len(codes))[:quota]])
            on_block()
        if seen or whole:
            break
    sample = np.concatenate(parts)
    return sample[random.permutation(len(sample))], round(seen * len(blocks) * BLOCK * BLOCK / max(looked, 1))


def _pixels(store: Store, window: Window, block: Block, top: int, left: int, side: int) -> tuple[Int8Array, int]:
    """The codes of the pixels in a square of a block that have a direction, and how many pixels the square has."""
    rows = slice(block.rows.start + top, block.rows.start + top + side)
    cols = slice(block.cols.start + left, block.cols.start + left + side)
    vectors = store.read(Zone.parse(block.zone), window, rows, cols, level=block.level)
    return vectors.codes[vectors.valid & vectors.codes.any(axis=-1)], side * side
