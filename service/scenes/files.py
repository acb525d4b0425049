"""Opens the files of scenes, wherever they lie, and only what they are said to be.

GDAL asks no host: it reads through `Far`, which fetches with our own client, so that whatever holds for addresses,
redirects, tokens, time and bytes holds here. Errors in `Far` are kept and told once GDAL has returned: an exception
must not pass through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import numpy as np
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import transform_bounds

from service.errors import BadSource, LimitExceeded
from service.scenes.access import Access
from service.scenes.budget import Budget
from service.scenes.far import Far
from service.scenes.gdal import geotiff
from service.scenes.hosts import Limits
from service.scenes.value import SCL, Scene, Sensor, is_utm

_DTYPES: Final[dict[Sensor, tuple[str, ...]]] = {"s2": ("uint16",), "s1": ("float32",)}
_SCL_DTYPES: Final = ("uint8", "uint16")
_PIXELS: Final[dict[Sensor, tuple[float, float]]] = {"s2": (10.0, 20.0), "s1": (5.0, 40.0)}
"""Least and largest side of a pixel, metres."""
_SIDE: Final = 100_000
"""Most pixels along a side."""
_FAR: Final = 2e7
"""Metres: half of the way round the Earth. No edge of a file has a coordinate beyond."""
_NEAR: Final = 0.1
"""Degrees by which a footprint may miss the file: they are drawn by hand, or simplified."""

Opener = Callable[[Scene, str], AbstractContextManager[DatasetReader]]


def opener(access: Access, budget: Budget | None = None) -> Opener:
    """What opens the assets of scenes for one piece of work.

    Args:
        access: What may be reached.
        budget: What reading counts against; by default that of one block, from now on.
    """
    limits = access.limits
    spent = budget or Budget(limits.block_bytes, limits.block_seconds, "reading the scenes of one block")

    @contextmanager
    def opened(scene: Scene, name: str) -> Iterator[DatasetReader]:
        what = f"asset {name} of {scene}"
        try:
            with _raster(access, scene.assets[name], spent, what) as raster:
                checked(raster, scene, name, limits)
                yield raster
        except RasterioError as error:
            raise BadSource(f"{what} cannot be read: {error!s:.200}") from None

    return opened


@contextmanager
def _raster(access: Access, href: str, budget: Budget, what: str) -> Iterator[DatasetReader]:
    path = access.local(href, what)
    if path is not None:
        if not path.is_file():
            raise BadSource(f"{what} is not there: {path}.")
        with geotiff(path) as raster:
            yield raster
        return
    far = Far(access, href, budget, what)
    try:
        with geotiff(far.path, far) as raster:
            far.check()
            yield raster
    except RasterioError:
        far.check()
        raise
    far.check()


def checked(raster: DatasetReader, scene: Scene, name: str, limits: Limits) -> None:
    """Make sure, by its header, that a file can be what the catalogue calls it.

    Args:
        raster: The file.
        scene: What it is an asset of.
        name: Which.
        limits: How large its tiles may be.

    Raises:
        BadSource: It is something else.
        LimitExceeded: Reading a few pixels of it would take too much.
    """
    what = f"asset {name} of {scene}"
    dtypes = _SCL_DTYPES if name == SCL else _DTYPES[scene.sensor]
    if raster.count != 1 or raster.dtypes[0] not in dtypes:
        raise BadSource(f"{what} has {raster.count} bands of {raster.dtypes[0]}, not one of {' or '.join(dtypes)}.")
    epsg = raster.crs.to_epsg() if raster.crs else None
    if not is_utm(epsg):
        told = raster.crs.to_string()[:40] if raster.crs else "no CRS"
        raise BadSource(f"{what} is in {told}, not in WGS 84 / UTM.")
    if scene.epsg not in (None, epsg):
        raise BadSource(f"{what} is in EPSG:{epsg}, where the catalogue says EPSG:{scene.epsg}.")
    side, turned, _, tilted, down = raster.transform[:5]
    least, most = _PIXELS[scene.sensor]
    if (turned, tilted) != (0.0, 0.0) or side != -down or not least <= side <= most:
        raise BadSource(f"{what} has pixels of {side:g} x {-down:g} m, not of {least:g} to {most:g} m, north up.")
    if not all(abs(edge) < _FAR for edge in raster.bounds):  # nor is NaN
        raise BadSource(f"{what} begins at {raster.bounds.left:g}, {raster.bounds.top:g} m: that is nowhere.")
    _check_size(raster, what, limits)
    _check_place(raster, scene, what)


def _check_size(raster: DatasetReader, what: str, limits: Limits) -> None:
    if max(raster.shape) > _SIDE:
        raise LimitExceeded(f"{what} has {raster.height} x {raster.width} pixels; at most {_SIDE:,} a side.")
    item = np.dtype(raster.dtypes[0]).itemsize
    rows, cols = raster.block_shapes[0]
    whole = raster.height * raster.width * item
    tiled = bool(raster.profile.get("tiled")) or cols < raster.width
    if rows * cols * item > limits.tile_bytes or (not tiled and whole > limits.tile_bytes):
        raise LimitExceeded(
            f"{what} is in strips or tiles of {rows} x {cols} pixels, and {whole:,} bytes large: a few pixels would "
            f"take most of it. What is read at once may have {limits.tile_bytes:,} bytes.",
            remedy="Make a cloud-optimised GeoTIFF of it.",
        )


def _check_place(raster: DatasetReader, scene: Scene, what: str) -> None:
    """A file must lie where its item says, at least a little."""
    if scene.footprint is None:
        return
    west, south, east, north = transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
    left, bottom, right, top = scene.footprint.bounds
    apart = south > top + _NEAR or north < bottom - _NEAR
    if west <= east:  # else over the antimeridian, where boxes are not to be trusted
        apart |= west > right + _NEAR or east < left - _NEAR
    if apart:
        raise BadSource(f"{what} lies at {west:.2f},{south:.2f}, not where the catalogue says.")
