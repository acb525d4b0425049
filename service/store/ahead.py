"""What zarr will ask for inside shards, fetched ahead: side by side, neighbours in one request.

zarr asks for the small chunks inside a shard one after the other. A shard's index tells where they lie.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.codecs import ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from service.store.codecs import has_usual_index
from service.store.near import NearStore
from service.values import Int64Array

Array = zarr.Array[Any]
Box = tuple[range, ...]
"""Chunk coordinates along each axis."""

WHOLE: Final = 32_000_000
"""Bytes up to which an object is fetched whole where much of it is wanted."""
_MUCH: Final = 4
"""Much is one part in so many."""
_GAP: Final = 32_768
"""Bytes that may lie unwanted between two parts that are fetched as one."""
_PIECE: Final = 4_000_000
"""Bytes of parts fetched as one."""
_EMPTY: Final = 2**64 - 1
"""What a shard's index says of a chunk that is not stored (Zarr v3, sharding codec)."""


@dataclass(frozen=True)
class ShardIndex:
    """Where the chunks of one shard lie."""

    starts: Int64Array
    """(chunks along each axis): first byte; -1 where a chunk is not stored."""
    lengths: Int64Array
    """Likewise: bytes."""


@dataclass(frozen=True)
class Sharding:
    """How an array keeps small chunks in large objects."""

    array: Array
    codec: ShardingCodec

    @classmethod
    def of(cls, array: Array) -> Sharding | None:
        """Of an array in shards whose index has the usual form; None for any other."""
        codecs = array.metadata.codecs if array.metadata.zarr_format == 3 else ()
        if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec):
            return None
        return cls(array, codecs[0]) if has_usual_index(codecs[0]) else None

    @property
    def per_shard(self) -> tuple[int, ...]:
        """Chunks along each axis of a shard."""
        shard = self.array.shards or self.array.chunks
        return tuple(s // c for s, c in zip(shard, self.codec.chunk_shape, strict=True))

    @property
    def index_bytes(self) -> int:
        """Of a shard's index: 16 a chunk, and a checksum."""
        return 16 * int(np.prod(self.per_shard)) + 4

    @property
    def index_span(self) -> ByteRequest:
        """The part of a shard that is its index, as zarr asks for it."""
        size = self.index_bytes
        return SuffixByteRequest(size) if self.codec.index_location.value == "end" else RangeByteRequest(0, size)

    def index(self, text: bytes) -> ShardIndex | None:
        """Read an index; None where it is none. zarr checks the checksum when it reads it again."""
        if len(text) != self.index_bytes:
            return None
        table = np.frombuffer(text[:-4], "<u8").reshape(*self.per_shard, 2)
        stored = table[..., 0] != _EMPTY
        starts = np.where(stored, table[..., 0], 0).astype(np.int64)
        lengths = np.where(stored, table[..., 1], 0).astype(np.int64)
        return ShardIndex(np.where(stored, starts, -1), lengths)

    def shards(self, spans: Sequence[slice]) -> Iterator[tuple[tuple[int, ...], Box]]:
        """(coordinates of a shard, chunks wanted within it) for every shard that a rectangle touches."""
        steps = self.codec.chunk_shape
        chunks = [range(s.start // c, -(-s.stop // c)) for s, c in zip(spans, steps, strict=True)]
        across = [range(c.start // n, -(-c.stop // n)) for c, n in zip(chunks, self.per_shard, strict=True)]
        for shard in itertools.product(*across):
            yield (
                shard,
                tuple(
                    range(max(c.start - i * n, 0), min(c.stop - i * n, n))
                    for c, i, n in zip(chunks, shard, self.per_shard, strict=True)
                ),
            )


def warm(array: Array, where: tuple[int | slice, ...]) -> None:
    """Fetch what zarr will read of a rectangle, in two rounds: the shards' indexes, then the chunks.

    Does nothing for a store that is near already, and leaves to zarr what is too large to be fetched ahead.

    Args:
        array: Of any store.
        where: One index or slice for each axis, as `array[where]` takes them.

    Raises:
        Unavailable: The transport failed.
    """
    store = array.store if isinstance(array, zarr.Array) else None
    if not isinstance(store, NearStore) or len(where) != array.ndim:
        return
    sharding = Sharding.of(array)
    if sharding is None:
        return
    spans = [
        slice(w, w + 1) if isinstance(w, int) else slice(*w.indices(n)) for w, n in zip(where, array.shape, strict=True)
    ]
    if all(span.start < span.stop for span in spans):
        sync(_warm(store, sharding, spans))


async def _warm(store: NearStore, sharding: Sharding, spans: Sequence[slice]) -> None:
    wanted = {sharding.array.metadata.encode_chunk_key(at): box for at, box in sharding.shards(spans)}
    prefix = f"{sharding.array.path}/" if sharding.array.path else ""
    boxes = {prefix + key: box for key, box in wanted.items()}
    indexes = await shard_indexes(store, sharding, boxes)
    lacking = {key: _lacking(store, key, index, boxes[key]) for key, index in indexes.items()}
    if sum(stop - start for parts in lacking.values() for start, stop in parts) > store.room:
        return
    await _together(_bring(store, key, parts, sharding) for key, parts in lacking.items() if parts)


async def shard_indexes(store: NearStore, sharding: Sharding, keys: Iterable[str]) -> dict[str, ShardIndex]:
    """The indexes of those shards that are there, fetched side by side."""
    keys, span = list(keys), sharding.index_span
    held = {key: store.held(key, span) for key in keys}
    missing = [key for key, record in held.items() if record is None]
    held |= dict(zip(missing, await _together(store.fetched(key, span) for key in missing), strict=True))
    found = {key: sharding.index(record.body) for key, record in held.items() if record is not None}
    return {key: index for key, index in found.items() if index is not None}


def _lacking(store: NearStore, key: str, index: ShardIndex, box: Box) -> list[tuple[int, int]]:
    """(start, stop) in bytes of the stored chunks of a shard that are wanted and not near."""
    if store.held(key, None) is not None:
        return []
    inside = np.ix_(*box)
    starts, lengths = index.starts[inside].ravel(), index.lengths[inside].ravel()
    parts = sorted((int(s), int(s + n)) for s, n in zip(starts, lengths, strict=True) if s >= 0)
    return [part for part in parts if store.held(key, RangeByteRequest(*part)) is None]


async def _bring(store: NearStore, key: str, parts: list[tuple[int, int]], sharding: Sharding) -> None:
    """Fetch parts of one shard: all of it where it is small and much of it is wanted."""
    size, total = store.size(key), sum(stop - start for start, stop in parts)
    every = len(parts) == int(np.prod(sharding.per_shard))  # then zarr asks for the whole shard, too
    if size is not None and size <= WHOLE and (every or total * _MUCH >= size):
        await store.fetched(key, None)
        return
    await _together(_piece(store, key, run) for run in _runs(parts))


async def _piece(store: NearStore, key: str, run: list[tuple[int, int]]) -> None:
    """Fetch neighbouring parts as one, and keep each under its own name: that is how zarr asks for it."""
    start, stop = run[0][0], max(part[1] for part in run)
    if len(run) == 1:
        await store.fetched(key, RangeByteRequest(start, stop))
        return
    body = await store.far(key, RangeByteRequest(start, stop))
    if body is not None and len(body) == stop - start:
        for one, end in run:
            store.keep(key, RangeByteRequest(one, end), body[one - start : end - start])


def _runs(parts: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Parts in order, those together that lie close."""
    out: list[list[tuple[int, int]]] = []
    for part in parts:
        if out and part[0] - out[-1][-1][1] <= _GAP and part[1] - out[-1][0][0] <= _PIECE:
            out[-1].append(part)
        else:
            out.append([part])
    return out


async def _together(work: Iterable[Coroutine[Any, Any, Any] | Awaitable[Any]]) -> list[Any]:
    """Do all of it side by side, to the end of each; then raise the first trouble if there was any."""
    found = await asyncio.gather(*work, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return list(found)


def fetch_all(store: Store, keys: Iterable[str]) -> None:
    """Have whole objects near, fetched side by side; nothing where the store is near itself. Raises as `warm` does."""
    if isinstance(store, NearStore):
        sync(_together([store.get(key, default_buffer_prototype()) for key in keys]))
