"""Journey 2 over HTTP: the pixels most like some examples, and how much of an area is."""

from __future__ import annotations

from typing import Annotated, Any, Final, get_args

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as Param
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from api.catalogue import DatasetWindow
from api.likeness.bodies import HitForm, RangeBody, SearchBody, SearchParams, TableForm
from api.likeness.forms import MEDIA, chosen
from api.likeness.hits import Found, SearchAnswer
from api.likeness.questions import asked, body_of, counted
from api.likeness.ranges import Ranges, RangesAnswer
from api.params import dataset_window
from api.problems import documented
from api.security import require
from api.state import State, get_state
from indexing.question import Question, RangeQuestion, RangeResult, SearchResult
from service.errors import NotFound

router = APIRouter(tags=["likeness"], dependencies=[Depends(require("read"))])

_SAME: Final = " What is the same for all rows is told by headers as well"
_ROW: Final = (
    "a row a hit: rank, score, distance (Euclidean), lon, lat, status, zone, window, dataset, model, revision, engine, "
    "recall, partial."
)
_COUNTS: Final = (
    "a row an area of a window: window, area (-1: everywhere), inside, valid, alike, hectares, valid_hectares, "
    "dataset, model, revision, engine."
)


class GeoJson(JSONResponse):
    """A GeoJSON answer, for OpenAPI."""

    media_type = MEDIA["geojson"]


def _answers(model: type[BaseModel], row: str) -> dict[int | str, dict[str, Any]]:
    """What a route answers, for OpenAPI."""
    csv = {"type": "string", "description": f"RFC 4180, {row}{_SAME}"}
    arrow = {
        "type": "string",
        "format": "binary",
        "description": f"a stream, {row}{_SAME}, and by the schema's metadata",
    }
    tables = {MEDIA["csv"]: {"schema": csv}, MEDIA["arrow"]: {"schema": arrow}}
    return {**documented(401, 403, 404, 409, 413, 422, 503), 200: {"model": model, "content": tables}}


_HITS: Final = _answers(SearchAnswer, _ROW)
_HIT_FORMS: Final = get_args(HitForm)
_TABLE_FORMS: Final = get_args(TableForm)
_FORM: Final = "form of the answer; absent: by Accept, else "


@router.get("/datasets/{dataset}/{window}/search", response_class=GeoJson, responses=_HITS)
def search(
    request: Request,
    at: Annotated[DatasetWindow, Depends(dataset_window)],
    state: Annotated[State, Depends(get_state)],
    params: Annotated[SearchParams, Param()],
) -> Response:
    """The pixels most like the one at a place, or most like a saved query. Saves nothing."""
    return _found(state, at, body_of(params), chosen(params.f, request.headers.get("accept"), _HIT_FORMS))


@router.post("/datasets/{dataset}/{window}/search", response_class=GeoJson, responses=_HITS)
def search_by_examples(
    request: Request,
    at: Annotated[DatasetWindow, Depends(dataset_window)],
    state: Annotated[State, Depends(get_state)],
    body: SearchBody,
    f: Annotated[HitForm | None, Param(description=f"{_FORM}geojson")] = None,
) -> Response:
    """The pixels most like some points, vectors or areas and least like others. Saves nothing."""
    return _found(state, at, body, chosen(f, request.headers.get("accept"), _HIT_FORMS))


@router.post(
    "/datasets/{dataset}/{window}/search/areas",
    response_class=JSONResponse,
    responses=_answers(RangesAnswer, _COUNTS),
)
def measure(
    request: Request,
    at: Annotated[DatasetWindow, Depends(dataset_window)],
    state: Annotated[State, Depends(get_state)],
    body: RangeBody,
    f: Annotated[TableForm | None, Param(description=f"{_FORM}json. Tables hold counts and no hits")] = None,
) -> Response:
    """How many pixels and hectares of some areas are like some examples: each pixel is compared. Saves nothing."""
    form = chosen(f, request.headers.get("accept"), _TABLE_FORMS)
    questions = counted(state, at, body)
    found = tuple((one, _count(state, one, question)) for one, question in questions)
    first = questions[0][1]
    return Ranges(at, first, _is_saved(state, first.query.id), found).told(form)


def _found(state: State, at: DatasetWindow, body: SearchBody, form: HitForm) -> Response:
    questions = asked(state, at, body)
    found = tuple((one, _search(state, one, question)) for one, question in questions)
    first = questions[0][1]
    return Found(at, first, _is_saved(state, first.query.id), found).told(form)


def _search(state: State, at: DatasetWindow, question: Question) -> SearchResult:
    searcher = state.searcher(at.dataset)
    return state.watch.search(at.dataset.id, at.window, question.k, lambda: searcher.search(question))


def _count(state: State, at: DatasetWindow, question: RangeQuestion) -> RangeResult:
    searcher = state.searcher(at.dataset)
    return state.watch.count(at.dataset.id, at.window, lambda: searcher.count(question))


def _is_saved(state: State, key: str) -> bool:
    try:
        state.queries.get(key)
    except NotFound:
        return False
    return True
