"""Journey 2 over HTTP: the pixels most like some examples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Response
from fastapi import Query as Param
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from api.catalogue import DatasetWindow
from api.examples import polygons_of, query_of
from api.params import dataset_window
from api.problems import documented
from api.schemas import Examples, Finite, Geometry, LatText, LonText
from api.security import require
from api.state import State, get_state
from indexing.question import Question, SearchResult, Where
from service.deadline import Deadline
from service.errors import InvalidInput, LimitExceeded, NotFound
from service.polygons import Polygon
from service.queries import Query
from service.values import STATUS_NAMES, Area, Int64Array

router = APIRouter(tags=["likeness"], dependencies=[Depends(require("read"))])


class GeoJson(JSONResponse):
    """A GeoJSON answer."""

    media_type = "application/geo+json"

    def render(self, content: Any) -> bytes:
        """Encode with orjson: a thousand hits are many floats."""
        return orjson.dumps(content)


K = Field(10, ge=1, description="how many pixels; the query's own count")
Bbox = tuple[Finite, Finite, Finite, Finite]


class SearchBody(Examples):
    """What to look for: examples, or a saved query."""

    query: str | None = Field(None, max_length=64, description="id of a saved query, instead of examples")
    k: int = K
    bbox: Bbox | None = Field(None, description="[w,s,e,n]: only pixels in this box; w > e crosses the antimeridian")
    within: Geometry | None = Field(
        None, description="only pixels whose centre lies in this polygon, of at most 1,000 positions; and in `bbox`"
    )
    exclude_examples: bool = Field(
        False, description="leave out the pixels that `points` lie on and those in `polygons`"
    )


class SearchParams(BaseModel):
    """What to look for: a place, or a saved query."""

    model_config = {"extra": "forbid"}

    lon: LonText | None = Field(None, description="longitude of the example, degrees")
    lat: LatText | None = Field(None, description="latitude of the example, degrees")
    query: str | None = Field(None, max_length=64, description="id of a saved query, instead of lon and lat")
    k: int = K
    bbox: str | None = Field(
        None, max_length=200, description="w,s,e,n: only pixels in this box", examples=["2.1,54.6,2.4,54.8"]
    )


class PointGeometry(BaseModel):
    """Centre of a pixel."""

    type: Literal["Point"]
    coordinates: tuple[float, float]


class HitProperties(BaseModel):
    """How alike a pixel is."""

    score: float = Field(description="cosine with the query, -1 to 1")
    rank: int = Field(description="from 1; equal scores in order of zone, row and column")
    status: str = Field(description="always valid: where there is no vector there is no hit")


class HitFeature(BaseModel):
    """One pixel like the query."""

    type: Literal["Feature"]
    geometry: PointGeometry
    properties: HitProperties


class SearchAnswer(BaseModel):
    """Hits, best first, and how they were found."""

    type: Literal["FeatureCollection"]
    dataset: str
    model: str
    window: str
    revision: str
    engine: Literal["exact", "index", "index+exact"] = Field(
        description="exact: every pixel was scored. index: candidates from the index, scored exactly. "
        "index+exact: and what changed since the index was built was scored pixel by pixel"
    )
    recall: float | None = Field(description="share of the true 10 best that the index finds; 1: exact; null: unknown")
    query: str = Field(description="id of the query; POST /queries with the same examples saves it under this id")
    saved: bool = Field(description="whether it is saved, so that view=similarity:{query} works")
    features: list[HitFeature]


ANSWERS: Any = {**documented(401, 403, 404, 409, 413, 422, 503), 200: {"model": SearchAnswer}}


@router.get("/datasets/{dataset}/{window}/search", response_class=GeoJson, responses=ANSWERS)
def search(
    at: Annotated[DatasetWindow, Depends(dataset_window)],
    state: Annotated[State, Depends(get_state)],
    params: Annotated[SearchParams, Param()],
) -> Response:
    """The pixels most like the one at a place, or most like a saved query. Saves nothing."""
    _require_few(state, params.k)
    where = _Where(_area(params.bbox.split(",")) if params.bbox is not None else None)
    if params.lon is None and params.lat is None:
        return _by_id(state, at, params.query, params.k, where)
    if params.lon is None or params.lat is None or params.query is not None:
        raise InvalidInput("give both lon and lat, or query.", field="lon")
    query, own = query_of(state, at, Examples(points=[(params.lon, params.lat)]))
    return _answer(state, at, query, params.k, where, own)


@router.post("/datasets/{dataset}/{window}/search", response_class=GeoJson, responses=ANSWERS)
def search_by_examples(
    at: Annotated[DatasetWindow, Depends(dataset_window)],
    state: Annotated[State, Depends(get_state)],
    body: SearchBody,
) -> Response:
    """The pixels most like some points or vectors and least like others. Saves nothing."""
    _require_few(state, body.k)
    inside = Polygon.of_geojson(body.within.model_dump(), "within") if body.within is not None else None
    where = _Where(Area(*body.bbox) if body.bbox is not None else None, inside)
    if body.query is not None:
        if body.points or body.against or body.vectors or body.polygons:
            raise InvalidInput("give examples or a saved query, not both.", field="query")
        return _by_id(state, at, body.query, body.k, where)
    polygons, deadline = polygons_of(body), Deadline.after(state.settings.limits.seconds)
    query, own = query_of(state, at, body, polygons, deadline)
    where = replace(where, deadline=deadline)
    if body.exclude_examples:
        where = replace(where, outside=tuple(polygons), exclude=own)
    return _answer(state, at, query, body.k, where, own)


@dataclass(frozen=True)
class _Where:
    """Which pixels may be hits, and how long they may be looked for."""

    area: Area | None = None
    inside: Polygon | None = None
    outside: tuple[Polygon, ...] = ()
    exclude: Int64Array | None = None
    """(n,) ids of single pixels that may not."""
    deadline: Deadline | None = None
    """When to give up; a span that begins with the search where absent."""


def _require_few(state: State, k: int) -> None:
    limit = state.settings.limits.hits
    if k > limit:
        raise LimitExceeded(f"{k:,} hits; at most {limit:,} a request.", field="k")


def _by_id(state: State, at: DatasetWindow, key: str | None, k: int, where: _Where) -> Response:
    if key is None:
        raise InvalidInput("give lon and lat, or query.", field="lon")
    _, document = state.queries.get(key)
    return _answer(state, at, Query.from_document(document), k, where, np.empty(0, np.int64))


def _answer(state: State, at: DatasetWindow, query: Query, k: int, where: _Where, own: Int64Array) -> Response:
    searcher = state.searcher(at.dataset)
    if where.deadline is None:
        where = replace(where, deadline=Deadline.after(state.settings.limits.seconds))
    question = Question(
        query, at.window, k, own=own, deadline=where.deadline,
        where=Where(where.area, where.inside, where.outside, where.exclude),
    )  # fmt: skip
    result = state.watch.search(at.dataset.id, at.window, k, lambda: searcher.search(question))
    body = {
        "type": "FeatureCollection",
        **at.dataset.provenance(at.window),
        "revision": result.revision,
        "engine": result.engine,
        "recall": result.recall,
        "query": query.id,
        "saved": _is_saved(state, query.id),
        "features": _features(result),
    }
    return GeoJson(body)


def _features(result: SearchResult) -> list[dict[str, Any]]:
    return [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [round(hit.lon, 7), round(hit.lat, 7)]},
            "properties": {"score": hit.score, "rank": hit.rank, "status": STATUS_NAMES[hit.status]},
        }
        for hit in result.hits
    ]


def _is_saved(state: State, key: str) -> bool:
    try:
        state.queries.get(key)
    except NotFound:
        return False
    return True


def _area(parts: list[str]) -> Area:
    try:
        west, south, east, north = map(float, parts)
    except ValueError:
        raise InvalidInput("is not four numbers.", field="bbox", remedy="Write w,s,e,n in degrees.") from None
    return Area(west, south, east, north)
