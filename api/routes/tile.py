"""One tile: TiTiler's route by its parameters, ours in how it is answered.

It takes two turns in threads: the first finds out what is asked for and its validator, which for most requests is the
answer, the second makes the picture. What was made for the same validator before is sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Annotated, Any, Final, get_args

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
from api.missing import EMPTY, NO_CHANCE, Chance, Reason, told
from api.onview import OnView
from api.params import Layer, bounded, layer
from api.problems import documented
from api.routes.tiles import PREFIX, WatchedReader, rendered
from api.security import may_unasked, require
from api.stamp import OVERVIEW, STALE, headers_of, holds, marked
from api.standards.tilesets import matrix_set
from api.state import get_state
from service.bucket import is_remote
from service.errors import NotFound
from service.tiles import tile_target
from service.values import NOT_EMBEDDED, Window
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


_TOLD: Final[dict[str, Any]] = {
    EMPTY: {
        "description": "why the tile shows no vector at all, or there is none; absent otherwise. What can be done "
        "comes first: `embedding` (a job that waits or runs will fill some of it), `not-embedded`, `rejected` (too few "
        "observations), `water`, `outside` (neither the dataset nor its source reaches here). It is part of the ETag",
        "schema": {"type": "string", "enum": list(get_args(Reason))},
    },
    "Link": {
        "description": f'the job that will fill it, where `{EMPTY}` is `embedding`: `</jobs/ID>; rel="status"`',
        "schema": {"type": "string"},
    },
}
_PICTURE: Final[dict[str, Any]] = {
    **img_endpoint_params,
    "responses": {
        200: {**img_endpoint_params["responses"][200], "headers": _TOLD},
        404: {**documented(404)[404], "headers": _TOLD},
    },
}


@router.get("/tiles/{tileMatrixSetId}/{z}/{x}/{y}", operation_id="tiles.getTile", **_PICTURE)
@router.get("/tiles/{tileMatrixSetId}/{z}/{x}/{y}.{format}", operation_id="tiles.getTileWithFormat", **_PICTURE)
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
    tms, state = matrices(), get_state(request)
    wanted = format or ImageType[pictured(request.headers.get("accept")).partition("/")[2]]

    def found_out() -> tuple[Layer, Target, dict[str, str], Chance, bool]:
        bounded(request)
        target = tile_target(tms, x, y, z, tilesize, buffer)
        shown = _asked(request, asked, target)
        chance = state.lookout.outlook(shown.dataset, str(shown.window)).of_picture(target)
        return shown, target, headers_of(request, shown, target), chance, there(shown, chance)

    def there(shown: Layer, chance: Chance) -> bool:
        """`*` is any copy of a tile, of which there is none outside; who names a validator was sent the tile."""
        if "*" not in request.headers.get("if-none-match", "") or chance != NO_CHANCE:
            return True
        return WatchedReader(shown, tms=tms).tile_exists(x, y, z)

    for _ in range(TRIES):
        shown, target, headers, chance, exists = await to_thread.run_sync(found_out)
        tag = headers["ETag"]  # of the picture; that of the answer tells besides what will become of its empty parts
        headers["ETag"] = marked(tag, chance.mark)
        if shown.notes:
            headers[OVERVIEW] = STALE
        key = marked(tag, "hopeful" * (chance != NO_CHANCE))
        if exists and holds(request.headers.get("if-none-match"), headers["ETag"]):
            _looked_at(request, shown, target, chance, state.tiles.held(key))
            return Response(status_code=304, headers=headers)
        draw = partial(_drawn, shown, tms, (x, y, z), tilesize, buffer, wanted, hopeful=chance != NO_CHANCE)
        far = any(is_remote(side.store.location) for side in shown.sides)

        def draw_this(
            draw: Callable[[], Tile] = draw, shown: Layer = shown, target: Target = target, tag: str = tag
        ) -> Tile:
            drawn = draw()
            if headers_of(request, shown, target)["ETag"] != tag:
                raise Replaced
            return drawn

        with suppress(Replaced):
            made = await state.tiles.made(key, draw_this, far=far)
            _looked_at(request, shown, target, chance, made)
            return Response(made.content, headers=headers | made.headers | told(chance.reason(made.statuses), chance))
    # Its blocks are replaced faster than it is made: a map may show it, but nobody may keep it.
    made = await state.tiles.alone(draw, far=far)
    del headers["ETag"]
    headers |= told(chance.reason(made.statuses), chance) | {"Cache-Control": "no-store"}
    return Response(made.content, headers=headers | made.headers)


def _looked_at(request: Request, shown: Layer, target: Target, chance: Chance, tile: Tile | None) -> None:
    """An empty tile that could be embedded may become a job, where the dataset wants that; waits for nothing."""
    empty = tile is not None and chance.on_view and chance.reason(tile.statuses) == "not-embedded"
    if empty and may_unasked(request, "embed"):
        on_view: OnView = request.app.state.on_view
        on_view.seen(shown.dataset, shown.window, target)


def _asked(request: Request, asked: Callable[[], Layer], target: Target) -> Layer:
    """What is shown; where a window holds nothing yet that may be embedded, the refusal tells so.

    Raises:
        NotFound: No such dataset or window, or what else `layer` does not find.
    """
    try:
        return asked()
    except NotFound as error:
        dataset, window = (request.path_params[name] for name in ("dataset", "window"))
        if error.field == "window" and dataset in get_state(request).datasets:
            chance = get_state(request).lookout.outlook(dataset, str(Window.parse(window))).of_picture(target)
            if chance != NO_CHANCE:
                request.state.told = told(chance.reason({NOT_EMBEDDED}), chance)
        raise


def _drawn(
    shown: Layer,
    tms: TileMatrixSet,
    at: tuple[int, int, int],
    tilesize: int | None,
    buffer: float | None,
    wanted: ImageType,
    *,
    hopeful: bool,
) -> Tile:
    """Raises as `TileReader.tile` and `rendered` do; what may be embedded yet is an empty picture, not outside."""
    with WatchedReader(shown, tms=tms) as reader:
        if hopeful:
            image = reader.picture(tile_target(tms, *at, tilesize, buffer))
        else:
            image = reader.tile(*at, tilesize=tilesize, buffer=buffer)
    content, media = rendered(image, wanted, reader.colormap)
    headers = {"Content-Type": media, "Content-Bbox": ",".join(map(str, image.bounds or ()))}
    if (uri := _uri(image.crs)) is not None:
        headers["Content-Crs"] = f"<{uri}>"
    return Tile(content, headers, frozenset(shown.statuses))


@lru_cache
def _uri(crs: CRS) -> str | None:
    return CRS_to_uri(crs)
