"""What requests give as examples, made into queries: vectors, and places looked up in a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from api.catalogue import DatasetWindow
from api.likeness.bodies import Examples
from api.schemas import Geometry
from api.state import State
from indexing.averages import MAX_BLOCKS, Average
from indexing.medoids import SAMPLE, medoids
from service.colour import VectorView
from service.deadline import Deadline
from service.errors import InvalidInput, LimitExceeded, NotFound, OutsideBounds
from service.footprint import ByIdentity
from service.plan import Source
from service.polygons import MAX_PIECES, Polygon
from service.queries import MAX_EXAMPLES, Query
from service.values import OUTSIDE, STATUS_NAMES, VALID, Float32Array, Float64Array, Int64Array, ModelIdentity, Window

MAX_AVERAGED: Final = 4_000_000
"""Pixels that the polygons of one request may hold: some seconds."""
_POINTS: Final = ("points", "against")
_VECTORS: Final = ("vectors", "against_vectors")
_POLYGONS: Final = ("polygons", "against_polygons")
"""Examples for and against, by their names in a request."""


@dataclass(frozen=True, eq=False)
class Made:
    """A query, and where its examples lie."""

    query: Query
    pixels: Int64Array
    """(n,) ids of the pixels that the points for lie on."""
    polygons: tuple[Polygon, ...]
    """Those for."""


def query_of(state: State, at: DatasetWindow | None, examples: Examples, deadline: Deadline | None = None) -> Made:
    """The query that some examples make.

    Args:
        state: What the server holds.
        at: Where places are looked up.
        examples: What to look for.
        deadline: When to give up reading polygons, if ever.

    Raises:
        Unavailable: It took too long, or the transport failed.
        InvalidInput: No example for, vectors of different lengths, or a part is missing.
        LimitExceeded: Too many examples, or too many pixels in polygons.
        NotFound: A point or polygon holds no vector; tells its status.
        IdentityMismatch: Vectors of another model than the dataset's.
    """
    _require_some(examples)
    identity = ModelIdentity.parse(examples.model) if examples.model else None
    given, metric = [_vectors(examples, name, identity) for name in _VECTORS], examples.metric or "cosine"
    if at is None:
        if examples.any_place:
            raise InvalidInput("is needed to look places up.", field="dataset")
        assert identity is not None  # noqa: S101  # vectors come with one
        return Made(Query.of(identity, given[0], given[1], metric), np.empty(0, np.int64), ())
    store = at.dataset.store
    if identity is not None:
        store.identity.require_same(identity, "the query")
    for name, vectors in zip(_VECTORS, given, strict=True):
        if len(vectors) and vectors.shape[1] != store.dims:
            raise InvalidInput(f"have {vectors.shape[1]} dimensions, the dataset {store.dims}.", field=name)
    drawn = [polygons_of(getattr(examples, name), name) for name in _POLYGONS]
    points = [_looked_up(state, at, getattr(examples, name), name) for name in _POINTS]
    looking = _Looking(state, at, examples, deadline, MAX_AVERAGED, MAX_BLOCKS, MAX_PIECES)
    sides = [
        np.concatenate([vectors, looking.within(polygons, name), sent.reshape(-1, store.dims)])
        for (vectors, _), polygons, name, sent in zip(points, drawn, _POLYGONS, given, strict=True)
    ]
    return Made(Query.of(store.identity, sides[0], sides[1], metric), points[0][1], tuple(drawn[0]))


def polygons_of(bodies: Sequence[Geometry], field: str) -> list[Polygon]:
    """Some polygons of a request.

    Raises:
        InvalidInput, LimitExceeded: As `Polygon.of_geojson` does; names `field[n]`.
    """
    return [Polygon.of_geojson(one.model_dump(), f"{field}[{n}]") for n, one in enumerate(bodies)]


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


def _require_some(examples: Examples) -> None:
    count = sum(len(getattr(examples, name)) for name in (*_POINTS, *_VECTORS, *_POLYGONS))
    if count > MAX_EXAMPLES:
        raise LimitExceeded(f"{count:,} examples; a query takes at most {MAX_EXAMPLES:,}.", field="points")
    if not examples.wanted:
        raise InvalidInput("give at least one point, vector or polygon to look for.", field="points")


def _vectors(examples: Examples, name: str, identity: ModelIdentity | None) -> Float32Array:
    """(n, d) float32 vectors as they were sent."""
    vectors = getattr(examples, name)
    if not vectors:
        return np.empty((0, 0), np.float32)
    if identity is None:
        raise InvalidInput(f"is needed with {name}.", field="model", remedy="Write name@version/variant.")
    if len({len(vector) for vector in vectors}) > 1:
        raise InvalidInput("have different numbers of dimensions.", field=name)
    with np.errstate(over="ignore"):  # Query refuses what float32 cannot hold
        return np.array(vectors, np.float64).astype(np.float32)


def _looked_up(state: State, at: DatasetWindow, points: list[Any], field: str) -> tuple[Float32Array, Int64Array]:
    """The vectors of some points and the ids of their pixels."""
    lonlat = np.array(points, float).reshape(-1, 2)
    places = state.searcher(at.dataset).places(at.window, lonlat)
    for index in np.flatnonzero(places.vectors.status != VALID)[:1]:
        lon, lat = points[index]
        _require_vector(int(places.vectors.status[index]), lon, lat, at.window, f"{field}[{index}]")
    return places.vectors.dequantised(), places.ids


@dataclass
class _Looking:
    """What the polygons of one request are made into, and what they may still take."""

    state: State
    at: DatasetWindow
    examples: Examples
    deadline: Deadline | None
    pixels: int
    blocks: int
    """Slivers hold few pixels, and cost a block each."""
    pieces: int

    def within(self, polygons: Sequence[Polygon], field: str) -> Float32Array:
        """(n, d) float32 examples from some polygons, in order."""
        parts = [self._of(polygon, f"{field}[{n}]") for n, polygon in enumerate(polygons)]
        return np.concatenate([np.empty((0, self.at.dataset.store.dims), np.float32), *parts])

    def _of(self, polygon: Polygon, field: str) -> Float32Array:
        searcher, euclidean = self.state.searcher(self.at.dataset), self.examples.metric == "euclidean"
        average = searcher.average(
            self.at.window, polygon, self.pixels, field,
            blocks=self.blocks, pieces=self.pieces, deadline=self.deadline, scaled=euclidean,
        )  # fmt: skip
        if not average.pixels:
            raise _no_vector(average, self.at.window, field)
        self.pixels -= average.inside
        self.blocks -= average.blocks
        self.pieces -= average.pieces
        if self.examples.polygons_as == "mean":
            return average.vector[None]
        if self.examples.polygons_as == "all":
            return searcher.pixels_in(self.at.window, polygon, self.share, field, self.deadline)
        some = searcher.pixels_in(self.at.window, polygon, SAMPLE, field, self.deadline)
        return some[medoids(some.astype(float) if euclidean else _directions(some))[: self.share]]

    @property
    def share(self) -> int:
        """Examples that each polygon may give where each of its pixels is one."""
        asked = self.examples
        drawn = len(asked.polygons) + len(asked.against_polygons)
        others = sum(len(getattr(asked, name)) for name in (*_POINTS, *_VECTORS))
        return (MAX_EXAMPLES - others) // drawn


def _directions(vectors: Float32Array) -> Float64Array:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float64)


def _no_vector(average: Average, window: Window, field: str) -> NotFound:
    remedy = "GET /datasets/{dataset}/{window}/coverage tells where there are vectors."
    if not average.inside:
        return NotFound(f"holds the centre of no pixel that {window} has.", field=field, remedy=remedy)
    why = ", ".join(STATUS_NAMES[int(status)] for status in average.statuses)
    message = f"none of its {average.inside:,} pixels holds a vector in {window}{': ' if why else ''}{why}."
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
