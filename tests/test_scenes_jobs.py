"""A catalogue that lies to a job: told of by name to whoever asked, and nothing is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api import demo
from api.settings import Scenes, Settings
from api.state import State
from tests.conftest import client_of
from tests.liar import Answer, item, liar, tiff
from tests.services import worker
from tests.test_jobs import ended


def at_the_demo(bounds: list[float], **more: Any) -> Any:
    """An item that shows the demo's landscape."""
    west, south, east, north = bounds[0] - 0.1, bounds[1] - 0.1, bounds[2] + 0.1, bounds[3] + 0.1
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    box = {"bbox": [west, south, east, north], "geometry": {"type": "Polygon", "coordinates": [ring]}}
    return item(**box, properties={"proj:code": None}, **more)


@pytest.fixture
def asking(own_world: Settings) -> Any:
    """(client, body, server, settings): the demo's dataset, whose source is a catalogue that lies."""
    with liar() as server:
        settings = own_world.model_copy(update={"scenes": Scenes(hosts=(server.address,))})
        bounds = list(client_of(own_world).get("/datasets/demo").json()["source_bounds"])
        state = State(settings)
        document = {"type": "scenes", "mode": "mpc", "s2": f"{server.address}/stac", "s1": None, "bounds": bounds}
        state.sources.put(document, demo.ID)
        west, south, east, north = bounds
        box = [west + 0.4 * (east - west), south + 0.4 * (north - south), east - 1e-5, north - 1e-5]
        yield client_of(settings), {"dataset": demo.ID, "window": "2024", "bbox": box}, server, settings


@pytest.mark.slow
def test_a_catalogue_that_lies_is_told_of_before_any_job(asking: Any) -> None:
    client, body, server, _ = asking
    lies = [
        ({"href": "http://169.254.169.254/x.tif"}, 422, "169.254.169.254"),
        ({"href": "file:///etc/passwd"}, 422, "/etc/passwd"),
        ({"assets": {"B04": {"href": None}}}, 502, "asset B04 of sentinel-2-l2a/honest has no address"),
        ({"type": "Collection"}, 502, f"{server.address}/stac answers something that is no item"),
    ]
    for change, status, told in lies:
        server.stac([at_the_demo(body["bbox"], **change)])
        for dry in (True, False):
            answer = client.post("/areas", json={**body, "dry_run": dry})
            assert (answer.status_code, told in answer.text) == (status, True), answer.text
    assert client.get("/jobs").json()["jobs"] == []


@pytest.mark.slow
@pytest.mark.parametrize("form", ["404", "redirect", "5 GB", "another CRS"])
def test_files_that_lie_end_their_job_by_name_and_store_nothing(asking: Any, tmp_path: Path, form: str) -> None:
    client, body, server, settings = asking
    server.file("/degrees.tif", tiff(tmp_path, crs="EPSG:4326"))
    answers: dict[str, Any] = {
        "404": Answer(404),
        "redirect": Answer(302, b"", {"Location": "http://127.0.0.2:9/x.tif"}),
        "5 GB": Answer(206, b"x" * 131_072, {"Content-Range": f"bytes 0-131071/{5 * 10**9}"}),
        "another CRS": server.paths["/degrees.tif"],
    }
    told = {"404": "answers 404", "redirect": "127.0.0.2", "5 GB": "5,000,000,000", "another CRS": "EPSG:4326"}
    server.paths["/x.tif"] = answers[form]
    server.stac([at_the_demo(body["bbox"], href=f"{server.address}/x.tif")])
    before = State(settings).datasets[demo.ID].store.revision()
    with worker(settings):
        job = client.post("/areas", json=body).json()
        last = ended(client, job["id"])
    assert last["state"] == "failed", last
    assert "asset SCL of sentinel-2-l2a/honest" in str(last), last
    assert told[form] in str(last), last
    assert State(settings).datasets[demo.ID].store.revision() == before
