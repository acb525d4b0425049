"""Damaged files never break anything: bytes of good uploads are changed, cut and swapped, and what comes is a 4xx."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.dpixels import Declared, Upload, UploadLimits, read_npz
from service.errors import InvalidInput
from service.tables import read_table
from service.values import Window
from tests.uploads import ARROW, NPZ, PARQUET, UNITS, arrow, folder, npz, parquet, pixels, table

HELD = folder(2, 3, 2, 1)
GOOD: dict[str, tuple[bytes, dict[str, str]]] = {
    "npz": (npz(HELD), NPZ),
    "packed npz": (npz(HELD, np.savez_compressed), NPZ),
    "pixels": (npz(pixels(HELD)), NPZ),
    "arrow": (arrow(table(HELD)), ARROW),
    "arrow file": (arrow(table(HELD), file=True), ARROW),
    "arrow zstd": (arrow(table(HELD), compression="zstd"), ARROW),
    "parquet": (parquet(table(HELD)), PARQUET),
    "parquet plain": (parquet(table(HELD), compression="none", use_dictionary=False, data_page_version="2.0"), PARQUET),
}
LIMITS = UploadLimits(100, 10_000_000, rows=1000)
DECLARED = Declared(Window.year(2024), "dn", "scaled")


@st.composite
def damaged(draw: Any) -> tuple[str, bytes]:
    """A good body with a few bytes changed, a piece cut out, or a piece copied elsewhere."""
    name = draw(st.sampled_from(sorted(GOOD)))
    raw = bytearray(GOOD[name][0])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw) - 1))
        what = draw(st.sampled_from(("byte", "bit", "cut", "copy", "number")))
        if what == "byte":
            raw[at] = draw(st.integers(0, 255))
        elif what == "bit":
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del raw[at : at + draw(st.integers(1, 64))]
        elif what == "copy":
            source = draw(st.integers(0, len(raw) - 1))
            raw[at : at + 8] = raw[source : source + 8]
        else:
            raw[at : at + 4] = draw(st.sampled_from((0, 2**31 - 1, 2**31, 2**32 - 1))).to_bytes(4, "little")
        if not raw:
            raw = bytearray(b"\0")
    return name, bytes(raw)


def read(name: str, raw: bytes) -> Upload:
    if "npz" in name or name == "pixels":
        return read_npz(io.BytesIO(raw), LIMITS, DECLARED)
    return read_table(io.BytesIO(raw), "arrow" if "arrow" in name else "parquet", LIMITS, DECLARED)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_what_is_damaged_here_is_good_as_it_is(name: str) -> None:
    assert len(read(name, GOOD[name][0]).dpixels) == 2


@settings(max_examples=400, deadline=None)
@given(damaged())
def test_a_damaged_file_is_read_or_refused(sent: tuple[str, bytes]) -> None:
    try:
        upload = read(*sent)
    except InvalidInput:
        return
    assert 0 < len(upload.dpixels) <= 100


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None)
@given(damaged())
def test_a_damaged_file_is_read_or_refused_at_length(sent: tuple[str, bytes]) -> None:
    try:
        upload = read(*sent)
    except InvalidInput:
        return
    assert 0 < len(upload.dpixels) <= 100


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged())
def test_over_http_it_is_an_answer_or_a_4xx(client: TestClient, sent: tuple[str, bytes]) -> None:
    name, raw = sent
    params = {"window": "2024"} if "npz" in name else UNITS
    answer = client.post("/embed", params=params, content=raw, headers=GOOD[name][1])
    assert answer.status_code == 200 or 400 <= answer.status_code < 500
    if answer.status_code != 200:
        assert answer.json()["kind"] in {"invalid-input", "limit-exceeded"}
