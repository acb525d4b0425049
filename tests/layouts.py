"""The same pixels in every published layout, written with zarr and icechunk alone but for our own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import icechunk
import numpy as np
import zarr
from pyproj import Transformer
from zarr.codecs import BloscCodec

from service.grid import Zone, archive_grid
from service.store import Store, open_store
from service.store.contract import BlockData
from service.store.writable import create_store
from service.values import NOT_EMBEDDED, VALID, Counts, ModelIdentity, Vectors, Window
from tests.reference import Patch
from tests.stores import YEAR, blocks_from

MODEL = ModelIdentity("tessera", "2.0", "2b-l~beta1")
_ZSTD = (BloscCodec(cname="zstd", clevel=3),)


def patch_at(lon: float, lat: float, zone: int, south: bool, *, size: int = 180, dims: int = 8, seed: int = 0) -> Patch:
    """A square of noise around a place, in a zone that may be the neighbour's, with holes."""
    rng = np.random.default_rng((seed, zone, south))
    epsg = (32700 if south else 32600) + zone
    east, north = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True).transform(lon, lat)
    codes = rng.integers(-127, 128, (size, size, dims)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (size, size)).astype(np.float32)
    i, j = np.mgrid[:size, :size]
    valid = (i - size * 0.3) ** 2 + (j - size * 0.6) ** 2 > (size / 8) ** 2
    valid &= rng.random((size, size)) > 0.02
    left, top = round(east / 10 - size / 2) * 10.0, round(north / 10 + size / 2) * 10.0
    if south:
        top = min(top, 10_000_000.0)
    elif top < size * 10:  # some layouts have both hemispheres on one grid
        codes, scales, valid = (axis[: round(top / 10)] for axis in (codes, scales, valid))
    codes[~valid], scales[~valid] = 0, 0
    return Patch(zone, south, epsg, left, top, codes, scales, valid)


