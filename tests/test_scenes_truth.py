"""End to end against the truth: what scenes over HTTP are made into is what the simulator knows it saw."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from service.dpixels import DPixels, from_arrays
from service.encoder import Encoder
from service.grid import Block, Zone, archive_grid, blocks_of
from service.origins import source_in, sources_of
from service.registry import SHIPPED, Registry
from service.scenes import source as scenes_source
from service.scenes.access import Access
from service.scenes.hosts import Hosts
from service.scenes.source import Scenes
from service.scenes.value import MPC, Scene
from service.simulate.passes import Tiling
from service.simulate.terrain import Terrain
from service.sources import Cost, Placement, Source
from service.values import Area, BoolArray, Window
from tests.scenery import SMALL, publish_terrain, serving, terrain_at

SIDE = 40
ON_BORDER = (-0.0001, 52.24)
"""A place where zones 30 and 31 meet, far from the edges of blocks on both grids."""
WINTER = Window.parse("2022-01-16..2022-02-01")
"""On both sides of the day from which on values are offset."""


@contextmanager
def catalogue(folder: Path, mode: str, window: Window) -> Iterator[tuple[Source, Source]]:
    """The sources of both zones, from a folder of scenes behind a server."""
    with serving(folder) as address:
        document = {"type": "scenes", "mode": mode, "s2": f"{address}/", "s1": f"{address}/", "bounds": [-1, 52, 1, 53]}
        found = sources_of(document, window, Access(hosts=Hosts((address,))), Area(-0.01, 52.2, 0.01, 52.3))
        assert [source.placement.zone for source in found] == [Zone(30), Zone(31)]
        yield found  # type: ignore[misc]


def the_block(terrain: Terrain, zone: Zone) -> Block:
    (block,) = blocks_of(zone.name, *terrain.seen_in(zone))
    return block


def pixels_of(terrain: Terrain, block: Block) -> tuple[BoolArray, BoolArray]:
    """(n,) which of a block's pixels the zone itself sees, and which of them lie wholly within what it sees."""
    _, _, held = terrain.cells(Zone.parse(block.zone), block.rows, block.cols)
    inner = held.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(inner, step, axis)
    return held.ravel(), inner.ravel()


def taken(d: DPixels, which: BoolArray) -> DPixels:
    cut = {f.name: getattr(d, f.name)[which] for f in fields(d) if f.name != "shape"}
    return DPixels(**cut, shape=(int(which.sum()),))


def seen(d: DPixels) -> dict[str, list[set[tuple[int, ...]]]]:
    """By sensor: for each pixel its valid observations, (day, values...)."""
    out = {}
    for name in ("s2", "s1_asc", "s1_desc"):
        values, days, valid = getattr(d, name), getattr(d, f"{name}_doy"), getattr(d, f"{name}_valid")
        out[name] = [
            {(int(doy), *row) for doy, row in zip(days[i][valid[i]], values[i][valid[i]].tolist(), strict=True)}
            for i in range(len(d))
        ]
    return out


def read(source: Source, block: Block) -> DPixels:
    return source.read(*source.placement.within(block))


def is_in_order(d: DPixels) -> bool:
    return all((np.diff(getattr(d, f"{name}_doy")[0]) > 0).all() for name in ("s2", "s1_asc", "s1_desc"))


@pytest.mark.parametrize("mode", ["mpc", "aws"])
def test_pixels_made_from_scenes_are_the_landscapes_own(tmp_path: Path, mode: str) -> None:
    terrain = terrain_at(*ON_BORDER, side=SIDE, zone=Zone(30))
    publish_terrain(terrain, tmp_path, mode, WINTER, Tiling(side=128, overlap=16, split=2))
    with catalogue(tmp_path, mode, WINTER) as sources:
        for source in sources:
            block = the_block(terrain, source.placement.zone)
            _, inner = pixels_of(terrain, block)
            made = read(source, block)
            truth = from_arrays(terrain.dpixels(WINTER, source.placement.zone, block.rows, block.cols))
            assert inner.sum() > 500
            assert seen(taken(made, inner)) == seen(taken(truth, inner))
            assert is_in_order(made)
            cost, told = source.cost_of([block]), source.provenance(block)
            assert cost.scenes == sum(len(found) for found in told["scenes"].values()) > 5
            assert cost.bytes > 10_000


