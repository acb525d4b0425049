"""Reading what is searched: blocks kept in memory for a while, and single pixels by id."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Self

import numpy as np

from indexing.ids import cols_of, levels_of, pixel_ids, rows_of, zone_codes, zones_of
from indexing.patches import Patches
from service.cache import ByteCache
from service.grid import Block, Zone, ZoneGrid
from service.queries import norms_of
from service.store.contract import Store
from service.values import (
    BLOCK,
    OUTSIDE,
    BoolArray,
    CacheUse,
    Float32Array,
    Float64Array,
    Int8Array,
    Int64Array,
    ModelIdentity,
    UInt8Array,
    Vectors,
    Window,
)

CACHE_BYTES: Final = 256_000_000
"""Of decoded blocks, whatever the number of stores: a small server has 4 GB for everything."""
_COUNTED_BYTES: Final = 8_000_000
"""Of what is known about observation counts: 1,000 blocks."""
_LOOKS: Final = 3
"""Times a block is read again when a refresh comes in between, before it is given out without being kept."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """What is compared with a query, of (...,) pixels: 134 bytes each at 128 dimensions, and no more in memory."""

    codes: Int8Array
    """(..., d) int8."""
    norms: Float32Array
    """(...) float32 Euclidean norms of the codes; 0 where a pixel can be no hit: not valid, or all its codes 0."""
    status: UInt8Array | None
    """(...) uint8; None where an index, which holds none, is what they were taken from."""
    scales: Float32Array | None
    """(...) float32; None where they were not asked for: cosines need none."""
    patches: Patches | None = None
    """Of a whole block that was looked at before."""

    @classmethod
    def of(cls, vectors: Vectors, *, scales: bool = False) -> Self:
        """The same of pixels as a store reads them."""
        norms = norms_of(vectors.codes)
        norms[~vectors.valid] = 0
        return cls(vectors.codes, norms, vectors.status, vectors.scales if scales else None)

    def taken(self, cells: Int64Array) -> Self:
        """(n,) pixels, from their flat indices."""
        codes, norms = self.codes.reshape(-1, self.codes.shape[-1]).take(cells, axis=0), self.norms.ravel().take(cells)
        status = None if self.status is None else self.status.ravel().take(cells)
        return type(self)(codes, norms, status, None if self.scales is None else self.scales.ravel().take(cells))

    @cached_property
    def count(self) -> int:
        """How many can be hits."""
        return int(np.count_nonzero(self.norms))

    @property
    def nbytes(self) -> int:
        """Bytes they take."""
        held = (self.codes, self.norms, self.status, self.scales, self.patches)
        return sum(each.nbytes for each in held if each is not None)


_StoreKey = tuple[str, ModelIdentity, int]
"""Location, model and dimensions: another store may come to lie where one was."""
_Key = tuple[_StoreKey, Window, Block, str]
"""Store, window, block and the block's version."""


@dataclass(frozen=True)
class Places:
    """Where points lie in a store, and what it holds there."""

    ids: Int64Array
    """(n,) int64 pixel ids; -1 where status is OUTSIDE."""
    vectors: Vectors
    """(n,) pixels."""


@dataclass(frozen=True)
class Snapshot:
    """The blocks of one window at one revision."""

    revision: str
    window: Window
    versions: Mapping[Block, str]
    """Every block that holds data, with its version, in the store's order."""
    grids: Mapping[str, ZoneGrid]
    """Zone name -> grid, at this level."""
    level: int = 1
    """Of all of these: 1, or that of an overview."""
    stale: int = 0
    """Overview blocks that are missing, or older than the pixels below them."""

    def known(self, ids: Int64Array) -> Int64Array:
        """Those of (n,) pixels whose zone there is: another window may lack it."""
        here = [zone.name in self.grids for zone in zones_of(ids)]
        return np.asarray(ids[np.array(here, bool)], np.int64)


