"""Saved queries: examples for and against under an id made from their content."""

from __future__ import annotations

from typing import Annotated, Any, Final

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, Field

from api.params import DatasetWindow
from api.problems import documented
from api.schemas import Finite, Point, Strict
from api.security import require
from api.state import State, get_state
from service.errors import InvalidInput, LimitExceeded, NotFound, OutsideBounds
from service.queries import MAX_EXAMPLES, Query
from service.values import OUTSIDE, STATUS_NAMES, VALID, Float32Array, Int64Array, ModelIdentity, Window

router = APIRouter(tags=["likeness"])

MAX_DIMS: Final = 4096

QueryKey = Annotated[str, Path(max_length=64, description="id of a saved query")]


class Examples(Strict):
    """What to look for: at least one point or vector."""

    points: list[Point] = Field([], max_length=MAX_EXAMPLES, description="places that are like what is wanted")
    against: list[Point] = Field([], max_length=MAX_EXAMPLES, description="places that are not")
    vectors: list[Annotated[list[Finite], Field(min_length=1, max_length=MAX_DIMS)]] = Field(
        [], max_length=MAX_EXAMPLES, description="vectors that are like what is wanted; `model` tells what made them"
    )
    model: str | None = Field(None, max_length=200, description="name@version/variant that made `vectors`")


class QueryBody(Examples):
    """A query to save."""

    dataset: str | None = Field(None, max_length=64, description="where `points` and `against` are looked up")
    window: str | None = Field(None, max_length=40, description="2024 or 2024-05-01..2024-09-30; with `dataset`")


class QuerySaved(BaseModel):
    """A saved query."""

    id: str = Field(description="made from the content: the same examples always have the same id")
    model: str = Field(description="the model that made the examples; only its vectors can be compared with them")
    wanted: int = Field(description="examples for")
    unwanted: int = Field(description="examples against")
    view: str = Field(description="what ?view= of a tile takes to show it", examples=["similarity:0f3a..."])


class QueryDocument(BaseModel):
    """A query as it is saved."""

    id: str
    type: str = Field(examples=["query"])
    metric: str = Field(examples=["cosine"])
    model: str
    wanted: list[list[float]]
    unwanted: list[list[float]]


@router.post("/queries", responses=documented(401, 403, 404, 409, 413, 422), dependencies=[Depends(require("write"))])
def save(state: Annotated[State, Depends(get_state)], body: QueryBody) -> QuerySaved:
    """Save examples for and against; the id then works in search and as a tile view, in every window."""
    at = None
    if body.dataset is not None:
        if body.window is None:
            raise InvalidInput("is needed with dataset.", field="window")
        window = Window.parse(body.window)
        at = DatasetWindow(state.datasets[body.dataset].at(window), window)
    query, _ = query_of(state, at, body)
    state.queries.put(query.to_document())
    return QuerySaved(
        id=query.id,
        model=str(query.identity),
        wanted=len(query.wanted),
        unwanted=len(query.unwanted),
        view=f"similarity:{query.id}",
    )


@router.get(
    "/queries/{id}",
    responses=documented(401, 403, 404, 422),
    dependencies=[Depends(require("read"))],
    response_model=QueryDocument,
)
def saved(state: Annotated[State, Depends(get_state)], id: QueryKey) -> Response:
    """A saved query."""
    key, document = state.queries.get(id)
    return Response(orjson.dumps({"id": key, **document}), media_type="application/json")


def query_of(state: State, at: DatasetWindow | None, examples: Examples) -> tuple[Query, Int64Array]:
    """The query that some examples make, and the ids of the pixels it was made from.

    Raises:
        InvalidInput: No example for, vectors of different lengths, or a part is missing.
        LimitExceeded: Too many examples.
        NotFound: A point holds no vector; tells its status.
        IdentityMismatch: Vectors of another model than the dataset's.
    """
    count = len(examples.points) + len(examples.against) + len(examples.vectors)
    if count > MAX_EXAMPLES:
        raise LimitExceeded(f"{count:,} examples; a query takes at most {MAX_EXAMPLES:,}.", field="points")
    if not examples.points and not examples.vectors:
        raise InvalidInput("give at least one point or vector to look for.", field="points")
    given, identity = _vectors(examples)
    if at is None:
        if examples.points or examples.against:
            raise InvalidInput("is needed to look points up.", field="dataset")
        assert identity is not None  # noqa: S101  # vectors come with one
        return Query.of(identity, given), np.empty(0, np.int64)
    store = at.dataset.store
    if identity is not None:
        store.identity.require_same(identity, "the query")
        if len(given) and given.shape[1] != store.dims:
            raise InvalidInput(f"have {given.shape[1]} dimensions, the dataset {store.dims}.", field="vectors")
    wanted, own = _looked_up(state, at, examples.points, "points")
    unwanted, _ = _looked_up(state, at, examples.against, "against")
    return Query.of(store.identity, np.concatenate([wanted, given]) if len(given) else wanted, unwanted), own


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
        status = int(places.vectors.status[index])
        error = OutsideBounds if status == OUTSIDE else NotFound
        raise error(
            f"{points[index][0]}, {points[index][1]} holds no vector in {at.window}: {STATUS_NAMES[status]}.",
            field=f"{field}[{index}]",
            remedy="GET /datasets/{dataset} tells a place that does.",
        )
    return places.vectors.dequantised(), places.ids
