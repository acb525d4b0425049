"""Whole journeys over HTTP, from a file that others made to what a user sees; and what breaks on the way is named."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from fastapi.testclient import TestClient
from rasterio.transform import from_origin

from api.settings import Settings
from indexing.index.build import build_index
from service.colour import Basis
from service.dpixels import BANDS
from service.grid import archive_grid
from service.ingest import ingest, plan_ingest
from service.registry import MANIFEST, SHIPPED
from service.store import create_store
from service.values import VALID, Counts, Vectors
from tests.conftest import client_of
from tests.fakes import alphaearth
from tests.reference import colours, expected
from tests.stores import TINY, Tiny, random_vectors, tiny_archive
from tests.test_search_api import best, coordinates
from tests.test_store_writes import chunk_files
from tests.test_tiles import TMS, patch_of, tiles_over
from tests.test_tiles_http import pixels_of


@dataclass
class World:
    """A server of one dataset, and what the dataset was made from."""

    client: TestClient
    tiny: Tiny

    @property
    def state(self) -> Any:
        return self.client.app.state.smalti  # type: ignore[attr-defined]


def write_tiffs(folder: Path, tiny_grid: Any, row: int, col: int, vectors: Vectors, year: int) -> Path:
    """Codes and scales as the two GeoTIFFs that `smalti ingest` takes."""
    path = folder / f"real_{year}.tif"
    profile = {
        "driver": "GTiff", "height": vectors.status.shape[0], "width": vectors.status.shape[1], "crs": tiny_grid.crs,
        "transform": from_origin(tiny_grid.x0 + col * 10, tiny_grid.y0 - row * 10, 10, 10),
    }  # fmt: skip
    with rasterio.open(path, "w", count=vectors.dims, dtype="int8", **profile) as file:
        file.write(np.moveaxis(vectors.codes, -1, 0))
    with rasterio.open(path.with_name(f"{path.stem}_scales.tif"), "w", count=1, dtype="float32", **profile) as file:
        file.write(vectors.scales, 1)
    return path


@pytest.fixture(scope="module")
def world(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The real raster, written as GeoTIFFs, taken in by `ingest`, and served with colours fitted over HTTP."""
    home = tmp_path_factory.mktemp("journey")
    codes, scales, zone, window, row, col = alphaearth(real_data)
    vectors = Vectors(codes, scales, np.full(scales.shape, VALID, np.uint8))
    grid = archive_grid(zone)
    path = write_tiffs(home, grid, row, col, vectors, window.start.year)
    (home / "datasets").mkdir()
    store = create_store(home / "datasets" / "real.icechunk", TINY, dims=vectors.dims)
    assert ingest(plan_ingest(path), store, window).valid == scales.size
    client = client_of(Settings(home=home, catalogue=Path("none.toml")))
    assert client.post("/bases", json={"dataset": "real"}).status_code == 201
    return World(client, Tiny(store, grid, window, row, col, vectors, Counts.zeros(scales.shape)))


@pytest.mark.parametrize("z", [13, 14, *(pytest.param(z, marks=pytest.mark.slow) for z in (15, 16))])
def test_tiles_of_ingested_vectors_equal_the_exact_reference(world: World, z: int) -> None:
    tiny = world.tiny
    basis = Basis.from_document(world.state.bases("real").get("default")[1])
    shown = same = 0
    for x, y, _ in tiles_over(tiny, z):
        want = expected([patch_of(tiny)], "EPSG:3857", tuple(TMS.xy_bounds(x, y, z)), 256, 256)
        colour = colours(want.vectors[want.valid], basis.mean, basis.components, basis.low, basis.high)
        answer = world.client.get(f"/datasets/real/2024/tiles/WebMercatorQuad/{z}/{x}/{y}.png")
        assert answer.status_code == 200, answer.text
        picture = pixels_of(answer.content)
        assert (picture[3] == np.where(want.valid, 255, 0)).all()
        shown += want.valid.sum()
        same += (colour == picture[:3, want.valid].T).all(axis=1).sum()
    assert shown > 4_000
    assert same >= 0.999 * shown


def searched(world: World, i: int, j: int, k: int) -> Any:
    lon, lat = world.tiny.lonlat(i, j)
    answer = world.client.get("/datasets/real/2024/search", params={"lon": lon, "lat": lat, "k": k})
    assert answer.status_code == 200, answer.text
    return answer


def test_search_is_brute_force_and_with_an_index_still_finds_the_pixel_itself(world: World) -> None:
    places = [(0, 0), (48, 60), (96, 3)]
    exact = [searched(world, i, j, 20) for i, j in places]
    for (i, j), answer in zip(places, exact, strict=True):
        assert answer.json()["engine"] == "exact"
        truth = best(world, world.tiny.vectors.dequantised()[i, j], 20)  # type: ignore[arg-type]
        assert np.allclose(coordinates(answer), truth, atol=1e-7)
    build_index(world.tiny.store, "real", world.tiny.window, world.state.indexes("real"))
    for (i, j), before in zip(places, exact, strict=True):
        answer = searched(world, i, j, 20)
        assert answer.json()["engine"] == "index"
        assert coordinates(answer)[0] == pytest.approx(world.tiny.lonlat(i, j), abs=1e-7)
        found, wanted = ({tuple(place) for place in coordinates(a)} for a in (answer, before))
        assert len(found & wanted) >= 18


def test_a_corrupt_chunk_is_a_problem_that_names_it_and_never_a_picture(tmp_path: Path) -> None:
    tiny = tiny_archive(tmp_path / "datasets", random_vectors((300, 40), 8), at=(1400 * 256, 130 * 256))
    client = client_of(Settings(home=tmp_path, catalogue=Path("none.toml")))
    assert client.post("/bases", json={"dataset": "tiny"}).status_code == 201
    tile = TMS.tile(*tiny.lonlat(150, 20), 13)
    path = f"/datasets/tiny/2024/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png"
    assert client.get(path).headers["content-type"] == "image/png"
    for chunk in chunk_files(tiny.store.location):
        body = bytearray(chunk.read_bytes())
        body[1000] ^= 4
        chunk.write_bytes(body)
    answer = client_of(Settings(home=tmp_path, catalogue=Path("none.toml"))).get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert re.search(r"array 31N/(embeddings|scales), chunk 7/1400/130", answer.json()["detail"])


def test_a_model_without_its_file_is_a_problem_that_names_it(tmp_path: Path) -> None:
    shipped = SHIPPED / "smalti-mini"
    folder = tmp_path / "models" / "hollow"
    folder.mkdir(parents=True)
    manifest = json.loads((shipped / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"identity": "hollow@1/test"}))
    client = client_of(Settings(home=tmp_path, catalogue=Path("none.toml")))
    seen = {"bands": list(BANDS), "unit": "reflectance", "dates": ["2024-06-01"], "values": [[0.1] * 10], "scl": [4]}
    asked = {"model": "hollow", "window": "2024", "pixels": [{"s2": seen}]}
    answer = client.post("/embed", json=asked)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert str(folder / "model.onnx") in answer.json()["detail"]
    shutil.copy(shipped / "model.onnx", folder)
    assert client.post("/embed", json=asked).status_code == 200, "only the file was missing"
