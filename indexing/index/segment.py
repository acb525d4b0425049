"""One segment of an index, or shard: the pixels of up to 128 blocks of one zone.

    s-<...>/lists.bin, lists.npy   packed codes and positions, by list; how many pixels each list holds
    s-<...>/codes.i8 ...           the pixels as they are stored: see `rows`
    s-<...>/truth.npz              the best of its pixels for the held-out queries: see `truth`
    s-<...>/segment.json           what it holds; written last

A segment is made from plain values and depends on nothing else, so any number can be made at once, on any machine
that sees the folder; one that is there already is not made again.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from indexing.ids import first_id, ids_at
from indexing.index import packed
from indexing.index.ann import Filling, MappedLists, Quantiser, unit
from indexing.index.manifest import REBUILD, FileRecord, QuantiserRecord, SegmentRecord, name_of, write_durably
from indexing.index.rows import NAMES, PIXELS, Rows, RowsWriter
from indexing.index.truth import Neighbours, Seeing
from indexing.pixels import Pixels
from service.errors import Corrupt, SmaltiError, Unavailable
from service.grid import Block, Zone
from service.store.contract import Store
from service.values import BoolArray, Float32Array, Int8Array, Int64Array, UInt8Array, Window

MOST_BLOCKS: Final = 128
"""8.4 million pixels: 300 MB in memory while the lists are being filled."""
PART: Final = ".part-"
"""What the folder of something unfinished begins with."""
_AHEAD: Final = 2
"""Blocks that are read while one is added: 50 MB each."""


@dataclass(frozen=True)
class SegmentTask:
    """A segment to be made: plain values, that may travel to another machine."""

    window: Window
    level: int
    quantiser: QuantiserRecord
    blocks: tuple[tuple[Block, str], ...]
    """Which blocks of one zone, with the versions they are at."""
    sources: tuple[SegmentRecord, ...] = ()
    """Segments that hold some of them already, as they are: these are not read from the store again."""

    @property
    def name(self) -> str:
        """What it will be called: it follows from what it is made of, the very bytes of the centres among it."""
        held = [[block.name, version] for block, version in self.blocks]
        return name_of("s", self.quantiser.name, [file.sha256 for file in self.quantiser.files], held)


def build_segment(
    store: Store, task: SegmentTask, home: Path, on_block: Callable[[], None] | None = None
) -> SegmentRecord:
    """Make a segment, or find it made.

    Args:
        store: Where the vectors are. A block that changes while it is read is told by an empty version.
        task: What to make.
        home: The folder of the index, where the quantiser lies.
        on_block: Called after each block.

    Raises:
        Corrupt: A block or the quantiser cannot be read.
    """
    folder = home / task.name
    if (done := _made(folder, task)) is not None:
        return done
    scratch = part_of(home)
    try:
        record = _Making(store, task, home, scratch).run(on_block or (lambda: None))
        write_durably(scratch / "segment.json", json.dumps(record.document()))
        if (done := _made(folder, task)) is not None:  # another that was taken for dead: it may be in use already
            return done
        put_in_place(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return record


def _made(folder: Path, task: SegmentTask) -> SegmentRecord | None:
    done = finished(folder)
    return done if done is not None and done.blocks == task.blocks else None


def part_of(home: Path) -> Path:
    """A new folder for something unfinished, as open to others as the one it lies in is made to be."""
    scratch = home / f"{PART}{uuid.uuid4().hex}"
    scratch.mkdir()
    return scratch


def put_in_place(scratch: Path, folder: Path) -> None:
    """Give a folder that is whole, and on disk, its name; what has the name already is damaged and goes."""
    for path in (*scratch.iterdir(), scratch):
        _sync(path)
    aside = folder.with_name(f"{PART}{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        folder.rename(aside)
    scratch.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def finished(folder: Path) -> SegmentRecord | None:
    """What a segment says of itself, if it is there and whole."""
    try:
        record = SegmentRecord.from_document(json.loads((folder / "segment.json").read_text()))
        for file in record.files:
            file.check(folder)
    except (OSError, ValueError, KeyError, TypeError, SmaltiError):
        return None
    return record


class _Making:
    def __init__(self, store: Store, task: SegmentTask, home: Path, scratch: Path) -> None:
        self._store, self._task, self._scratch = store, task, scratch
        folder = home / task.quantiser.name
        self._dims = task.quantiser.parameters.dims
        quantiser, queries = open_quantiser(folder, task.quantiser)
        self._filling = Filling(quantiser, task.quantiser.parameters.bits)
        self._seeing = Seeing(queries)
        self._sources = {
            block: (home / source.name, slot, len(source.blocks), version)
            for source in task.sources
            for slot, (block, version) in enumerate(source.blocks)
        }

    def run(self, on_block: Callable[[], None]) -> SegmentRecord:
        counts = []
        with RowsWriter(self._scratch) as writer:
            for pixels, positions, vectors, found in self._prepared():
                writer.add(pixels)
                self._filling.add(positions, vectors)
                self._seeing.take(found)
                counts.append(len(positions))
                on_block()
        return SegmentRecord(
            name=self._task.name,
            zone=self._task.blocks[0][0].zone,
            blocks=self._still(),
            counts=tuple(counts),
            files=(*self._write(), *(FileRecord.of(self._scratch / n, writer.digests()[n]) for n in NAMES)),
        )

    def _write(self) -> list[FileRecord]:
        layout = self._filling.layout()
        lists, sizes, truth = (self._scratch / name for name in ("lists.bin", "lists.npy", "truth.npz"))
        digest = packed.write(lists, self._filling.lists())
        np.save(sizes, layout.sizes)
        self._seeing.best.save(truth)
        return [FileRecord.of(lists, digest), FileRecord.of(sizes), FileRecord.of(truth)]

    def _prepared(self) -> Iterator[tuple[Pixels, Int64Array, Float32Array, Neighbours]]:
        """Each slot's pixels, what of them is added, and the neighbours among them; a few are read ahead."""
        with ThreadPoolExecutor(_AHEAD) as pool:
            coming = [pool.submit(self._slot, slot) for slot in range(min(_AHEAD, len(self._task.blocks)))]
            try:
                for slot in range(len(self._task.blocks)):
                    ready = coming.pop(0).result()
                    if slot + _AHEAD < len(self._task.blocks):
                        coming.append(pool.submit(self._slot, slot + _AHEAD))
                    yield ready
            finally:
                for future in coming:
                    future.cancel()

    def _slot(self, slot: int) -> tuple[Pixels, Int64Array, Float32Array, Neighbours]:
        pixels = self._read(*self._task.blocks[slot])
        norms = pixels.norms.ravel()
        offsets = np.flatnonzero(norms)
        codes = pixels.codes.reshape(-1, self._dims)
        if len(offsets) < len(codes):
            codes, norms = codes[offsets], norms[offsets]
        positions = slot * PIXELS + offsets.astype(np.int64)
        return pixels, positions, unit(codes, norms), self._seeing.look(positions, codes, norms)

    def _read(self, block: Block, version: str) -> Pixels:
        folder, slot, slots, held = self._sources.get(block, (None, 0, 0, ""))
        if folder is not None and held == version:
            return Rows.open(folder, slots, self._dims).block(slot)
        zone = Zone.parse(block.zone)
        vectors = self._store.read(zone, self._task.window, block.rows, block.cols, level=block.level)
        return Pixels.of(vectors, scales=True)

    def _still(self) -> tuple[tuple[Block, str], ...]:
        """The blocks with their versions; "" where one is no more what it was, and may have been read as what it is."""
        now = self._store.versions(self._task.window, [block for block, _ in self._task.blocks])
        return tuple(
            (block, version if now.get(block) == version or self._sources.get(block, ("",) * 4)[3] == version else "")
            for block, version in self._task.blocks
        )


