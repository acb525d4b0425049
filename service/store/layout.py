"""The writable layout: the groups and arrays of a repository that smalti makes.

It is the layout of the published global archive (format notes 4.4) with three additions that other readers
ignore: `status` per pixel, and `block_version` and `block_fingerprint` per block. Each of those two has one
chunk to a block, so writers of different blocks never share a chunk.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from service.grid import Zone, ZoneGrid, archive_grid
from service.values import BLOCK, ModelIdentity, Window

CHUNK: Final = 128
"""Pixels along a side of a stored chunk of codes; the planes beside them have one chunk to a block."""
YEARS: Final = tuple(range(2017, 2037))
"""The time axis, fixed when a repository is made: nothing is ever resized."""
COUNT_NAMES: Final = ("s2_obs_count", "s1_asc_obs_count", "s1_desc_obs_count")

MODEL: Final = "smalti:model"
LAYOUT: Final = "smalti:layout"
WINDOW: Final = "smalti:window"

# Codes hardly compress, and reading them uncompressed is twice as fast; the checksum is what makes a damaged
# chunk an error and not a picture. It stands after the codes, so they stay readable by byte range.
_CODES: Final = (Crc32cCodec(),)
_PLANES: Final = (ZstdCodec(level=1, checksum=True),)
_COORDINATES: Final = (BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),)


def root_attributes(identity: ModelIdentity, dims: int, window: Window | None) -> dict[str, Any]:
    """Attributes of a new repository's root; those of a window of its own say where it lies."""
    attributes: dict[str, Any] = {
        "geoemb:type": "pixel",
        "geoemb:dimensions": dims,
        "geoemb:model": str(identity),
        "geoemb:data_type": "int8",
        "geoemb:gsd": 10.0,
        "geoemb:spatial_layout": "utm_zones",
        MODEL: str(identity),
        LAYOUT: 1,
    }
    if window is not None and not window.is_year:
        attributes |= {
            WINDOW: str(window),
            "smalti:window_start": window.start.isoformat(),
            "smalti:window_end": window.end.isoformat(),
            "smalti:outside_training": True,
        }
    return attributes


def years_of(window: Window | None) -> tuple[int, ...]:
    """The time axis of a new repository: every year, or the one year in which its only window starts."""
    return YEARS if window is None or window.is_year else (window.start.year,)


def overview_group(zone: Zone, level: int) -> str:
    """Path of the group that holds a zone's overview."""
    return f"overviews/{level}/{zone.name}"


def add_zone(root: zarr.Group, zone: Zone, years: tuple[int, ...], dims: int) -> None:
    """Make the empty arrays of one zone."""
    grid = archive_grid(zone)
    group = root.create_group(zone.name)
    # Every year may be read: what is not embedded has a NaN scale, so none has to be skipped as incomplete.
    group.attrs.update({**_placement(grid), "years_complete": list(years)})
    _pixel_arrays(group, grid, len(years), dims, _CODES)
    add_counts(group, grid, len(years))
    _block_arrays(group, grid, len(years), {"block_fingerprint": ("uint8", (32,))})
    _coordinates(group, grid, years, dims)


def add_overview(root: zarr.Group, zone: Zone, grid: ZoneGrid, years: int, dims: int) -> None:
    """Make the empty arrays of the overview of one zone, or of the world, on a grid of its level."""
    group = root.create_group(overview_group(zone, grid.level))
    group.attrs.update(_placement(grid))
    is_world = zone == Zone.WORLD
    # A small dataset is a few pixels of the world: packed, its nine levels are nothing on the disk.
    _pixel_arrays(group, grid, years, dims, _PLANES if is_world else _CODES)
    weight = "uint32" if is_world else "uint16"
    _array(group, "weight", weight, (years, grid.height, grid.width), (1, BLOCK, BLOCK), 0, _PLANES)
    add_counts(group, grid, years)
    _block_arrays(group, grid, years, {"block_children": ("uint64", (4,))})


def add_counts(group: zarr.Group, grid: ZoneGrid, years: int) -> None:
    """Make the empty arrays of observation counts of one zone at one level."""
    for name in COUNT_NAMES:
        _array(group, name, "uint16", (years, grid.height, grid.width), (1, BLOCK, BLOCK), 0, _PLANES)


def _placement(grid: ZoneGrid) -> dict[str, Any]:
    return {
        "proj:code": grid.crs,
        "spatial:dimensions": ["northing", "easting"],
        "spatial:transform": [grid.pixel, 0.0, grid.x0, 0.0, -grid.pixel, grid.y0],
        "spatial:shape": [grid.height, grid.width],
        "spatial:registration": "pixel",
    }


def _pixel_arrays(group: zarr.Group, grid: ZoneGrid, years: int, dims: int, codes: tuple[Any, ...]) -> None:
    shape = (years, grid.height, grid.width)
    _array(group, "embeddings", "int8", (*shape, dims), (1, CHUNK, CHUNK, dims), 0, codes)
    _array(group, "scales", "float32", shape, (1, BLOCK, BLOCK), np.nan, _CODES)
    _array(group, "status", "uint8", shape, (1, BLOCK, BLOCK), 0, _PLANES)


def _block_arrays(group: zarr.Group, grid: ZoneGrid, years: int, more: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    shape = (years, -(-grid.height // BLOCK), -(-grid.width // BLOCK))
    for name, (dtype, tail) in {"block_version": ("uint64", ()), **more}.items():
        _array(
            group,
            name,
            dtype,
            (*shape, *tail),
            (1, 1, 1, *tail),
            0,
            (),
            ("time", "block_row", "block_col", *(("item",) if tail else ())),
        )


def _array(
    group: zarr.Group,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    fill: float,
    compressors: tuple[Any, ...],
    dimensions: tuple[str, ...] | None = None,
) -> None:
    group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        fill_value=fill,
        filters=None,
        compressors=compressors or None,
        dimension_names=dimensions or ("time", "northing", "easting", "band")[: len(shape)],
    )


def _coordinates(group: zarr.Group, grid: ZoneGrid, years: tuple[int, ...], dims: int) -> None:
    left, _, _, top = grid.bounds
    values = {
        "time": np.array(years, np.int64),
        "northing": top - (np.arange(grid.height) + 0.5) * grid.pixel,
        "easting": left + (np.arange(grid.width) + 0.5) * grid.pixel,
        "band": np.arange(dims, dtype=np.int32),
    }
    for name, numbers in values.items():
        array = group.create_array(
            name,
            shape=numbers.shape,
            dtype=numbers.dtype,
            chunks=(min(len(numbers), 65_536),),
            fill_value=0,
            compressors=_COORDINATES,
            dimension_names=(name,),
        )
        array[:] = numbers
