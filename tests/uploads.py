"""The same few pixels in every form that POST /embed takes."""

from __future__ import annotations

import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.dpixels import BANDS

ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}
PARQUET = {"Content-Type": "application/vnd.apache.parquet"}
NPZ = {"Content-Type": "application/x-npz"}
UNITS = {"s2_unit": "dn", "s1_unit": "scaled", "window": "2024"}
DAY_ONE = dt.date(2024, 1, 1)


def folder(n: int = 3, t: int = 6, ta: int = 4, td: int = 2, seed: int = 0) -> dict[str, Any]:
    """The arrays of a published tile folder, 1 x n pixels."""
    rng = np.random.default_rng(seed)
    return {
        "bands": rng.integers(200, 6000, (t, 1, n, 10)).astype(np.uint16),
        "masks": rng.integers(0, 2, (t, 1, n)).astype(np.uint8),
        "doys": np.arange(20, 20 + 9 * t, 9, dtype=np.uint16),
        "sar_ascending": rng.integers(2000, 7000, (ta, 1, n, 2)).astype(np.int16),
        "sar_ascending_doy": np.arange(11, 11 + 12 * ta, 12, dtype=np.int16),
        "sar_descending": rng.integers(2000, 7000, (td, 1, n, 2)).astype(np.int16),
        "sar_descending_doy": np.arange(17, 17 + 12 * td, 12, dtype=np.int16),
    }


def pixels(held: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a folder with the pixel first."""
    return {
        "s2": held["bands"][:, 0].transpose(1, 0, 2),
        "s2_bands": np.array(BANDS),
        "s2_doy": held["doys"],
        "s2_valid": held["masks"][:, 0].T,
        "s1_ascending": held["sar_ascending"][:, 0].transpose(1, 0, 2),
        "s1_ascending_doy": held["sar_ascending_doy"],
        "s1_descending": held["sar_descending"][:, 0].transpose(1, 0, 2),
        "s1_descending_doy": held["sar_descending_doy"],
    }


def date(doy: Any) -> dt.date:
    return DAY_ONE + dt.timedelta(int(doy) - 1)


def rows(held: dict[str, Any], names: list[Any] | None = None) -> list[dict[str, Any]]:
    """A folder as observations, one a row."""
    n = held["bands"].shape[2]
    out: list[dict[str, Any]] = []
    for p in range(n):
        name = names[p] if names else f"p{p}"
        for k, doy in enumerate(held["doys"]):
            values = dict(zip(BANDS, map(int, held["bands"][k, 0, p]), strict=True))
            mask = bool(held["masks"][k, 0, p])
            out.append({"pixel": name, "date": date(doy), "sensor": "s2", **values, "mask": mask})
        for orbit in ("ascending", "descending"):
            for k, doy in enumerate(held[f"sar_{orbit}_doy"]):
                vv, vh = map(int, held[f"sar_{orbit}"][k, 0, p])
                out.append({"pixel": name, "date": date(doy), "sensor": "s1", "orbit": orbit, "VV": vv, "VH": vh})
    return out


SCHEMA = pa.schema([
    ("pixel", pa.string()), ("date", pa.date32()), ("sensor", pa.string()), ("orbit", pa.string()),
    *[(band, pa.float32()) for band in sorted(BANDS)],
    ("VV", pa.float32()), ("VH", pa.float32()), ("mask", pa.bool_()),
])  # fmt: skip


def table(held: dict[str, Any], schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist(rows(held), schema)


def as_table(found: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table of all the columns that any of them has; types as pyarrow guesses them."""
    names = dict.fromkeys(name for row in found for name in row)
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in found])


def body(held: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A folder as a JSON body."""
    found = []
    for p in range(held["bands"].shape[2]):
        s2 = {
            "bands": list(BANDS), "unit": "dn", "dates": [str(date(d)) for d in held["doys"]],
            "values": held["bands"][:, 0, p].tolist(), "mask": held["masks"][:, 0, p].astype(bool).tolist(),
        }  # fmt: skip
        s1 = [
            {
                "orbit": orbit, "unit": "scaled", "dates": [str(date(d)) for d in held[f"sar_{orbit}_doy"]],
                "values": held[f"sar_{orbit}"][:, 0, p].tolist(),
            }
            for orbit in ("ascending", "descending")
        ]  # fmt: skip
        found.append({"s2": s2, "s1": s1})
    return {"window": "2024", "pixels": found, **more}


def npz(held: dict[str, Any], save: Any = np.savez) -> bytes:
    out = io.BytesIO()
    save(out, **held)
    return out.getvalue()


def arrow(held: pa.Table, *, file: bool = False, **options: Any) -> bytes:
    out = io.BytesIO()
    opened = (pa.ipc.new_file if file else pa.ipc.new_stream)(
        out, held.schema, options=pa.ipc.IpcWriteOptions(**options)
    )
    with opened as writer:
        writer.write_table(held)
    return out.getvalue()


def parquet(held: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(held, out, **options)
    return out.getvalue()


def real_pixel(data: Path) -> dict[str, Any]:
    """The published pixel as one of POST /embed, its bands in the order it declares."""
    raw = json.loads((data / "tessera-pixel" / "dpixel.json").read_text())
    s1 = []
    for letter, orbit in (("a", "ascending"), ("d", "descending")):
        seen = [row for row in raw["s1"] if row["o"] == letter]
        dates, values = [row["d"] for row in seen], [[row["vv"], row["vh"]] for row in seen]
        s1.append({"orbit": orbit, "unit": "db", "dates": dates, "values": values})
    s2 = {
        "bands": [f"B{band[1:]:0>2}" for band in raw["bands"]],
        "unit": "reflectance",
        "dates": [row["d"] for row in raw["s2"]],
        "values": [row["b"] for row in raw["s2"]],
        "scl": [row["scl"] for row in raw["s2"]],
    }
    return {"s2": s2, "s1": s1}
