"""Tiles from embeddings beside tiles from a picture that was rendered beforehand, and beside the direct way.

    python -m tests.bench.tiles        prints a table and writes .bench/tiles.json

A million synthetic pixels of 128 dimensions in a repository on local disk, warm. The peer's COG holds the very
pixels our view gives (RGBA, deflate, 256-pixel blocks, overviews). Runs of all alternate tile by tile; medians.
"""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import rasterio
from fastapi import FastAPI
from fastapi.testclient import TestClient
from rasterio.io import MemoryFile
from rasterio.shutil import copy as rasterio_copy
from rasterio.transform import from_bounds, from_origin
from rasterio.warp import Resampling, reproject
from rio_tiler.io import Reader
from titiler.core.factory import TilerFactory

from api.settings import Settings
from service import warp
from service.colour import PcaView, fit_basis
from service.picture import encode
from service.plan import Source, plan
from service.tiles import TileReader, tile_target
from tests.bench.search import SIDE, YEAR, scene
from tests.conftest import client_of
from tests.stores import Tiny, tiny_archive

TMS = morecantile.tms.get("WebMercatorQuad")
ZOOM, ROUNDS = 13, 9
OUT = Path(__file__).resolve().parents[2] / ".bench" / "tiles.json"
COG, TITILER = "rio-tiler on a rendered RGBA COG", "TiTiler on a rendered RGBA COG"
Tile = tuple[int, int, int]


def whole_tiles(tiny: Tiny) -> list[Tile]:
    """Tiles that the scene fills."""
    corners = [TMS.tile(*tiny.lonlat(i, j), ZOOM) for i in (0, SIDE - 1) for j in (0, SIDE - 1)]
    xs, ys = sorted(t.x for t in corners), sorted(t.y for t in corners)
    return [(x, y, ZOOM) for x in range(xs[1] + 1, xs[2]) for y in range(ys[1] + 1, ys[2])]


def rendered_cog(path: Path, tiny: Tiny, view: PcaView) -> Path:
    """The whole scene through our view, as a cloud-optimised GeoTIFF in its own zone."""
    picture = view.picture(tiny.store.read(tiny.grid.zone, YEAR, tiny.rows, tiny.cols)).transpose(2, 0, 1)
    alpha = np.full((1, SIDE, SIDE), 255, np.uint8)
    transform = from_origin(tiny.grid.x0 + tiny.col * 10, tiny.grid.y0 - tiny.row * 10, 10, 10)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 4, "width": SIDE, "height": SIDE,
               "crs": tiny.grid.crs, "transform": transform, "photometric": "RGB", "alpha": "YES"}  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(np.concatenate([picture, alpha]))
        rasterio_copy(memory.name, path, driver="COG", compress="deflate", blocksize=256)
    return path


