"""Values check themselves; what exists is consistent."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import IdentityMismatch, InvalidInput
from service.values import NOT_EMBEDDED, VALID, Area, ModelIdentity, Vectors, Window, checked_id


def test_a_year_reads_and_writes_as_a_year() -> None:
    window = Window.parse("2024")
    assert window == Window(dt.date(2024, 1, 1), dt.date(2024, 12, 31))
    assert window.is_year
    assert str(window) == "2024"


@given(st.dates(dt.date(2016, 1, 1), dt.date(2030, 1, 1)), st.integers(0, 366))
def test_a_window_survives_its_own_text(start: dt.date, days: int) -> None:
    window = Window(start, start + dt.timedelta(days))
    assert Window.parse(str(window)) == window


@pytest.mark.parametrize(
    "text",
    [
        "",
        "24",
        "0999",
        "2024-01-01",
        "2024-02-30..2024-03-01",
        "2024..2025",
        "2024-05-01..2024-04-01",
        "2020-01-01..2024-01-01",
    ],
)
def test_what_is_not_a_window_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Window.parse(text)
    assert caught.value.field == "window"


def test_an_identity_reads_with_and_without_a_variant() -> None:
    assert ModelIdentity.parse("tessera@1.1/dclimate") == ModelIdentity("tessera", "1.1", "dclimate")
    assert str(ModelIdentity.parse("smalti-mini@0.1.0")) == "smalti-mini@0.1.0/default"
    for bad in ("tessera", "@1", "tessera@", "te ssera@1", "tessera@1/../x"):
        with pytest.raises(InvalidInput):
            ModelIdentity.parse(bad)


def test_vectors_of_two_models_never_meet() -> None:
    one, other = ModelIdentity.parse("a@1"), ModelIdentity.parse("a@2")
    one.require_same(one, "x")
    with pytest.raises(IdentityMismatch, match=r"a@2/default.*a@1/default"):
        one.require_same(other, "x")


@pytest.mark.parametrize("name", ["", "../etc", "a/b", "A", "x" * 65, ".hidden", "a..b", "a b"])
def test_a_name_is_safe_in_urls_and_as_a_file_name(name: str) -> None:
    with pytest.raises(InvalidInput):
        checked_id(name, "dataset")


def test_vectors_dequantise_only_where_valid() -> None:
    status = np.array([VALID, NOT_EMBEDDED], np.uint8)
    vectors = Vectors(np.array([[1, -2], [3, 4]], np.int8), np.array([0.5, 0.0], np.float32), status)
    values = vectors.dequantised()
    assert values[0].tolist() == [0.5, -1.0]
    assert np.isnan(values[1]).all()


def test_vectors_of_other_shapes_or_types_cannot_be_made() -> None:
    codes, scales, status = np.zeros((2, 4), np.int8), np.zeros(2, np.float32), np.zeros(2, np.uint8)
    with pytest.raises(InvalidInput, match="same pixels"):
        Vectors(codes, np.zeros(3, np.float32), status)
    with pytest.raises(InvalidInput, match="int8"):
        Vectors(codes.astype(np.int16), scales, status)  # type: ignore[arg-type]


@pytest.mark.parametrize("box", [(0, 1, 1, 0), (-181, 0, 1, 1), (0, -91, 1, 1), (5, 0, 5, 1), (float("nan"), 0, 1, 1)])
def test_what_is_not_a_box_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(InvalidInput):
        Area(*box)
