"""An area and a window to embed: what it takes, and the job that does it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Self

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field, model_validator

from api.problems import documented
from api.progress import Order
from api.schemas import Box, JobState, Lat, Lon, MultiPolygonBody, PolygonBody, Strict
from api.security import asker, require
from api.state import State, get_state
from service.area import MIN_S2, AreaPlan, plan_area
from service.embed import require_writable
from service.encoder import Encoder
from service.polygons import Polygon
from service.store.contract import WritableStore
from service.values import Area, Window

router = APIRouter(tags=["areas"])


class AreaBody(Strict):
    """What to embed: a box or a polygon, of which whole blocks of 2.56 km are taken."""

    dataset: str = Field(max_length=64, description="a writable dataset that has a source; see GET /datasets")
    window: str = Field(max_length=40, description="2024 or 2024-05-01..2024-09-30")
    bbox: tuple[Lon, Lat, Lon, Lat] | None = Field(
        None, description="[west, south, east, north] in degrees; west > east crosses the antimeridian"
    )
    geometry: PolygonBody | MultiPolygonBody | None = Field(
        None, discriminator="type", description="instead of bbox: the blocks it touches are taken, not those of its box"
    )
    min_s2: int = Field(
        MIN_S2, ge=0, le=366, description="least number of valid Sentinel-2 dates; pixels with fewer are rejected"
    )
    dry_run: bool = Field(False, description="only tell what it would take")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.bbox is None) == (self.geometry is None):
            raise ValueError("give either bbox or geometry")
        return self

    @property
    def place(self) -> str:
        """The field that says where."""
        return "bbox" if self.bbox is not None else "geometry"

    def polygon(self) -> Polygon:
        """What is meant.

        Raises:
            InvalidInput: It is no box, or no polygon.
            LimitExceeded: It has too many positions.
        """
        if self.bbox is not None:
            return Polygon.of_area(Area(*self.bbox))
        assert self.geometry is not None  # noqa: S101  # one of the two is there
        return Polygon.of_geojson(self.geometry.model_dump(), "geometry")


class AreaAnswer(BaseModel):
    """What embedding an area takes, and the job that does it."""

    id: str | None = Field(description="of the job, for GET /jobs/{id}; null for a dry run")
    state: JobState | None = Field(description="of the job; null for a dry run")
    dataset: str
    window: str
    model: str
    min_s2: int
    outside_training: bool = Field(description="true for windows that are not calendar years")
    blocks: int = Field(description="blocks of the area")
    blocks_left: int = Field(description="those not yet embedded from this source by this model with these parameters")
    blocks_shared: int = Field(description="of those, how many another job has in hand already: they are made once")
    pixels: int
    pixels_left: int
    scenes: int = Field(description="scenes to be read for what is left; 0 where none are needed")
    bytes: int = Field(description="estimate of what has to be fetched for what is left")
    seconds: float = Field(description="estimate for what is left, with the workers there are")
    measured: bool = Field(description="whether the estimate rests on blocks embedded here, or on a stated speed")
    workers: int = Field(description="workers seen lately; 0: the job waits until one starts")
    bounds: Box = Field(description="[w,s,e,n] of the area asked for")


@router.post(
    "/areas",
    status_code=202,
    responses=documented(401, 403, 404, 409, 413, 422, 502, 503),
    dependencies=[Depends(require("embed"))],
)
async def ask(
    state: Annotated[State, Depends(get_state)], body: AreaBody, request: Request, response: Response
) -> AreaAnswer:
    """Embed an area from the dataset's own source. The job is durable, and the same area asked twice is one job.

    What is embedded already is left alone; GET /jobs/{id} tells how far it is, and tiles and search show each block
    as soon as it is done. A dataset without a source takes uploads only, see POST /embed.
    """
    answer = await run_sync(_asked, state, body, asker(request), limiter=state.planning)
    if answer.id:
        response.headers["Location"] = f"/jobs/{answer.id}"
    return answer


def _asked(state: State, body: AreaBody, by: str) -> AreaAnswer:
    window, polygon = Window.parse(body.window), body.polygon()
    plan, encoder = _planned(state, body, window, polygon)
    model = str(encoder.identity)
    speed, hands = state.jobs.speed(model), state.jobs.hands()
    pixels = {block.name: count for block, count in plan.blocks.items()}
    order = Order(body.dataset, str(window), model, encoder.digest, body.min_s2, pixels, encoder.precision)
    shared = _in_hand(state, order) & {block.name for block in plan.left}
    job = None
    if not body.dry_run:
        job = state.jobs.ask(order, missing=bool(plan.left), by=by)
        state.lookout.look_soon()
    return AreaAnswer(
        id=job.id if job else None,
        state=job.state if job else None,
        dataset=body.dataset,
        window=str(window),
        model=model,
        min_s2=body.min_s2,
        outside_training=not window.is_year,
        blocks=len(plan.blocks),
        blocks_left=len(plan.left),
        blocks_shared=len(shared),
        pixels=plan.pixels,
        pixels_left=plan.pixels_left,
        scenes=plan.cost.scenes,
        bytes=plan.cost.bytes,
        seconds=hands.seconds(plan.pixels_left, len(plan.left), speed),
        measured=speed is not None,
        workers=hands.workers,
        bounds=list(body.bbox or polygon.bounds),
    )


def _in_hand(state: State, order: Order) -> set[str]:
    """Blocks that other jobs which wait or run make of the same, with the same model and parameters."""
    same = replace(order, pixels={})
    others = state.jobs.running()
    return {
        n
        for key, other in others.items()
        if key != order.id and replace(other, pixels={}) == same
        for n in other.pixels
    }


def _planned(state: State, body: AreaBody, window: Window, polygon: Polygon) -> tuple[AreaPlan, Encoder]:
    main = state.datasets.require_writable(body.dataset)
    sources = state.sources_of(body.dataset, window, Area(*(body.bbox or polygon.bounds)))
    encoder = state.encoder(str(main.identity))
    store: WritableStore | None = main
    if not window.is_year:  # each such window has a store of its own, made by the first block
        stores = state.datasets[body.dataset].others
        store = next((require_writable(s, body.dataset) for s in stores if window in s.windows()), None)
    most = state.settings.limits.job_blocks
    plan = plan_area(sources, encoder, store, polygon, min_s2=body.min_s2, most=most, field=body.place)
    return plan, encoder