def directly(tiny: Tiny, source: Source, tile: Tile, *, first: bool) -> bytes:
    """Dequantise everything, then project and warp with GDAL, or (`first` false) warp all bands and then project."""
    assert isinstance(source.view, PcaView)
    basis, target = source.view.basis, tile_target(TMS, *tile)
    (window,) = plan(source, target)
    vectors = tiny.store.read(tiny.grid.zone, YEAR, window.rows, window.cols)
    bands = vectors.dequantised()
    if first:
        bands = ((bands - basis.mean) @ basis.components.T).astype(np.float32)
    left, top = tiny.grid.x0 + window.cols.start * 10, tiny.grid.y0 - window.rows.start * 10
    out = np.zeros((bands.shape[2], 256, 256), np.float32)
    reproject(
        np.ascontiguousarray(bands.transpose(2, 0, 1)), out, src_transform=from_origin(left, top, 10, 10),
        src_crs=tiny.grid.crs, dst_transform=from_bounds(*target.bounds, 256, 256), dst_crs=target.crs,
        resampling=Resampling.nearest,
    )  # fmt: skip
    if not first:
        out = ((out.transpose(1, 2, 0) - basis.mean) @ basis.components.T).transpose(2, 0, 1)
    low, high = basis.low[:, None, None], basis.high[:, None, None]
    colours = np.clip((out - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    with MemoryFile() as memory:
        with memory.open(driver="PNG", dtype="uint8", count=4, width=256, height=256, zlevel=2) as file:
            file.write(np.concatenate([colours, np.full((1, 256, 256), 255, np.uint8)]))
        return bytes(memory.read())


def medians(ways: dict[str, Callable[[Tile], Any]], tiles: list[Tile]) -> dict[str, float]:
    """Milliseconds a tile: all ways make the same tile in turn, so that noise hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(ROUNDS + 2):
        for name, make in ways.items():
            start = time.perf_counter()
            make(tiles[index % len(tiles)])
            if index >= 2:
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def same(ours: bytes, theirs: bytes) -> float:
    """Share of pixels two PNGs agree on."""
    with rasterio.open(io.BytesIO(ours)) as a, rasterio.open(io.BytesIO(theirs)) as b:
        return float((a.read() == b.read()).all(axis=0).mean())


def fetched(client: TestClient, url: str) -> bytes:
    answer = client.get(url)
    assert answer.status_code == 200, answer.text
    return answer.content


def measure(home: Path) -> list[dict[str, Any]]:
    (home / "datasets").mkdir()
    tiny = tiny_archive(home / "datasets", scene(), name="bench", at=(350_208, 25_088))
    basis = fit_basis(tiny.store, [YEAR])
    source = Source(tiny.store, YEAR, PcaView(basis), 128)
    cog = str(rendered_cog(home / "scene.tif", tiny, PcaView(basis)))
    tiles = whole_tiles(tiny)

    def ours(tile: Tile) -> bytes:
        return encode(TileReader(source).tile(*tile), "PNG")

    def anew(tile: Tile) -> bytes:
        kept, warp._cache = warp._cache, warp._Cache(64_000_000)  # type: ignore[misc]
        try:
            return ours(tile)
        finally:
            warp._cache = kept  # type: ignore[misc]

    def from_cog(tile: Tile) -> bytes:
        with Reader(cog) as reader:
            return bytes(reader.tile(*tile, tilesize=256).render(img_format="PNG", zlevel=2))

    for tile in tiles:
        ours(tile)
    agree = same(ours(tiles[0]), from_cog(tiles[0]))
    calls = medians(
        {
            "ours": ours,
            "anew": anew,
            COG: from_cog,
            "project, then GDAL warp": lambda tile: directly(tiny, source, tile, first=True),
            "GDAL warp, then project": lambda tile: directly(tiny, source, tile, first=False),
        },
        tiles,
    )
    peer = FastAPI()
    peer.include_router(TilerFactory(path_dependency=lambda: cog, add_viewer=False).router)
    with client_of(Settings(home=home, catalogue=Path("none.toml"))) as client, TestClient(peer) as other:
        client.app.state.smalti.bases("bench").put(basis.to_document(), "default")  # type: ignore[attr-defined]
        prefix, path = "/datasets/bench/2024", "/tiles/WebMercatorQuad/{2}/{0}/{1}.png"
        tags = {t: client.get(prefix + path.format(*t)).headers["etag"] for t in tiles}
        served = medians(
            {
                "ours": lambda tile: fetched(client, prefix + path.format(*tile)),
                "ours, WebP": lambda tile: fetched(client, prefix + path.format(*tile).replace("png", "webp")),
                TITILER: lambda tile: fetched(other, path.format(*tile) + "?tilesize=256"),
                "304": lambda tile: client.get(prefix + path.format(*tile), headers={"If-None-Match": tags[tile]}),
            },
            tiles,
        )
    print(f"{agree:.2%} of a tile's pixels are those of the COG's tile\n")
    return [
        row("tile z13, function call", calls["ours"], calls[COG], COG),
        row("tile z13, place arithmetic anew", calls["anew"], calls[COG], COG),
        *(
            row(f"tile z13, beside: {name}", calls["ours"], calls[name], f"dequantise, {name}")
            for name in ("project, then GDAL warp", "GDAL warp, then project")
        ),
        row("tile z13 over ASGI", served["ours"], served[TITILER], TITILER),
        row("tile z13 over ASGI, WebP", served["ours, WebP"], served[TITILER], f"{TITILER}, PNG"),
        row("304 over ASGI", served["304"], served[TITILER], TITILER),
    ]


def row(case: str, ours: float, other: float, name: str) -> dict[str, Any]:
    return {
        "case": case, "metric": "median time", "unit": "ms", "ours": round(ours, 2), "other": round(other, 2),
        "other_name": name, "ratio": round(other / ours, 2), "target": None,
    }  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    print(f"{'case':<46}{'ours':>9}{'other':>9}{'ratio':>8}  other")
    for line in rows:
        print(
            f"{line['case']:<46}{line['ours']:>8.1f} {line['other']:>8.1f} {line['ratio']:>7.2f}  {line['other_name']}"
        )


if __name__ == "__main__":
    main()
