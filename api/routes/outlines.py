"""Where blocks lie, as GeoJSON: those of a job with their states, and those that hold nothing yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Query, Response

from api.params import DatasetId, WindowName
from api.problems import documented
from api.routes.jobs import JobKey
from api.security import require
from api.state import State, get_state
from service.area import blocks_in
from service.errors import InvalidInput, LimitExceeded, NotFound
from service.grid import Block, Zone, archive_grid
from service.polygons import Polygon
from service.sources import Placement
from service.store.contract import Store
from service.values import Area, Window

router = APIRouter(dependencies=[Depends(require("read"))])

MOST: Final = 2048
"""Blocks of one answer: a box of about 116 km."""
GEOJSON: Final = "application/geo+json"
_ANSWER: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {GEOJSON: {}}}}


@router.get(
    "/jobs/{id}/blocks",
    tags=["areas"],
    response_class=Response,
    responses={**documented(401, 403, 404, 422, 503), **_ANSWER},
)
def of_job(state: Annotated[State, Depends(get_state)], id: JobKey) -> Response:
    """The blocks of a job as GeoJSON, each with its `state`."""
    job = state.jobs.read(id)
    reach = state.lookout.outlook(job.dataset, job.window).reach
    blocks = [(Block.parse(one.block), {"state": one.state}) for one in job.blocks or ()]
    return _answer((block, _part(block, reach), told) for block, told in blocks)


@router.get(
    "/datasets/{dataset}/{window}/missing",
    tags=["datasets"],
    response_class=Response,
    responses={**documented(404, 413, 422, 503), **_ANSWER},
)
def missing(
    state: Annotated[State, Depends(get_state)],
    dataset: DatasetId,
    window: WindowName,
    bbox: Annotated[str, Query(max_length=200, description="west,south,east,north in degrees")],
) -> Response:
    """The blocks of a box that the dataset's source reaches and that hold nothing in this window, as GeoJSON.

    Each has `reason`: `not-embedded`, or `embedding` with the address of the `job`. The window need not exist yet.
    A dataset without a source, or one that is only read, has none.
    """
    when, at = Window.parse(window), state.datasets[dataset]
    box = _area(bbox)
    outlook = state.lookout.outlook(at.id, str(when))
    west, south, east, north = box.bounds
    reach = [place for place in outlook.reach if _near(place.zone, west, south, east, north)]
    try:
        store: Store | None = at.at(when).store
    except NotFound:
        store = None
    try:
        found = blocks_in(reach, Polygon.of_area(box), MOST) if reach else {}
    except LimitExceeded:
        remedy = "Ask for a smaller box."
        raise LimitExceeded(f"covers more than {MOST:,} blocks of 2.56 km.", field="bbox", remedy=remedy) from None
    except InvalidInput:  # nothing of it is reached
        found = {}
    places = {block: place for place, some in found.items() for block in some}
    held = {block for block, version in store.versions(when, places).items() if version} if store else set()
    empty = [(block, place) for block, place in places.items() if block not in held]
    return _answer((block, _part(block, [place]), _reason(outlook.job_of(block))) for block, place in empty)


def _part(block: Block, reach: Sequence[Placement]) -> tuple[slice, slice]:
    """Rows and columns of the part of a block that is made: all of it, unless the source ends there."""
    for place in reach:
        if place.zone.name == block.zone and place.touches(block):
            rows, cols = place.in_block(block)
            top, left = block.rows.start, block.cols.start
            return slice(top + rows.start, top + rows.stop), slice(left + cols.start, left + cols.stop)
    return block.rows, block.cols


def _reason(job: str | None) -> dict[str, str]:
    return {"reason": "embedding", "job": f"/jobs/{job}"} if job else {"reason": "not-embedded"}


def _area(text: str) -> Area:
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"{text[:60]!r} is no box.", field="bbox", remedy="Write west,south,east,north.") from None
    return Area(west, south, east, north)


def _near(zone: Zone, west: float, south: float, east: float, north: float) -> bool:
    """Whether a box of degrees touches a nominal zone; over the antimeridian where west > east."""
    left, bottom, right, top = zone.bounds
    across = left <= east and right >= west if west < east else left <= east or right >= west
    return across and bottom <= north and top >= south


def _answer(blocks: Iterable[tuple[Block, tuple[slice, slice], Mapping[str, str]]]) -> Response:
    features = [_feature(block, part, told) for block, part, told in blocks]
    return Response(
        orjson.dumps({"type": "FeatureCollection", "features": features}),
        media_type=GEOJSON,
        headers={"Cache-Control": "no-store"},
    )


def _feature(block: Block, part: tuple[slice, slice], told: Mapping[str, str]) -> dict[str, Any]:
    (top, bottom), (left, right) = ((span.start, span.stop) for span in part)
    rows, cols = np.array([bottom, bottom, top, top, bottom], float), np.array([left, right, right, left, left], float)
    lon, lat = archive_grid(Zone.parse(block.zone)).to_lonlat(rows, cols)
    ring = [[round(x, 7), round(y, 7)] for x, y in zip(lon.tolist(), lat.tolist(), strict=True)]
    properties = {"block": block.name, **told}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}
