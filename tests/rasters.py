"""Open rasters that were never files: what `service.scenes.reading` asks of one, over an array."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS

from service.grid import PIXEL, archive_grid
from service.scenes.value import Scene
from service.sources import Placement


@dataclass(frozen=True)
class Held:
    """One band on some pixels of a zone's grid."""

    values: npt.NDArray[Any]
    place: Placement
    nodata: float | None = 0
    told: Mapping[str, str] = field(default_factory=dict)

    @property
    def crs(self) -> CRS:
        return CRS.from_epsg(self.place.zone.epsg)

    @property
    def transform(self) -> Affine:
        grid = archive_grid(self.place.zone)
        return Affine(PIXEL, 0, grid.x0 + PIXEL * self.place.col, 0, -PIXEL, grid.y0 - PIXEL * self.place.row)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape  # type: ignore[return-value]

    @property
    def dtypes(self) -> tuple[str]:
        return (self.values.dtype.name,)

    def read(self, _band: int, window: Any) -> npt.NDArray[Any]:
        rows, cols = window.toslices()
        return self.values[rows, cols]

    def tags(self) -> Mapping[str, str]:
        return self.told


def opener_of(
    held: Mapping[tuple[str, str], Held], seen: Callable[[Scene, str], None] = lambda *_: None
) -> Callable[[Scene, str], AbstractContextManager[Any]]:
    """Opens assets by (scene id, name)."""

    @contextmanager
    def opened(scene: Scene, name: str) -> Iterator[Any]:
        seen(scene, name)
        yield held[scene.id, name]

    return opened


def place_of(zone: Any, row: int, col: int, shape: tuple[int, ...]) -> Placement:
    return Placement(zone, row, col, int(shape[0]), int(np.prod(shape[1:])))
