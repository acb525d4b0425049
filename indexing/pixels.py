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
from service.values import BLOCK, OUTSIDE, CacheUse, Float32Array, Float64Array, Int8Array, Int64Array, Vectors, Window

CACHE_BYTES: Final = 256_000_000
_LOOKS: Final = 3
"""Times a block is read again when a refresh comes in between, before it is given out without being kept."""

KeptBlock = tuple[Vectors, Float32Array]
"""A decoded block: (256, 256) pixels, and the Euclidean norms of their codes."""


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


class PixelReader:
    """Reads blocks and pixels of one store. Safe to use from many threads.

    Args:
        store: What to read.
        cache_bytes: How many bytes of decoded blocks to keep.
    """

    def __init__(self, store: Store, cache_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._block_bytes = BLOCK * BLOCK * (store.dims + 9)
        self._room = cache_bytes // self._block_bytes
        self._kept: OrderedDict[tuple[Window, Block, str], KeptBlock] = OrderedDict()
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
        key = (at.window, block, at.versions.get(block, ""))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                self._hits += 1
                return self._kept[key]
            self._misses += 1
        for _ in range(_LOOKS):
            revision = self._store.revision()
            version = self._store.versions(at.window, [block])[block]
            vectors = self._store.read(Zone.parse(block.zone), at.window, block.rows, block.cols)
            kept = (vectors, norms_of(vectors.codes))
            if self._store.revision() == revision:
                self._keep((at.window, block, version), kept)
                break
        return kept

    def use(self) -> CacheUse:
        """How the blocks that are kept were used."""
        with self._lock:
            return CacheUse(self._hits, self._misses, len(self._kept) * self._block_bytes)

    def _keep(self, key: tuple[Window, Block, str], kept: KeptBlock) -> None:
        with self._lock:
            self._kept[key] = kept
            while len(self._kept) > self._room:
                self._kept.popitem(last=False)

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
