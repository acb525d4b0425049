"""Journey 3 without HTTP: what a stopped or repeated run leaves in the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.cells import cells_of_places
from service.embed import embed_source, store_result
from service.encoder import Encoder
from service.errors import IdentityMismatch, InvalidInput
from service.grid import Zone, archive_grid
from service.registry import SHIPPED, Registry
from service.simulate import Landscape
from service.sources import Placement, Simulated
from service.store import WritableStore, create_store
from service.values import BLOCK, REJECTED, ModelIdentity, Window

YEAR = Window.year(2024)
SIDE = 16


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.open(Registry((SHIPPED,)).get("smalti-mini"), engine="cpu")


@pytest.fixture
def store(tmp_path: Path, encoder: Encoder) -> WritableStore:
    return create_store(tmp_path / "s.icechunk", encoder.identity)


@pytest.fixture
def source() -> Simulated:
    """A few pixels where four blocks meet."""
    placement = Placement(Zone.parse("31N"), 1280 * BLOCK - SIDE // 2, 114 * BLOCK - SIDE // 2, SIDE, SIDE)
    return Simulated(placement, Landscape(3, SIDE, SIDE), YEAR)


def test_every_pixel_of_a_source_lands_where_it_belongs(
    source: Simulated, encoder: Encoder, store: WritableStore
) -> None:
    told: list[tuple[int, int]] = []
    report = embed_source(source, encoder, store, on_progress=lambda *at: told.append(at))
    assert len(report.written) == 4
    assert told[-1] == (SIDE * SIDE, SIDE * SIDE)
    place = source.placement
    stored = store.read(place.zone, YEAR, place.rows, place.cols)
    direct = encoder.encode(source.read(slice(0, SIDE), slice(0, SIDE))).vectors
    assert (stored.codes.reshape(-1, 128) == direct.codes).all()
    assert (stored.scales.ravel() == direct.scales).all()
    around = store.read(place.zone, YEAR, slice(place.row - 2, place.row), place.cols)
    assert not around.valid.any()


def test_a_second_run_does_nothing(source: Simulated, encoder: Encoder, store: WritableStore) -> None:
    first = embed_source(source, encoder, store)
    again = embed_source(source, encoder, store)
    assert again.written == ()
    assert len(again.skipped) == 4
    assert again.revision == first.revision


@pytest.mark.slow
def test_a_stricter_run_rejects_what_a_laxer_one_made_and_is_known_to_have_been(
    source: Simulated, encoder: Encoder, store: WritableStore
) -> None:
    place = source.placement
    embed_source(source, encoder, store, min_s2=0)
    counts = store.counts_window(place.zone, YEAR, place.rows, place.cols).s2
    least = int(np.median(counts)) + 1
    for _ in range(2):
        strict = embed_source(source, encoder, store, min_s2=least)
        status = store.read(place.zone, YEAR, place.rows, place.cols).status
        assert 0 < (counts < least).sum() < counts.size
        assert ((status == REJECTED) == (counts < least)).all(), "never plausible numbers"
        assert len(strict.written) + len(strict.skipped) == 4
    assert not strict.written, "made anew each time it is asked for"
    embed_source(source, encoder, store, min_s2=0)
    assert store.read(place.zone, YEAR, place.rows, place.cols).valid.all()


def test_what_others_store_beside_a_source_stays_and_is_no_reason_to_embed_again(
    source: Simulated, encoder: Encoder, store: WritableStore
) -> None:
    embed_source(source, encoder, store)
    place, around = source.placement, slice(source.placement.row - 2, source.placement.row - 1)
    one = encoder.encode(source.read(slice(0, 1), slice(0, 1)))
    where = archive_grid(place.zone).to_lonlat(np.array([place.row - 1.5]), np.array([place.col + 0.5]))
    store_result(cells_of_places(np.stack(where, axis=1)), one, store, YEAR, "somebody's own series")
    assert len(embed_source(source, encoder, store).written) == 1, "others wrote to it since"
    assert not embed_source(source, encoder, store).written
    kept = store.read(place.zone, YEAR, around, slice(place.col, place.col + 1))
    assert kept.valid.all()
    assert (kept.codes[0] == one.vectors.codes).all()


def test_a_run_stopped_before_its_overviews_makes_them_when_it_is_repeated(
    source: Simulated, encoder: Encoder, store: WritableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(store), "write_overviews", killed)
        with pytest.raises(KeyboardInterrupt):
            embed_source(source, encoder, store)
    assert not store.blocks(YEAR, level=2)
    assert embed_source(source, encoder, store).written == ()
    for level in (2, 32):
        assert store.blocks(YEAR, level=level)


def test_a_store_of_another_model_is_refused(source: Simulated, encoder: Encoder, tmp_path: Path) -> None:
    other = create_store(tmp_path / "other.icechunk", ModelIdentity.parse("tessera@1.1"))
    with pytest.raises(IdentityMismatch, match=r"smalti-mini.*tessera|tessera.*smalti-mini"):
        embed_source(source, encoder, other)


def test_uploads_lie_on_the_grid_or_are_refused() -> None:
    grid = archive_grid(Zone.parse("31N"))
    right = (10.0, 0.0, grid.x0 + 500, 0.0, -10.0, grid.y0 - 700)
    assert Placement.of(32631, right, 2, 3) == Placement(grid.zone, 70, 50, 2, 3)
    for epsg, transform in (
        (4326, right),
        (32661, right),
        (32631, (20.0, *right[1:])),
        (32631, (10.0, 0.1, *right[2:])),
        (32631, (*right[:2], right[2] + 4, *right[3:])),
        (32631, (*right[:2], 0.0, *right[3:])),
        (32631, (*right[:2], float("inf"), *right[3:])),
    ):
        with pytest.raises(InvalidInput):
            Placement.of(epsg, transform, 2, 3)


def test_two_places_in_one_pixel_are_refused() -> None:
    with pytest.raises(InvalidInput, match="same 10 m cell"):
        cells_of_places(np.array([[2.3, 54.7], [2.4, 54.7], [2.300001, 54.700001]]))
