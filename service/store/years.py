"""Reading the older `tessera:` layout (format notes 4.4): one Zarr v3 store a year, `{year}.zarr`.

One group to a UTM zone, in the northern or the southern CRS, with arrays (row, column[, band]). The years of a folder
are one store here, with a time axis. Their grids may differ: each zone's is the box around all years.

A NaN scale is no data, be it water or not. Scale 0 means that all numbers are zero: such a vector has no direction and
cannot be compared with any other, and v1.0 wrote it where it had no observations. It counts as rejected.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from service.bucket import is_remote, open_bucket
from service.errors import Corrupt, NotFound
from service.grid import Block, Zone, ZoneGrid
from service.store.ahead import warm
from service.store.axes import grid_of
from service.store.bulk import read_small
from service.store.chunks import ChunkCache, Kept
from service.store.faults import Array, reading
from service.store.geoemb import GROUP, hemispheres
from service.store.held import Coordinates, Scales, held_blocks, possible_objects
from service.store.layer import Layer
from service.store.layout import MODEL
from service.store.place import Opened, Place
from service.store.published import PublishedStore, State
from service.values import NOT_EMBEDDED, ModelIdentity

_STORE: Final = re.compile(r"(\d{4})\.zarr")
_FIRST: Final = 2015
"""Before Sentinel-2 flew there is no year to ask for."""


@dataclass(frozen=True, eq=False)
class Part:
    """What one year holds of one zone."""

    opened: Opened
    grid: ZoneGrid
    """As stored, over both hemispheres."""
    codes: Array
    """int8 (row, column, d)."""
    scales: Array
    """float32 (row, column)."""


@dataclass(frozen=True, eq=False)
class Stacked:
    """The arrays of several years as one with a time axis before the others; looks like a zarr array to readers."""

    path: str
    arrays: tuple[Array | None, ...]
    """One a year; None where a year lacks the zone."""
    corners: tuple[tuple[int, int], ...]
    """(row, column) of each on the common grid."""
    shape: tuple[int, ...]
    """(time, row, column[, d])."""

    @property
    def _any(self) -> Array:
        return next(array for array in self.arrays if array is not None)  # a zone that no year has is none

    @property
    def dtype(self) -> Any:
        """Of the numbers."""
        return self._any.dtype

    @property
    def fill_value(self) -> Any:
        """Of what was never written."""
        return self._any.fill_value

    @property
    def ndim(self) -> int:
        """Axes, time included."""
        return len(self.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Of each year."""
        return (1, *self._any.chunks)

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Of each year."""
        return None if self._any.shards is None else (1, *self._any.shards)

    @property
    def metadata(self) -> None:
        """None: nothing is stored in this form."""
        return

    def __getitem__(self, where: tuple[int | slice, ...]) -> np.ndarray:
        """One time of a rectangle: (rows, columns[, d])."""
        first, rows, cols = cast(tuple[int | slice, slice, slice], where[:3])
        time = first.start if isinstance(first, slice) else first
        array, (top, left) = self.arrays[time], self.corners[time]
        shape = rows.stop - rows.start, cols.stop - cols.start
        if array is None:
            return self._empty(shape)
        inner = tuple(
            slice(min(max(span.start - first, 0), size), min(max(span.stop - first, 0), size))
            for span, first, size in zip((rows, cols), (top, left), array.shape, strict=False)
        )
        if any(span.start == span.stop for span in inner):
            return self._empty(shape)
        whole = (*inner, *(slice(0, n) for n in array.shape[2:]))
        warm(array, whole)
        small = read_small(array, *inner)
        found = np.asarray(array[whole]) if small is None else small
        if found.shape[:2] == shape:
            return found
        out = self._empty(shape)
        at = tuple(
            slice(span.start + first - start, span.stop + first - start)
            for span, first, start in zip(inner, (top, left), (rows.start, cols.start), strict=True)
        )
        out[at] = found
        return out

    def _empty(self, shape: tuple[int, int]) -> np.ndarray:
        """A rectangle that holds nothing."""
        return np.full((*shape, *self.shape[3:]), self.fill_value, self.dtype)


class YearsState:
    """Everything known of the years at one time; see `State`."""

    def __init__(
        self, place: Place, names: Mapping[int, str], chunks: ChunkCache | None, before: YearsState | None = None
    ) -> None:
        self.location = place.location
        self.years = tuple(sorted(names))
        places = [place.under(names[year]) if names[year] else place for year in self.years]
        changed = {one.location: one.changed for one in before.opened} if before else {}
        with ThreadPoolExecutor(min(len(places), 8)) as threads:
            self.opened: list[Opened] = list(threads.map(lambda one: one.open(changed.get(one.location)), places))
        parts = [_parts(opened, year) for opened, year in zip(self.opened, self.years, strict=True)]
        numbers = sorted({number for held in parts for number in held})
        self._parts = {number: [held.get(number) for held in parts] for number in numbers}
        self.depths: tuple[int, ...] = (_dims(self.location, self._parts),)
        self.declared = next((opened.attributes.get(MODEL) for opened in self.opened), None)
        _require_one_model(self.location, self.opened, self._parts)
        self._whole = {number: _around(self.location, number, held) for number, held in self._parts.items()}
        self.grids = {grid.zone: grid for whole in self._whole.values() for grid in hemispheres(whole)}
        self._written = [
            opened.objects(f"utm{n:02d}/scales" for n, held in self._parts.items() if held[at])
            if opened.listed
            else None
            for at, opened in enumerate(self.opened)
        ]
        for opened, written, held in zip(self.opened, self._written, parts, strict=True):
            beside = all(_sides(part.codes)[:2] == _sides(part.scales) for part in held.values())
            opened.listing.tell(written or {}, lambda at: at[:2], beside)
        told = "\n".join(f"{o.generation} {w}" for o, w in zip(self.opened, self._written, strict=True))
        self.revision = "w" + hashlib.sha256(told.encode()).hexdigest()[:20]
        self._kept = Kept(chunks, lambda _, blocks: dict.fromkeys(blocks, self.revision)) if chunks else None
        self._layers = {zone: self._layer(zone) for zone in self.grids}
        self._blocks: dict[int, tuple[Block, ...]] = {}

    def _layer(self, zone: Zone) -> Layer:
        whole, grid, parts = self._whole[zone.number], self.grids[zone], self._parts[zone.number]
        corners, name = tuple(_corner(whole, part) for part in parts), f"utm{zone.number:02d}"
        shape = len(parts), whole.height, whole.width
        scales = Stacked(f"{name}/scales", tuple(part.scales if part else None for part in parts), corners, shape)
        held = tuple(part.codes if part else None for part in parts)
        codes = Stacked(f"{name}/embeddings", held, corners, (*shape, *self.depths))
        return Layer(
            self.location,
            grid,
            cast(Array, codes),
            cast(Array, scales),
            row0=round((whole.y0 - grid.y0) / grid.pixel),
            nan_status=NOT_EMBEDDED,
            kept=self._kept,
        )

    def held(self) -> Iterable[int]:
        """See `State.held`."""
        return (at for at, objects in enumerate(self._written) if objects is None or any(objects.values()))

    def layer(self, zone: Zone, dims: int) -> Layer:  # noqa: ARG002 - this layout has no prefixes
        """See `State.layer`."""
        if zone not in self._layers:
            raise NotFound(f"{self.location} has no zone {zone.name}.", field="zone")
        return self._layers[zone]

    def blocks(self, at: int) -> tuple[Block, ...]:
        """See `State.blocks`."""
        if at not in self._blocks:
            parts = [self._scales(zone, at) for zone in sorted(self.grids)]
            self._blocks[at] = held_blocks((scales, self._objects(scales, at)) for scales in parts if scales)
        return self._blocks[at]

    def _scales(self, zone: Zone, at: int) -> Scales | None:
        part, layer = self._parts[zone.number][at], self._layers[zone]
        if part is None:
            return None
        top, left = _corner(self._whole[zone.number], part)
        return Scales(part.opened.location, part.scales, layer.grid, layer.row0 - top, -left)

    def _objects(self, scales: Scales, at: int) -> Iterable[Coordinates]:
        written = self._written[at]
        return possible_objects(scales) if written is None else written[scales.array.path]

    def unchanged(self) -> bool:
        """See `State.unchanged`."""
        return all(opened.unchanged() for opened in self.opened)


def _sides(array: Array) -> tuple[int, ...]:
    """Of a stored object."""
    return array.shards or array.chunks


def _parts(opened: Opened, year: int) -> dict[int, Part]:
    """What one year holds, by zone number."""
    out = {}
    for name in opened.names:
        if found := GROUP.fullmatch(name):
            with reading(opened.location, f"group {name}"):
                attributes = dict(opened.root[name].attrs)
            grid = grid_of(opened.location, name, attributes, Zone(int(found[1])))
            codes, scales = opened.array(name, "embeddings"), opened.array(name, "scales")
            if codes.shape[:-1] != scales.shape or scales.shape != (grid.height, grid.width):
                raise Corrupt(
                    f"{opened.location}: {name}: embeddings {codes.shape}, scales {scales.shape} and the grid "
                    f"{grid.height} x {grid.width} contradict each other."
                )
            if attributes.get("tessera:year", year) != year:
                raise Corrupt(f"{opened.location}: group {name} says that it is of {attributes['tessera:year']}.")
            out[grid.zone.number] = Part(opened, grid, codes, scales)
    return out


def _dims(location: str, parts: Mapping[int, Sequence[Part | None]]) -> int:
    found = {int(part.codes.shape[-1]) for held in parts.values() for part in held if part}
    if len(found) != 1:
        raise Corrupt(f"{location}: the years and zones hold vectors of {sorted(found) or 'no'} dimensions.")
    return found.pop()


def _require_one_model(location: str, opened: Iterable[Opened], parts: Mapping[int, Sequence[Part | None]]) -> None:
    """Vectors of different models are never one dataset."""
    found = {str(one.attributes.get(MODEL)) for one in opened}
    told = {
        str(part.opened.root[f"utm{number:02d}"].attrs.get("tessera:model_version"))
        for number, held in parts.items()
        for part in held
        if part
    }
    if len(found) > 1 or len(told) > 1:
        raise Corrupt(
            f"{location}: the years were made by different models ({', '.join(sorted(found | told))}).",
            remedy="Name each year's store as a dataset of its own.",
        )


def _around(location: str, number: int, parts: Sequence[Part | None]) -> ZoneGrid:
    """The box around the grids of all years of a zone."""
    grids = [part.grid for part in parts if part]
    first = grids[0]
    steps = [((grid.x0 - first.x0) / grid.pixel, (first.y0 - grid.y0) / grid.pixel) for grid in grids]
    if len({grid.epsg for grid in grids}) > 1 or any(step != round(step) for both in steps for step in both):
        raise Corrupt(
            f"{location}: the years have grids of zone {number} that do not fit onto one another.",
            remedy="Name each year's store as a dataset of its own.",
        )
    x0, y0 = min(grid.x0 for grid in grids), max(grid.y0 for grid in grids)
    right = max(grid.x0 + grid.width * grid.pixel for grid in grids)
    bottom = min(grid.y0 - grid.height * grid.pixel for grid in grids)
    size = round((right - x0) / first.pixel), round((y0 - bottom) / first.pixel)
    return replace(first, x0=x0, y0=y0, width=size[0], height=size[1])


def _corner(whole: ZoneGrid, part: Part | None) -> tuple[int, int]:
    """(row, column) of a year's first pixel on the common grid."""
    if part is None:
        return 0, 0
    return round((whole.y0 - part.grid.y0) / whole.pixel), round((part.grid.x0 - whole.x0) / whole.pixel)


