"""The published pixel, as the scenes that its observations came from: our preprocessing gives the stated counts."""

from __future__ import annotations

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from service.dpixels import BANDS, counts, from_arrays
from service.grid import Zone
from service.scenes.stack import Stacker
from service.scenes.value import MPC, SCL, Scene
from service.sources import Placement
from tests.rasters import Held, opener_of

ORBITS = {"a": "ascending", "d": "descending"}


def scenes_of(document: dict[str, Any], place: Placement) -> tuple[list[Scene], dict[tuple[str, str], Held]]:
    """Scenes as mode `mpc` has them, newest first: numbers with the offset, and linear power."""
    names = [f"B{name[1:]:0>2}" for name in document["bands"]]
    held: dict[tuple[str, str], Held] = {}
    found: list[Scene] = []

    def add(sensor: Any, day: str, orbit: Any, values: dict[str, np.ndarray], nodata: float) -> None:
        date, name = dt.date.fromisoformat(day), f"{sensor}-{day}-{orbit}"
        held.update({(name, asset): Held(array.reshape(1, 1), place, nodata) for asset, array in values.items()})
        assets = dict.fromkeys(values, "")
        found.append(Scene(name, sensor, sensor, date, orbit, assets, 32631, None, 1000 - len(found), "1", 1))

    for row in document["s2"]:
        numbers = {band: np.uint16(round(value * 10000) + 1000) for band, value in zip(names, row["b"], strict=True)}
        add("s2", row["d"], None, {**numbers, SCL: np.uint8(row["scl"])}, 0)
    for row in document["s1"]:
        power = {"VV": np.float32(10 ** (row["vv"] / 10)), "VH": np.float32(10 ** (row["vh"] / 10))}
        add("s1", row["d"], ORBITS[row["o"]], power, -32768)
    return found[::-1], held


def test_the_published_pixel_has_the_counts_and_values_that_are_told_of_it(real_data: Path) -> None:
    document = json.loads((real_data / "tessera-pixel" / "dpixel.json").read_text())
    place = Placement(Zone(document["zone"]), document["row"], document["col"], 1, 1)
    scenes, held = scenes_of(document, place)
    with ThreadPoolExecutor(2) as pool:
        arrays = Stacker(place, MPC, opener_of(held), pool).arrays(scenes)
    d = from_arrays(arrays)
    seen = counts(d)
    assert (seen.s2[0], seen.s1_asc[0], seen.s1_desc[0]) == (70, 100, 98)

    clear = [row for row in document["s2"] if row["scl"] not in (0, 1, 2, 3, 8, 9)]
    order = [[f"B{name[1:]:0>2}" for name in document["bands"]].index(band) for band in BANDS]
    assert d.s2[0].tolist() == [[round(row["b"][i] * 10000) for i in order] for row in clear]
    assert d.s2_doy[0].tolist() == [dt.date.fromisoformat(row["d"]).timetuple().tm_yday for row in clear]
    for letter, name in (("a", "s1_asc"), ("d", "s1_desc")):
        rows = [row for row in document["s1"] if row["o"] == letter]
        told = np.rint([[(2 * row[band] + 50) * 200 for band in ("vv", "vh")] for row in rows])
        assert np.abs(getattr(d, name)[0] - told).max() <= 1  # cut off, and dB of two decimals
        days = [dt.date.fromisoformat(row["d"]).timetuple().tm_yday for row in rows]
        assert getattr(d, f"{name}_doy")[0].tolist() == days
