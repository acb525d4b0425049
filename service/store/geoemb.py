"""Reading the published `geoemb:` Zarr v3 layout (format notes 4.4).

One group to a UTM zone, `utm01` to `utm60`, spanning both hemispheres in the northern CRS; each hemisphere is a
grid of its own here, the southern one with northings below zero. NaN scales are water, +inf is not written.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from zarr.core.sync import sync

from service.bucket import is_remote
from service.errors import Corrupt, InvalidInput, NotFound, Unavailable
from service.grid import Block, Zone, ZoneGrid
from service.store.archive import declared_identity, scanned_blocks
from service.store.chunks import ChunkCache, Kept
from service.store.codecs import rust_codecs
from service.store.faults import Array, reading
from service.store.layer import Layer, read_points, read_window
from service.store.layout import MODEL
from service.store.snapshot import decoded_years, grid_of
from service.values import WATER, Counts, Int64Array, ModelIdentity, Vectors, Window

_GROUP: Final = re.compile(r"utm(\d\d)")


def is_geoemb(location: str) -> bool:
    """Whether a location's root metadata speaks of `geoemb:`. Remote ones are taken at their word."""
    if is_remote(location):
        return True
    path = Path(location) / "zarr.json"
    if not path.is_file():
        return any(Path(location).glob("utm[0-9][0-9]"))
    try:
        attributes = json.loads(path.read_bytes()).get("attributes", {})
    except (ValueError, AttributeError):
        raise Corrupt(f"{path} is not JSON: the root metadata is damaged.") from None
    return any(str(key).startswith("geoemb:") for key in attributes)


