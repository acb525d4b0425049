"""geotessera, the reader everybody has, reads what we write and finds our vectors exactly."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.settings import Settings
from service.grid import Zone
from service.store.export import export_geoemb
from service.values import NOT_EMBEDDED, WATER, ModelIdentity, Vectors
from tests.conftest import ROOT, client_of
from tests.stores import Tiny, random_vectors, tiny_archive

pytestmark = pytest.mark.slow

READER = Path(__file__).with_name("geotessera_reader.py")


@pytest.fixture(scope="module")
def geotessera() -> Path:
    """A Python with geotessera >= 0.11."""
    python = Path(os.environ.get("SMALTI_GEOTESSERA_PYTHON", ROOT / ".geotessera" / "bin" / "python"))
    if python.exists():
        return python
    why = f"no Python with geotessera at {python}: set SMALTI_GEOTESSERA_PYTHON"
    if os.environ.get("SMALTI_REQUIRE_ALL") == "1":
        pytest.fail(why)
    pytest.skip(why)


def read_with(
    python: Path, location: Path, tiny: Tiny, pixels: list[tuple[int, int]], folder: Path
) -> dict[str, np.ndarray]:
    """Ask geotessera for single pixels and for the box around all of the pixels of a tiny store."""
    height, width = tiny.vectors.status.shape
    corners = [tiny.lonlat(i, j) for i in (0, height - 1) for j in (0, width - 1)]
    lon, lat = [c[0] for c in corners], [c[1] for c in corners]
    np.savez(
        folder / "ask.npz",
        year=tiny.window.start.year,
        points=[tiny.lonlat(i, j) for i, j in pixels],
        box=[min(lon), min(lat), max(lon), max(lat)],
    )
    command = [str(python), str(READER), str(location), str(folder / "ask.npz"), str(folder / "answer.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "answer.npz"))


def expected_box(answer: dict[str, np.ndarray], tiny: Tiny) -> np.ndarray:
    """What lies in the window that geotessera chose, dequantised by us."""
    _, _, left, _, _, top = answer["transform"]
    if tiny.grid.zone.south:
        top += 10_000_000.0
    height, width = answer["mosaic"].shape[:2]
    row, col = round((tiny.grid.y0 - top) / 10), round((left - tiny.grid.x0) / 10)
    want = np.full((height, width, tiny.vectors.dims), np.nan, np.float32)
    values = tiny.vectors.dequantised()
    for i in range(height):
        for j in range(width):
            y, x = row + i - tiny.row, col + j - tiny.col
            if 0 <= y < values.shape[0] and 0 <= x < values.shape[1]:
                want[i, j] = values[y, x]
    return want


def some_vectors() -> Vectors:
    vectors = random_vectors((60, 230), seed=7)
    vectors.status[3, :40] = WATER
    vectors.status[5:9, 100:140] = NOT_EMBEDDED
    vectors.scales[vectors.status != 1] = 0
    vectors.codes[vectors.status != 1] = 0
    return vectors


PIXELS = [(0, 0), (59, 229), (30, 195), (29, 196), (3, 10), (6, 120)]


@pytest.mark.parametrize("zone", ["31N", "56S"])
def test_a_repository_of_ours(geotessera: Path, tmp_path: Path, zone: str) -> None:
    tiny = tiny_archive(tmp_path, some_vectors(), zone=zone)
    tiny.store.write_overviews(tiny.window)  # groups that geotessera must not take for zones
    answer = read_with(geotessera, Path(tiny.store.location), tiny, PIXELS, tmp_path)
    assert answer["zones"].tolist() == [Zone.parse(zone).number]
    assert tiny.window.start.year in answer["years"]
    assert answer["statuses"].tolist() == ["valid"] * 4 + ["nodata"] * 2
    want = np.array([tiny.vectors.dequantised()[p] for p in PIXELS])
    np.testing.assert_array_equal(answer["samples"], want)
    np.testing.assert_array_equal(answer["probed"], want)
    assert np.isfinite(answer["mosaic"]).any()
    np.testing.assert_array_equal(answer["mosaic"], expected_box(answer, tiny))


@pytest.mark.parametrize("zone", ["31N", "56S"])
def test_an_export_of_ours(geotessera: Path, tmp_path: Path, zone: str) -> None:
    tiny = tiny_archive(tmp_path, some_vectors(), zone=zone)
    export_geoemb(tiny.store, tmp_path / "out.zarr", depths=(16,), shard=256)
    answer = read_with(geotessera, tmp_path / "out.zarr", tiny, PIXELS, tmp_path)
    assert answer["years"].tolist() == [tiny.window.start.year]
    assert answer["statuses"].tolist() == ["valid"] * 4 + ["water", "nodata"]
    want = np.array([tiny.vectors.dequantised()[p] for p in PIXELS])
    np.testing.assert_array_equal(answer["samples"], want)
    np.testing.assert_array_equal(answer["probed"], want)
    np.testing.assert_array_equal(answer["prefix"], want[:, :16])
    assert np.isfinite(answer["mosaic"]).any()
    np.testing.assert_array_equal(answer["mosaic"], expected_box(answer, tiny))


def crop_of(client: TestClient, tiny: Tiny, name: str, pixels: tuple[int, int, int, int], path: Path) -> Path:
    """The crop around some pixels, top, left, bottom and right, as users get it."""
    top, left, bottom, right = pixels
    lon, lat = zip(*(tiny.lonlat(i, j) for i in (top, bottom) for j in (left, right)), strict=True)
    answer = client.get(f"/datasets/{name}/2024/bbox/{min(lon)},{min(lat)},{max(lon)},{max(lat)}.tif")
    assert answer.status_code == 200, answer.text
    path.write_bytes(answer.content)
    return path


def test_crops_of_ours(geotessera: Path, tmp_path: Path) -> None:
    """It knows whose they are, reads and merges them, and will not merge those of two models."""
    vectors = some_vectors()
    mine = tiny_archive(tmp_path / "datasets", vectors, identity=ModelIdentity("tessera", "1.1", "dclimate"))
    tiny_archive(tmp_path / "datasets", vectors, identity=ModelIdentity("tessera", "1.0", "vultr"), name="old")
    client = client_of(Settings(home=tmp_path, catalogue=tmp_path / "none.toml"))
    one = crop_of(client, mine, "tiny", (10, 20, 50, 90), tmp_path / "one.tif")
    two = crop_of(client, mine, "tiny", (10, 80, 50, 130), tmp_path / "two.tif")
    other = crop_of(client, mine, "old", (10, 80, 50, 130), tmp_path / "other.tif")
    program = [str(geotessera), str(READER.with_name("geotessera_tiffs.py"))]
    done = subprocess.run(
        [*program, *map(str, (one, two, other, tmp_path / "answers.npz"))],
        capture_output=True, text=True, timeout=240, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = dict(np.load(tmp_path / "answers.npz"))
    assert answer["year"] == 2024
    assert answer["dataset"].tolist() == ["1.1", "dclimate"]
    assert "different datasets" in str(answer["refused"])
    answer["mosaic"] = answer["merged"]
    np.testing.assert_array_equal(answer["merged"], expected_box(answer, mine))
    assert np.isfinite(answer["embedding"]).any()
