"""A landscape as scenes: cloud-optimised GeoTIFFs and a static STAC catalogue, as the two published modes have them.

What preprocessing makes of them is the landscape's own d-pixels, exactly, wherever a pixel is usable:

- All bands and the classes are written at 10 m. Real ones at 20 m are resampled when they are read, and no 20 m
  values resample to the landscape's own.
- `mpc`: Sentinel-2 values later than 2022-01-25 have 1000 added; in `aws` they never have.
- Sentinel-1 is linear: the middle of what the published scaling cuts to the stored integer.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine

from service.dpixels import BANDS
from service.grid import PIXEL, archive_grid
from service.simulate.landscape import Landscape
from service.simulate.passes import ORBITS, Granule, Orbit, Tiling, granules_of, seen_by, spoil
from service.simulate.stac import WHOLE, Raster, Style, item_of, style_of, write_catalogue
from service.simulate.terrain import Terrain
from service.sources import Placement
from service.values import BoolArray, Float32Array, UInt8Array, Window

OFFSET: Final = 1000
OFFSET_AFTER: Final = dt.date(2022, 1, 25)
"""Scenes of later days have OFFSET added in mode `mpc`: processing baseline 04.00."""
_AT_ONCE: Final = 2_000_000
"""Pixels x days that are simulated together: about 1 GB."""
_PACKED: Final[dict[str, Any]] = {
    "driver": "COG", "compress": "deflate", "level": 1, "blocksize": 256, "overviews": "none", "num_threads": 1,
}  # fmt: skip

Progress = Callable[[int, int], None]


def publish(
    landscape: Landscape,
    placement: Placement,
    folder: Path,
    mode: str,
    days: Window,
    *,
    ground: Placement | None = None,
    tiling: Tiling = Tiling(),  # noqa: B008  # frozen
    on_progress: Progress | None = None,
) -> int:
    """Write the scenes of some days and their catalogue into a folder; what is there already stays.

    Args:
        landscape: What is seen.
        placement: Where it lies.
        folder: Gets `catalog.json`, and a folder for each collection with one for each scene. One mode a folder.
        mode: `mpc` or `aws`.
        days: Which passes; as many calls as wanted fill one folder.
        ground: How far is seen, on the grid of the landscape's zone; the landscape's own rectangle if absent.
        tiling: How passes are cut into scenes.
        on_progress: Told (scenes done, of how many).

    Returns:
        How many scenes were written.

    Raises:
        InvalidInput: No such mode, or the placement does not fit the landscape.
    """
    style, terrain = style_of(mode), Terrain.of(landscape, placement, ground)
    orbits: tuple[Orbit | None, ...] = (None, *ORBITS)
    todo = [g for zone in terrain.zones() for orbit in orbits for g in granules_of(terrain, days, orbit, tiling, zone)]
    done = written = 0
    if not all(style.path(folder, granule).exists() for granule in todo):
        (folder / "catalog.json").unlink(missing_ok=True)  # until it is whole again
    for granules in _together(todo):
        missing = [g for g in granules if not style.path(folder, g).exists()]
        for granule, arrays in _seen(terrain, missing, tiling):
            written += _write(folder, style, granule, arrays)
        done += len(granules)
        if on_progress:
            on_progress(done, len(todo))
    if not (folder / "catalog.json").exists():
        write_catalogue(folder, style)
    return written


def _together(granules: list[Granule]) -> Iterator[list[Granule]]:
    """Granules of one tile, year and orbit, as many as fit into memory."""
    for _, group in groupby(granules, lambda g: (g.zone, g.tile, g.orbit, g.date.year)):
        held = list(group)
        size = (held[0].rows.stop - held[0].rows.start) * (held[0].cols.stop - held[0].cols.start)
        few = max(1, _AT_ONCE // size)
        yield from (held[start : start + few] for start in range(0, len(held), few))


Arrays = tuple[BoolArray, npt.NDArray[Any], UInt8Array | None]
"""(h, w) whether anything was seen; (h, w, 10) or (h, w, 2) values as d-pixels have them; (h, w) classes of S2."""


def _seen(terrain: Terrain, granules: list[Granule], tiling: Tiling) -> Iterator[tuple[Granule, Arrays]]:
    """What granules of one tile, orbit and year hold; those that hold nothing are left out."""
    if not granules:
        return
    first = granules[0]
    row, col, held = terrain.cells(first.zone, first.rows, first.cols)
    dates = sorted({g.date for g in granules})
    doy = np.array([date.timetuple().tm_yday for date in dates], np.int64)
    land, year = terrain.landscape, first.date.year
    scl: UInt8Array | None = None
    if first.orbit is None:
        values, scl = land.optical(year, doy, row, col)
    else:
        values = land.radar(year, doy, ORBITS.index(first.orbit), row, col)  # type: ignore[assignment]
    for granule in granules:
        at = dates.index(granule.date)
        seen = held & seen_by(granule, terrain, tiling, row, col)
        if not seen.any():
            continue
        own = values[at].copy()
        classes = None if scl is None else scl[at].copy()
        if classes is not None:
            spoil(granule, terrain, tiling, (row, col), own, classes)
        yield granule, (seen, own, classes)


def linear(stored: npt.NDArray[np.int16]) -> Float32Array:
    """What (20 log10(a) + 50) x 200 cuts to the stored integers, in single and in double precision."""
    return np.asarray(10 ** (((stored.astype(np.float64) + 0.5) / 200 - 50) / 20), np.float32)


def _write(folder: Path, style: Style, granule: Granule, arrays: Arrays) -> int:
    seen, values, scl = arrays
    path = style.path(folder, granule)
    path.parent.mkdir(parents=True, exist_ok=True)
    if scl is None:
        bands = np.where(seen[..., None], linear(values), np.float32(style.s1_nodata))
        files = {name: (bands[..., i], style.s1_nodata) for i, name in enumerate(("VV", "VH"))}
    else:
        lifted = OFFSET if style.mode == "mpc" and granule.date > OFFSET_AFTER else 0
        bands = np.where(seen[..., None], values + np.uint16(lifted), np.uint16(0))
        files = {name: (bands[..., i], 0) for i, name in enumerate(BANDS)}
        files["SCL"] = (np.where(seen, scl, 0).astype(np.uint8), 0)
    grid = archive_grid(granule.zone)
    left, top = grid.x0 + PIXEL * granule.cols.start, grid.y0 - PIXEL * granule.rows.start
    raster = Raster(granule, Affine(PIXEL, 0.0, left, 0.0, -PIXEL, top), seen, scl)
    sizes = {}
    for name, (data, nodata) in files.items():
        file = path.with_name(style.file(granule, name))
        _cog(file, raster, np.ascontiguousarray(data), nodata, style.tags(granule))
        sizes[name] = file.stat().st_size
    item_of(style, raster, sizes).save_object(include_self_link=False, dest_href=str(path), stac_io=WHOLE)
    return 1


def _cog(path: Path, raster: Raster, data: npt.NDArray[Any], nodata: float, tags: dict[str, str]) -> None:
    options = {**_PACKED, "predictor": "STANDARD"} if data.dtype.kind == "u" else _PACKED  # makes floats larger
    placed = {"crs": archive_grid(raster.granule.zone).crs, "transform": raster.transform, "nodata": nodata}
    height, width = data.shape
    with rasterio.open(path, "w", **options, **placed, dtype=data.dtype, count=1, height=height, width=width) as file:
        file.write(data, 1)
        file.update_tags(**tags)
