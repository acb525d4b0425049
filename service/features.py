"""A GeoJSON feature on a picture: which pixels it touches, and how much of each it covers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import from_bounds
from rasterio.warp import transform_geom
from rio_tiler.constants import WGS84_CRS
from rio_tiler.models import ImageData

from service.errors import InvalidInput, LimitExceeded
from service.frame import unbroken
from service.values import BoolArray
from service.warp import Target

MAX_COVER_SIDE: Final = 10_240
"""Steps along a side of a picture in which it is found how much of each pixel a feature covers."""


class CoveredImage(ImageData):
    """A picture, of which statistics ask how much of each pixel a feature covers."""

    def get_coverage_array(
        self, shape: dict[str, Any], shape_crs: CRS = WGS84_CRS, cover_scale: int = 10
    ) -> NDArray[np.float32]:
        """(height, width): the share of each pixel that a feature covers, on both sides of the antimeridian.

        Raises:
            LimitExceeded: It would be found in too many steps.
        """
        require_coarse(max(self.width, self.height), cover_scale)
        geometry = shape.get("geometry") if shape.get("type") == "Feature" else shape
        drawn = drawn_in(geometry or {}, shape_crs, self.crs)
        found: NDArray[np.float32] = super().get_coverage_array(drawn, shape_crs=self.crs, cover_scale=cover_scale)
        return found


def require_coarse(side: int, cover_scale: int) -> None:
    """Of what a feature covers a picture is drawn that is `cover_scale` times as fine: at most 105 MB.

    Raises:
        LimitExceeded: It would have too many steps along a side.
    """
    steps = side * cover_scale
    if steps > MAX_COVER_SIDE:
        raise LimitExceeded(
            f"{steps:,} steps along a side of the picture (its pixels times cover_scale): at most {MAX_COVER_SIDE:,}.",
            field="cover_scale",
            remedy="Ask for a smaller cover_scale, or a smaller picture.",
        )


def drawn_in(geometry: Mapping[str, Any], crs: CRS, picture: CRS) -> dict[str, Any]:
    """A geometry in a picture's CRS. In metres both sides of the antimeridian are already where they belong."""
    moved: Mapping[str, Any] = transform_geom(crs, picture, geometry)
    return dict(unbroken(moved) if picture.is_geographic else moved)


def outside(geometry: Mapping[str, Any], target: Target) -> BoolArray:
    """(height, width): the pixels that a geometry in the picture's CRS does not touch.

    Raises:
        InvalidInput: It cannot be drawn.
    """
    try:
        touched = rasterize(
            [geometry],
            out_shape=(target.height, target.width),
            transform=from_bounds(*target.bounds, target.width, target.height),
            all_touched=True,
            dtype="uint8",
        )
    except ValueError as error:
        raise InvalidInput(f"cannot be drawn: {error}.", field="geometry") from None
    return np.asarray(touched == 0)
