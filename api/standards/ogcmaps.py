"""OGC API - Maps: one picture of any box, in any CRS that has a code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import pyproj
from fastapi import Depends, Request, Response
from morecantile.models import crs_axis_inverted
from rasterio.crs import CRS
from rio_tiler.utils import CRS_to_uri
from titiler.core.dependencies import OGCMapsParams

from api.params import Layer, layer
from api.standards.tilesets import CRS84
from service.frame import WGS84, parse_crs
from service.tiles import TileReader

MAX_SIDE: Final = 1024
"""Pixels along the longer side where neither width nor height is asked for."""


def map_route(reader: type[TileReader], drawn: Callable[..., tuple[bytes, str]]) -> Callable[..., Response]:
    """The route that answers /map with what `reader` reads and `drawn` makes a file of."""

    def get_map(
        request: Request, shown: Annotated[Layer, Depends(layer)], asked: Annotated[OGCMapsParams, Depends()]
    ) -> Response:
        """A map of a box, or of the whole dataset (OGC API - Maps), in CRS84 where no `crs` is named.

        `bbox` is in the order of the axes of `bbox-crs`, and so is `Content-Bbox`: latitude first in EPSG:4326.
        """
        crs, within = _crs(request, "crs"), _crs(request, "bbox-crs")
        size = {"width": asked.width, "height": asked.height, "max_size": MAX_SIDE}
        with reader(shown) as source:
            if asked.bbox is None:
                image = source.preview(dst_crs=crs[0], **size)
            else:
                box = in_order(tuple(map(float, asked.bbox)), within)
                image = source.part(box, dst_crs=crs[0], bounds_crs=within[0], **size)
            content, media = drawn(image, output_format=asked.format, colormap=source.colormap)
        bounds = in_order(tuple(map(float, image.bounds)), crs)
        window = shown.window
        headers = {
            "Content-Bbox": ",".join(map(str, bounds)),
            "Content-Crs": f"<{crs[1]}>",
            "Content-Datetime": f"{window.start}/{window.end}",
        }
        return Response(content, media_type=media, headers=headers)

    return get_map


def _crs(request: Request, name: str) -> tuple[CRS, str]:
    """A parameter's CRS and its URI; CRS84 where there is no such parameter."""
    text = request.query_params.get(name)
    crs = parse_crs(text, name) if text else WGS84
    return crs, CRS84 if text is None or "CRS84" in text.upper() else str(CRS_to_uri(crs))


def in_order(box: tuple[float, ...], crs: tuple[CRS, str]) -> tuple[float, ...]:
    """(x, y, x, y) in the order of the axes of a CRS, or back: a CRS of EPSG may have north first."""
    if crs[1] == CRS84 or not crs_axis_inverted(pyproj.CRS.from_epsg(crs[0].to_epsg())):
        return box
    return (box[1], box[0], box[3], box[2])
