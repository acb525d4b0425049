"""The stored vectors themselves: of places, one by one; of polygons, their mean and spread."""

from __future__ import annotations

from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from api.answers import MEDIA, Pixels, Told, chosen, quantized, respond, tallied
from api.catalogue import DatasetWindow
from api.missing import JOB, REASON, Reason, Why, whys
from api.params import dataset_window
from api.problems import documented
from api.schemas import AnswerForm, CountsInfo, Geometry, Point, Strict
from api.security import require
from api.state import State, get_state
from api.zones import Zones
from service.deadline import Deadline
from service.errors import InvalidInput, LimitExceeded
from service.footprint import footprint
from service.grid import zone_numbers
from service.polygons import Polygon
from service.tables import PixelTable
from service.values import BLOCK, OUTSIDE, VALID, Counts, Float64Array, Int64Array, UInt8Array, Vectors
from service.zonal import summarised

MAX_POLYGONS: Final = 1000
"""Of one request."""
_NOWHERE: Final = (180.0, 90.0, -180.0, -90.0)
"""The box of a window that holds nothing: no place lies in it."""

router = APIRouter(tags=["datasets"], dependencies=[Depends(require("read"))])


class VectorsRequest(Strict):
    """Places to read: points, or polygons."""

    points: list[Point] = Field([], max_length=100_000, description="places, [longitude, latitude]")
    polygons: list[Geometry] = Field(
        [],
        max_length=MAX_POLYGONS,
        description="areas to summarise: mean and standard deviation of the vectors of the pixels whose centre lies in "
        "each. At most 1,000 vertices each",
    )
    dims: int | None = Field(None, description="a prefix length among the dataset's depths")
    quantize: bool | None = Field(None, description="points: the stored int8 codes and their scale, not their product")
    answer: AnswerForm | None = Field(None, description="form of the answer; absent: by Accept, else json")


class VectorInfo(BaseModel):
    """One pixel."""

    status: str = Field(description="valid, water, not-embedded, rejected or outside")
    vector: list[float] | None = Field(None, description="dequantised float32; null unless status is valid")
    codes: list[int] | None = Field(None, description="in place of `vector`, if quantize was asked")
    scale: float | None = Field(None, description="float32; vector = codes x scale")
    counts: CountsInfo
    reason: Reason | None = Field(None, description=REASON)
    job: str | None = Field(None, description=JOB)


class SpreadInfo(BaseModel):
    """How many valid observations the pixels of a polygon were made from."""

    mean: float
    least: int
    most: int


class SeenInfo(BaseModel):
    """The same, per sensor and orbit."""

    s2: SpreadInfo
    s1_asc: SpreadInfo
    s1_desc: SpreadInfo


class ZoneInfo(BaseModel):
    """The pixels whose centre lies in one polygon."""

    count: int = Field(description="valid pixels: those that the numbers are made of")
    hectares: float = Field(description="of the valid pixels")
    pixels: dict[str, int] = Field(description="of each status: valid, water, not-embedded, rejected, outside")
    mean: list[float] | None = Field(description="of the dequantised vectors, summed in float64; null: none is valid")
    sd: list[float] | None = Field(description="standard deviation, divided by `count`")
    counts: SeenInfo | None


class VectorsAnswer(BaseModel):
    """Vectors, or polygons, in the order asked."""

    dataset: str
    model: str
    window: str
    revision: str
    results: list[VectorInfo] | list[ZoneInfo]


_BINARY: Final[dict[AnswerForm, str]] = {
    "npy": "points: float32 (n, d), NaN where there is no vector. Polygons: float64 (n, 2, d), mean and sd, NaN where "
    "there is no valid pixel",
    "npz": "points: vectors float32 (n, d), or codes int8 (n, d) and scales float32 (n); status uint8: 0 not embedded, "
    "1 valid, 2 water, 3 rejected, 255 outside; s2, s1_asc, s1_desc uint16. Polygons: mean and sd float64 (n, d); "
    "valid, water, not_embedded, rejected and outside int64 (n): pixels; hectares float64 (n), of the valid ones; s2, "
    "s1_asc, s1_desc float64 (n, 3): mean, least and most observations",
    "arrow": "a stream with a row a point: pixel, status, s2, s1_asc, s1_desc, and vector, or codes and scale. Or a "
    "row a polygon: what NPZ has, with s2_mean, s2_least, s2_most and so on. Null where there is none; what the "
    "headers say as metadata of the schema",
}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "One result a point or polygon, in the order asked",
        "content": {
            MEDIA[form]: {"schema": {"type": "string", "format": "binary", "description": said}}
            for form, said in _BINARY.items()
        },
    }
}


BLOCKS: Final = 32
"""Blocks of which points are read in one go."""


