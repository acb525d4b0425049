"""What requests give as examples, made into queries: vectors, and places looked up in a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from api.catalogue import DatasetWindow
from api.schemas import Examples
from api.state import State
from indexing.averages import MAX_BLOCKS, Average
from service.colour import VectorView
from service.deadline import Deadline
from service.errors import InvalidInput, LimitExceeded, NotFound, OutsideBounds
from service.footprint import ByIdentity
from service.plan import Source
from service.polygons import MAX_PIECES, Polygon
from service.queries import MAX_EXAMPLES, Query
from service.values import OUTSIDE, STATUS_NAMES, VALID, Float32Array, Int64Array, ModelIdentity, Window

MAX_AVERAGED: Final = 4_000_000
"""Pixels that the polygons of one request may hold: some seconds."""


def query_of(
    state: State,
    at: DatasetWindow | None,
    examples: Examples,
    polygons: Sequence[Polygon] | None = None,
    deadline: Deadline | None = None,
) -> tuple[Query, Int64Array]:
    """The query that some examples make, and the ids of the pixels it was made from.

    Args:
        state: What the server holds.
        at: Where places are looked up.
        examples: What to look for.
        polygons: `polygons_of(examples)`, where the caller has them.
        deadline: When to give up reading polygons, if ever.

    Raises:
        Unavailable: It took too long, or the transport failed.
        InvalidInput: No example for, vectors of different lengths, or a part is missing.
        LimitExceeded: Too many examples, or too many pixels in polygons.
        NotFound: A point or polygon holds no vector; tells its status.
        IdentityMismatch: Vectors of another model than the dataset's.
    """
    count = len(examples.points) + len(examples.against) + len(examples.vectors) + len(examples.polygons)
    if count > MAX_EXAMPLES:
        raise LimitExceeded(f"{count:,} examples; a query takes at most {MAX_EXAMPLES:,}.", field="points")
    if not (examples.points or examples.vectors or examples.polygons):
        raise InvalidInput("give at least one point, vector or polygon to look for.", field="points")
    given, identity = _vectors(examples)
    if at is None:
        if examples.points or examples.against or examples.polygons:
            raise InvalidInput("is needed to look places up.", field="dataset")
        assert identity is not None  # noqa: S101  # vectors come with one
        return Query.of(identity, given), np.empty(0, np.int64)
    store = at.dataset.store
    if identity is not None:
        store.identity.require_same(identity, "the query")
        if len(given) and given.shape[1] != store.dims:
            raise InvalidInput(f"have {given.shape[1]} dimensions, the dataset {store.dims}.", field="vectors")
    wanted, own = _looked_up(state, at, examples.points, "points")
    unwanted, _ = _looked_up(state, at, examples.against, "against")
    drawn = polygons_of(examples) if polygons is None else polygons
    held = [wanted, _averaged(state, at, drawn, deadline), given.reshape(-1, store.dims)]
    return Query.of(store.identity, np.concatenate(held), unwanted), own


def polygons_of(examples: Examples) -> list[Polygon]:
    """The polygons among some examples.

    Raises:
        InvalidInput, LimitExceeded: As `Polygon.of_geojson` does; names `polygons[n]`.
    """
    return [Polygon.of_geojson(one.model_dump(), f"polygons[{n}]") for n, one in enumerate(examples.polygons)]


def query_at(at: DatasetWindow, lon: float, lat: float, dims: int) -> Query:
    """The query whose one example is the vector at a place. Kept until the store's revision changes: tiles share it.

    Args:
        at: Where to look it up.
        lon: Degrees.
        lat: Degrees.
        dims: Prefix length to read.

    Raises:
        NotFound: There is no vector; tells the status.
    """
    store = at.dataset.store
    return _query_at(ByIdentity(store), store.revision()[0], at.window, (lon, lat), dims)


@lru_cache(maxsize=256)
def _query_at(held: ByIdentity, revision: str, window: Window, place: tuple[float, float], dims: int) -> Query:  # noqa: ARG001  # part of the key
    vectors = Source(held.store, window, VectorView(dims), dims, picture=False).at(*place)
    _require_vector(int(vectors.status[0]), *place, window, "view")
    return Query.of(held.store.identity, vectors.dequantised())


def _vectors(examples: Examples) -> tuple[Float32Array, ModelIdentity | None]:
    """(n, d) float32 vectors as they were sent, and what made them."""
    identity = ModelIdentity.parse(examples.model) if examples.model else None
    if not examples.vectors:
        return np.empty((0, 0), np.float32), identity
    if identity is None:
        raise InvalidInput("is needed with vectors.", field="model", remedy="Write name@version/variant.")
    if len({len(vector) for vector in examples.vectors}) > 1:
        raise InvalidInput("have different numbers of dimensions.", field="vectors")
    with np.errstate(over="ignore"):  # Query refuses what float32 cannot hold
        return np.array(examples.vectors, np.float64).astype(np.float32), identity


def _looked_up(state: State, at: DatasetWindow, points: list[Any], field: str) -> tuple[Float32Array, Int64Array]:
    """The vectors of some points and the ids of their pixels."""
    lonlat = np.array(points, float).reshape(-1, 2)
    places = state.searcher(at.dataset).places(at.window, lonlat)
    for index in np.flatnonzero(places.vectors.status != VALID)[:1]:
        lon, lat = points[index]
        _require_vector(int(places.vectors.status[index]), lon, lat, at.window, f"{field}[{index}]")
    return places.vectors.dequantised(), places.ids


def _averaged(state: State, at: DatasetWindow, polygons: Sequence[Polygon], deadline: Deadline | None) -> Float32Array:
    """(n, d) what the pixels of each polygon have in common."""
    found = np.empty((len(polygons), at.dataset.store.dims), np.float32)
    searcher = state.searcher(at.dataset)
    room, blocks, pieces = MAX_AVERAGED, MAX_BLOCKS, MAX_PIECES  # slivers hold few pixels, and cost a block each
    for n, polygon in enumerate(polygons):
        average = searcher.average(
            at.window, polygon, room, f"polygons[{n}]", blocks=blocks, pieces=pieces, deadline=deadline
        )
        if not average.pixels:
            raise _no_vector(average, at.window, f"polygons[{n}]")
        found[n], room = average.vector, room - average.inside
        blocks, pieces = blocks - average.blocks, pieces - average.pieces
    return found


def _no_vector(average: Average, window: Window, field: str) -> NotFound:
    remedy = "GET /datasets/{dataset}/{window}/coverage tells where there are vectors."
    if not average.inside:
        return NotFound(f"holds the centre of no pixel that {window} has.", field=field, remedy=remedy)
    why = ", ".join(STATUS_NAMES[int(status)] for status in average.statuses) or "they have no direction"
    message = f"none of its {average.inside:,} pixels holds a vector in {window}: {why}."
    return NotFound(message, field=field, remedy=remedy)


def _require_vector(status: int, lon: float, lat: float, window: Window, field: str) -> None:
    if status == VALID:
        return
    error = OutsideBounds if status == OUTSIDE else NotFound
    raise error(
        f"{lon}, {lat} holds no vector in {window}: {STATUS_NAMES[status]}.",
        field=field,
        remedy="GET /datasets/{dataset} tells a place that does.",
    )
