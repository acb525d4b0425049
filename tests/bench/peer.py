"""The other side of the tile benchmark: TiTiler as its authors give it, on pictures rendered beforehand.

    BENCH_UTM=... BENCH_WEB=... BENCH_ZARR=... uvicorn tests.bench.peer:app

`/utm` and `/web` are TilerFactory on one cloud-optimised GeoTIFF each. `/xarray` is rio-tiler's XarrayReader on the
older `tessera:` store: the window that a tile needs is loaded in the order it is stored in, dequantised, projected,
and handed to the reader, which is the fastest way we found to use it. `/zarrs` is the same with zarr told to decode
by the pipeline that smalti uses too.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from fastapi import FastAPI, Response
from rasterio.warp import transform_bounds
from rio_tiler.constants import WEB_MERCATOR_TMS
from titiler.core.factory import TilerFactory

app = FastAPI()
PIPELINES = {"xarray": "zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs": "zarrs.ZarrsCodecPipeline"}


def _serve(name: str) -> None:
    path = os.environ[f"BENCH_{name.upper()}"]
    factory = TilerFactory(path_dependency=lambda: path, router_prefix=f"/{name}", add_viewer=False)
    app.include_router(factory.router, prefix=f"/{name}")


_serve("utm")
_serve("web")


@lru_cache
def _opened(pipeline: str) -> Any:
    """The zone's arrays as an xarray.Dataset."""
    import xarray  # there for this one case only

    with zarr.config.set({"codec_pipeline.path": pipeline}):
        return xarray.open_zarr(Path(os.environ["BENCH_ZARR"]), group=os.environ["BENCH_ZONE"], consolidated=False)


@lru_cache
def _colours() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(128, 3) weights and (3,) offsets: colour = vector . weights + offset."""
    basis = json.loads(os.environ["BENCH_BASIS"])
    mean, components, low, high = (np.array(basis[name]) for name in ("mean", "components", "low", "high"))
    weights = (components / (high - low)[:, None] * 255).T
    return weights.astype(np.float32), (-(low + components @ mean) / (high - low) * 255).astype(np.float32)


@app.get("/{reader}/tiles/WebMercatorQuad/{z}/{x}/{y}.png")
def tile(reader: str, z: int, x: int, y: int) -> Response:
    """One tile of the Zarr store."""
    import xarray
    from rio_tiler.io.xarray import XarrayReader

    found, crs, (weights, offset) = _opened(PIPELINES[reader]), os.environ["BENCH_CRS"], _colours()
    box = WEB_MERCATOR_TMS.xy_bounds(x, y, z)
    left, bottom, right, top = transform_bounds(WEB_MERCATOR_TMS.rasterio_crs, crs, *box)
    window = found.sel(easting=slice(left - 20, right + 20), northing=slice(top + 20, bottom - 20))
    vectors = window.embeddings.values * window.scales.values[..., None]
    colours = np.rint(np.clip(vectors @ weights + offset, 0, 255)).astype(np.uint8)
    place = {"northing": window.northing, "easting": window.easting, "band": [1, 2, 3]}
    array = xarray.DataArray(colours, place, ("northing", "easting", "band")).transpose("band", "northing", "easting")
    with XarrayReader(array.rio.set_spatial_dims("easting", "northing").rio.write_crs(crs)) as opened:
        return Response(opened.tile(x, y, z).render(img_format="PNG"), media_type="image/png")