@router.post(
    "/datasets/{dataset}/{window}/vectors",
    responses={**documented(403, 404, 413, 422, 503), **_ANSWERS},
    response_model=VectorsAnswer,
)
def vectors(
    request: Request,
    at: Annotated[DatasetWindow, Depends(dataset_window)],
    body: VectorsRequest,
    state: Annotated[State, Depends(get_state)],
) -> Response:
    """The stored vector of each point, or the mean and spread of the vectors in each polygon, in the order asked.

    A polygon holds the pixels whose centre lies in it, each from its own zone. Its edges are straight in longitude and
    latitude; what crosses the antimeridian is cut there into a MultiPolygon (RFC 7946).
    """
    if bool(body.points) == bool(body.polygons):
        raise InvalidInput("give points, or polygons.", field="points")
    if body.dims is not None and body.dims not in at.dataset.store.depths:
        raise InvalidInput(f"{body.dims} is not one of {at.dataset.store.depths}.", field="dims")
    form = chosen(body.answer, request.headers.get("accept"), "json")
    return respond(form, _points(state, at, body, form) if body.points else _polygons(state, at, body))


def _points(state: State, at: DatasetWindow, body: VectorsRequest, form: AnswerForm) -> Told:
    limit = state.settings.limits.points
    if len(body.points) > limit:
        raise LimitExceeded(f"{len(body.points):,} points; at most {limit:,} a request.", field="points")
    quantize = quantized(body.quantize, form, "json")
    table = read_points(at, np.array(body.points, float), body.dims, Deadline.after(state.settings.limits.seconds))
    head = at.dataset.provenance(at.window)
    provenance = head | {"status": tallied(table.vectors.status)}
    more = reasons(state, at, np.array(body.points, float), table.vectors.status) if form == "json" else None
    return Pixels(table, (len(body.points),), head, provenance, quantize, nulls=True, more=more)


def reasons(state: State, at: DatasetWindow, lonlat: Float64Array, status: UInt8Array) -> list[Why]:
    """Why each of (n, 2) places has no vector, and the job that is making one."""
    if (status == VALID).all():
        return [Why(reason=None, job=None)] * len(status)
    outlook = state.lookout.outlook(at.dataset.id, str(at.window))
    held = footprint(at.dataset.store, at.window)
    return whys(outlook, held.bounds if held.boxes else _NOWHERE, lonlat, status)


def _polygons(state: State, at: DatasetWindow, body: VectorsRequest) -> Told:
    if body.quantize:
        raise InvalidInput("a mean has no codes.", field="quantize", remedy="Leave it out.")
    limits = state.settings.limits
    found = summarised(
        at.dataset.store,
        at.window,
        [Polygon.of_geojson(one.model_dump(), f"polygons[{n}]") for n, one in enumerate(body.polygons)],
        most=limits.polygon_pixels,
        deadline=Deadline.after(limits.seconds),
        dims=body.dims,
    )
    return Zones(found, at.dataset.provenance(at.window))


def read_points(at: DatasetWindow, lonlat: Float64Array, dims: int | None, deadline: Deadline) -> PixelTable:
    """Read (n, 2) places, each from its own zone; those of one zone together, so that a chunk is read once.

    Raises:
        Unavailable: It took too long, or the transport failed.
        Corrupt: Stored bytes cannot be read.
    """
    store = at.dataset.store
    lon, lat = lonlat.T
    vectors = Vectors.empty(lon.shape, dims or store.dims, OUTSIDE)
    counts = Counts.zeros(lon.shape)
    numbers, south = zone_numbers(lon), lat < 0
    for grid in store.zones():
        (mine,) = np.nonzero((numbers == grid.zone.number) & (south == grid.zone.south))
        if not len(mine):
            continue
        row, col = (np.floor(one).astype(np.int64) for one in grid.from_lonlat(lon[mine], lat[mine]))
        for some in _together(row, col):
            deadline.check()
            read = store.sample(grid.zone, at.window, row[some], col[some], dims=dims)
            seen, to = store.counts(grid.zone, at.window, row[some], col[some]), mine[some]
            vectors.codes[to], vectors.scales[to], vectors.status[to] = read.codes, read.scales, read.status
            counts.s2[to], counts.s1_asc[to], counts.s1_desc[to] = seen.s2, seen.s1_asc, seen.s1_desc
    return PixelTable(vectors, vectors.dequantised(), counts)


def _together(row: Int64Array, col: Int64Array) -> list[Int64Array]:
    """Pixels in groups that touch some blocks each: between groups the clock is looked at."""
    block = row // BLOCK * 100_000 + col // BLOCK
    order = np.argsort(block, kind="stable")
    starts = np.flatnonzero(np.diff(block[order], prepend=-1))
    return np.split(order, starts[BLOCKS::BLOCKS])
