"""TiTiler's factory over our own reader: dataset and window from the path, what to show from ?view=."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, cast
from urllib.parse import urlencode

import numpy as np
from attrs import define
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, Field
from rio_tiler.models import ImageData
from titiler.core.dependencies import CoordCRSParams, DefaultDependency
from titiler.core.factory import TilerFactory, TMSFactory
from titiler.core.models.mapbox import TileJSON
from titiler.core.resources.enums import ImageType
from titiler.extensions.wmts import wmtsExtension

from api.params import SUPPORTED_TMS, HistogramOptions, Layer, PictureSize, StatisticsOptions, bounded, layer
from api.problems import documented
from api.security import require
from api.stamp import StampedRoute, stamp
from api.state import get_state
from service.errors import InvalidInput
from service.picture import encode
from service.tiles import TileReader
from service.warp import Target

PREFIX: Final = "/datasets/{dataset}/{window}"
TmsName = Annotated[
    Literal["WebMercatorQuad", "WorldCRS84Quad", "WGS1984Quad"], Path(description="one of GET /tileMatrixSets")
]


class PointAnswer(BaseModel):
    """The view's numbers at one place."""

    coordinates: list[float]
    status: str = Field(description="valid, water, not-embedded, rejected or outside")
    values: list[float | None] = Field(description="one a band; null unless status is valid")
    band_names: list[str]


def rendered(
    image: ImageData,
    output_format: ImageType | None = None,
    colormap: dict[int, tuple[int, ...]] | None = None,
    **_: Any,
) -> tuple[bytes, str]:
    """A picture's bytes and media type; PNG where no format is asked for.

    Raises:
        InvalidInput: JPEG 2000, or a format that cannot hold this view.
    """
    chosen = output_format or ImageType.png
    if chosen is ImageType.jp2:
        raise InvalidInput("jp2 is not made here.", field="format", remedy="Ask for png, webp, jpg, npy or tif.")
    palette = np.array(list(colormap.values()), np.uint8) if colormap else None
    return encode(image, chosen.driver.upper(), palette), chosen.mediatype.replace("image/jpg", "image/jpeg")


class WatchedReader(TileReader):
    """The reader of the tile routes: every picture is measured."""

    def picture(self, target: Target) -> ImageData:
        """As TileReader does."""
        layer, draw = cast(Layer, self.input), super().picture
        if layer.watch is None:
            return draw(target)
        kind = layer.view.key.partition(":")[0]
        size = target.width * target.height
        return layer.watch.picture(layer.dataset, layer.window, kind, size, lambda: draw(target))


def nothing() -> None:
    """In place of the algorithms and colour maps that are not offered."""


@define(kw_only=True)
class Tiler(TilerFactory):
    """TiTiler's routes, two of them ours: TileJSON names the licence, a point its status."""

    def tilejson(self) -> None:
        """Register /tilejson.json."""
        self.router.get(
            "/{tileMatrixSetId}/tilejson.json",
            response_model=TileJSON,
            response_model_exclude_none=True,
            operation_id="tiles.getTileJSON",
        )(tilejson)

    def point(self) -> None:
        """Register /point."""
        self.router.get("/point/{lon},{lat}", operation_id="tiles.getDataForPoint")(point)


def tilejson(
    request: Request,
    tileMatrixSetId: TmsName,  # noqa: N803  # TiTiler's name, which its links use
    shown: Annotated[Layer, Depends(layer)],
    tilesize: Annotated[Literal[256, 512], Query(description="pixels along a side of a tile")] = 512,
    tile_format: Annotated[Literal["png", "webp", "jpg"], Query(description="format of the tiles")] = "png",
    minzoom: Annotated[int | None, Query(ge=0, le=24, description="lowest zoom to name")] = None,
    maxzoom: Annotated[int | None, Query(ge=0, le=24, description="highest zoom to name")] = None,
) -> TileJSON:
    """The TileJSON document: where the tiles are, which zooms, which licence."""
    dataset = get_state(request).datasets[shown.dataset]
    route = {"tileMatrixSetId": tileMatrixSetId, "z": "{z}", "x": "{x}", "y": "{y}", "format": tile_format}
    left_out = {"tile_format", "minzoom", "maxzoom", "tilesize"}
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in left_out]
    query = urlencode([*kept, ("tilesize", str(tilesize))])
    with TileReader(shown, tms=SUPPORTED_TMS.get(tileMatrixSetId)) as reader:
        west, south, east, north = reader.bounds
        return TileJSON(
            name=f"{dataset.title} {shown.window}",
            attribution=f"{dataset.title}: {dataset.licence}",
            tiles=[f"{tiler.url_for(request, 'tile', **route)}?{query}"],
            bounds=[west, south, east, north],
            center=[(west + east) / 2, (south + north) / 2, max(reader.minzoom, reader.maxzoom - 2)],
            minzoom=reader.minzoom if minzoom is None else minzoom,
            maxzoom=reader.maxzoom if maxzoom is None else maxzoom,
        )


def point(
    lon: Annotated[float, Path(description="longitude, degrees, or x in `coord_crs`")],
    lat: Annotated[float, Path(description="latitude, degrees, or y in `coord_crs`")],
    shown: Annotated[Layer, Depends(layer)],
    coord_crs: Annotated[Any, Depends(CoordCRSParams)],
) -> PointAnswer:
    """The view's numbers at one place, or why there are none. Without `view` the dequantised vector."""
    with TileReader(shown) as reader:
        found = reader.point(lon, lat, coord_crs=coord_crs)
    return PointAnswer(
        coordinates=[lon, lat],
        status=found.metadata["status"],
        values=cast("list[float | None]", found.array.tolist()),
        band_names=found.band_names,
    )


def layer_name(shown: Layer) -> str:
    """How WMTS clients see the layer."""
    return f"{shown.dataset}_{shown.window}"


tiler = Tiler(
    name="tiles",
    router=APIRouter(
        route_class=StampedRoute,
        dependencies=[Depends(require("read")), Depends(bounded), Depends(stamp)],
        responses=documented(401, 403, 404, 409, 413, 422, 503),
    ),
    router_prefix=PREFIX,
    reader=WatchedReader,
    path_dependency=layer,
    layer_dependency=DefaultDependency,
    dataset_dependency=DefaultDependency,
    tile_dependency=DefaultDependency,
    stats_dependency=StatisticsOptions,
    histogram_dependency=HistogramOptions,
    img_preview_dependency=PictureSize,
    img_part_dependency=PictureSize,
    process_dependency=nothing,
    colormap_dependency=nothing,
    render_dependency=DefaultDependency,
    render_func=rendered,
    supported_tms=SUPPORTED_TMS,
    add_viewer=False,
    add_ogc_maps=True,
    extensions=[wmtsExtension(layer_identifier_provider=layer_name)],
)
schemes = TMSFactory(
    name="tms",
    supported_tms=SUPPORTED_TMS,
    router=APIRouter(route_class=StampedRoute, responses=documented(404, 422)),
)

router = APIRouter(tags=["tiles"])
router.include_router(tiler.router, prefix=PREFIX)
router.include_router(schemes.router)