def years_at(place: Place) -> dict[int, str]:
    """The `{year}.zarr` that a folder, a prefix of a bucket or a folder of a web server holds, by year.

    A web server cannot be asked what there is, so it is asked for every year there can be.

    Raises:
        Unavailable: The transport failed.
    """
    if not is_remote(place.location):
        names = [path.name for path in Path(place.location).glob("*.zarr") if path.is_dir()]
    elif place.location.startswith("s3://"):
        names = open_bucket(place.location, anonymous=place.anonymous).folders()
    else:
        names = [f"{year}.zarr" for year in range(_FIRST, dt.datetime.now(dt.UTC).year + 1)]
        with ThreadPoolExecutor(len(names)) as threads:
            there = threads.map(lambda name: place.under(name).is_there(), names)
        names = [name for name, is_there in zip(names, there, strict=True) if is_there]
    return {int(found[1]): name for name in names if (found := _STORE.fullmatch(name))}


class YearsStore(PublishedStore):
    """A Store over the older layout: one `{year}.zarr`, or all in a folder.

    Args:
        place: Where.
        names: Of the stores in it, by year; "" for the place itself.
        identity: The model; needed where the store does not name one in smalti's way.
        chunks: Where decoded squares of its arrays are kept; nowhere if absent.

    Raises:
        InvalidInput: No identity was given and the store names none.
        Corrupt: Metadata is missing or contradicts itself, or the years do not belong together.
        Unavailable: The transport failed.
    """

    def __init__(
        self,
        place: Place,
        names: Mapping[int, str],
        identity: ModelIdentity | None = None,
        chunks: ChunkCache | None = None,
    ) -> None:
        def look(before: State | None) -> State:
            if not isinstance(before, YearsState):
                return YearsState(place, names, chunks)
            known = names if "" in names.values() else years_at(place) or names
            return YearsState(place, known, chunks, before)

        super().__init__(place.location, look, identity)