def open_quantiser(folder: Path, record: QuantiserRecord) -> tuple[Quantiser, Int8Array]:
    """The centres of the lists, and the held-out queries.

    Raises:
        Corrupt: A file is missing or damaged. Names it.
    """
    centres, queries = (file.check(folder) for file in record.files)
    return Quantiser.read(centres, record.parameters.dims), np.load(queries, allow_pickle=False)


@dataclass(frozen=True, eq=False)
class Segment:
    """A segment of an opened index."""

    number: int
    """Its place among the segments of the index."""
    record: SegmentRecord
    bits: int
    """Bits kept for each dimension."""
    first_ids: Int64Array
    """(slots,) id of the first pixel of each block."""
    lists: MappedLists | None
    """None where this machine does not hold it."""
    rows: Rows | None

    @classmethod
    def open(
        cls, home: Path, number: int, record: SegmentRecord, quantiser: Quantiser, bits: int, *, here: bool = True
    ) -> Segment:
        """Map its files, or only know of it where it is not `here`.

        Raises:
            Corrupt: A file is missing or damaged. Names it.
        """
        firsts = np.array([first_id(block) for block, _ in record.blocks], np.int64)
        closed = cls(number, record, bits, firsts, None, None)
        if not here:
            return closed
        folder = home / record.name
        for file in record.files:
            file.check(folder)
        layout = packed.read_sizes(folder / "lists.npy", quantiser.block_bytes(bits), folder / "lists.bin")
        lists = MappedLists(quantiser, folder / "lists.bin", layout, bits)
        if lists.count != sum(record.counts):
            raise Corrupt(f"{folder} holds {lists.count:,} pixels, not {sum(record.counts):,}.", remedy=REBUILD)
        return replace(closed, lists=lists, rows=Rows.open(folder, len(record.blocks), quantiser.dims))

    @property
    def name(self) -> str:
        """What answers call it."""
        return self.record.name

    @property
    def slots(self) -> int:
        """Blocks it has, those that count for nothing any more too."""
        return len(self.record.blocks)

    @cached_property
    def alive(self) -> BoolArray:
        """(slots,) bool: which of its blocks count."""
        return np.array([bool(version) for _, version in self.record.blocks], bool)

    @cached_property
    def counting(self) -> UInt8Array | None:
        """A bit for each position whose block counts; None where all do."""
        return None if self.alive.all() else self.whole(self.alive)

    def whole(self, slots: BoolArray) -> UInt8Array:
        """A bit for each position in some of its (slots,) blocks, lowest first."""
        return whole_blocks(slots.tobytes())

    def ids(self, positions: Int64Array) -> Int64Array:
        """(n,) pixel ids of (n,) positions."""
        return ids_at(self.first_ids[positions // PIXELS], positions % PIXELS)

    def generous(self, count: int) -> int:
        """How many candidates to ask of each segment when so many are wanted.

        One more shows whether any that ties with the last was left out. Codes of several bits are compared in two
        steps, and the first drops a pixel by what was found before it: that may show among the last
        of those asked for, which are then not taken.
        """
        return count + 1 if self.bits == 1 else count + max(count // 4, 64)

    def search(
        self, directions: Float32Array, nearest: tuple[Float32Array, Int64Array], count: int, allowed: UInt8Array | None
    ) -> tuple[Float32Array, Int64Array]:
        """As `MappedLists.search`.

        Raises:
            Unavailable: This machine does not hold the segment. Names it.
            Corrupt: Its lists are damaged.
        """
        if self.lists is None:
            raise Unavailable(f"shard {self.name} is not on this machine.")
        estimates, positions = self.lists.search(directions, nearest, count, allowed)
        if positions.size and positions.max() >= self.slots * PIXELS:
            raise Corrupt(f"the lists of shard {self.name} are damaged.", remedy=REBUILD)
        return estimates, positions


@lru_cache(maxsize=32)
def whole_blocks(slots: bytes) -> UInt8Array:
    """The same of (slots,) bool as bytes, for any segment: kept, as it only changes with the store."""
    bits = np.repeat(np.frombuffer(slots, np.uint8) * np.uint8(255), PIXELS // 8)
    bits.flags.writeable = False
    return bits


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
