"""The other side of the tile benchmark: TiTiler as its authors give it, on pictures rendered beforehand.

    BENCH_UTM=... BENCH_WEB=... BENCH_ZARR=... uvicorn tests.bench.peer:app

`/utm` and `/web` are TilerFactory on one cloud-optimised GeoTIFF each. `/xarray` is rio-tiler's XarrayReader on the
older `tessera:` store: the window that a tile needs is loaded in the order it is stored in, dequantised, projected,
and handed to the reader, which is the fastest way we found to use it.
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from titiler.core.factory import TilerFactory

app = FastAPI()


def _serve(name: str) -> None:
    path = os.environ[f"BENCH_{name.upper()}"]
    factory = TilerFactory(path_dependency=lambda: path, router_prefix=f"/{name}", add_viewer=False)
    app.include_router(factory.router, prefix=f"/{name}")


_serve("utm")
_serve("web")