def test_a_digest_tells_of_the_scenes_and_neither_threads_nor_cuts_make_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terrain = terrain_at(*ON_BORDER, side=SIDE, zone=Zone(30))
    early, window = Window.parse("2022-01-10..2022-01-20"), Window.parse("2022-01-10..2022-01-31")
    publish_terrain(terrain, tmp_path, "mpc", early, SMALL)
    document = {"type": "scenes", "mode": "mpc", **dict.fromkeys(("s2", "s1"), str(tmp_path / "catalog.json"))}
    access = Access(folders=(tmp_path,))

    def source() -> Scenes:
        scenes_source._kept.clear()
        return source_in(document, window, access, Zone(30))  # type: ignore[return-value]

    first, block = source(), the_block(terrain, Zone(30))
    before, made = first.digest_of(block), read(first, block)
    assert before == source().digest_of(block)
    rows, cols = first.placement.within(block)
    monkeypatch.setattr(scenes_source, "pool", lambda: ThreadPoolExecutor(1))
    part = first.read(slice(rows.start + 60, rows.start + 90), slice(cols.start + 80, cols.start + 130))
    for name in ("s2", "s2_valid", "s1_asc", "s1_desc"):
        whole = getattr(made, name)
        whole = whole.reshape(256, 256, *whole.shape[1:])[60:90, 80:130]
        assert (whole.reshape(30 * 50, *whole.shape[2:]) == getattr(part, name)).all()
    assert made.s2_valid.any()

    publish_terrain(terrain, tmp_path, "mpc", window, SMALL)
    assert first.digest_of(block) == before, "a source reads what it told of"
    assert source().digest_of(block) != before
    far = replace(block, row=block.row + 1)
    assert not source().scenes_of(far)
    assert not len(read(source(), far).s2[0])


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.open(Registry((SHIPPED,)).get("smalti-mini"), engine="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["mpc", "aws"])
def test_codes_from_scenes_are_those_of_the_truth(tmp_path: Path, mode: str, encoder: Encoder) -> None:
    terrain = terrain_at(*ON_BORDER, side=SIDE, zone=Zone(30))
    publish_terrain(terrain, tmp_path, mode, Window.year(2022), Tiling(side=128, overlap=16, split=8))
    for window in (Window.year(2022), Window.parse("2022-05-01..2022-09-30")):
        with catalogue(tmp_path, mode, window) as sources:
            for source in sources:
                block = the_block(terrain, source.placement.zone)
                held, _ = pixels_of(terrain, block)
                truth = from_arrays(terrain.dpixels(window, source.placement.zone, block.rows, block.cols))
                ours = encoder.encode(taken(read(source, block), held)).vectors
                theirs = encoder.encode(taken(truth, held)).vectors
                assert ours.valid.all()
                assert theirs.valid.all()
                apart = np.abs(ours.codes.astype(int) - theirs.codes.astype(int))
                assert (apart <= 1).mean() >= 0.995
                np.testing.assert_allclose(ours.scales, theirs.scales, rtol=0.05)


def test_a_scene_that_two_answers_hold_is_counted_once() -> None:
    one, two = (Scene(name, "s2", "s2", WINTER.start, None, {}, None, None, 0, "", 100) for name in ("one", "two"))
    answers = [(one, replace(two, order=1)), (two,)]
    row, col = (int(at[0]) // 4096 * 16 for at in archive_grid(Zone(31)).from_lonlat(np.array([3.0]), np.array([52.0])))
    blocks = [Block("31N", row, col), Block("31N", row, col + 16)]
    place = Placement(Zone(31), row * 256, col * 256, 256, 17 * 256)
    held = Scenes(place, WINTER, MPC, {}, lambda sensor, _: answers.pop(0) if sensor == "s2" else (), Access())
    assert held.cost_of(blocks) == Cost(2, 200)
    assert answers == []


def test_no_catalogue_is_asked_beyond_its_bounds() -> None:
    document = {"type": "scenes", "mode": "mpc", "bounds": [-0.5, -0.25, 6.5, 0.25]}
    found = sources_of(document, WINTER)
    assert {source.placement.zone.name for source in found} == {"30N", "30S", "31N", "31S", "32N", "32S"}
    for source in found:
        place, grid = source.placement, archive_grid(source.placement.zone)
        assert place.row % 256 == place.col % 256 == place.height % 256 == place.width % 256 == 0
        west, south, east, north = place.zone.bounds
        for lon in np.linspace(max(west, -0.5) + 1e-9, min(east, 6.5) - 1e-9, 7):
            for lat in np.linspace(max(south, -0.25), min(north, 0.25) - 1e-9, 5):
                row, col = grid.from_lonlat(np.array([lon]), np.array([lat]))
                assert place.rows.start <= row[0] <= place.rows.stop
                assert place.cols.start <= col[0] <= place.cols.stop
    assert len(sources_of({"type": "scenes", "mode": "mpc"}, WINTER)) == 120
    assert len(sources_of({"type": "scenes", "mode": "aws"}, WINTER, None, Area(179.5, 10, -179.5, 11))) == 2
