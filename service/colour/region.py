"""Where a basis is fitted: everywhere, or in a box or polygon; and the pixels drawn there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np

from service.errors import InvalidInput
from service.grid import Block, Zone
from service.polygons import GridPolygon, Polygon
from service.store.contract import Store
from service.values import Area, Float32Array, Window

MAX_BLOCKS: Final = 256
"""Blocks read at most: 2 GB of codes, one at a time."""
_GLOBE: Final = (-180.0, -90.0, 180.0, 90.0)


@dataclass(frozen=True, eq=False)
class Region:
    """A box or polygon, as it was asked for and as the polygon that it is."""

    document: Mapping[str, Any]
    """`{"bbox": [w, s, e, n]}`, or a GeoJSON geometry."""
    polygon: Polygon

    @classmethod
    def of_box(cls, area: Area) -> Self:
        """A box of degrees; one over the antimeridian is two polygons."""
        west, south, east, north = area.bounds
        spans = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
        rings = [[[w, south], [e, south], [e, north], [w, north], [w, south]] for w, e in spans if w < e]
        # An edge spans half the globe at most: a wider one is cut in the middle.
        halves = [half for ring in rings for half in _halves(ring)]
        geometry = {"type": "MultiPolygon", "coordinates": [[ring] for ring in halves]}
        return cls({"bbox": list(area.bounds)}, Polygon.of_geojson(geometry, "bbox"))

    @classmethod
    def of_geojson(cls, geometry: Mapping[str, Any]) -> Self:
        """A GeoJSON Polygon or MultiPolygon.

        Raises:
            InvalidInput, LimitExceeded: As `Polygon.of_geojson` does.
        """
        return cls(dict(geometry), Polygon.of_geojson(geometry, "geometry"))

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """What `document` was taken from. Raises as `of_geojson` does."""
        return cls.of_box(Area(*document["bbox"])) if "bbox" in document else cls.of_geojson(document)


def _halves(ring: list[list[float]]) -> list[list[list[float]]]:
    (west, south), _, (east, north) = ring[0], ring[1], ring[2]
    cuts = [west, east] if east - west <= 180 else [west, (west + east) / 2, east]
    return [[[w, south], [e, south], [e, north], [w, north], [w, south]] for w, e in pairwise(cuts)]


def draw(
    store: Store, windows: Sequence[Window], seed: int, sample: int, dims: int, region: Region | None
) -> Iterator[Float32Array]:
    """(n, dims) vectors of one block after the other, until there are enough.

    Raises:
        InvalidInput: The store holds nothing in the region.
        LimitExceeded: The region's edges are too long to be followed.
        NotFound, Corrupt, Unavailable: As `Store.read` does.
    """
    shapes = _shapes(store, region)
    places = [(window, block) for window in windows for block in _near(store.blocks(window), shapes)]
    if region is not None and not places:
        raise InvalidInput("the dataset holds nothing there.", field=next(iter(region.document)))
    order = np.random.default_rng(seed).permutation(len(places))
    quota = -(-sample // max(1, min(len(places), MAX_BLOCKS)))
    short = sample
    for index in order[: 4 * MAX_BLOCKS].tolist():
        window, block = places[index]
        vectors = store.read(Zone.parse(block.zone), window, block.rows, block.cols, dims=dims)
        held = vectors.valid
        if shapes is not None:
            held = held & shapes[block.zone].mask(block.rows, block.cols)
        (found,) = np.nonzero(held.reshape(-1))
        # Of few blocks each gives its share; a block short of valid pixels is made up for by the next ones.
        want = min(len(found), short, quota if len(places) > 1 else short)
        chosen = np.sort(np.random.default_rng((seed, index)).choice(found, want, replace=False))
        codes = vectors.codes.reshape(-1, vectors.dims)[chosen].astype(np.float32)
        yield codes * vectors.scales.reshape(-1, 1)[chosen]
        short -= want
        if short <= 0:
            return


def _shapes(store: Store, region: Region | None) -> dict[str, GridPolygon] | None:
    """The part of a region in each zone that has one; None for everywhere."""
    if region is None:
        return None
    parts = {grid.zone.name: region.polygon.on(grid, _GLOBE, "geometry") for grid in store.zones()}
    return {name: part for name, part in parts.items() if part is not None}


def _near(blocks: Sequence[Block], shapes: dict[str, GridPolygon] | None) -> list[Block]:
    """Those that may hold pixels of a region."""
    if shapes is None:
        return list(blocks)
    kept = []
    for name, shape in shapes.items():
        there = [block for block in blocks if block.zone == name]
        if there:
            rows, cols = (np.array(axis, np.int64) for axis in zip(*((b.row, b.col) for b in there), strict=True))
            near, _ = shape.touched(rows, cols)
            kept += [block for block, is_near in zip(there, near, strict=True) if is_near]
    return kept
