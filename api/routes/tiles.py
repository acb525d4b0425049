"""TiTiler's factory over our own reader: dataset and window from the path, what to show from ?view=."""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

import numpy as np
from attrs import define
from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, Field
from rio_tiler.models import ImageData
from titiler.core.dependencies import CoordCRSParams, DefaultDependency
from titiler.core.factory import TilerFactory, TMSFactory, img_endpoint_params
from titiler.core.models.mapbox import TileJSON
from titiler.core.models.OGC import TileSetList
from titiler.core.resources.enums import ImageType

from api.catalogue import DatasetWindow
from api.missing import JOB, REASON, Reason
from api.params import (
    SUPPORTED_TMS,
    HistogramOptions,
    Layer,
    PictureSize,
    StatisticsOptions,
    bounded,
    dataset_window,
    layer,
)
from api.problems import documented
from api.routes.vectors import reasons
from api.security import require
from api.stamp import StampedRoute, stamp
from api.standards.ogcmaps import map_route
from api.standards.tilesets import tile_json, tile_set, tile_set_list
from api.standards.wmts import MEDIA, capabilities
from api.state import State, get_state
from service.errors import InvalidInput
from service.picture import encode
from service.tiles import TileReader
from service.values import STATUS_NAMES
from service.warp import Target

PREFIX: Final = "/datasets/{dataset}/{window}"


class PointAnswer(BaseModel):
    """The view's numbers at one place."""

    coordinates: list[float]
    status: str = Field(description="valid, water, not-embedded, rejected or outside")
    reason: Reason | None = Field(None, description=REASON)
    job: str | None = Field(None, description=JOB)
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
    """The reader of the tile routes: every picture is measured, and says where it comes from."""

    def picture(self, target: Target) -> ImageData:
        """As TileReader does."""
        layer, draw = cast(Layer, self.input), super().picture
        if layer.watch is None:
            return draw(target)
        kind = layer.view.key.partition(":")[0]
        size = target.width * target.height
        image = layer.watch.picture(layer.dataset, layer.window, kind, size, lambda: draw(target))
        image.metadata = dict(layer.tags)
        return image


def nothing() -> None:
    """In place of the algorithms and colour maps that are not offered."""


@define(kw_only=True)
class Tiler(TilerFactory):
    """TiTiler's routes; ours are the documents, complete as their standards want them, maps and points."""

    def tilesets(self) -> None:
        """Register /tiles and /tiles/{tileMatrixSetId}."""
        # A set's own schema calls every href an address; those of templates, which it has to give, are none.
        many: dict[int | str, Any] = {200: {"model": TileSetList}}
        self.router.get("/tiles", responses=many, operation_id="tiles.getTileSetList")(tile_set_list)
        self.router.get("/tiles/{tileMatrixSetId}", operation_id="tiles.getTileSet")(tile_set)

    def ogc_maps(self) -> None:
        """Register /map."""
        route = map_route(WatchedReader, rendered)
        self.router.get("/map", operation_id="tiles.getMap", **img_endpoint_params)(route)

    def tilejson(self) -> None:
        """Register /tilejson.json and /WMTSCapabilities.xml."""
        self.router.get(
            "/{tileMatrixSetId}/tilejson.json",
            response_model=TileJSON,
            response_model_exclude_none=True,
            operation_id="tiles.getTileJSON",
        )(tile_json)
        self.router.get(
            "/WMTSCapabilities.xml",
            response_class=Response,
            responses={200: {"content": {MEDIA: {}}}},
            operation_id="tiles.getWMTS",
        )(capabilities)

    def tile(self) -> None:
        """Nothing: `api.routes.tile` registers it."""

    def point(self) -> None:
        """Register /point."""
        self.router.get("/point/{lon},{lat}", operation_id="tiles.getDataForPoint")(point)


def point(
    lon: Annotated[float, Path(description="longitude, degrees, or x in `coord_crs`")],
    lat: Annotated[float, Path(description="latitude, degrees, or y in `coord_crs`")],
    shown: Annotated[Layer, Depends(layer)],
    coord_crs: Annotated[Any, Depends(CoordCRSParams)],
    at: Annotated[DatasetWindow, Depends(dataset_window)],
    state: Annotated[State, Depends(get_state)],
) -> PointAnswer:
    """The view's numbers at one place, or why there are none. Without `view` the dequantised vector."""
    with TileReader(shown) as reader:
        found = reader.point(lon, lat, coord_crs=coord_crs)
    status = next(code for code, name in STATUS_NAMES.items() if name == found.metadata["status"])
    (why,) = reasons(state, at, np.array([found.coordinates], float), np.array([status], np.uint8))
    return PointAnswer(
        **why,
        coordinates=[lon, lat],
        status=found.metadata["status"],
        values=cast("list[float | None]", found.array.tolist()),
        band_names=found.band_names,
    )


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
)
schemes = TMSFactory(
    name="tms",
    supported_tms=SUPPORTED_TMS,
    router=APIRouter(route_class=StampedRoute, responses=documented(404, 422)),
)

router = APIRouter(tags=["tiles"])
router.include_router(tiler.router, prefix=PREFIX)
router.include_router(schemes.router)
