"""Writing any store in the published `geoemb:` Zarr v3 layout (format notes 4.4): how a user leaves smalti."""

from __future__ import annotations

import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
import zarr.errors
from zarr.codecs import BloscCodec

from service.errors import InvalidInput, NotFound
from service.grid import PIXEL, Zone, ZoneGrid
from service.store.contract import Store
from service.store.faults import writing
from service.store.layout import MODEL
from service.values import BLOCK, NOT_EMBEDDED, OUTSIDE, VALID, Float32Array, Int8Array, Vectors, Window

SHARD: Final = 1024
"""Pixels along a side of a shard. Published stores use 4096; a shard is held in memory while it is written."""
INNER: Final = 32
"""Pixels along a side of the chunks inside a shard, as published."""
_EQUATOR: Final = 10_000_000.0
_CONVENTION: Final = {
    "uuid": "61c12cc5-0e28-4056-999a-480cf3fb7e4c",
    "name": "geoemb:",
    "description": "Geospatial embeddings",
}


@dataclass(frozen=True)
class _Part:
    """One hemisphere of a zone, placed on the grid of the exported group."""

    grid: ZoneGrid
    """As the store has it."""
    north: float
    """Northing of row 0 of `grid` in the northern CRS, metres."""
    top: int
    """First row of `grid` on its own side of the equator."""
    bottom: int
    """One past its last row on its own side of the equator."""

    @classmethod
    def of(cls, grid: ZoneGrid) -> _Part:
        shift = _EQUATOR if grid.epsg > 32700 else 0.0
        north = grid.y0 - shift
        equator = round(north / PIXEL)
        if grid.zone.south:
            return cls(grid, north, max(equator, 0), grid.height)
        return cls(grid, north, 0, min(max(equator, 0), grid.height))


