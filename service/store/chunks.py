"""Squares of stored arrays, decoded and kept in memory: what one tile read, its neighbours and other views need not.

A square is one stored chunk, or as many small ones as make 32 pixels a side. It is kept under the version of its
block, so a new block needs no other to be read anew, and a square that was kept is never wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, cast

import google_crc32c
import numpy as np
import numpy.typing as npt
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.core.sync import sync

from service.bucket import is_remote
from service.cache import ByteCache
from service.errors import Corrupt
from service.grid import Block, ZoneGrid
from service.linear import code_norms
from service.store.bulk import read_chunks
from service.store.codecs import is_native
from service.store.faults import Array, fault, read_array
from service.values import BLOCK

Square = npt.NDArray[Any]
Cell = tuple[int, int]
"""Row and column of a square."""
ChunkCache = ByteCache[Square]
Key = tuple[str, str, int, int, int, str]
"""(store, array, time, row and column of the square, version of its block)."""

MIN_SIDE: Final = 32
"""Pixels: with smaller squares their number costs more than their bytes."""
LARGE: Final = 4
"""A window that is larger than a fourth of the cache is read past it: it would drive everything else out."""
AT_ONCE: Final = {False: 3, True: 16}
"""Chunks fetched at once, from here and over a network. From a disk more only get in each other's way (measured)."""
_CHECKSUM_BYTES: Final = 4


def chunk_cache(limit: int) -> ChunkCache:
    """A cache of decoded squares of at most `limit` bytes, for all stores of a process."""
    return ByteCache(limit, lambda square: int(square.nbytes))