class BlockCache:
    """Decoded blocks of however many stores, the least lately used thrown out first. Safe to use from many threads.

    Args:
        most: How many bytes to keep, of all stores together.
    """

    def __init__(self, most: int = CACHE_BYTES) -> None:
        self.most = most
        self._kept: OrderedDict[_Key, Pixels] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: _Key) -> Pixels | None:
        """A block that is kept; None where it is not."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def put(self, key: _Key, kept: Pixels) -> None:
        """Keep a block, and as many others as there is room for."""
        with self._lock:
            before = self._kept.pop(key, None)
            self._bytes += kept.nbytes - (before.nbytes if before else 0)
            self._kept[key] = kept
            while self._bytes > self.most:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def bytes_of(self, store: _StoreKey) -> int:
        """Bytes kept of one store."""
        with self._lock:
            return sum(kept.nbytes for key, kept in self._kept.items() if key[0] == store)


class PixelReader:
    """Reads blocks and pixels of one store. Safe to use from many threads.

    Args:
        store: What to read.
        cache: Where to keep decoded blocks; several readers may share it.
    """

    def __init__(self, store: Store, cache: BlockCache) -> None:
        self._store = store
        self._cache = cache
        self._name = (store.location, store.identity, store.dims)
        self._room = cache.most // (BLOCK * BLOCK * (store.dims + 6))
        self._snapshots: dict[tuple[Window, int], Snapshot] = {}
        self._counted: ByteCache[UInt8Array] = ByteCache(_COUNTED_BYTES, lambda bits: bits.nbytes)
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    def snapshot(self, window: Window, level: int = 1) -> Snapshot:
        """The blocks of a window and level as the store has them; listed anew only when its revision has changed."""
        revision = self._store.revision()[0]
        known = self._snapshots.get((window, level))
        if known is None or known.revision != revision:
            versions = dict(self._store.versions(window, self._store.blocks(window, level=level)))
            grids = {grid.zone.name: grid.at_level(level) for grid in self._store.zones()}
            stale = self._stale(window, level) if level > 1 else 0
            known = self._snapshots[window, level] = Snapshot(revision, window, versions, grids, level, stale)
        return known

    def _stale(self, window: Window, level: int) -> int:
        """How many of the blocks of a level that should be there are missing or out of date."""
        below = self._store.blocks(window)
        above = {Block(block.zone, block.row // level, block.col // level, level) for block in below}
        return len(self._store.stale(window, above))

    def enough(self, at: Snapshot, block: Block, least: tuple[int, int, int]) -> BoolArray:
        """(256, 256) bool: which pixels of a block were made from so many observations at least, in store order."""
        key = at.window, block, at.versions.get(block, ""), least

        def read() -> UInt8Array:
            zone = Zone.parse(block.zone)
            counts = self._store.counts_window(zone, at.window, block.rows, block.cols, level=block.level)
            found = np.logical_and.reduce([each >= few for each, few in zip(counts.each, least, strict=True)])
            return np.packbits(found)

        return np.unpackbits(self._counted.made(key, read)).view(bool).reshape(BLOCK, BLOCK)

    def block(self, at: Snapshot, block: Block, *, scales: bool = False) -> Pixels:
        """(256, 256) pixels, as `_held` reads them; those that were read before with their patches.

        Args:
            at: The snapshot.
            block: One of its blocks.
            scales: Whether their scales are asked for: four bytes more of each.
        """
        key = self._name, at.window, block, at.versions.get(block, "")
        before = self._cache.get(key)
        held = self._held(at, block, scales=scales)
        if held is before and held.patches is None:
            held = replace(held, patches=Patches.of(held.codes, held.norms))
            self._cache.put(key, held)
        return held

    def _held(self, at: Snapshot, block: Block, *, scales: bool = False) -> Pixels:
        """(256, 256) pixels, from memory if they were read lately and have not changed since.

        Where the store has moved on since the snapshot, these are the pixels as they stand now. They are kept only
        under a version that was theirs for certain: one looked up and read with no refresh in between.
        """
        kept = self._cache.get((self._name, at.window, block, at.versions.get(block, "")))
        if kept is not None and scales and kept.scales is None:
            kept = None
        with self._lock:
            self._hits += kept is not None
            self._misses += kept is None
        if kept is not None:
            return kept
        for _ in range(_LOOKS):
            revision = self._store.revision()
            version = self._store.versions(at.window, [block])[block]
            vectors = self._store.read(Zone.parse(block.zone), at.window, block.rows, block.cols, level=block.level)
            kept = Pixels.of(vectors, scales=scales)
            if self._store.revision() == revision:
                self._cache.put((self._name, at.window, block, version), kept)
                break
        assert kept is not None  # noqa: S101  # it was looked for at least once
        return kept

    def use(self) -> CacheUse:
        """How this store's blocks that are kept were used."""
        with self._lock:
            return CacheUse(self._hits, self._misses, self._cache.bytes_of(self._name))

    def pixels(self, at: Snapshot, ids: Int64Array, *, scales: bool = False) -> tuple[Int64Array, Pixels]:
        """Those of (n,) pixels that can be hits: their ids, ascending, and (m,) pixels.

        Where every block fits in memory whole blocks are read and kept; else just these pixels.
        """
        whole = len(at.versions) <= self._room or at.level > 1  # stores give single pixels at level 1 only
        groups = _groups(ids, by_block=whole)
        parts = [self._of_block(at, one, scales) if whole else self._of_zone(at, one, scales) for one in groups]
        codes = [part.codes for part in parts] or [np.empty((0, self._store.dims), np.int8)]
        norms = [part.norms for part in parts] or [np.empty(0, np.float32)]
        lengths = [part.scales for part in parts if part.scales is not None]
        found = Pixels(np.concatenate(codes), np.concatenate(norms), None, np.concatenate(lengths) if lengths else None)
        usable = np.flatnonzero(found.norms)
        return np.concatenate([*groups, ids[:0]])[usable], found.taken(usable)

    def places(self, at: Snapshot, lonlat: Float64Array) -> Places:
        """What (n, 2) points in degrees lie on, each in its own zone."""
        ids = np.full(len(lonlat), -1, np.int64)
        out = Vectors.empty((len(lonlat),), self._store.dims, OUTSIDE)
        zones = [Zone.of(lon, lat) for lon, lat in lonlat.tolist()]
        for zone in sorted(set(zones)):
            grid = at.grids.get(zone.name)
            if grid is None:
                continue
            mine = np.flatnonzero([one == zone for one in zones])
            row, col = grid.from_lonlat(lonlat[mine, 0], lonlat[mine, 1])
            within = (row >= 0) & (row < grid.height) & (col >= 0) & (col < grid.width)
            mine = mine[within]
            rows, cols = (np.floor(v[within]).astype(np.int64) for v in (row, col))
            ids[mine] = pixel_ids(zone, rows, cols)
            read = self._store.sample(zone, at.window, rows, cols)
            out.codes[mine], out.scales[mine], out.status[mine] = read.codes, read.scales, read.status
        return Places(ids, out)

    def _of_block(self, at: Snapshot, ids: Int64Array, scales: bool) -> Pixels:
        cells = rows_of(ids) % BLOCK * BLOCK + cols_of(ids) % BLOCK
        return self._held(at, block_of(ids[0]), scales=scales).taken(cells)

    def _of_zone(self, at: Snapshot, ids: Int64Array, scales: bool) -> Pixels:
        vectors = self._store.sample(zones_of(ids[:1])[0], at.window, rows_of(ids), cols_of(ids))
        return Pixels.of(vectors, scales=scales)