def export_geoemb(
    store: Store,
    path: str | Path,
    *,
    windows: Sequence[Window] | None = None,
    depths: Sequence[int] = (),
    shard: int = SHARD,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a store anew in the published layout; it appears whole or not at all.

    Args:
        store: Any.
        path: A folder that does not exist yet.
        windows: Calendar years to write; all of the store's where absent.
        depths: Prefix lengths to write as arrays of their own, for models whose prefixes mean something.
        shard: Pixels along a side of a shard, a multiple of 128.
        on_progress: Called with (shards written, shards in all).

    Raises:
        InvalidInput: Something is at `path`, a window is no calendar year, or `depths` or `shard` make no sense.
        NotFound: The store holds no data, or not that window.
        ReadOnly: The location does not allow it.
    """
    target = Path(path).absolute()
    years = tuple(sorted(store.windows() if windows is None else windows))
    _require_exportable(store, target, years, depths, shard)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with writing(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            root = zarr.open_group(temporary, mode="w-", zarr_format=3)
            root.attrs.update(_root_attributes(store, depths))
            _write_zones(store, root, years, sorted(set(depths)), shard, on_progress)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)  # readers of this layout ask for it
                zarr.consolidate_metadata(root.store)
            temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _require_exportable(store: Store, target: Path, years: Sequence[Window], depths: Sequence[int], shard: int) -> None:
    if target.exists():
        raise InvalidInput(f"{target} exists already.", field="path")
    if not years:
        raise NotFound(f"{store.location} holds no data to export.", field="windows")
    for window in years:
        if not window.is_year:
            raise InvalidInput(f"{window} is no calendar year; the layout knows only years.", field="windows")
        if window not in store.windows():
            raise NotFound(f"{store.location} holds no window {window}.", field="windows")
    if any(not 0 < depth < store.dims for depth in depths):
        raise InvalidInput(f"depths lie between 1 and {store.dims - 1}.", field="depths")
    if shard < 128 or shard % 128:
        raise InvalidInput("is not a multiple of 128.", field="shard")


def _root_attributes(store: Store, depths: Sequence[int]) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "zarr_conventions": [_CONVENTION],
        "geoemb:type": "pixel",
        "geoemb:dimensions": store.dims,
        "geoemb:model": str(store.identity),
        "geoemb:source_data": ["Sentinel-1", "Sentinel-2"],
        "geoemb:data_type": "int8",
        "geoemb:gsd": PIXEL,
        "geoemb:spatial_layout": "utm_zones",
        "geoemb:build_version": "smalti",
        "geoemb:quantization": {
            "method": "per_pixel_scale",
            "original_dtype": "float32",
            "quantized_dtype": "int8",
            "scale": {"type": "array", "array_name": "scales", "nodata": "+inf"},
        },
        MODEL: str(store.identity),
    }
    if depths:
        nested = [{"dimensions": k, "array": f"embeddings_d{k}"} for k in sorted(set(depths))]
        attributes["geoemb:depths"] = [*nested, {"dimensions": store.dims, "array": "embeddings"}]
    return attributes


def _write_zones(
    store: Store,
    root: zarr.Group,
    years: Sequence[Window],
    depths: Sequence[int],
    shard: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    parts = {grid.zone: _Part.of(grid) for grid in store.zones()}
    plans = []
    for number in sorted({zone.number for zone in parts}):
        mine = [part for zone, part in sorted(parts.items()) if zone.number == number]
        plan = _plan(store, mine, years, shard)
        if plan:
            plans.append((mine, *plan))
    total, done = sum(len(cells) for _, _, cells in plans), 0
    for mine, grid, cells in plans:
        group = _add_group(root, grid, [w.start.year for w in years], store.dims, depths, shard)
        for time, row, col in cells:
            _write_shard(store, mine, grid, group, years[time], (time, row, col), depths, shard)
            done += 1
            if on_progress:
                on_progress(done, total)


def _plan(
    store: Store, parts: Sequence[_Part], years: Sequence[Window], shard: int
) -> tuple[ZoneGrid, list[tuple[int, int, int]]] | None:
    """(grid of the group, shards to write as (time, row, col)); None for a zone without data."""
    zones = {part.grid.zone.name: part for part in parts}
    boxes = []
    for time, window in enumerate(years):
        for block in store.blocks(window):
            part = zones.get(block.zone)
            top = max(block.rows.start, part.top) if part else 0
            bottom = min(block.rows.stop, part.bottom) if part else 0
            if part and top < bottom:
                north, south = part.north - top * PIXEL, part.north - bottom * PIXEL
                west = part.grid.x0 + block.cols.start * PIXEL
                boxes.append((time, north, south, west, west + BLOCK * PIXEL))
    if not boxes:
        return None
    side = shard * PIXEL
    top, left = max(b[1] for b in boxes), min(b[3] for b in boxes)
    height = shard * -int((min(b[2] for b in boxes) - top) // side)
    width = shard * -int((left - max(b[4] for b in boxes)) // side)
    cells = {
        (time, row, col)
        for time, north, south, west, east in boxes
        for row in range(int((top - north) // side), -int((south - top) // side))
        for col in range(int((west - left) // side), -int((left - east) // side))
    }
    return ZoneGrid(Zone(parts[0].grid.zone.number), left, top, width, height), sorted(cells)


def _add_group(
    root: zarr.Group, grid: ZoneGrid, years: Sequence[int], dims: int, depths: Sequence[int], shard: int
) -> Any:
    group: Any = root.create_group(f"utm{grid.zone.number:02d}")
    left, bottom, right, top = grid.bounds
    group.attrs.update(
        {
            "proj:code": grid.crs,
            "spatial:dimensions": ["y", "x"],
            "spatial:transform": [PIXEL, 0.0, grid.x0, 0.0, -PIXEL, grid.y0],
            "spatial:shape": [grid.height, grid.width],
            "spatial:bbox": [left, bottom, right, top],
            "spatial:registration": "pixel",
        }
    )
    coordinates = {
        "time": np.array(years, np.int32),
        "band": np.arange(dims, dtype=np.int32),
        "y": top - (np.arange(grid.height) + 0.5) * PIXEL,
        "x": left + (np.arange(grid.width) + 0.5) * PIXEL,
    } | {f"band_d{k}": np.arange(k, dtype=np.int32) for k in depths}
    for name, values in coordinates.items():
        group.create_array(name, data=values, chunks=values.shape, dimension_names=(name,))
    for name, bands, inner in _code_arrays(dims, depths, shard):
        _create(
            group,
            name,
            "int8",
            (len(years), bands, grid.height, grid.width),
            (1, bands, inner, inner),
            (1, bands, shard, shard),
            0,
            ("time", "band" if name == "embeddings" else f"band_d{bands}", "y", "x"),
        )
    shape, names = (len(years), grid.height, grid.width), ("time", "y", "x")
    _create(group, "scales", "float32", shape, (1, INNER, INNER), (1, shard, shard), np.inf, names)
    return group


def _code_arrays(dims: int, depths: Iterable[int], shard: int) -> list[tuple[str, int, int]]:
    """(name, bands, side of inner chunks): the largest power of two with bands * side^2 <= 128 KiB for prefixes."""
    nested = []
    for k in depths:
        side = 1 << (int((131_072 // k) ** 0.5).bit_length() - 1)
        nested.append((f"embeddings_d{k}", k, min(side, 128, shard)))
    return [*nested, ("embeddings", dims, INNER)]


def _create(
    group: Any,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...],
    fill: float,
    dimensions: tuple[str, ...],
) -> None:
    group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        fill_value=fill,
        compressors=(BloscCodec(cname="zstd", clevel=3, shuffle="noshuffle" if dtype == "int8" else "shuffle"),),
        dimension_names=dimensions,
    )


def _write_shard(
    store: Store,
    parts: Sequence[_Part],
    grid: ZoneGrid,
    group: Any,
    window: Window,
    cell: tuple[int, int, int],
    depths: Sequence[int],
    shard: int,
) -> None:
    time, row, col = cell
    codes = np.zeros((store.dims, shard, shard), np.int8)
    scales = np.full((shard, shard), np.inf, np.float32)
    for part in parts:
        _read_part(store, part, grid, window, row * shard, col * shard, codes, scales)
    at = (slice(row * shard, (row + 1) * shard), slice(col * shard, (col + 1) * shard))
    for name, bands, _ in _code_arrays(store.dims, depths, shard):
        group[name][(time, slice(0, bands), *at)] = codes[:bands]
    group["scales"][(time, *at)] = scales


def _read_part(
    store: Store,
    part: _Part,
    grid: ZoneGrid,
    window: Window,
    row: int,
    col: int,
    codes: Int8Array,
    scales: Float32Array,
) -> None:
    """Fill in what one hemisphere holds of a shard whose first pixel is (row, col) of the exported grid."""
    side = scales.shape[0]
    first = row + round((part.north - grid.y0) / PIXEL)
    left = col + round((grid.x0 - part.grid.x0) / PIXEL)
    top, bottom = max(first, part.top), min(first + side, part.bottom)
    if top >= bottom:
        return
    found = store.read(part.grid.zone, window, slice(top, bottom), slice(left, left + side))
    at = slice(top - first, bottom - first)
    codes[:, at] = np.moveaxis(found.codes, -1, 0)
    scales[at] = published_scales(found)


def published_scales(vectors: Vectors) -> Float32Array:
    """Scales with the layout's sentinels: NaN for water and rejected pixels, +inf where nothing was written."""
    out = np.where(vectors.status == VALID, vectors.scales, np.float32(np.nan))
    out[(vectors.status == NOT_EMBEDDED) | (vectors.status == OUTSIDE)] = np.inf
    return np.asarray(out, np.float32)
