"""Another program opens what we serve: GDAL reads XYZ and WMTS from a real server and gets the same pixels."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import morecantile
import numpy as np
import pytest
import rasterio
from rasterio.windows import from_bounds

from api.settings import Settings
from service.values import VALID, Vectors
from tests.conftest import ROOT, client_of
from tests.fakes import alphaearth
from tests.stores import tiny_archive

pytestmark = pytest.mark.slow
TMS = morecantile.tms.get("WebMercatorQuad")
TILE = TMS.tile(-88.7688, 44.2946, 14)
XYZ = """<GDAL_WMS><Service name="TMS"><ServerUrl>{url}</ServerUrl></Service><DataWindow>
<UpperLeftX>-20037508.342789244</UpperLeftX><UpperLeftY>20037508.342789244</UpperLeftY>
<LowerRightX>20037508.342789244</LowerRightX><LowerRightY>-20037508.342789244</LowerRightY>
<TileLevel>14</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY><YOrigin>top</YOrigin></DataWindow>
<Projection>EPSG:3857</Projection><BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>4</BandsCount>
<Cache><Path>{cache}</Path></Cache></GDAL_WMS>"""


@pytest.fixture(scope="module")
def server(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running server of the real raster."""
    home = tmp_path_factory.mktemp("home")
    codes, scales, zone, window, row, col = alphaearth(real_data)
    vectors = Vectors(codes, scales, np.full(scales.shape, VALID, np.uint8))
    (home / "datasets").mkdir()
    tiny_archive(home / "datasets", vectors, zone=zone.name, window=window, at=(row, col), name="aef")
    settings = Settings(home=home, catalogue=Path("none.toml"))
    assert client_of(settings).post("/bases", json={"dataset": "aef"}).status_code == 201
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # In a process of its own: rasterio holds the interpreter's lock while GDAL waits for the answer.
    command = [sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "SMALTI_HOME": str(home)})
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/datasets/aef/2024"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def own(server: str, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """(4, 256, 256) the tile as it is served."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with rasterio.open(f"/vsicurl/{server}/tiles/WebMercatorQuad/{TILE.z}/{TILE.x}/{TILE.y}.png") as file:
        pixels: np.ndarray = file.read()
    assert (pixels[3] == 255).sum() > 1000
    return pixels


def through(source: str) -> np.ndarray:
    """The same box read from a layer of the whole world."""
    with rasterio.open(source) as layer:
        assert layer.crs.to_epsg() == 3857
        window = from_bounds(*TMS.xy_bounds(TILE), layer.transform)
        window = window.round_offsets().round_lengths()
        found: np.ndarray = layer.read(window=window, boundless=True, fill_value=0)  # WMTS is cut to the dataset
    return found


def test_gdal_reads_the_xyz_tiles(server: str, own: np.ndarray, tmp_path: Path) -> None:
    url = f"{server}/tiles/WebMercatorQuad/${{z}}/${{x}}/${{y}}.png?view=pca"
    found = through(XYZ.format(url=url, cache=tmp_path))
    assert (found == own).all()


def test_gdal_reads_the_wmts_layer(server: str, own: np.ndarray) -> None:
    """The one layer, in a matrix set and a style that it names; the default style where none is named."""
    source = f"WMTS:{server}/WMTSCapabilities.xml,layer=aef_2024,tilematrixset=WebMercatorQuad,tilematrix={TILE.z}"
    assert (through(source) == own).all()
    assert (through(f"{source},style=pca") == own).all()


def test_gdal_reads_wmts_in_degrees(server: str) -> None:
    source = f"WMTS:{server}/WMTSCapabilities.xml,layer=aef_2024,tilematrixset=WorldCRS84Quad"
    with rasterio.open(source) as layer:
        assert layer.crs.is_geographic
        west, south, east, north = layer.bounds
        assert west < -88.7688 < east
        assert south < 44.2946 < north
        window = from_bounds(-88.770, 44.293, -88.767, 44.296, layer.transform)
        assert layer.read(window=window, out_shape=(4, 32, 32))[3].max() == 255


def test_gdal_reads_our_exported_geotiff(server: str, tmp_path: Path) -> None:
    """As a file: what is made for each request cannot be read in parts."""
    with urlopen(f"{server}/bbox/-88.770,44.293,-88.767,44.296.tif") as answer:
        (tmp_path / "crop.tif").write_bytes(answer.read())
    with rasterio.open(tmp_path / "crop.tif") as file:
        assert (file.count, file.dtypes[0], file.crs.to_epsg()) == (64, "float32", 32616)
        assert np.isfinite(file.read(1)).any()