def around(lon: float, lat: float, **options: int) -> list[Patch]:
    """Patches around a place in every zone that meets there, each reaching into the others."""
    numbers = sorted({int((lon + off + 180) % 360 // 6) + 1 for off in (-1e-3, 1e-3)})
    halves = [False, True] if abs(lat) < 1e-3 else [lat < 0]
    return [patch_at(lon, lat, number, south, **options) for number in numbers for south in halves]


def ours(path: Path, patches: list[Patch], window: Window = YEAR) -> Store:
    store = create_store(path / "ours.icechunk", MODEL, dims=patches[0].codes.shape[2], window=window)
    blocks: list[BlockData] = []
    for patch in patches:
        zone = Zone(patch.zone, patch.south)
        grid = archive_grid(zone)
        status = np.where(patch.valid, VALID, NOT_EMBEDDED).astype(np.uint8)
        counts = Counts(*(np.full(status.shape, n, np.uint16) for n in (40, 30, 20)))
        row, col = round((grid.y0 - patch.top) / 10), round((patch.left - grid.x0) / 10)
        vectors = Vectors(patch.codes, patch.scales, status)
        blocks += blocks_from(zone.name, row, col, vectors, window, counts)
    store.write(blocks, "patches")
    return store


def _zones(patches: list[Patch], false_north: bool) -> Iterator[tuple[int, float, float, np.ndarray, np.ndarray]]:
    """(zone, left, top, codes, scales) of a grid that holds all patches of a zone; NaN where there is nothing.

    `false_north`: in the northern CRS, south of the equator northings are below zero.
    """
    for zone, group in groupby(sorted(patches, key=lambda p: (p.zone, p.south)), key=lambda p: p.zone):
        mine = list(group)
        tops = [p.top - (10_000_000 if p.south and false_north else 0) for p in mine]
        left, top = min(p.left for p in mine) - 40, max(tops) + 30
        rows = [round((top - t) / 10) for t in tops]
        cols = [round((p.left - left) / 10) for p in mine]
        side = 64 * -(-(max(r + len(p.valid) for r, p in zip(rows, mine, strict=True)) + 5) // 64)
        wide = 64 * -(-(max(c + p.valid.shape[1] for c, p in zip(cols, mine, strict=True)) + 5) // 64)
        codes = np.zeros((side, wide, mine[0].codes.shape[2]), np.int8)
        scales = np.full((side, wide), np.nan, np.float32)
        for patch, row, col in zip(mine, rows, cols, strict=True):
            h, w = patch.valid.shape
            place = np.s_[row : row + h, col : col + w]
            codes[place][patch.valid], scales[place][patch.valid] = patch.codes[patch.valid], patch.scales[patch.valid]
        yield zone, left, top, codes, scales


def _group(
    root: zarr.Group, name: str, epsg: int, left: float, top: float, shape: tuple[int, int], dims: list[str]
) -> zarr.Group:
    group = root.create_group(name)
    group.attrs.update({
        "proj:code": f"EPSG:{epsg}", "spatial:transform": [10.0, 0.0, left, 0.0, -10.0, top],
        "spatial:shape": list(shape), "spatial:dimensions": dims,
    })  # fmt: skip
    return group


def geoemb(path: Path, patches: list[Patch], *, nested: bool = True) -> Store:
    """As version 2 is published; without nested depths as versions 1 and 1.1 are."""
    dims = patches[0].codes.shape[2]
    root = zarr.open_group(path / "geoemb.zarr", mode="w", zarr_format=3)
    depths = [{"dimensions": 4, "array": "embeddings_d4"}, {"dimensions": dims, "array": "embeddings"}]
    root.attrs.update(
        {"geoemb:type": "pixel", "geoemb:dimensions": dims} | ({"geoemb:depths": depths} if nested else {})
    )
    for zone, left, top, codes, scales in _zones(patches, True):
        shape = scales.shape
        group = _group(root, f"utm{zone:02d}", 32600 + zone, left, top, shape, ["y", "x"])
        for name, count, inner in (("embeddings", dims, 32), ("embeddings_d4", 4, 64))[: 1 + nested]:
            group.create_array(
                name, shape=(1, count, *shape), dtype="int8", chunks=(1, count, inner, inner),
                shards=(1, count, *shape), compressors=_ZSTD, fill_value=0,
            )[0] = np.moveaxis(codes[..., :count], -1, 0)  # fmt: skip
        group.create_array(
            "scales", shape=(1, *shape), dtype="float32", chunks=(1, 32, 32), shards=(1, *shape),
            compressors=_ZSTD, fill_value=np.inf,
        )[0] = scales  # fmt: skip
        group.create_array("time", data=np.array([2024], np.int32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(root.store)
    return open_store(path / "geoemb.zarr", identity=MODEL)


def geoemb_v1(path: Path, patches: list[Patch]) -> Store:
    return geoemb(path, patches, nested=False)


def archive(path: Path, patches: list[Patch]) -> Store:
    """The global archive: a group to a zone and hemisphere, on grids that overlap."""
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path / "global.icechunk")))
    session = repo.writable_session("main")
    root = zarr.create_group(session.store, attributes={"geoemb:dimensions": patches[0].codes.shape[2]})
    for south in (False, True):
        half = [patch for patch in patches if patch.south == south]
        for zone, left, top, codes, scales in _zones(half, False):
            name = Zone(zone, south).name
            group = _group(
                root, name, half[0].epsg - half[0].zone + zone, left, top, scales.shape, ["northing", "easting"]
            )
            group.attrs["years_complete"] = [2024]
            for array, values, fill in (("embeddings", codes, 0), ("scales", scales, np.nan)):
                tail = values.shape[2:]
                group.create_array(
                    array, shape=(1, *values.shape), dtype=values.dtype, chunks=(1, 64, 64, *tail), fill_value=fill
                )[0] = values
            for array in ("s2_obs_count", "s1_asc_obs_count", "s1_desc_obs_count"):
                group.create_array(array, shape=(1, *scales.shape), dtype="uint16", chunks=(1, 64, 64), fill_value=0)[
                    0
                ] = 9
            group.create_array("time", data=np.array([2024], np.int64))
    session.commit("made by others")
    return open_store(path / "global.icechunk", identity=MODEL)


def years(path: Path, patches: list[Patch]) -> Store:
    """The older layout: a store to a year, a group to a zone in either CRS; chunks of 32 pixels (4 take long)."""
    root = zarr.open_group(path / "years" / "2024.zarr", mode="w", zarr_format=3)
    root.attrs.update({"tessera:dataset_version": "v1", "tessera:year": 2024})
    for zone, left, top, codes, scales in _zones(patches, True):
        name, south = f"utm{zone:02d}", top < 3000  # in the southern CRS what reaches south of the equator
        top, epsg = top + (10_000_000 if south else 0), (32700 if south else 32600) + zone
        group = _group(root, name, epsg, left, top, scales.shape, ["northing", "easting"])
        group.attrs.update({"tessera:year": 2024, "tessera:utm_zone": zone, "tessera:model_version": "1.0"})
        for array, values, fill in (("embeddings", codes, 0), ("scales", scales, np.nan)):
            tail = values.shape[2:]
            group.create_array(
                array, shape=values.shape, dtype=values.dtype, chunks=(32, 32, *tail), shards=(64, 64, *tail),
                compressors=_ZSTD, fill_value=fill,
            )[:] = values  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(root.store)
    return open_store(path / "years", identity=MODEL)


LAYOUTS: dict[str, Callable[[Path, list[Patch]], Store]] = {
    "ours": ours, "geoemb": geoemb, "geoemb-v1": geoemb_v1, "archive": archive, "years": years,
}  # fmt: skip