@dataclass(frozen=True, eq=False)
class Kept:
    """Where the squares of one zone's arrays are kept, and how their versions are known."""

    cache: ChunkCache
    versions: Callable[[int, Iterable[Block]], Mapping[Block, str]]
    """From a position in time and blocks to what changes when, and only when, a block's content does."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One array of a zone, as squares."""

    location: str
    """Of the store."""
    array: Array
    """(time, row, col), (time, row, col, d), or (time, d, row, col) where `band_first`."""
    grid: ZoneGrid
    row0: int
    """Array row of the grid's first row."""
    band_first: bool = False
    norms: bool = False
    """Whether a pixel of it is the length of the codes, not the codes: made once for all who compare directions."""

    @cached_property
    def side(self) -> tuple[int, int]:
        """(rows, columns) of a square."""
        rows, cols = self.array.chunks[2:4] if self.band_first else self.array.chunks[1:3]
        return rows * -(-MIN_SIDE // rows), cols * -(-MIN_SIDE // cols)

    @property
    def name(self) -> str:
        """What squares are kept under: the array's path, and what is made of it."""
        return f"{self.array.path}#norms" if self.norms else self.array.path

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a square."""
        return np.dtype(np.float32) if self.norms else self.array.dtype

    @property
    def dims(self) -> tuple[int, ...]:
        """(d,) of an array of codes, () of a plane of numbers."""
        if self.norms:
            return ()
        shape = self.array.shape
        return (shape[1],) if self.band_first else tuple(shape[3:])

    @property
    def extent(self) -> tuple[int, int]:
        """(rows, columns) of the whole array."""
        rows, cols = self.array.shape[2:4] if self.band_first else self.array.shape[1:3]
        return rows, cols

    def read(self, time: int, rows: slice, cols: slice) -> Square:
        """(rows, cols[, d]) of a rectangle in the array's own rows, past the cache. Raises as `read_array` does."""
        if self.norms:
            return _norms(replace(self, norms=False).read(time, rows, cols))
        if not self.band_first:
            whole = [slice(0, d) for d in self.dims]
            return np.asarray(read_array(self.location, self.array, time, rows, cols, *whole))
        planes = read_array(self.location, self.array, time, slice(0, self.array.shape[1]), rows, cols)
        return np.ascontiguousarray(np.moveaxis(planes, 0, -1))

    def blocks(self, cells: Iterable[Cell]) -> list[Block]:
        """The block that each of some squares begins in."""
        (height, width), zone, level = self.side, self.grid.zone.name, self.grid.level
        found = [(max(row * height - self.row0, 0) // BLOCK, col * width // BLOCK) for row, col in cells]
        known = {at: Block(zone, *at, level) for at in set(found)}
        return [known[at] for at in found]


def read_plane(plane: Plane, kept: Kept | None, time: int, rows: slice, cols: slice) -> Square:
    """A rectangle of an array, its squares taken from the cache and only the missing ones read.

    Args:
        plane: Of which array.
        kept: Where squares are kept; all is read where absent.
        time: Position in time.
        rows: Rows of the array.
        cols: Columns.

    Returns:
        (rows, cols[, d]), the caller's own.

    Raises:
        Corrupt: Stored bytes cannot be read; names array and chunk.
        Unavailable: The transport failed.
    """
    shape = (rows.stop - rows.start, cols.stop - cols.start, *plane.dims)
    if kept is None or not keeps(plane, kept, shape):
        return plane.read(time, rows, cols)
    height, width = plane.side
    cells = [
        (row, col)
        for row in range(rows.start // height, -(-rows.stop // height))
        for col in range(cols.start // width, -(-cols.stop // width))
    ]
    blocks = plane.blocks(cells)
    versions = kept.versions(time, set(blocks))
    stands = [(cell, versions[block]) for cell, block in zip(cells, blocks, strict=True)]
    keys = [(plane.location, plane.name, time, *cell, version) for cell, version in stands if version]
    squares = _kept(plane, kept.cache, keys)
    out = (np.empty if len(keys) == len(cells) else _filled(plane))(shape, plane.dtype)
    for (*_, row, col, _), square in zip(keys, squares, strict=True):
        top, left = row * height - rows.start, col * width - cols.start
        here = np.s_[max(top, 0) : top + height, max(left, 0) : left + width]
        there = np.s_[max(-top, 0) : shape[0] - top, max(-left, 0) : shape[1] - left]
        out[here] = square[there]
    return out


def keeps(plane: Plane, kept: Kept | None, shape: tuple[int, ...]) -> bool:
    """Whether the squares of a window of so many (rows, columns, ...) pixels are kept: it is not too large."""
    size = shape[0] * shape[1] * int(np.prod(plane.dims)) * plane.dtype.itemsize
    return kept is not None and size * LARGE <= kept.cache.limit


def _filled(plane: Plane) -> Callable[[tuple[int, ...], Any], Square]:
    """What makes an array as one looks into which nothing was written."""
    return lambda shape, dtype: np.full(shape, 0 if plane.norms else plane.array.fill_value, dtype)


def _kept(plane: Plane, cache: ChunkCache, keys: Sequence[Key]) -> list[Square]:
    """The square of each key, from the cache or made."""
    return cache.many(keys, lambda missing: _squares(plane, cache, missing))


def _squares(plane: Plane, cache: ChunkCache, missing: Sequence[Key]) -> list[Square]:
    time, cells = missing[0][2], [(key[3], key[4]) for key in missing]
    if plane.norms:
        codes = replace(plane, norms=False)
        found = [_norms(square) for square in _kept(codes, cache, [(key[0], codes.name, *key[2:]) for key in missing])]
    elif _is_plain(plane):
        found = _fetched(plane, time, cells)
    else:
        found = _packed(plane, time, cells) or _decoded(plane, time, cells)
    for square in found:
        square.setflags(write=False)  # many read it
    return found


def _norms(codes: Square) -> Square:
    return code_norms(codes.reshape(-1, codes.shape[-1])).reshape(codes.shape[:-1])


# Chunks that are stored as they are: their bytes are the square.


def _is_plain(plane: Plane) -> bool:
    """Whether each stored object is one square, as it lies in memory but for a checksum."""
    metadata = plane.array.metadata
    if not isinstance(metadata, ArrayV3Metadata) or plane.array.shards or plane.band_first:
        return False
    codecs = metadata.codecs
    plain = is_native(codecs[0]) and [type(codec) for codec in codecs[1:]] in ([], [Crc32cCodec])
    return plain and plane.side == plane.array.chunks[1:3]


def _fetched(plane: Plane, time: int, cells: Sequence[tuple[int, int]]) -> list[Square]:
    """Squares from the bytes of their chunks: half the time of zarr's way, which copies each of them twice more."""
    array, tail = plane.array, [0] * len(plane.dims)
    keys = [f"{array.path}/{array.metadata.encode_chunk_key((time, *cell, *tail))}" for cell in cells]
    try:
        return sync(_fetch(plane, keys, AT_ONCE[is_remote(plane.location)]))
    except Corrupt:
        raise
    except Exception as error:
        raise fault(error, plane.location, f"array {array.path}, one of the chunks {keys[0]} to {keys[-1]}") from error


async def _fetch(plane: Plane, keys: Sequence[str], at_once: int) -> list[Square]:
    turn, prototype = asyncio.Semaphore(at_once), default_buffer_prototype()

    async def one(key: str) -> Square:
        async with turn:
            buffer = await plane.array.store.get(key, prototype)
        return _square(plane, key, buffer)  # its checksum is made while the next chunks are read

    found = await asyncio.gather(*(one(key) for key in keys), return_exceptions=True)
    for square in found:
        if isinstance(square, BaseException):  # the first in order, not in time: errors are the same every time
            raise square
    return cast("list[Square]", found)


def _square(plane: Plane, key: str, buffer: Buffer | None) -> Square:
    array = plane.array
    shape = (*plane.side, *plane.dims)
    if buffer is None:  # never written
        return np.full(shape, array.fill_value, array.dtype)
    stored = buffer.as_numpy_array().view(np.uint8)
    if len(array.metadata.codecs) > 1:  # type: ignore[union-attr]
        told, stored = stored[-_CHECKSUM_BYTES:], stored[:-_CHECKSUM_BYTES]
        if google_crc32c.value(stored) != int.from_bytes(told.tobytes(), "little"):
            raise _damaged(plane, key, "its checksum does not fit")
    if stored.nbytes != np.prod(shape) * array.dtype.itemsize:
        raise _damaged(plane, key, f"it has {stored.nbytes:,} bytes")
    return stored.view(array.dtype).reshape(shape)


def _damaged(plane: Plane, key: str, reason: str) -> Corrupt:
    chunk = key.partition("/c/")[2]
    return Corrupt(
        f"{plane.location}: array {plane.array.path}, chunk {chunk} cannot be read: {reason}.",
        remedy="Write it again, or restore it from a copy.",
    )


# Chunks that are packed: one by one from shards on this machine, else by zarr in as few rectangles as hold them all.


def _packed(plane: Plane, time: int, cells: Sequence[tuple[int, int]]) -> list[Square] | None:
    """Squares that are chunks of shards in a folder; None where they are anything else."""
    array = plane.array
    if array.shards is None or plane.side != tuple(array.chunks[-2:]) or (plane.dims and not plane.band_first):
        return None
    return read_chunks(array, time, cells)


def _decoded(plane: Plane, time: int, cells: Sequence[tuple[int, int]]) -> list[Square]:
    (height, width), (most_rows, most_cols) = plane.side, plane.extent
    found: dict[tuple[int, int], Square] = {}
    for top, bottom, left, right in rectangles(cells):
        rows = slice(top * height, min(bottom * height, most_rows))
        cols = slice(left * width, min(right * width, most_cols))
        read = plane.read(time, rows, cols)
        for row in range(top, bottom):
            for col in range(left, right):
                i, j = (row - top) * height, (col - left) * width
                found[row, col] = np.ascontiguousarray(read[i : i + height, j : j + width])
    return [found[cell] for cell in cells]


def rectangles(cells: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """(top, bottom, left, right), ends excluded, of rectangles that hold each cell once and no other cell."""
    left_over = set(cells)
    while left_over:
        row, col = min(left_over)
        right = col
        while (row, right) in left_over:
            right += 1
        bottom = row
        while all((bottom, across) in left_over for across in range(col, right)):
            left_over -= {(bottom, across) for across in range(col, right)}
            bottom += 1
        yield row, bottom, col, right
