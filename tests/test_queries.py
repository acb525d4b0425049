"""One formula for likeness, and documents that are what their address says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.errors import Corrupt, IdentityMismatch, InvalidInput, LimitExceeded, NotFound
from service.queries import Query
from service.shelf import Shelf
from service.values import ModelIdentity

MODEL = ModelIdentity.parse("test@1")
codes = arrays(np.int8, (50, 16), elements=st.integers(-127, 127))


@given(codes, arrays(np.float32, (3, 16), elements=st.floats(-5, 5, width=32)))
def test_scores_are_the_cosine_of_the_dequantised_vectors(stored: np.ndarray, examples: np.ndarray) -> None:
    try:
        query = Query.of(MODEL, examples[:2], examples[2:])
    except InvalidInput:
        return
    wide = stored.astype(np.float64) * 0.037  # any scale: cosine does not see it
    units = [e / np.linalg.norm(e) for e in examples.astype(np.float64)]
    direction = (units[0] + units[1]) / 2 - 0.5 * units[2]
    with np.errstate(invalid="ignore"):
        expected = wide @ direction / np.linalg.norm(direction) / np.linalg.norm(wide, axis=1)
    some = np.isfinite(expected)
    assert np.allclose(query.scores(stored)[some], expected[some], atol=2e-6)
    assert np.allclose(query.exact_scores(stored[some]), expected[some], atol=1e-12)
    assert np.isnan(query.scores(stored)[~some]).all()


def test_a_pixel_is_wholly_like_itself() -> None:
    pixel = np.arange(1, 17, dtype=np.int8)
    assert Query.of(MODEL, pixel[None].astype(np.float32)).exact_scores(pixel[None])[0] == pytest.approx(1, abs=1e-12)


def test_what_is_made_of_a_document_is_made_once(tmp_path: Path) -> None:
    shelf, made = Shelf(tmp_path, "query"), []

    def read(document: dict[str, object]) -> list[object]:
        made.append(document)
        return list(document.values())

    one, two = shelf.put({"a": 1}, "mine"), shelf.put({"a": 2})
    found = [shelf.value(key, read) for key in (one, "mine", one)]
    assert found == [[1]] * 3
    assert len(made) == 1
    shelf.put({"a": 2}, "mine")
    assert shelf.value("mine", read) == [2] == shelf.value(two, read)
    assert shelf.value(one, dict) == {"a": 1}, "something else is made of it"
    with pytest.raises(NotFound):
        shelf.value("none", read)


def test_a_query_comes_back_from_the_shelf_the_same(tmp_path: Path) -> None:
    query = Query.of(MODEL, np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32))
    shelf = Shelf(tmp_path, "query")
    key = shelf.put(query.to_document(), "mine")
    assert key == query.id
    for name in (key, "mine"):
        back = Query.from_document(shelf.get(name)[1])
        assert back.id == query.id
        assert (back.direction == query.direction).all()
    assert shelf.put(query.to_document()) == key
    assert shelf.names() == {"mine": key}


@pytest.mark.parametrize(
    "examples", [np.zeros((1, 4)), np.full((1, 4), np.nan), np.full((1, 4), np.inf), np.empty((0, 4))]
)
def test_examples_that_say_nothing_are_refused(examples: np.ndarray) -> None:
    with pytest.raises(InvalidInput) as caught:
        Query.of(MODEL, examples.astype(np.float32))
    assert caught.value.field == "wanted"


def test_examples_that_cancel_out_or_are_too_many_are_refused() -> None:
    one = np.ones((1, 4), np.float32)
    with pytest.raises(InvalidInput, match="cancel"):
        Query.of(MODEL, np.vstack([one, -one]))
    with pytest.raises(LimitExceeded):
        Query.of(MODEL, np.ones((1001, 4), np.float32))


def test_a_query_of_another_model_or_size_is_refused() -> None:
    query = Query.of(MODEL, np.ones((1, 4), np.float32))
    query.require_same_space(MODEL, 4, "the dataset has")
    with pytest.raises(IdentityMismatch):
        query.require_same_space(ModelIdentity.parse("other@1"), 4, "the dataset has")
    with pytest.raises(InvalidInput):
        query.require_same_space(MODEL, 8, "the dataset has")


def test_the_shelf_refuses_what_is_missing_changed_or_badly_named(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "query")
    key = shelf.put({"a": 1})
    with pytest.raises(NotFound):
        shelf.get("0" * 20)
    for name in ("../../etc/passwd", "no-such"):
        with pytest.raises((InvalidInput, NotFound)):
            shelf.get(name)
    with pytest.raises(InvalidInput):
        shelf.put({"a": 1}, "../x")
    (tmp_path / f"{key}.json").write_text('{"a":2}')
    with pytest.raises(Corrupt, match=key):
        shelf.get(key)
    with pytest.raises(LimitExceeded):
        shelf.put({"a": "x" * 9_000_000})
