"""GDAL in a server opens nothing but the file it is handed; tried in a process of its own: that cannot be undone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from api import cli
from api.settings import Settings
from tests.conftest import ROOT, free_port
from tests.test_ssrf import trap

__all__ = ["trap"]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
ATTEMPT = """
import json, sys
import numpy as np, numpy.ma as ma, rasterio, warnings
from rio_tiler.models import ImageData
from service.gdal import closed
from service.picture import encode
warnings.simplefilter("ignore")
if sys.argv[1] == "closed":
    closed()
told = {}
for name in json.loads(sys.argv[2]):
    try:
        with rasterio.open(name) as file:
            told[name] = [file.count, file.tags().get("beside")]
    except rasterio.errors.RasterioIOError:
        told[name] = None
colours = ImageData(ma.zeros((3, 16, 16), np.uint8) + np.uint8(7))
numbers = ImageData(ma.zeros((2, 600, 600), np.float32), bounds=(0, 0, 1, 1), crs=rasterio.crs.CRS.from_epsg(4326))
made = [bool(encode(colours, driver)) for driver in ("PNG", "WEBP", "JPEG")] + [encode(numbers, "GTIFF")[:2] == b"II"]
print(json.dumps([told, made]))
"""
VRT = """<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename>{}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
WMS = """<GDAL_WMS><Service name="TMS"><ServerUrl>http://{}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service></GDAL_WMS>"""


@pytest.mark.parametrize("state", ["closed", pytest.param("open", marks=pytest.mark.slow)])
def test_no_name_and_no_content_leads_anywhere(
    state: str, trap: tuple[str, list[str]], tmp_path: Path
) -> None:  # a fixture
    address, callers = trap
    plain, vrt = tmp_path / "plain.tif", tmp_path / "other.vrt"
    with rasterio.open(plain, "w", driver="GTiff", width=2, height=2, count=1, dtype="uint8", crs=4326) as file:
        file.write(np.ones((1, 2, 2), np.uint8))
    beside = '<PAMDataset><Metadata><MDI key="beside">yes</MDI></Metadata></PAMDataset>'
    Path(f"{plain}.aux.xml").write_text(beside)
    vrt.write_text(VRT.format(plain))
    reaching = [
        str(vrt), VRT.format(plain), WMS.format(address), f"WMTS:http://{address}/x.xml", f"WCS:http://{address}/x",
        f"http://{address}/x.tif", f"/vsicurl/http://{address}/x.tif", f"/vsicurl_streaming/http://{address}/x.tif",
        f"/vsizip//vsicurl/http://{address}/x.zip/x.tif", "/vsis3/bucket/x.tif", "/vsis3_streaming/bucket/x.tif",
    ]  # fmt: skip
    # What an operator's environment says is what our own settings must win over.
    told = {"AWS_S3_ENDPOINT": address, "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_NO_SIGN_REQUEST": "YES"}
    command = [sys.executable, "-c", ATTEMPT, state, json.dumps([str(plain), *reaching])]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), **told},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    opened, made = json.loads(done.stdout.splitlines()[-1])
    assert all(made)
    if state == "open":  # as it is where nobody closes it: what is asked here can be found
        assert callers
        assert opened[str(vrt)] == [1, None]
        assert opened[str(plain)] == [1, "yes"]
        return
    assert callers == []
    assert opened == {str(plain): [1, None], **dict.fromkeys(reaching)}


def test_the_server_closes_it_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(cli, "closed", lambda: order.append("closed"))
    monkeypatch.setattr("api.logs.setup", lambda settings: None)
    monkeypatch.setattr("uvicorn.run", lambda app, **_: order.append("served"))
    cli._serve(Settings(home=tmp_path, catalogue=Path("none.toml")), port=free_port())
    assert order == ["closed", "served"]
