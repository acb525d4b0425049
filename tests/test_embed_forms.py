"""The same pixels through every door give the same vectors, and every form of answer tells the same."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fastapi.testclient import TestClient

from api.settings import Settings
from api.uploads import FORMS
from service.dpixels import BANDS
from tests.conftest import client_of
from tests.uploads import (
    ARROW,
    NPZ,
    PARQUET,
    UNITS,
    arrow,
    as_table,
    body,
    folder,
    npz,
    parquet,
    pixels,
    real_pixel,
    rows,
    table,
)  # fmt: skip

HELD = folder()
ARROW_FILE = {"Content-Type": "application/vnd.apache.arrow.file"}
Doors = dict[str, tuple[bytes, dict[str, str]]]


def doors(held: dict[str, Any]) -> Doors:
    """Every form but JSON and the folder."""
    long = table(held)
    shuffled = long.take(np.random.default_rng(1).permutation(len(long)))
    return {
        "pixels": (npz(pixels(held)), NPZ),
        "packed pixels": (npz(pixels(held), np.savez_compressed), NPZ),
        "arrow": (arrow(long), ARROW),
        "arrow file": (arrow(long, file=True), ARROW_FILE),
        "arrow zstd": (arrow(long, compression="zstd"), ARROW),
        "arrow by dictionary": (arrow(long.set_column(0, "pixel", long["pixel"].dictionary_encode())), ARROW),
        "parquet": (parquet(long), PARQUET),
        "parquet v2": (parquet(long, data_page_version="2.0", compression="zstd", row_group_size=7), PARQUET),
        "parquet in any order": (parquet(shuffled), PARQUET),
    }


def codes_of(answer: Any) -> dict[Any, tuple[Any, ...]]:
    """What a JSON answer says of each pixel, by its name or number."""
    assert answer.status_code == 200, answer.text
    found = answer.json()["results"]
    return {
        one.get("pixel", f"p{n}"): (one["status"], one.get("codes"), one.get("scale"), one["counts"])
        for n, one in enumerate(found)
    }


def test_the_same_pixels_give_the_same_codes_through_every_door(client: TestClient) -> None:
    want = codes_of(client.post("/embed", json=body(HELD, quantize=True)))
    assert len(want) == 3
    raster = client.post("/embed", params={"answer": "json"}, content=npz(HELD), headers=NPZ)
    assert codes_of(raster) == want
    for name, (content, headers) in doors(HELD).items():
        got = codes_of(client.post("/embed", params={**UNITS, "answer": "json"}, content=content, headers=headers))
        assert got == want, name


def test_results_come_in_the_order_in_which_pixels_first_appear(client: TestClient) -> None:
    long = table(HELD)
    back = long.take(np.arange(len(long))[::-1])
    answer = client.post("/embed", params={**UNITS, "answer": "json"}, content=parquet(back), headers=PARQUET)
    assert [one["pixel"] for one in answer.json()["results"]] == ["p2", "p1", "p0"]


def test_whole_numbers_name_pixels_too_and_times_are_dates(client: TestClient) -> None:
    want = codes_of(client.post("/embed", json=body(HELD, quantize=True)))
    found = [{**row, "date": f"{row['date']}T10:20:31"} for row in rows(HELD, [7, 5, 9])]
    held = as_table(found)
    held = held.set_column(1, "date", pc.cast(held["date"], pa.timestamp("us")))
    answer = client.post("/embed", params={**UNITS, "answer": "json"}, content=arrow(held), headers=ARROW)
    assert list(codes_of(answer)) == [7, 5, 9]
    assert list(codes_of(answer).values()) == list(want.values())
    text = as_table([{**row, "date": str(row["date"])} for row in rows(HELD)])
    answer = client.post("/embed", params={**UNITS, "answer": "json"}, content=parquet(text), headers=PARQUET)
    assert codes_of(answer) == want


def test_units_are_converted_by_the_one_formula_and_metadata_may_declare_them(client: TestClient) -> None:
    want = codes_of(client.post("/embed", json=body(HELD, quantize=True)))
    found = []
    for row in rows(HELD):
        s2 = {band: row[band] / 10_000 for band in BANDS if band in row}
        s1 = {name: (row[name] + 0.5) / 400 - 25 for name in ("VV", "VH") if name in row}
        found.append({**row, **s2, **s1})
    held = as_table(found).replace_schema_metadata({"s2_unit": "reflectance", "s1_unit": "db"})
    params = {"window": "2024", "answer": "json"}
    assert codes_of(client.post("/embed", params=params, content=parquet(held), headers=PARQUET)) == want
    held = held.replace_schema_metadata(None)
    params |= {"s2_unit": "reflectance", "s1_unit": "db"}
    assert codes_of(client.post("/embed", params=params, content=arrow(held), headers=ARROW)) == want
    given = pixels(HELD) | {"s2": pixels(HELD)["s2"] / 10_000.0}
    given |= {name: (given[name] + 0.5) / 400 - 25 for name in ("s1_ascending", "s1_descending")}
    assert list(codes_of(client.post("/embed", params=params, content=npz(given), headers=NPZ)).values()) == list(
        want.values()
    )


def test_bands_in_another_order_and_days_in_any_order_make_no_difference(client: TestClient) -> None:
    want = list(codes_of(client.post("/embed", json=body(HELD, quantize=True))).values())
    rng = np.random.default_rng(3)
    given, order, turned = pixels(HELD), rng.permutation(10), rng.permutation(6)
    given["s2"], given["s2_bands"] = given["s2"][:, turned][:, :, order], given["s2_bands"][order]
    given["s2_doy"], given["s2_valid"] = given["s2_doy"][turned], given["s2_valid"][:, turned]
    answer = client.post("/embed", params={**UNITS, "answer": "json"}, content=npz(given), headers=NPZ)
    assert list(codes_of(answer).values()) == want
    assert answer.json()["reordered"]
    asked = body(HELD, quantize=True)
    for pixel in asked["pixels"]:
        for name in ("dates", "values", "mask"):
            pixel["s2"][name] = [pixel["s2"][name][i] for i in turned]
    assert list(codes_of(client.post("/embed", json=asked)).values()) == want


def test_pixels_may_have_days_of_their_own_and_day_0_is_none(client: TestClient) -> None:
    held = pixels(folder(2, 4))
    held["s2_doy"] = np.array([[20, 0, 90, 120], [0, 30, 0, 0]])
    held["s2_valid"] = np.ones((2, 4), np.uint8)
    held["s2"] = held["s2"].astype(np.float32)
    held["s2"][0, 1], held["s2"][1, 2] = np.nan, -9999
    answer = client.post("/embed", params={**UNITS, "answer": "json"}, content=npz(held), headers=NPZ)
    assert [one["counts"]["s2"] for one in answer.json()["results"]] == [3, 1]


def test_one_sensor_alone_is_enough_in_every_form(client: TestClient) -> None:
    held = folder(td=0)
    want = [one[3] for one in codes_of(client.post("/embed", json=body(held))).values()]
    long = table(held)
    for params, columns in (({"s1_unit": "scaled"}, {*BANDS, "mask"}), ({"s2_unit": "dn"}, {"VV", "VH", "orbit"})):
        kept = long.filter(pc.equal(long["sensor"], "s1" if "mask" in columns else "s2")).drop_columns(sorted(columns))
        asked = {"window": "2024", "answer": "json", **params}
        answer = client.post("/embed", params=asked, content=parquet(kept), headers=PARQUET)
        seen = [one[3] for one in codes_of(answer).values()]
        s2 = "s2_unit" in params
        assert [c["s2"] for c in seen] == [c["s2"] if s2 else 0 for c in want]
        assert [c["s1_asc"] for c in seen] == [0 if s2 else c["s1_asc"] for c in want]


def test_every_answer_tells_the_same(client: TestClient) -> None:
    held = folder(4)
    held["masks"][:, :, 1] = 0
    for name in ("sar_ascending", "sar_descending"):
        held[name][:, :, 1] = 0  # nothing was seen of it
    content, params = arrow(table(held)), {**UNITS, "min_s2": 1}
    del params["window"]
    asked = {"window": "2024-01-01..2024-12-30", **params}
    said = {
        form: client.post("/embed", params={**asked, "answer": form}, content=content, headers=ARROW)
        for form in ("json", "npz", "npy", "arrow")
    }
    assert {form: one.status_code for form, one in said.items()} == dict.fromkeys(said, 200)
    results = said["json"].json()["results"]
    arrays = np.load(io.BytesIO(said["npz"].content))
    floats = np.load(io.BytesIO(said["npy"].content))
    vectors = pa.ipc.open_stream(said["arrow"].content).read_all()
    assert vectors["pixel"].to_pylist() == arrays["pixel"].tolist() == [one["pixel"] for one in results]
    assert vectors["status"].to_pylist() == [one["status"] for one in results]
    assert vectors["codes"].to_pylist() == [one.get("codes") for one in results]
    assert vectors["scale"].to_pylist() == [one.get("scale") for one in results]
    for name in ("s2", "s1_asc", "s1_desc"):
        assert vectors[name].to_pylist() == arrays[name].tolist() == [one["counts"][name] for one in results]
    valid = np.array([one["status"] == "valid" for one in results])
    assert valid.tolist() == [True, False, True, True]
    assert np.isnan(floats[~valid]).all()
    assert floats.dtype == np.float32
    assert np.abs(arrays["codes"] * arrays["scales"][:, None] - floats)[valid].max() <= arrays["scales"].max() * 0.501
    assert said["json"].json()["outside_training"]
    assert vectors.schema.metadata[b"outside-training"] == b"true"
    assert said["npy"].headers["x-smalti-outside-training"] == "true"
    assert said["npy"].headers["x-smalti-status"] == "not-embedded=1, valid=3"
    asked["quantize"] = False
    whole = client.post("/embed", params={**asked, "answer": "arrow"}, content=content, headers=ARROW)
    got = pa.ipc.open_stream(whole.content).read_all()["vector"].to_pylist()
    assert np.allclose([one for one in got if one], floats[valid], atol=0)
    plain = client.post("/embed", params={**asked, "answer": "npz"}, content=content, headers=ARROW)
    assert np.array_equal(np.load(io.BytesIO(plain.content))["vectors"], floats, equal_nan=True)


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("application/x-npy", "application/x-npy"),
        ("text/html, application/json;q=0.5, application/x-npz;q=0.9", "application/x-npz"),
        ("*/*", "application/vnd.apache.arrow.stream"),
        ("application/json;q=0, */*;q=0.1", "application/vnd.apache.arrow.stream"),
    ],
)
def test_the_accept_header_chooses_too(client: TestClient, accept: str, media: str) -> None:
    headers = {**PARQUET, "Accept": accept}
    answer = client.post("/embed", params=UNITS, content=parquet(table(HELD)), headers=headers)
    assert answer.headers["content-type"] == media
    forced = client.post("/embed", params={**UNITS, "answer": "json"}, content=parquet(table(HELD)), headers=headers)
    assert forced.json()["results"]
    assert client.post("/embed", json=body(HELD, answer="npy")).content.startswith(b"\x93NUMPY")


def test_the_published_pixel_is_the_same_through_every_door(client: TestClient, real_data: Path) -> None:
    one = real_pixel(real_data)
    want = codes_of(client.post("/embed", json={"window": "2025", "pixels": [one], "quantize": True}))["p0"]
    assert want[3] == {"s2": 70, "s1_asc": 100, "s1_desc": 98}
    s2, radar = one["s2"], {part["orbit"]: part for part in one["s1"]}
    found = [
        {"pixel": "p0", "date": d, "sensor": "s2", "scl": scl, **dict(zip(s2["bands"], values, strict=True))}
        for d, scl, values in zip(s2["dates"], s2["scl"], s2["values"], strict=True)
    ]
    for orbit, part in radar.items():
        seen = zip(part["dates"], part["values"], strict=True)
        found += [{"pixel": "p0", "date": d, "sensor": "s1", "orbit": orbit, "VV": a, "VH": b} for d, (a, b) in seen]
    long = as_table(found)
    params = {"window": "2025", "s2_unit": "reflectance", "s1_unit": "db", "answer": "json"}
    arrays = {
        "s2": np.array([s2["values"]]), "s2_bands": np.array(s2["bands"]), "s2_scl": np.array([s2["scl"]]),
        "s2_doy": days(s2["dates"]),
    }  # fmt: skip
    for orbit, part in radar.items():
        arrays |= {f"s1_{orbit}": np.array([part["values"]]), f"s1_{orbit}_doy": days(part["dates"])}
    for content, headers in ((parquet(long), PARQUET), (arrow(long), ARROW), (npz(arrays), NPZ)):
        answer = client.post("/embed", params=params, content=content, headers=headers)
        assert codes_of(answer)["p0"] == want
        assert answer.json()["reordered"]


def days(dates: list[str]) -> Any:
    held = np.array(dates, "datetime64[D]")
    return (held - np.datetime64("2025-01-01")).astype(int) + 1


def test_a_table_with_places_is_stored(own_world: Settings) -> None:
    client = client_of(own_world)
    lon, lat = client.get("/datasets/demo").json()["center"]
    places = {f"p{n}": (lon + 0.0002 * n, lat) for n in range(3)}
    found = [{**row, "lon": places[row["pixel"]][0], "lat": places[row["pixel"]][1]} for row in rows(HELD)]
    content, params = parquet(as_table(found)), {**UNITS, "dataset": "demo", "answer": "json"}
    answer = client.post("/embed", params=params, content=content, headers=PARQUET)
    assert answer.json()["stored"]["pixels"] == 3
    points = {"points": [list(place) for place in places.values()]}
    held = client.post("/datasets/demo/2024/vectors", json=points).json()["results"]
    for one, stored in zip(answer.json()["results"], held, strict=True):
        assert stored["vector"] == pytest.approx((np.array(one["codes"]) * one["scale"]).tolist(), abs=1e-6)
    revision = client.get("/datasets/demo").json()["revision"]
    client.post("/embed", params=params, content=content, headers=PARQUET)
    assert client.get("/datasets/demo").json()["revision"] == revision, "the same again changes nothing"
    with_places = npz({**pixels(HELD), "lon": np.array([p[0] for p in places.values()]), "lat": np.full(3, lat)})
    answer = client.post("/embed", params=params, content=with_places, headers=NPZ)
    assert answer.json()["stored"]["pixels"] == 3


def test_openapi_describes_every_form(client: TestClient) -> None:
    route = client.get("/openapi.json").json()["paths"]["/embed"]["post"]
    tables = {"application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"}
    assert set(route["requestBody"]["content"]) == {"application/json", "application/x-npz"} | tables
    answers = {"application/json", "application/x-npz", "application/x-npy", "application/vnd.apache.arrow.stream"}
    told = route["responses"]["200"]
    assert set(told["content"]) == answers
    assert all(one["schema"] for one in told["content"].values())
    said = client.post("/embed", params=UNITS, content=parquet(table(HELD)), headers=PARQUET).headers
    stored = {"x-smalti-dataset", "x-smalti-revision"}
    assert {name.lower() for name in told["headers"]} - stored == {h for h in said if h.startswith("x-smalti-")}
    for name in FORMS:
        assert name in route["requestBody"]["content"] or name in route["requestBody"]["description"]
