"""Reading what is searched: blocks kept in memory for a while, and single pixels by id."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from indexing.ids import cols_of, pixel_ids, rows_of, zone_codes, zones_of
from service.grid import Block, Zone, ZoneGrid
from service.queries import norms_of
from service.store.contract import Store
from service.values import (
    BLOCK,
    OUTSIDE,
    CacheUse,
    Float32Array,
    Float64Array,
    Int8Array,
    Int64Array,
    ModelIdentity,
    Vectors,
    Window,
)

CACHE_BYTES: Final = 256_000_000
"""Of decoded blocks, whatever the number of stores: a small server has 4 GB for everything."""
_LOOKS: Final = 3
"""Times a block is read again when a refresh comes in between, before it is given out without being kept."""

KeptBlock = tuple[Vectors, Float32Array]
"""A decoded block: (256, 256) pixels, and the Euclidean norms of their codes."""
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
    """Zone name -> grid."""


class BlockCache:
    """Decoded blocks of however many stores, the least lately used thrown out first. Safe to use from many threads.

    Args:
        most: How many bytes to keep, of all stores together.
    """

    def __init__(self, most: int = CACHE_BYTES) -> None:
        self.most = most
        self._kept: OrderedDict[_Key, KeptBlock] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: _Key) -> KeptBlock | None:
        """A block that is kept; None where it is not."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def put(self, key: _Key, kept: KeptBlock) -> None:
        """Keep a block, and as many others as there is room for."""
        with self._lock:
            before = self._kept.pop(key, None)
            self._bytes += _size(kept) - (_size(before) if before else 0)
            self._kept[key] = kept
            while self._bytes > self.most:
                self._bytes -= _size(self._kept.popitem(last=False)[1])

    def bytes_of(self, store: _StoreKey) -> int:
        """Bytes kept of one store."""
        with self._lock:
            return sum(_size(kept) for key, kept in self._kept.items() if key[0] == store)


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
        self._room = cache.most // (BLOCK * BLOCK * (store.dims + 9))
        self._snapshots: dict[Window, Snapshot] = {}
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    def snapshot(self, window: Window) -> Snapshot:
        """The blocks of a window as the store has them now; listed anew only when its revision has changed."""
        revision = self._store.revision()[0]
        known = self._snapshots.get(window)
        if known is None or known.revision != revision:
            versions = dict(self._store.versions(window, self._store.blocks(window)))
            grids = {grid.zone.name: grid for grid in self._store.zones()}
            known = self._snapshots[window] = Snapshot(revision, window, versions, grids)
        return known

    def block(self, at: Snapshot, block: Block) -> KeptBlock:
        """(256, 256) pixels and their norms, from memory if they were read lately and have not changed since.

        Where the store has moved on since the snapshot, these are the pixels as they stand now. They are kept only
        under a version that was theirs for certain: one looked up and read with no refresh in between.
        """
        kept = self._cache.get((self._name, at.window, block, at.versions.get(block, "")))
        with self._lock:
            self._hits += kept is not None
            self._misses += kept is None
        if kept is not None:
            return kept
        for _ in range(_LOOKS):
            revision = self._store.revision()
            version = self._store.versions(at.window, [block])[block]
            vectors = self._store.read(Zone.parse(block.zone), at.window, block.rows, block.cols)
            kept = (vectors, norms_of(vectors.codes))
            if self._store.revision() == revision:
                self._cache.put((self._name, at.window, block, version), kept)
                break
        assert kept is not None  # noqa: S101  # it was looked for at least once
        return kept

    def use(self) -> CacheUse:
        """How this store's blocks that are kept were used."""
        with self._lock:
            return CacheUse(self._hits, self._misses, self._cache.bytes_of(self._name))

    def codes(self, at: Snapshot, ids: Int64Array) -> tuple[Int64Array, Int8Array]:
        """Those of (n,) pixels that hold a vector with a direction: their ids and (m, d) codes.

        Where every block fits in memory whole blocks are read and kept; else just these pixels.
        """
        whole = len(at.versions) <= self._room
        parts = [(self._of_block if whole else self._of_zone)(at, group) for group in _groups(ids, by_block=whole)]
        if not parts:
            return np.empty(0, np.int64), np.empty((0, self._store.dims), np.int8)
        vectors = [vectors for _, vectors in parts]
        ids = np.concatenate([group for group, _ in parts])
        codes = np.concatenate([v.codes for v in vectors])
        usable = np.concatenate([v.valid for v in vectors]) & codes.any(axis=1)
        return ids[usable], codes[usable]

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

    def _of_block(self, at: Snapshot, ids: Int64Array) -> tuple[Int64Array, Vectors]:
        vectors, _ = self.block(at, block_of(ids[0]))
        cells = (rows_of(ids) % BLOCK, cols_of(ids) % BLOCK)
        return ids, Vectors(vectors.codes[cells], vectors.scales[cells], vectors.status[cells])

    def _of_zone(self, at: Snapshot, ids: Int64Array) -> tuple[Int64Array, Vectors]:
        return ids, self._store.sample(zones_of(ids[:1])[0], at.window, rows_of(ids), cols_of(ids))


def _size(kept: KeptBlock) -> int:
    vectors, norms = kept
    return vectors.codes.nbytes + vectors.scales.nbytes + vectors.status.nbytes + norms.nbytes


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
    return Block(zones_of(ids)[0].name, int(rows_of(ids)[0]) // BLOCK, int(cols_of(ids)[0]) // BLOCK)


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
