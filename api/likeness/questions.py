"""What requests ask about likeness, made into questions: their examples looked up, their filters made into values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from api.catalogue import DatasetWindow
from api.likeness.bodies import MAX_WINDOWS, Filters, RangeBody, SearchBody, SearchParams
from api.likeness.examples import Made, polygons_of, query_of
from api.state import State
from indexing.question import Question, RangeQuestion, Where
from service.deadline import Deadline
from service.errors import InvalidInput, LimitExceeded, NotFound
from service.polygons import Polygon
from service.queries import Query
from service.values import Area, Window

Asked = tuple[DatasetWindow, Question]
"""A question, and where it is asked."""
Counted = tuple[DatasetWindow, RangeQuestion]


def body_of(params: SearchParams) -> SearchBody:
    """What an address asks, as a body would.

    Raises:
        InvalidInput: Half a place, neither or both of a place and a query, or `bbox` is not four numbers.
    """
    if (params.lon is None) != (params.lat is None) or (params.lon is None) == (params.query is None):
        raise InvalidInput("give both lon and lat, or query.", field="lon")
    said = params.model_dump(exclude={"lon", "lat", "f", "bbox", "windows"})
    said["points"] = [] if params.lon is None else [(params.lon, params.lat)]
    said["bbox"] = None if params.bbox is None else _numbers(params.bbox)
    said["windows"] = params.windows.split(",") if params.windows else []
    return SearchBody.model_construct(**said)


def asked(state: State, at: DatasetWindow, body: SearchBody) -> list[Asked]:
    """What a search asks of each window.

    Raises:
        SmaltiError: As `query_of` does; or a filter cannot be, or asks for more than this server gives.
    """
    limits = state.settings.limits
    _require_few(body.k, limits.hits)
    deadline = Deadline.after(limits.seconds)
    windows, where = windows_of(state, at, body), _where(body)
    made = _made(state, at, body, deadline)
    if body.exclude_examples:
        where = replace(where, outside=(*where.outside, *made.polygons), exclude=made.pixels)
    question = Question(
        made.query, at.window, body.k, body.level, where, made.pixels,
        body.spacing, body.recall, body.exact, body.refine, deadline,
    )  # fmt: skip
    return [(one, replace(question, window=one.window)) for one in windows]


def counted(state: State, at: DatasetWindow, body: RangeBody) -> list[Counted]:
    """What a count asks of each window.

    Raises:
        SmaltiError: As `asked` does; or not one of `min_score` and `max_distance` is given.
    """
    limits = state.settings.limits
    _require_few(body.k, limits.hits)
    deadline = Deadline.after(limits.seconds)
    windows, where, areas = windows_of(state, at, body), _where(body), polygons_of(body.areas, "areas")
    query = _made(state, at, body, deadline).query
    question = RangeQuestion(query, at.window, _least(body, query), body.level, where, tuple(areas), body.k, deadline)
    return [(one, replace(question, window=one.window)) for one in windows]


def windows_of(state: State, at: DatasetWindow, body: Filters) -> list[DatasetWindow]:
    """The windows that are searched, each once, in the order asked.

    Raises:
        InvalidInput: One is no window.
        LimitExceeded: Too many.
        NotFound: The dataset does not hold it.
    """
    dataset = state.datasets[at.dataset.id]
    if len(body.windows) > MAX_WINDOWS:
        raise LimitExceeded(f"{len(body.windows):,} windows; at most {MAX_WINDOWS} a request.", field="windows")
    try:
        windows = dict.fromkeys(Window.parse(text) for text in body.windows) or [at.window]
        return [DatasetWindow(dataset.at(window), window) for window in windows]
    except (InvalidInput, NotFound) as error:
        raise type(error)(error.message, field="windows", remedy=error.remedy) from None


def _made(state: State, at: DatasetWindow, body: SearchBody | RangeBody, deadline: Deadline) -> Made:
    """The query of a body: its examples, or one that is saved; with the metric asked for."""
    if body.query is None:
        return query_of(state, at, body, deadline)
    if body.any_place or body.vectors or body.against_vectors:
        raise InvalidInput("give examples or a saved query, not both.", field="query")
    query = state.queries.value(body.query, Query.from_document)
    metric = body.metric or query.metric
    same = query if metric == query.metric else replace(query, metric=metric)
    return Made(same, np.empty(0, np.int64), ())


def _where(body: Filters) -> Where:
    within = Polygon.of_geojson(body.within.model_dump(), "within") if body.within is not None else None
    mask = (Polygon.of_geojson(body.mask.model_dump(), "mask"),) if body.mask is not None else ()
    area = Area(*body.bbox) if body.bbox is not None else None
    return Where(area, within, mask, min_s2=body.min_s2, min_s1_asc=body.min_s1_asc, min_s1_desc=body.min_s1_desc)


def _least(body: RangeBody, query: Query) -> float:
    """The score from which on a pixel counts."""
    if body.min_score is not None and body.max_distance is None:
        return body.min_score
    if body.max_distance is not None and body.min_score is None:
        return query.score_at(body.max_distance)
    raise InvalidInput("give min_score or max_distance.", field="min_score")


def _require_few(k: int, limit: int) -> None:
    if k > limit:
        raise LimitExceeded(f"{k:,} hits; at most {limit:,} a request.", field="k")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        west, south, east, north = map(float, text.split(","))
    except ValueError:
        raise InvalidInput("is not four numbers.", field="bbox", remedy="Write w,s,e,n in degrees.") from None
    return west, south, east, north
