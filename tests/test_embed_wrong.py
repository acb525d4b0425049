"""Wrong uploads: each kind of mistake gets an answer of its own, which names the field and what to do."""

from __future__ import annotations

import datetime as dt
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from api.settings import Limits, Settings
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
    rows,
    table,
)  # fmt: skip

JSON = {"Content-Type": "application/json"}
HELD = folder()
SMALL = Limits(upload_pixels=9, json_pixels=9, unpacked_bytes=100_000, table_rows=100, body_bytes=60_000)


@dataclass(frozen=True)
class Wrong:
    """One mistake and what is said of it."""

    content: bytes
    headers: dict[str, str]
    field: str | None
    says: str
    params: dict[str, Any] = field(default_factory=dict)
    status: int = 422
    kind: str = "invalid-input"
    small: bool = False
    """Whether it is sent to a server with small limits."""


def of_folder(name: str, change: Callable[[Any], Any], says: str, at: str | None = None, **more: Any) -> Wrong:
    return Wrong(npz({**HELD, name: change(HELD[name])}), NPZ, at or name, says, **more)


def of_pixels(field: str, says: str, params: dict[str, Any] | None = None, **changes: Any) -> Wrong:
    """Pixel arrays with some of them changed, or left out where None."""
    held = {name: value for name, value in {**pixels(HELD), **changes}.items() if value is not None}
    return Wrong(npz(held), NPZ, field, says, {**UNITS, **(params or {})})


def of_rows(field: str, says: str, change: Callable[[list[dict[str, Any]]], Any], **more: Any) -> Wrong:
    """A table some of whose rows are changed in place."""
    found = rows(HELD)
    change(found)
    return of_table(field, says, as_table(found), **more)


def of_table(field: str | None, says: str, held: pa.Table, params: Any = None, **more: Any) -> Wrong:
    return Wrong(parquet(held), PARQUET, field, says, {**UNITS, **(params or {})}, **more)


def of_json(field: str, says: str, change: Callable[[Any], Any] = lambda _: None, **more: Any) -> Wrong:
    held = body(HELD, **more)
    for pixel in held["pixels"][1:2]:
        change(pixel)
    return Wrong(json.dumps(held).encode(), JSON, field, says)


def of_params(field: str, says: str, status: int = 422, kind: str = "invalid-input", **params: Any) -> Wrong:
    return Wrong(parquet(table(HELD)), PARQUET, field, says, {**UNITS, **params}, status, kind)


def of_body(content: bytes, headers: dict[str, str], field: str, says: str, **more: Any) -> Wrong:
    return Wrong(content, headers, field, says, UNITS if headers is not NPZ else {}, **more)


def setting(name: str, value: Any, row: int = 0) -> Callable[[list[dict[str, Any]]], None]:
    return lambda found: found[row].__setitem__(name, value)


def zipped(name: str, raw: bytes, **more: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **more) as archive:
        archive.writestr(name, raw)
    return out.getvalue()


def encrypted() -> bytes:
    """An NPZ whose directory says that its first array is."""
    whole = bytearray(npz(HELD))
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    return bytes(whole)


def cut_member() -> bytes:
    """An NPZ whose first array holds fewer numbers than its head promises; the archive itself is whole."""
    raw = io.BytesIO()
    np.lib.format.write_array(raw, HELD["bands"])
    return zipped("bands.npy", raw.getvalue()[:-50])


def lying_footer() -> bytes:
    whole = parquet(table(HELD))
    return whole[:-8] + (2**31 - 1).to_bytes(4, "little") + whole[-4:]


def repeated(many: int) -> pa.Table:
    """One observation many times over: next to nothing as Parquet, by dictionary and run length."""
    one = table(HELD).slice(0, 1)
    return pa.concat_tables([one] * many).combine_chunks()


def frames(n: int) -> dict[str, Any]:
    return {"s2": np.ones((1, n, 10), np.uint16), "s2_bands": np.array(BANDS), "s2_doy": np.ones(n, np.int16)}


