"""Reading the published `geoemb:` Zarr v3 layout (format notes 4.4).

One group to a UTM zone, `utm01` to `utm60`, spanning both hemispheres in the northern CRS; each hemisphere is a
grid of its own here, the southern one with northings below zero. NaN scales are water, +inf is not written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from service.errors import Corrupt, NotFound
from service.grid import Block, Zone, ZoneGrid
from service.store.axes import decoded_years, grid_of
from service.store.chunks import ChunkCache, Kept
from service.store.faults import Array, reading
from service.store.held import Scales, held_blocks, possible_objects
from service.store.layer import Layer
from service.store.layout import MODEL
from service.store.place import Coordinates, Opened, Place
from service.store.published import PublishedStore, State
from service.values import WATER, ModelIdentity

GROUP: Final = re.compile(r"utm(\d\d)")
_EQUATOR: Final = 10_000_000.0


class GeoembState:
    """Everything known of the store at one time; see `State`."""

    def __init__(self, opened: Opened, chunks: ChunkCache | None) -> None:
        self.location = opened.location
        self.opened = opened
        self._attributes: Mapping[str, Any] = self.opened.attributes
        self.declared = self._attributes.get(MODEL)
        self._groups = {int(m[1]): name for name in self.opened.names if (m := GROUP.fullmatch(name))}
        self._names: dict[Zone, str] = {}
        self.grids: dict[Zone, ZoneGrid] = {}
        for name, grid in self._read_grids():
            self._names[grid.zone], self.grids[grid.zone] = name, grid
        self._arrays = self._declared_depths()
        self.depths = tuple(sorted(self._arrays))
        listed = self.opened.listed
        self._written = self.opened.objects(f"{name}/scales" for name in self._groups.values()) if listed else None
        self.revision = self._weak_revision()
        self._kept = Kept(chunks, lambda _, blocks: dict.fromkeys(blocks, self.revision)) if chunks else None
        self._layers: dict[tuple[Zone, int], Layer] = {}
        self._blocks: dict[int, tuple[Block, ...]] = {}
        self._same_years: set[str] = set()
        self.years = self._first_years()
        layers = [self._layer(zone, self.depths[-1]) for zone in self.grids]
        beside = all(_sides(layer.codes) == _sides(layer.scales) for layer in layers)
        self.opened.listing.tell(self._written or {}, lambda at: (at[0], *at[-2:]), beside)

    def _weak_revision(self) -> str:
        digest = hashlib.sha256(self.opened.generation.encode())
        for path, objects in sorted((self._written or {}).items()):
            digest.update(f"{path} {sorted(objects.items())}\n".encode())
        return "w" + digest.hexdigest()[:20]

    def _read_grids(self) -> Iterator[tuple[str, ZoneGrid]]:
        for number, name in self._groups.items():
            with reading(self.location, f"group {name}"):
                attributes = dict(self.opened.root[name].attrs)
            for grid in hemispheres(grid_of(self.location, name, attributes, Zone(number))):
                yield name, grid

    def _first_years(self) -> tuple[int, ...]:
        for name in self._groups.values():
            self._same_years.add(name)
            return decoded_years(self.location, self.opened.array(name, "time"))
        return ()

    def _require_same_years(self, name: str) -> None:
        """The time axis of a zone is read when the zone is: sixty would be sixty journeys before the first tile."""
        if name not in self._same_years:
            if decoded_years(self.location, self.opened.array(name, "time")) != self.years:
                raise Corrupt(f"{self.location}: the zones have different time axes.")
            self._same_years.add(name)

    def _declared_depths(self) -> dict[int, str]:
        """Array name by number of dimensions, from the root attributes."""
        declared = self._attributes.get("geoemb:depths") or []
        try:
            full = int(self._attributes.get("geoemb:dimensions", 128))
            return {int(d["dimensions"]): str(d["array"]) for d in declared} | {full: "embeddings"}
        except (KeyError, TypeError, ValueError):
            raise Corrupt(f"{self.location}: geoemb:dimensions or geoemb:depths is malformed.") from None

    def layer(self, zone: Zone, dims: int) -> Layer:
        """See `State.layer`."""
        found = self._layer(zone, dims)
        self._require_same_years(self._names[zone])
        return found

    def _layer(self, zone: Zone, dims: int) -> Layer:
        key = (zone, dims)
        if key not in self._layers:
            self._layers[key] = self._open_layer(zone, dims)
        return self._layers[key]

    def _open_layer(self, zone: Zone, dims: int) -> Layer:
        if zone not in self.grids:
            raise NotFound(f"{self.location} has no zone {zone.name}.", field="zone")
        name, grid = self._names[zone], self.grids[zone]
        codes, scales = self.opened.array(name, self._arrays[dims]), self.opened.array(name, "scales")
        top = max(other.y0 for number, other in self.grids.items() if number.number == zone.number)
        row0 = round((top - grid.y0) / grid.pixel)
        times, height, width = scales.shape
        if codes.shape != (times, dims, height, width) or width != grid.width or row0 + grid.height > height:
            raise Corrupt(
                f"{self.location}: {name}: {codes.path} {codes.shape} and scales {scales.shape} contradict each other "
                "or the grid."
            )
        return Layer(self.location, grid, codes, scales, band_first=True, row0=row0, nan_status=WATER, kept=self._kept)

    def held(self) -> Iterable[int]:
        """See `State.held`."""
        if self._written is None:
            return range(len(self.years))
        return {at[0] for objects in self._written.values() for at in objects}

    def blocks(self, at: int) -> tuple[Block, ...]:
        """See `State.blocks`."""
        if at not in self._blocks:
            parts = [Scales.of(self.layer(zone, self.depths[-1])) for zone in sorted(self.grids)]
            self._blocks[at] = held_blocks((scales, self._objects(scales, at)) for scales in parts)
        return self._blocks[at]

    def _objects(self, scales: Scales, at: int) -> Iterable[Coordinates]:
        if self._written is None:
            return possible_objects(scales, at)
        return [coordinates for coordinates in self._written[scales.array.path] if coordinates[0] == at]

    def unchanged(self) -> bool:
        """See `State.unchanged`."""
        return self.opened.unchanged()


def _sides(array: Array) -> tuple[int, ...]:
    """(rows, columns) of a stored object."""
    return (array.shards or array.chunks)[-2:]


def hemispheres(whole: ZoneGrid) -> Iterator[ZoneGrid]:
    """The grid of a group that may span the equator, as one grid north of it and one south of it."""
    above = whole.y0 - (_EQUATOR if whole.epsg > 32700 else 0.0)
    north = min(max(int(above // whole.pixel), 0), whole.height)
    if north:
        yield replace(whole, height=north)
    if north < whole.height:
        top = whole.y0 - north * whole.pixel
        yield replace(whole, zone=Zone(whole.zone.number, south=True), y0=top, height=whole.height - north)


class GeoembStore(PublishedStore):
    """A Store over a published `geoemb:` store.

    Args:
        place: Where.
        identity: The model; needed where the store does not name one in smalti's way.
        chunks: Where decoded squares of its arrays are kept; nowhere if absent.
        opened: The place, if it was just opened.

    Raises:
        InvalidInput: No identity was given and the store names none.
        Corrupt: Metadata is missing or contradicts itself.
        Unavailable: The transport failed.
    """

    def __init__(
        self,
        place: Place,
        identity: ModelIdentity | None = None,
        chunks: ChunkCache | None = None,
        opened: Opened | None = None,
    ) -> None:
        def look(before: State | None) -> State:
            if isinstance(before, GeoembState):
                return GeoembState(place.open(before.opened.changed), chunks)
            return GeoembState(opened or place.open(), chunks)

        super().__init__(place.location, look, identity)
