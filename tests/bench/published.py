"""The benchmark's square in the layouts that others publish: 32-pixel chunks in large shards, and 4-pixel chunks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc
from rich.progress import track
from zarr.codecs import BloscCodec
from zarr.errors import ZarrUserWarning

from service.values import BLOCK, Vectors
from tests.bench.landscape import DIMS
from tests.bench.world import FOLDER, MAIN, MODEL, SIDE, SQUARE, YEAR, basis, catalogue, own, whole

GROUP: Final = "utm31"
INNER: Final = 32
SMALL_INNER, SMALL_SHARD = 4, 256
_Array = np.ndarray[Any, Any]


def chunk32() -> Path:
    """A `geoemb:` store: chunks of 32 x 32 pixels in one shard of 4096 x 4096."""
    return whole(FOLDER / "chunk32", _make_chunk32)


def chunk4() -> Path:
    """The older `tessera:` layout: a folder with a store of the year, chunks of 4 x 4 in shards of 256 x 256."""
    return whole(FOLDER / "chunk4", _make_chunk4)


def prepare() -> None:
    """Make whatever is not there yet, and write the catalogue that names it."""
    names = (path.name for path in (chunk32(), chunk4()))
    tables = [f'[[datasets]]\nid = "{name}"\nlocation = "{name}"\nmodel = "{MODEL}"\n' for name in names]
    catalogue().write_text("\n".join(tables))
    basis()


def _strips(what: str) -> Iterator[tuple[int, Vectors]]:
    """(first row, (256, 4096) pixels) of each strip of the square."""
    store = own()
    for top in track(range(0, SIDE, BLOCK), what):
        rows = slice(SQUARE.rows.start + top, SQUARE.rows.start + top + BLOCK)
        yield top, store.read(MAIN, YEAR, rows, SQUARE.cols)


def _place(dimensions: list[str]) -> dict[str, Any]:
    """Attributes that say where the group lies."""
    x0, y0 = SQUARE.grid.x0 + SQUARE.cols.start * 10, SQUARE.grid.y0 - SQUARE.rows.start * 10
    return {
        "proj:code": SQUARE.grid.crs, "spatial:dimensions": dimensions, "spatial:shape": [SIDE, SIDE],
        "spatial:transform": [10.0, 0.0, x0, 0.0, -10.0, y0], "spatial:registration": "pixel",
        "spatial:bbox": [x0, y0 - SIDE * 10, x0 + SIDE * 10, y0],
    }  # fmt: skip


def _coordinates(group: Any, names: tuple[str, str]) -> None:
    left, _, _, top = _place([])["spatial:bbox"]
    steps = (np.arange(SIDE) + 0.5) * 10
    for name, values in zip(
        (*names, "band"), (top - steps, left + steps, np.arange(DIMS, dtype=np.int32)), strict=True
    ):
        group.create_array(name, data=values, chunks=values.shape, dimension_names=(name,))


def _consolidate(root: zarr.Group) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)  # the published stores have it
        zarr.consolidate_metadata(root.store)


def _make_chunk32(path: Path) -> None:
    root = zarr.open_group(path, mode="w-", zarr_format=3)
    root.attrs.update({
        "geoemb:type": "pixel", "geoemb:dimensions": DIMS, "geoemb:data_type": "int8", "geoemb:gsd": 10.0,
        "geoemb:spatial_layout": "utm_zones",
        "geoemb:quantization": {"method": "per_pixel_scale", "original_dtype": "float32", "quantized_dtype": "int8",
                                "scale": {"type": "array", "array_name": "scales", "nodata": "+inf"}},
    })  # fmt: skip
    group: Any = root.create_group(GROUP, attributes=_place(["y", "x"]))
    _coordinates(group, ("y", "x"))
    years = np.array([YEAR.start.year], np.int32)
    group.create_array("time", data=years, chunks=(1,), dimension_names=("time",))
    for name, dtype, fill, bands in (("embeddings", "int8", 0, (DIMS,)), ("scales", "float32", np.inf, ())):
        group.create_array(
            name, shape=(1, *bands, SIDE, SIDE), dtype=dtype, fill_value=fill, chunks=(1, *bands, INNER, INNER),
            shards=(1, *bands, SIDE, SIDE), dimension_names=("time", *(("band",) if bands else ()), "y", "x"),
            compressors=(BloscCodec(cname="zstd", clevel=3, shuffle="shuffle" if dtype == "float32" else "noshuffle"),),
        )  # fmt: skip
    _consolidate(root)
    codes = Shard(path / GROUP / "embeddings" / "c" / "0" / "0" / "0" / "0", Blosc("zstd", 3, Blosc.NOSHUFFLE))
    scales = Shard(path / GROUP / "scales" / "c" / "0" / "0" / "0", Blosc("zstd", 3, Blosc.SHUFFLE))
    with codes, scales:
        for _, found in _strips("Writing 32-pixel chunks"):
            for row in range(0, BLOCK, INNER):
                for col in range(0, SIDE, INNER):
                    at = np.s_[row : row + INNER, col : col + INNER]
                    codes.append(np.moveaxis(found.codes[at], -1, 0))
                    scales.append(found.scales[at])


class Shard:
    """One shard that is written chunk by chunk, in their order: zarr itself would hold all of it in memory."""

    def __init__(self, path: Path, codec: Blosc) -> None:
        path.parent.mkdir(parents=True)
        self._file, self._codec, self._index = path.open("wb"), codec, list[tuple[int, int]]()

    def append(self, chunk: _Array) -> None:
        """Write the next chunk."""
        data = self._codec.encode(np.ascontiguousarray(chunk))
        self._index.append((self._file.tell(), len(data)))
        self._file.write(data)

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *error: object) -> None:
        index = np.array(self._index, "<u8").tobytes()
        self._file.write(index + google_crc32c.value(index).to_bytes(4, "little"))
        self._file.close()


def _make_chunk4(path: Path) -> None:
    path.mkdir()
    root = zarr.open_group(path / f"{YEAR}.zarr", mode="w-", zarr_format=3)
    about = {"dataset_version": "v1", "year": YEAR.start.year, "n_bands": DIMS, "model_version": "1.0"}
    root.attrs.update({f"tessera:{name}": value for name, value in about.items()})
    group: Any = root.create_group(GROUP, attributes=_place(["northing", "easting"]))
    group.attrs.update({f"tessera:{name}": value for name, value in {**about, "utm_zone": MAIN.number}.items()})
    _coordinates(group, ("northing", "easting"))
    for name, dtype, fill, bands in (("embeddings", "int8", 0, (DIMS,)), ("scales", "float32", np.nan, ())):
        group.create_array(
            name, shape=(SIDE, SIDE, *bands), dtype=dtype, fill_value=fill, chunks=(SMALL_INNER, SMALL_INNER, *bands),
            shards=(SMALL_SHARD, SMALL_SHARD, *bands), compressors=(BloscCodec(cname="zstd", clevel=3),),
            dimension_names=("northing", "easting", *(("band",) if bands else ())),
        )  # fmt: skip
    _consolidate(root)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        group = zarr.open_group(root.store, mode="r+")[GROUP]
        for top, found in _strips("Writing 4-pixel chunks"):
            group["embeddings"][top : top + BLOCK] = found.codes
            group["scales"][top : top + BLOCK] = found.scales
