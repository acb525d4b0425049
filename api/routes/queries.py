"""Saved queries: examples for and against under an id made from their content."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, Field

from api.catalogue import DatasetWindow
from api.likeness.bodies import Examples, Metric
from api.likeness.examples import query_of
from api.problems import documented
from api.security import require
from api.state import State, get_state
from service.deadline import Deadline
from service.errors import InvalidInput
from service.values import Window

router = APIRouter(tags=["likeness"])

QueryKey = Annotated[str, Path(max_length=64, description="id of a saved query")]


class QueryBody(Examples):
    """A query to save."""

    dataset: str | None = Field(None, max_length=64, description="where places and polygons are looked up")
    window: str | None = Field(None, max_length=40, description="2024 or 2024-05-01..2024-09-30; with `dataset`")


class QuerySaved(BaseModel):
    """A saved query."""

    id: str = Field(description="made from the content: the same examples always have the same id")
    model: str = Field(description="the model that made the examples; only its vectors can be compared with them")
    metric: Metric
    wanted: int = Field(description="examples for")
    unwanted: int = Field(description="examples against")
    view: str = Field(description="what ?view= of a tile takes to show it", examples=["similarity:0f3a..."])


class QueryDocument(BaseModel):
    """A query as it is saved."""

    id: str
    type: str = Field(examples=["query"])
    metric: Metric
    model: str = Field(description="the model that made the examples")
    wanted: list[list[float]] = Field(description="examples for")
    unwanted: list[list[float]] = Field(description="examples against")


@router.post("/queries", responses=documented(401, 403, 404, 409, 413, 422), dependencies=[Depends(require("write"))])
def save(state: Annotated[State, Depends(get_state)], body: QueryBody) -> QuerySaved:
    """Save examples for and against; the id then works in search and as a tile view, in every window."""
    at = None
    if body.dataset is not None:
        if body.window is None:
            raise InvalidInput("is needed with dataset.", field="window")
        window = Window.parse(body.window)
        at = DatasetWindow(state.datasets[body.dataset].at(window), window)
    query = query_of(state, at, body, Deadline.after(state.settings.limits.seconds)).query
    state.queries.put(query.to_document())
    return QuerySaved(
        id=query.id,
        model=str(query.identity),
        metric=query.metric,
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