def lonlat_of(at: Snapshot, ids: Int64Array) -> tuple[Float64Array, Float64Array]:
    """(lon, lat) in degrees, each (n,), of the centres of pixels."""
    lon, lat = np.empty(len(ids)), np.empty(len(ids))
    codes = zone_codes(ids)
    for code in np.unique(codes):
        mine = codes == code
        grid = at.grids[zones_of(ids[mine][:1])[0].name]
        row, col = rows_of(ids[mine]).astype(np.float64), cols_of(ids[mine]).astype(np.float64)
        lon[mine], lat[mine] = grid.to_lonlat(row + 0.5, col + 0.5)
    return lon, lat


def block_of(pixel: np.int64) -> Block:
    """The block that a pixel lies in, by its id."""
    ids = np.array([pixel])
    row, col, level = (int(of(ids)[0]) for of in (rows_of, cols_of, levels_of))
    return Block(zones_of(ids)[0].name, row // BLOCK, col // BLOCK, level)


def by_block(ids: Int64Array) -> list[Int64Array]:
    """Ids grouped by block, ascending within and between, each once."""
    return _groups(ids, by_block=True)


def _groups(ids: Int64Array, *, by_block: bool) -> list[Int64Array]:
    """Ids grouped by block, or by zone; ascending within and between, so chunks are read in order."""
    ids = np.unique(ids)
    if not len(ids):
        return []
    keys = np.stack([zone_codes(ids), rows_of(ids) // BLOCK, cols_of(ids) // BLOCK], axis=1)
    keys = keys if by_block else keys[:, :1]
    _, group = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    return np.split(ids[order], np.cumsum(np.bincount(group.ravel()))[:-1])