class _State:
    """Everything known of the store at one time; replaced as a whole by `refresh`."""

    def __init__(self, location: str, chunks: ChunkCache | None) -> None:
        self.location = location
        self.kept = Kept(chunks, lambda _, blocks: dict.fromkeys(blocks, self.revision)) if chunks else None
        with reading(location, "root metadata (zarr.json)"):
            self.root = zarr.open_group(location, mode="r", zarr_format=3)
            self.attributes: dict[str, Any] = dict(self.root.attrs)
            names = sorted(self.root.group_keys())
            if not is_remote(location):
                # What the consolidated metadata lists must be there: a store cut short is told from an empty one.
                self.root = zarr.open_group(location, mode="r", zarr_format=3, use_consolidated=False)
        self.groups = {int(m[1]): name for name in names if (m := _GROUP.fullmatch(name))}
        self.revision = _revision(location, self.root)
        self.grids = {grid.zone: (name, grid) for grid, name in self._grids()}
        self.layers: dict[tuple[Zone, int], Layer] = {}
        self.written: dict[str, list[tuple[int, ...]]] = {}
        self.found: dict[int, tuple[Block, ...]] = {}
        self.years = self._years()
        self.depths = self._depths()

    def _grids(self) -> Iterable[tuple[ZoneGrid, str]]:
        """Each zone group as one grid north of the equator and one south of it."""
        for number, name in self.groups.items():
            with reading(self.location, f"group {name}"):
                attributes = dict(self.root[name].attrs)
            whole = grid_of(self.location, name, attributes, Zone(number))
            north = min(max(int(whole.y0 // whole.pixel), 0), whole.height)
            if north:
                yield replace(whole, height=north), name
            if north < whole.height:
                top = whole.y0 - north * whole.pixel
                yield replace(whole, zone=Zone(number, south=True), y0=top, height=whole.height - north), name

    def _years(self) -> tuple[int, ...]:
        years = {decoded_years(self.location, self.array(name, "time")) for name in self.groups.values()}
        if len(years) > 1:
            raise Corrupt(f"{self.location}: the zones have different time axes.")
        return years.pop() if years else ()

    def _depths(self) -> dict[int, str]:
        """Array name by number of dimensions, from the root attributes."""
        declared = self.attributes.get("geoemb:depths") or []
        full = int(self.attributes.get("geoemb:dimensions", 128))
        try:
            return {int(d["dimensions"]): str(d["array"]) for d in declared} | {full: "embeddings"}
        except (KeyError, TypeError, ValueError):
            raise Corrupt(f"{self.location}: geoemb:depths is malformed.") from None

    def array(self, group: str, name: str) -> Array:
        with reading(self.location, f"array {group}/{name}"), rust_codecs():
            found = self.root[f"{group}/{name}"]
        if not isinstance(found, zarr.Array):
            raise Corrupt(f"{self.location}: {group}/{name} is no array.")
        return found

    def layer(self, zone: Zone, dims: int) -> Layer:
        key = (zone, dims)
        if key not in self.layers:
            self.layers[key] = self._open_layer(zone, dims)
        return self.layers[key]

    def _open_layer(self, zone: Zone, dims: int) -> Layer:
        if zone not in self.grids:
            raise NotFound(f"{self.location} has no zone {zone.name}.", field="zone")
        name, grid = self.grids[zone]
        codes, scales = self.array(name, self.depths[dims]), self.array(name, "scales")
        row0 = round((self._top(zone) - grid.y0) / grid.pixel)
        times, height, width = scales.shape
        if codes.shape != (times, dims, height, width) or width != grid.width or row0 + grid.height > height:
            raise Corrupt(
                f"{self.location}: {name}: {codes.path} {codes.shape} and scales {scales.shape} contradict each other "
                "or the grid."
            )
        return Layer(self.location, grid, codes, scales, band_first=True, row0=row0, nan_status=WATER, kept=self.kept)

    def _top(self, zone: Zone) -> float:
        return max(grid.y0 for other, (_, grid) in self.grids.items() if other.number == zone.number)

    def chunks(self, path: str) -> list[tuple[int, ...]]:
        """Coordinates of the stored objects of an array."""
        if path not in self.written:
            self.written[path] = self._list(path)
        return self.written[path]

    def _list(self, path: str) -> list[tuple[int, ...]]:
        store = self.root.store
        if not store.supports_listing:
            raise Unavailable(f"{self.location} cannot be listed, so its blocks are not known.")

        async def gather() -> list[str]:
            return [key async for key in store.list_prefix(f"{path}/c/")]

        with reading(self.location, f"the object list of {path}"):
            keys = sync(gather())
        parts = [key.partition(f"{path}/c/")[2].split("/") for key in keys]
        return sorted(tuple(map(int, p)) for p in parts if len(p) == 3 and all(s.isdigit() for s in p))


class GeoembStore:
    """A Store over a published `geoemb:` store. It has no snapshots, so its revision is a weak one.

    Args:
        location: Local path. A URL needs what zarr reads it with, which is not installed with smalti.
        identity: The model; needed where the store does not name one in smalti's way.
        chunks: Where decoded squares of its arrays are kept; nowhere if absent.

    Raises:
        InvalidInput: No identity was given and the store names none.
        Corrupt: Metadata is missing or contradicts itself.
        Unavailable: The transport failed, or is not installed.
    """

    writable = False
    recheck_after = 30.0
    """Seconds for which `refresh` takes the last look at the metadata as good enough."""

    def __init__(self, location: str, identity: ModelIdentity | None = None, chunks: ChunkCache | None = None) -> None:
        self.location = location
        self._chunks = chunks
        self._swap = threading.Lock()
        self._now = _State(location, chunks)
        self._looked = time.monotonic()
        self.identity = declared_identity(location, self._now.attributes.get(MODEL), identity)
        self.depths = tuple(sorted(self._now.depths))
        self.dims = int(self._now.attributes.get("geoemb:dimensions", 128))
        for zone in self._now.grids:
            self._now.layer(zone, self.dims)

    def windows(self) -> tuple[Window, ...]:
        """Windows for which anything is stored; all on the time axis where the location cannot be listed."""
        now = self._now
        try:
            held = {chunk[0] for name in now.groups.values() for chunk in now.chunks(f"{name}/scales")}
        except Unavailable:
            held = set(range(len(now.years)))
        return tuple(sorted(Window.year(now.years[at]) for at in held))

    def revision(self) -> tuple[str, bool]:
        """(hash of the metadata and its validators, False)."""
        return self._now.revision, False

    def zones(self) -> tuple[ZoneGrid, ...]:
        """One level-1 grid per zone and hemisphere, both in the northern CRS."""
        return tuple(grid for _, grid in sorted((zone, grid) for zone, (_, grid) in self._now.grids.items()))

    def levels(self) -> tuple[int, ...]:
        """Level 1 alone: the layout has no overviews of embeddings."""
        return (1,)

    def read(
        self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1, dims: int | None = None
    ) -> Vectors:
        """Read a rectangle; see `Store.read`."""
        if level != 1:
            raise NotFound(f"{self.location} has no overviews.", field="level")
        layer, at = self._at(zone, window, dims)
        return read_window(layer, at, rows, cols)

    def sample(
        self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array, *, dims: int | None = None
    ) -> Vectors:
        """Read single pixels; see `Store.sample`."""
        layer, at = self._at(zone, window, dims)
        return read_points(layer, at, rows, cols)

    def counts(self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array) -> Counts:
        """Zeros: the layout does not record them."""
        self._at(zone, window, None)
        return Counts.zeros(np.broadcast(rows, cols).shape)

    def counts_window(self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1) -> Counts:
        """Zeros: the layout does not record them."""
        if level != 1:
            raise NotFound(f"{self.location} has no overviews.", field="level")
        self._at(zone, window, None)
        return Counts.zeros((rows.stop - rows.start, cols.stop - cols.start))

    def _at(self, zone: Zone, window: Window, dims: int | None) -> tuple[Layer, int]:
        now = self._now
        dims = self.dims if dims is None else dims
        if dims not in now.depths:
            raise InvalidInput(f"{dims} dimensions cannot be read; there are {self.depths}.", field="dims")
        return now.layer(zone, dims), self._time(now, window)

    def _time(self, now: _State, window: Window) -> int:
        if not window.is_year or window.start.year not in now.years:
            raise NotFound(f"{self.location} holds no window {window}.", field="window")
        return now.years.index(window.start.year)

    def blocks(self, window: Window, *, level: int = 1) -> tuple[Block, ...]:
        """Every block in which any pixel is valid or water; reads the scales once and keeps the answer."""
        now, at = self._now, self._time(self._now, window)
        if level != 1:
            raise NotFound(f"{self.location} has no overviews.", field="level")
        if at not in now.found:
            now.found[at] = tuple(
                block
                for zone, (name, _) in sorted((z, (n, g)) for z, (n, g) in now.grids.items())
                for block in scanned_blocks(now.layer(zone, self.dims), at, now.chunks(f"{name}/scales"))
            )
        return now.found[at]

    def versions(self, window: Window, blocks: Iterable[Block]) -> Mapping[Block, str]:
        """The store's weak revision for every block."""
        self._time(self._now, window)
        return dict.fromkeys(blocks, self._now.revision)

    def stale(self, window: Window, blocks: Iterable[Block]) -> frozenset[Block]:  # noqa: ARG002
        """None: there are no overviews."""
        return frozenset()

    def refresh(self) -> bool:
        """Look at the metadata again, unless that was done a moment ago; whether it changed."""
        with self._swap:
            if time.monotonic() - self._looked < self.recheck_after:
                return False
            self._looked = time.monotonic()
            fresh = _State(self.location, self._chunks)
            if fresh.revision == self._now.revision:
                return False
            self._now = fresh
            return True


def _revision(location: str, root: zarr.Group) -> str:
    """A weak revision: a hash of the root metadata, and locally of what each shard's file says of itself."""
    digest = hashlib.sha256(json.dumps(root.metadata.to_dict(), sort_keys=True, default=str).encode())
    if not is_remote(location):
        for path in sorted(Path(location).glob("utm*/**/*")):
            if path.is_file():
                stat = path.stat()
                digest.update(f"{path.relative_to(location)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return "w" + digest.hexdigest()[:20]
