"""Overviews of stores that are only read: built beside them, joined to them, and stale when the store moves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import morecantile
import numpy as np
import pytest
from typer.testing import CliRunner

from api.cli import app
from api.settings import Settings
from api.state import State
from service.colour import VectorView
from service.errors import Corrupt, Unavailable
from service.globe import LEVELS
from service.grid import Zone
from service.plan import Source
from service.standing import Standing, standing
from service.store import open_store
from service.store.contract import Store
from service.store.export import export_geoemb
from service.store.side import SideSnapshot, SideStore, side_repository
from service.tiles import TileReader, tile_target
from service.values import VALID, Vectors
from tests.conftest import client_of
from tests.stores import YEAR, Tiny, random_vectors, tiny_archive

DIMS = 4
TMS = morecantile.tms.get("WebMercatorQuad")


def flat(value: int, side: int = 100) -> Vectors:
    codes = np.zeros((side, side, DIMS), np.int8)
    codes[..., 0] = 2 * value
    return Vectors(codes, np.full((side, side), 0.5, np.float32), np.full((side, side), VALID, np.uint8))


def exported(folder: Path, value: int, name: str = "store") -> tuple[Tiny, Path]:
    """A published store of pixels that hold one value, and what it was made from."""
    tiny = tiny_archive(folder / f"of-{value}", flat(value))
    out = folder / name
    export_geoemb(tiny.store, out)
    return tiny, out


def shown(store: Store, tiny: Tiny, z: int) -> tuple[set[float], bool]:
    """The values of the first dimension that a low tile shows, and whether they are stale."""
    source = Source(store, YEAR, VectorView(DIMS), DIMS, picture=False)
    tile = TMS.tile(*tiny.lonlat(50, 50), z)
    image = TileReader(source).tile(tile.x, tile.y, tile.z)
    return set(np.rint(image.array[0].compressed()).tolist()), "stale" in source.notes


def replaced(out: Path, store: SideStore, folder: Path) -> None:
    """Another store where the joined one lay, of pixels that hold 7: its next refresh sees it."""
    _, other = exported(folder, 7, "other")
    out.rename(folder / "gone")
    other.rename(out)
    store.base.recheck_after = 0.0  # type: ignore[attr-defined]


@pytest.fixture
def joined(tmp_path: Path) -> tuple[Tiny, Path, SideStore]:
    tiny, out = exported(tmp_path, 3)
    base = open_store(out)
    return tiny, out, SideStore(base, side_repository(str(tmp_path / "overviews" / "store.icechunk"), base))


def require_all_old(store: SideStore, tiny: Tiny) -> None:
    """Every overview is known to be older than what `replaced` put there, which is shown in its stead."""
    tops = [block for level in LEVELS for block in store.blocks(YEAR, level=level)]
    assert store.stale(YEAR, tops) == set(tops)
    assert shown(store, tiny, 9) == ({7.0}, False), "seen from the store itself, as far as that may be read"


def test_overviews_beside_a_published_store(joined: tuple[Tiny, Path, SideStore]) -> None:
    tiny, out, store = joined
    assert store.levels() == (1,)
    seen: list[tuple[int, int]] = []
    written = store.write_overviews(YEAR, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (written, written)
    assert store.write_overviews(YEAR) == 0
    assert store.levels() == (1, *LEVELS)
    assert not store.writable
    assert [shown(store, tiny, z) for z in (0, 9, 12)] == 3 * [({3.0}, False)]
    for level in (2, 64):
        blocks = store.blocks(YEAR, level=level)
        read = [store.read(Zone.parse(b.zone), YEAR, b.rows, b.cols, level=level, dims=DIMS) for b in blocks]
        assert sum(int(found.valid.sum()) for found in read) >= (50 * 50 if level == 2 else 3)
        assert not store.stale(YEAR, blocks)
        assert all(store.versions(YEAR, blocks).values())
    assert not out.with_name("store.icechunk").exists(), "nothing is written into the store itself"


@pytest.mark.slow
def test_a_store_that_moves_makes_its_overviews_stale(joined: tuple[Tiny, Path, SideStore], tmp_path: Path) -> None:
    tiny, out, store = joined
    store.write_overviews(YEAR)
    before = store.revision()
    replaced(out, store, tmp_path)
    assert store.refresh()
    assert store.revision() != before
    require_all_old(store, tiny)
    assert store.write_overviews(YEAR) > 0
    assert shown(store, tiny, 0) == ({7.0}, False)


def test_a_store_that_moved_while_its_overviews_were_away_is_seen_to_have_moved(
    joined: tuple[Tiny, Path, SideStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, out, store = joined
    store.write_overviews(YEAR)
    assert shown(store, tiny, 9) == ({3.0}, False)
    replaced(out, store, tmp_path)

    def away() -> str:
        raise Unavailable("the overviews are away.")

    with monkeypatch.context() as patch:
        patch.setattr(store.repository, "tip", away)
        for _ in range(2):
            with pytest.raises(Unavailable):
                store.refresh()
    assert store.refresh()
    assert not store.refresh()
    require_all_old(store, tiny)


def test_overviews_that_are_away_keep_nobody_from_a_store_that_did_not_move(
    joined: tuple[Tiny, Path, SideStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, _, store = joined
    store.write_overviews(YEAR)
    revision = store.revision()

    def away() -> str:
        raise Unavailable("the overviews are away.")

    monkeypatch.setattr(store.repository, "tip", away)
    assert not store.refresh()
    assert store.revision() == revision
    assert shown(store, tiny, 9) == ({3.0}, False)


def test_what_is_asked_while_a_store_moves_is_not_remembered_for_what_it_is_then(
    joined: tuple[Tiny, Path, SideStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, out, store = joined
    store.write_overviews(YEAR)

    def stands(z: int) -> Standing:
        tile = TMS.tile(*tiny.lonlat(50, 50), z)
        source = Source(store, YEAR, VectorView(DIMS), DIMS, picture=False)
        return standing(source, tile_target(TMS, tile.x, tile.y, tile.z))

    old, low, high = store.revision(), stands(9), stands(14)
    replaced(out, store, tmp_path)
    look, meanwhile = store._look, []

    def looked(tip: str) -> SideSnapshot:
        meanwhile.append((store.revision(), stands(9), stands(14)))
        return look(tip)

    monkeypatch.setattr(store, "_look", looked)
    assert store.refresh()
    ((between, low_between, high_between),) = meanwhile
    assert len({old, between, store.revision()}) == 3, "vectors are new already, and overviews not yet"
    assert low_between == low, "these are the overviews that were there before"
    assert high_between != high, "a tile of the new vectors is none of the old ones"
    assert stands(9) != low
    assert stands(14) == high_between


def test_overviews_of_another_store_are_not_joined(joined: tuple[Tiny, Path, SideStore], tmp_path: Path) -> None:
    _, _, store = joined
    wide = tiny_archive(tmp_path / "wide", random_vectors((20, 20), 8))
    with pytest.raises(Corrupt, match="Delete it"):
        SideStore(wide.store, store.repository)


@pytest.mark.slow
def test_the_command_builds_them_and_the_catalogue_serves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, _ = exported(tmp_path, 3)
    (tmp_path / "smalti.toml").write_text('[[datasets]]\nid = "far"\nlocation = "store"\n')
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=tmp_path / "home", catalogue=tmp_path / "smalti.toml")
    client = client_of(settings)
    tile = TMS.tile(*tiny.lonlat(50, 50), 0)
    address = f"/datasets/far/2024/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy"
    etag = client.get(address).headers["ETag"]
    monkeypatch.setattr("api.catalogue.LOOK_AGAIN_S", 0)  # what follows may take less than a second
    environment = {"SMALTI_HOME": str(settings.home), "SMALTI_CATALOGUE": str(settings.catalogue)}
    ran = CliRunner().invoke(app, ["store", "overviews", "far", "--json"], env=environment)
    assert ran.exit_code == 0, ran.output
    (row,) = json.loads(ran.stdout)
    assert (row["window"], row["levels"]) == ("2024", 16384)
    assert row["written"] >= len(LEVELS)
    assert (settings.home / "overviews" / "far.icechunk").is_dir()
    answer = client.get(address)
    assert answer.status_code == 200
    assert answer.headers["ETag"] != etag
    assert client.get("/datasets/far").json()["minzoom"] == 0


def test_where_overviews_lie_is_told_to_nobody_who_may_only_read(tmp_path: Path) -> None:
    _, out = exported(tmp_path, 3)
    (tmp_path / "smalti.toml").write_text('[[datasets]]\nid = "far"\nlocation = "store"\n')
    home = tmp_path / "home"
    repository = side_repository(str(home / "overviews" / "far.icechunk"), open_store(out))
    state = State(Settings(home=home, catalogue=tmp_path / "smalti.toml"))
    state.datasets.look_now()
    assert state.datasets.named(f"{repository.location}: torn") == "the overviews of far: torn"


def test_overviews_deleted_while_they_are_served_leave_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = exported(tmp_path, 3)
    (tmp_path / "smalti.toml").write_text('[[datasets]]\nid = "far"\nlocation = "store"\n')
    home = tmp_path / "home"
    side = home / "overviews" / "far.icechunk"
    base = open_store(out)
    SideStore(base, side_repository(str(side), base)).write_overviews(YEAR)
    monkeypatch.setattr("api.catalogue.LOOK_AGAIN_S", 0)
    datasets = State(Settings(home=home, catalogue=tmp_path / "smalti.toml")).datasets
    with_them = datasets["far"].store
    assert with_them.levels() == (1, *LEVELS)

    (side / "refs").rename(side / "gone")  # damaged
    assert datasets["far"].store.levels() == (1,)
    assert "overviews of far" in datasets.broken
    shutil.rmtree(side)
    assert datasets["far"].store.levels() == (1,)
    assert datasets.broken == {}

    SideStore(base, side_repository(str(side), base)).write_overviews(YEAR)
    assert datasets["far"].store.levels() == (1, *LEVELS), "made anew, they are found without a restart"
