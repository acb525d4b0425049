"""The file that the page offers to try: made by our own simulator, and said by the model to be what it is."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from api import demo
from service.dpixels.value import BANDS
from service.grid import archive_grid
from service.simulate import CLASSES, Landscape
from tests.conftest import ROOT, SIDE

FILE = ROOT / "api" / "web" / "assets" / "example.json"
SEED, YEAR, KIND = 23, 2024, "rapeseed"


def example() -> dict[str, Any]:
    """One pixel of rapeseed in a landscape that is not the demo's: other fields, other clouds."""
    land = Landscape(SEED, 128, 128)
    row, col = np.argwhere(land.land_cover(YEAR) == CLASSES.index(KIND))[40]
    arrays = land.dpixels(YEAR, slice(row, row + 1), slice(col, col + 1))
    s2 = {
        "bands": list(BANDS),
        "dates": _dates(arrays["doys"]),
        "unit": "dn",
        "values": arrays["bands"][:, 0, 0].tolist(),
        "mask": arrays["masks"][:, 0, 0].astype(bool).tolist(),
    }
    s1 = [
        {
            "orbit": orbit,
            "dates": _dates(arrays[f"sar_{orbit}_doy"]),
            "unit": "scaled",
            "values": arrays[f"sar_{orbit}"][:, 0, 0].tolist(),
        }
        for orbit in ("ascending", "descending")
    ]
    return {"window": str(YEAR), "pixels": [{"s2": s2, "s1": s1}]}


def _dates(doys: Any) -> list[str]:
    return [str(dt.date(YEAR, 1, 1) + dt.timedelta(int(doy) - 1)) for doy in doys]


def test_the_example_is_what_the_simulator_makes() -> None:
    assert json.loads(FILE.read_text()) == example()
    assert FILE.stat().st_size < 30_000


def test_the_model_finds_it_among_its_own_kind(client: TestClient) -> None:
    answer = client.post("/embed", json=json.loads(FILE.read_text())).json()
    body = {"vectors": [answer["results"][0]["vector"]], "model": answer["model"], "k": 20}
    found = client.post(f"/datasets/demo/{YEAR}/search", json=body).json()
    truth, place = Landscape(demo.SEED, SIDE, SIDE).land_cover(YEAR), demo.Scene.make(SIDE).placement
    cells = [archive_grid(place.zone).cell(*feature["geometry"]["coordinates"]) for feature in found["features"]]
    kinds = [CLASSES[truth[int(row) - place.row, int(col) - place.col]] for row, col in cells]
    assert kinds.count(KIND) >= 18, kinds