def in_order(found: list[dict[str, Any]], sensor: str) -> list[int]:
    return [n for n, row in enumerate(found) if row["sensor"] == sensor]


RADAR = in_order(rows(HELD), "s1")[0]
Z = (HELD["bands"].astype(np.float32) - 3000) / 1000
NO_ROWS = table(HELD).slice(0, 0)

MISTAKES: dict[str, Wrong] = {
    # the body as a whole
    "wrong content type": of_body(b"x", {"Content-Type": "text/csv"}, "Content-Type", "is not understood"),
    "no content type": of_body(b"x", {}, "Content-Type", "'' is not understood"),
    "packed by HTTP": of_body(
        b"x", {**NPZ, "Content-Encoding": "gzip"}, "Content-Encoding", "'gzip' is not unpacked"
    ),
    "oversize": of_body(b"x" * 70_000, NPZ, "body", "over 60,000 bytes", status=413, kind="limit-exceeded", small=True),
    "not JSON": Wrong(b"{", JSON, "body", "Invalid JSON"),
    "parameter beside JSON": Wrong(json.dumps(body(HELD)).encode(), JSON, "query.dims", "belongs into", {"dims": 8}),
    "unknown parameter": of_params("query.colour", "Extra inputs", colour="red"),
    "unknown model": of_params("model", "no model", 404, "not-found", model="tessera-v9"),
    "not a depth": of_params("dims", "is no depth of smalti-mini", dims=64),
    "prepared for another family": of_params("prepared_for", "other statistics", prepared_for="tessera-v1.1-mpc"),
    "prepared for nobody": of_params("prepared_for", "no published family", prepared_for="tessera-v7"),
    "unknown answer": of_params("query.answer", "Input should be", answer="csv"),
    "codes as npy": of_params("quantize", "one array of float32", answer="npy", quantize=True),
    "window of another form": of_params("window", "is not a window", window="2024-13"),
    "window too long": of_params("window", "at most 366 days", window="2023-01-01..2024-12-31"),
    "negative minimum": of_params("query.min_s2", "greater than or equal", min_s2=-1),
    "storing without a place": of_params("lon", "needs its place", dataset="demo"),
    "storing a prefix": of_params("dims", "is a whole one", dataset="demo", dims=64),
    "storing without a window": Wrong(npz(HELD), NPZ, "window", "is needed to store", {"dataset": "demo"}),
    "raster without a corner": Wrong(
        npz(HELD), NPZ, "dataset", "epsg, left and top", {"dataset": "demo", "window": "2024"}
    ),
    # NPZ as a file
    "empty NPZ": of_body(b"", NPZ, "body", "is empty"),
    "not a zip": of_body(b"what", NPZ, "body", "does not begin like"),
    "truncated zip": of_body(npz(HELD)[:-400], NPZ, "body", "directory is missing"),
    "truncated npy": of_body(cut_member(), NPZ, "bands", "which is not the"),
    "not an npy": of_body(zipped("bands.npy", b"what"), NPZ, "bands", "not an .npy array"),
    "damaged member": of_body(npz(HELD).replace(HELD["bands"].tobytes()[:8], b"12345678"), NPZ, "body", "Bad CRC"),
    "encrypted": of_body(encrypted(), NPZ, "bands", "is encrypted"),
    "unusual packing": of_body(
        zipped("bands.npy", b"what", compression=zipfile.ZIP_BZIP2), NPZ, "bands", "unusual way"
    ),
    "pickled": of_body(npz({**HELD, "doys": np.array([{}, 1], object)}), NPZ, "doys", "is object"),
    "unknown member": of_body(npz({**HELD, "notes": np.zeros(3)}), NPZ, "body", "does not belong into the NPZ"),
    "both layouts": of_body(npz({**HELD, "s2": np.zeros(3)}), NPZ, "s2", "of the other layout"),
    "zip bomb by ratio": of_body(
        npz({**HELD, "bands": np.zeros((20, 200, 250, 10), np.uint16)}, np.savez_compressed),
        NPZ, "body", "times its size", status=413, kind="limit-exceeded",
    ),
    "unpacks to too much": of_body(
        npz({**HELD, "bands": np.zeros((20, 5, 60, 10), np.uint16)}, np.savez_compressed),
        NPZ, "body", "bytes allowed", status=413, kind="limit-exceeded", small=True,
    ),
    "too many pixels": of_body(
        npz(folder(12)), NPZ, "bands", "12 pixels, at most 9", status=413, kind="limit-exceeded", small=True
    ),
    # a published folder
    "missing array": of_body(npz({k: v for k, v in HELD.items() if k != "masks"}), NPZ, "masks", "masks missing"),
    "dtype": of_folder("bands", lambda a: a.astype(np.int64), "is int64"),
    "channels": of_folder("bands", lambda a: a[..., :9], "has shape"),
    "other sides": of_folder("sar_ascending", lambda a: a[:, :, :2], "bands cover"),
    "mask of another shape": of_folder("masks", lambda a: a[:-1], "uint8 (5"),
    "mask that is none": of_folder("masks", lambda a: a + np.uint8(3), "holds "),
    "days of another length": of_folder("doys", lambda a: a[:-1], "one a frame"),
    "day 0": of_folder("doys", lambda a: a - 20, "1..366"),
    "NaN": of_folder("bands", lambda a: np.where(a > 900, a, np.nan).astype(np.float32), "not finite"),
    "out of range": of_folder("sar_descending", lambda a: -a, "0..32767"),
    "reflectance as stored values": of_folder("bands", lambda a: (a / 10_000).astype(np.float32), "never exceeds"),
    "standardised values": of_folder("bands", lambda _: Z, "looks standardised"),
    "dates outside the window": of_folder("doys", lambda a: a, "outside the window 2024-03", params={
        "window": "2024-03-01..2024-06-30"
    }),
    "unit of a folder": Wrong(npz(HELD), NPZ, "s1_unit", "are scaled", {"s1_unit": "db"}),
    # arrays with the pixel first
    "no unit": of_pixels("s2_unit", "is needed", {"s2_unit": None}),
    "unknown unit": of_pixels("s2_unit", "'percent' is not a unit", {"s2_unit": "percent"}),
    "neither sensor": Wrong(npz({"pixel": np.arange(3)}), NPZ, "body", "neither sensor", UNITS),
    "days of what is missing": of_pixels("s1_descending_doy", "which is missing", s1_descending=None),
    "no days": of_pixels("s2_doy", "is missing. Give the day", s2_doy=None),
    "no band names": of_pixels("s2_bands", "is missing. Name the band", s2_bands=None),
    "unknown band": of_pixels("s2_bands", "unknown band B01", s2_bands=np.array(["B01", *BANDS[1:]])),
    "repeated band": of_pixels("s2_bands", "repeated band B12", s2_bands=np.array([BANDS[-1], *BANDS[1:]])),
    "missing band": of_pixels("s2_bands", "missing band B12", s2_bands=np.array(BANDS[:-1])),
    "number of pixels": of_pixels("s1_ascending", "has shape (2,", s1_ascending=pixels(HELD)["s1_ascending"][:2]),
    "text as values": of_pixels("s2", "Only plain numbers", s2=np.full((3, 6, 10), "7")),
    "mask and scl": of_pixels("s2_valid", "either s2_valid or s2_scl", s2_scl=np.full((3, 6), 4)),
    "unknown scene class": of_pixels("s2_scl", "0..11", s2_valid=None, s2_scl=np.full((3, 6), 12)),
    "infinite": of_pixels("s1_ascending", "Give that observation day 0", s1_ascending=np.full((3, 4, 2), np.inf)),
    "date twice": of_pixels("s2_doy", "has day 40 twice", s2_doy=np.array([40, 50, 40, 60, 70, 80])),
    "day beyond the year": of_pixels("s2_doy", "runs from 20 to 400", s2_doy=np.array([20, 30, 40, 50, 60, 400])),
    "dn as reflectance": of_pixels("s2_unit", "Is it dn?", {"s2_unit": "reflectance"}),
    "reflectance as dn": of_pixels("s2_unit", "Is it reflectance?", s2=pixels(HELD)["s2"] / 10_000),
    "power as db": of_pixels("s1_unit", "looks like power", {"s1_unit": "db"}),
    "no-data value": of_pixels("s2", "Is it a no-data value?", s2=np.full((3, 6, 10), -9999.0)),
    "pixel named twice": of_pixels("pixel", "twice", pixel=np.array(["a", "b", "a"])),
    "place beyond the poles": of_pixels("lat", "-90..90", lon=np.zeros(3), lat=np.full(3, 91.0)),
    "too many frames": Wrong(npz(frames(1001)), NPZ, "s2", "1,001 observations", UNITS, 413, "limit-exceeded"),
    # tables
    "broken Parquet": of_body(
        b"PAR1" + b"\xff" * 40 + (40).to_bytes(4, "little") + b"PAR1", PARQUET, "body", "the Parquet cannot be read"
    ),
    "truncated Parquet": of_body(parquet(table(HELD))[:-30], PARQUET, "body", "or is cut short"),
    "Parquet footer that lies": of_body(lying_footer(), PARQUET, "body", "beyond its beginning"),
    "encrypted Parquet": of_body(parquet(table(HELD))[:-4] + b"PARE", PARQUET, "body", "is encrypted"),
    "empty Parquet": of_body(b"", PARQUET, "body", "Send Parquet"),
    "broken Arrow": of_body(b"ARROW1\0\0 and so on", ARROW, "body", "the Arrow IPC cannot be read"),
    "truncated Arrow": of_body(arrow(table(HELD))[:-300], ARROW, "body", "Expected to be able to read"),
    "empty Arrow": of_body(b"", ARROW, "body", "Send Arrow IPC"),
    "parquet bomb by dictionary": of_table(
        "body", "200 rows, at most 100", repeated(200), small=True, status=413, kind="limit-exceeded"
    ),
    "arrow bomb by packing": of_body(
        arrow(repeated(90).append_column("x" * 9, pa.array(["y" * 3000] * 90)), compression="zstd"),
        ARROW, "body", "the batches unpack to", small=True, status=413, kind="limit-exceeded",
    ),
    "too many columns": of_table(
        "body", "80 columns", pa.table({f"c{n}": [1] for n in range(80)}), status=413, kind="limit-exceeded"
    ),
    "too many pixels in a table": of_table(
        "pixel", "over 9 pixels", table(folder(12, 1, 1, 1)), small=True, status=413, kind="limit-exceeded"
    ),
    "table without a window": of_table("window", "dates are held against it", table(HELD), {"window": None}),
    "no rows": of_table("body", "has no rows", NO_ROWS),
    "missing column": of_table("B8A", "column B8A missing", table(HELD).drop_columns("B8A")),
    "columns of neither sensor": of_table(
        "body", "columns of neither sensor", table(HELD).select(["pixel", "date", "sensor"])
    ),
    "unknown column": of_table("cloud", "no column of observations", table(HELD).append_column(
        "cloud", table(HELD)["VV"]
    )),
    "column twice": of_table("VV", "is there twice", table(HELD).append_column("VV", table(HELD)["VV"])),
    "column of another type": of_table("B04", "column of string", table(HELD).set_column(
        table(HELD).schema.get_field_index("B04"), "B04", pa.array(["x"] * len(table(HELD)))
    )),
    "units contradict": of_table(
        "s2_unit", "and the file says", table(HELD).replace_schema_metadata({"s2_unit": "reflectance"})
    ),
    "null pixel": of_rows("pixel", "row 4 is null", setting("pixel", None, 4)),
    "endless name": of_rows("pixel", "is no name", setting("pixel", "p" * 65, 4)),
    "null in a band": of_rows("B05", "each row of s2 is whole", setting("B05", None, 3)),
    "NaN in a band": of_rows("B05", "row 3 is not finite", setting("B05", float("nan"), 3)),
    "band in a row of radar": of_rows("B05", "is not of s2", setting("B05", 7, RADAR)),
    "unknown sensor": of_rows("sensor", "'landsat'", setting("sensor", "landsat", 2)),
    "unknown orbit": of_rows("orbit", "'sideways'", setting("orbit", "sideways", RADAR)),
    "no orbit": of_rows("orbit", "names no orbit", setting("orbit", None, RADAR)),
    "orbit of s2": of_rows("orbit", "row 0 is not of s1", setting("orbit", "ascending", 0)),
    "no mask": of_rows("mask", "row 1 is null", setting("mask", None, 1)),
    "date that is none": of_table("date", "is not a date", as_table([
        {**row, "date": "2024-02-30"} for row in rows(HELD)
    ])),
    "date outside": of_rows("date", "row 5 lies outside", setting("date", dt.date(2023, 12, 31), 5)),
    "row twice": of_rows("date", "twice of s2", lambda found: found.append(dict(found[0]))),
    "pass twice": of_rows("date", "twice of s1 ascending", lambda found: found.append(dict(found[RADAR]))),
    "too many observations of a pixel": of_table("pixel", "1,002 observations of s2", repeated(1002), {}, status=413,
                                                 kind="limit-exceeded"),
    "a pixel that moves": of_table("lon", "moves its pixel", as_table([
        {**row, "lon": 2.0 + n, "lat": 54.0} for n, row in enumerate(rows(HELD))
    ])),
    "place without latitude": of_table(
        "lat", "column lat missing", table(HELD).append_column("lon", table(HELD)["VV"])
    ),
    # JSON
    "JSON without pixels": of_json("pixels", "at least 1 item", pixels=[]),
    "JSON with a typo": of_json("colour", "Extra inputs are not permitted", colour="red"),
    "JSON text as a number": of_json(
        "pixels[1].s2.values[0][0]", "valid number", lambda p: p["s2"]["values"][0].__setitem__(0, "7")
    ),
    "JSON ragged values": of_json("pixels[1].s2.values", "not a table", lambda p: p["s2"]["values"][0].pop()),
    "JSON orbit twice": of_json(
        "pixels[1].s1[1].orbit", "or comes twice", lambda p: p["s1"][1].__setitem__("orbit", "ascending")
    ),
    "JSON date twice": of_json(
        "pixels[1].s2.dates[1]", "also at 0", lambda p: p["s2"]["dates"].__setitem__(1, p["s2"]["dates"][0])
    ),
    "JSON date outside": of_json(
        "pixels[1].s2.dates[5]", "2025-01-01 lies outside", lambda p: p["s2"]["dates"].__setitem__(5, "2025-01-01")
    ),
    "JSON without mask": of_json("pixels[1].s2", "either mask or scl", lambda p: p["s2"].pop("mask")),
}  # fmt: skip


@pytest.fixture(scope="module")
def strict(world: Settings) -> TestClient:
    """A server with small limits."""
    return client_of(world.model_copy(update={"limits": SMALL}))


def test_each_mistake_gets_a_clear_answer_of_its_own(client: TestClient, strict: TestClient) -> None:
    wrong, said = [], {}
    for name, one in MISTAKES.items():
        params = {key: value for key, value in one.params.items() if value is not None}
        asked = strict if one.small else client
        answer = asked.post("/embed", params=params, content=one.content, headers=one.headers)
        told = answer.json()
        got = answer.status_code, told.get("kind"), told.get("field")
        text = f"{told.get('detail')} {told.get('remedy', '')}"
        if got != (one.status, one.kind, one.field) or one.says not in text:
            wrong.append(f"{name}: {got} {text}")
        said[name] = (told.get("field"), told.get("detail"), told.get("remedy"))
    assert not wrong, "\n".join(wrong)
    assert len(MISTAKES) >= 100
    assert len(set(said.values())) == len(said), "no two of them are answered alike"
