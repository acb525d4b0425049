"""One tile: TiTiler's route by its parameters, ours in how it is answered.

It takes two turns in threads: the first finds out what is asked for and its validator, which for most requests is the
answer, the second makes the picture. What was made for the same validator before is sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Annotated, Final

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from morecantile import TileMatrixSet
from pydantic import Field
from rasterio.crs import CRS
from rio_tiler.utils import CRS_to_uri
from titiler.core.factory import img_endpoint_params
from titiler.core.resources.enums import ImageType

from api.accept import pictured
from api.kept import Tile
from api.later import later
from api.params import Layer, bounded, layer
from api.problems import documented
from api.routes.tiles import PREFIX, WatchedReader, rendered
from api.security import require
from api.stamp import OVERVIEW, STALE, headers_of, holds
from api.standards.tilesets import matrix_set
from api.state import get_state
from service.bucket import is_remote
from service.tiles import tile_target
from service.warp import Target

TRIES: Final = 3
"""How often a tile is made anew because its blocks were replaced meanwhile."""

router = APIRouter(
    prefix=PREFIX,
    tags=["tiles"],
    dependencies=[Depends(require("read"))],
    responses=documented(401, 403, 404, 409, 413, 422, 503),
)


class Replaced(Exception):  # not an error: the tile is made again
    """Blocks were replaced while they were read."""


@router.get("/tiles/{tileMatrixSetId}/{z}/{x}/{y}", operation_id="tiles.getTile", **img_endpoint_params)
@router.get(
    "/tiles/{tileMatrixSetId}/{z}/{x}/{y}.{format}", operation_id="tiles.getTileWithFormat", **img_endpoint_params
)
async def tile(
    request: Request,
    z: Annotated[int, Path(description="zoom: the tile matrix")],
    x: Annotated[int, Path(description="column, eastwards")],
    y: Annotated[int, Path(description="row, southwards")],
    matrices: Annotated[Callable[[], TileMatrixSet], Depends(later(matrix_set))],
    asked: Annotated[Callable[[], Layer], Depends(later(layer))],
    format: Annotated[ImageType | None, Field(description="by Accept where absent: png, webp, jpeg")] = None,
    tilesize: Annotated[int | None, Query(gt=0, description="256 or 512 pixels")] = None,
    buffer: Annotated[float | None, Query(ge=0, description="pixels more on each side")] = None,
) -> Response:
    """A tile as a picture, or as numbers (npy, tif)."""
    tms, kept = matrices(), get_state(request).tiles
    wanted = format or ImageType[pictured(request.headers.get("accept")).partition("/")[2]]

    def found_out() -> tuple[Layer, Target, dict[str, str]]:
        bounded(request)
        shown = asked()
        target = tile_target(tms, x, y, z, tilesize, buffer)
        return shown, target, headers_of(request, shown, target)

    for _ in range(TRIES):
        shown, target, headers = await to_thread.run_sync(found_out)
        tag = headers["ETag"]
        if shown.notes:
            headers[OVERVIEW] = STALE
        if holds(request.headers.get("if-none-match"), tag):
            return Response(status_code=304, headers=headers)
        draw = partial(_drawn, shown, tms, (x, y, z), tilesize, buffer, wanted)
        far = any(is_remote(side.store.location) for side in shown.sides)

        def draw_this(
            draw: Callable[[], Tile] = draw, shown: Layer = shown, target: Target = target, tag: str = tag
        ) -> Tile:
            drawn = draw()
            if headers_of(request, shown, target)["ETag"] != tag:
                raise Replaced
            return drawn

        with suppress(Replaced):
            made = await kept.made(tag, draw_this, far=far)
            return Response(made.content, headers=headers | made.headers)
    # Its blocks are replaced faster than it is made: a map may show it, but nobody may keep it.
    made = await kept.alone(draw, far=far)
    del headers["ETag"]
    return Response(made.content, headers=headers | made.headers | {"Cache-Control": "no-store"})


def _drawn(
    shown: Layer,
    tms: TileMatrixSet,
    at: tuple[int, int, int],
    tilesize: int | None,
    buffer: float | None,
    wanted: ImageType,
) -> Tile:
    """Raises as `TileReader.tile` and `rendered` do."""
    with WatchedReader(shown, tms=tms) as reader:
        image = reader.tile(*at, tilesize=tilesize, buffer=buffer)
    content, media = rendered(image, wanted, reader.colormap)
    headers = {"Content-Type": media, "Content-Bbox": ",".join(map(str, image.bounds or ()))}
    if (uri := _uri(image.crs)) is not None:
        headers["Content-Crs"] = f"<{uri}>"
    return Tile(content, headers)


@lru_cache
def _uri(crs: CRS) -> str | None:
    return CRS_to_uri(crs)
