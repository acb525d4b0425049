"""smalti embed-region: whole regions over Dask, whose workers may die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from api.cli import app
from api.commands.region import _geometry, _neighbours_together, _place
from api.settings import Settings
from api.state import State
from service.area import bounds_of
from service.embed import embed_source
from service.errors import InvalidInput
from service.grid import Block, Zone
from service.registry import SHIPPED, Registry
from service.scenes.cells import Cell
from service.simulate import Landscape
from service.sources import Placement, Simulated
from service.store import create_store
from service.values import BLOCK, Window
from tests.services import environment, free_port

BIN = Path(sys.executable).parent
YEAR = Window.year(2024)
SIDES = 60, 90
SOURCE = Simulated(
    Placement(Zone.parse("31N"), 1280 * BLOCK - 30, 114 * BLOCK - 45, *SIDES), Landscape(3, *SIDES), YEAR
)
BOX = ",".join(map(str, bounds_of(SOURCE.placement)))


def world(home: Path) -> Settings:
    """A home with an empty dataset `field`, whose source lies on four blocks."""
    settings = Settings(home=home, catalogue=Path("none.toml"))
    state = State(settings)
    (home / "datasets").mkdir(parents=True)
    model = Registry((SHIPPED,)).get("smalti-mini").manifest
    create_store(home / "datasets" / "field.icechunk", model.identity, dims=model.dims)
    state.sources.put(SOURCE.to_document(), "field")
    return settings


def command(home: Path, *words: str) -> Result:
    told = ["embed-region", "--dataset", "field", "--window", "2024", *words]
    return CliRunner().invoke(app, told, env={"SMALTI_HOME": str(home), "SMALTI_CATALOGUE": "none.toml"})


def test_a_place_is_told_in_one_of_two_ways(tmp_path: Path) -> None:
    world(tmp_path / "home")
    for words in ((), ("--bbox", "1,2,3"), ("--bbox", BOX, "--geometry", __file__), ("--geometry", __file__)):
        done = command(tmp_path / "home", *words)
        assert done.exit_code != 0
        assert isinstance(done.exception, InvalidInput), done.output
    done = command(tmp_path / "home", "--bbox", BOX, "--scheduler", "tcp://127.0.0.1:1", "--processes", "2")
    assert isinstance(done.exception, InvalidInput)
    assert done.exception.field == "processes"


def test_features_are_taken_together() -> None:
    one = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    two = {"type": "MultiPolygon", "coordinates": [[[[2, 0], [3, 0], [3, 1], [2, 0]]]]}
    features = [{"type": "Feature", "geometry": shape, "properties": {}} for shape in (one, two)]
    found = _geometry({"type": "FeatureCollection", "features": features})
    assert found == {"type": "MultiPolygon", "coordinates": [one["coordinates"], *two["coordinates"]]}
    assert _geometry(features[0]) == one


POINT = {"type": "Point", "coordinates": [2.3, 54.7]}
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}


@pytest.mark.parametrize(
    "document",
    [
        [1, 2], {}, POINT, {"type": "Polygon"}, {"type": "Polygon", "coordinates": [[[0], [1], [2], [0]]]},
        {"type": "FeatureCollection", "features": 5}, {"type": "FeatureCollection", "features": []},
        {"type": "FeatureCollection", "features": [
            {"type": "Feature", "geometry": SQUARE},
            {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": [SQUARE]}},
        ]},
        {"type": "Feature", "geometry": None},
    ],
)  # fmt: skip
def test_a_file_that_holds_anything_but_polygons_is_refused(document: object, tmp_path: Path) -> None:
    """What is left out in silence would never be embedded."""
    file = tmp_path / "shape.geojson"
    file.write_text(json.dumps(document))
    with pytest.raises(InvalidInput) as raised:
        _place(None, file)
    assert raised.value.field == "geometry"
    assert raised.value.remedy


def test_blocks_of_one_question_to_a_catalogue_are_done_together() -> None:
    blocks = [Block("31N", row, col) for row in range(1270, 1300) for col in range(100, 140)]
    ordered = _neighbours_together(blocks)
    assert sorted(ordered) == blocks
    squares = [square for square, _ in groupby(map(Cell.of, ordered))]
    assert len(squares) == len(set(squares)) == 9


def test_a_dry_run_tells_what_it_would_take(tmp_path: Path) -> None:
    world(tmp_path / "home")
    done = command(tmp_path / "home", "--bbox", BOX, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["blocks"], told["left"], told["pixels"]) == (4, 4, 60 * 90)


@pytest.mark.slow
def test_a_region_is_embedded_on_this_machine_indexed_and_gone_on_with(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = world(home)
    shape = tmp_path / "shape.geojson"
    west, south, east, north = bounds_of(SOURCE.placement)
    ring = [[west, south], [(west + east) / 2 - 1e-4, south], [(west + east) / 2 - 1e-4, north], [west, north]]
    shape.write_text(json.dumps({"type": "Polygon", "coordinates": [[*ring, ring[0]]]}))
    first = json.loads(command(home, "--geometry", str(shape), "--no-index", "--json").stdout)
    assert (first["blocks"], first["embedded"], first["already"]) == (2, 2, 0)
    done = command(home, "--bbox", BOX, "--processes", "2", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["blocks"], told["embedded"], told["already"], told["failed"]) == (4, 2, 2, {})
    state = State(settings)
    store = state.datasets["field"].store
    assert len(store.blocks(YEAR)) == 4
    assert not store.stale(YEAR, store.blocks(YEAR, level=32))
    assert state.searcher(state.datasets["field"]).behind(YEAR) == 0
    again = json.loads(command(home, "--bbox", BOX, "--json").stdout)
    assert (again["embedded"], again["already"], again["revision"]) == (0, 4, told["revision"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_of_dask_killed_in_a_block_costs_that_block_alone(tmp_path: Path) -> None:
    """Contents as of an undisturbed run, byte for byte; nothing that was committed is made again."""
    settings = world(tmp_path / "home")
    notes, address = tmp_path / "notes", f"tcp://127.0.0.1:{free_port()}"
    scheduler = [str(BIN / "dask"), "scheduler", f"--port={address.rpartition(':')[2]}", "--host=127.0.0.1"]
    worker = [sys.executable, "-m", "tests.region_worker", address, str(notes)]
    quiet = {"cwd": Path(__file__).parents[1], "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    running = [subprocess.Popen([*scheduler, "--no-dashboard"], **quiet)]
    running += [subprocess.Popen(worker, **quiet) for _ in range(2)]
    told = [sys.executable, "-m", "api.cli", "embed-region", "--dataset", "field", "--window", "2024", "--bbox", BOX]
    try:
        region = subprocess.Popen(
            [*told, "--scheduler", address, "--json"], env=environment(settings), stdout=subprocess.PIPE, text=True
        )
        running.append(region)
        victim = first_to_begin(notes)
        os.kill(victim, signal.SIGKILL)
        out, _ = region.communicate(timeout=240)
        assert region.returncode == 0, out
    finally:
        for process in reversed(running):
            process.kill()
            process.wait()
    told_back: dict[str, Any] = json.loads(out)
    assert told_back["failed"] == {}
    lines = [line.split() for line in notes.read_text().splitlines()]
    ends = Counter(block for word, _, block in lines if word == "end")
    assert len(ends) == 4
    assert set(ends.values()) == {1}, "each block was committed once"
    committed: set[str] = set()
    for word, _, block in lines:
        assert word == "end" or block not in committed, "what was committed is not begun again"
        committed |= {block} if word == "end" else set()
    assert any(word == "begin" and int(pid) == victim for word, pid, _ in lines)
    check_as_undisturbed(settings, tmp_path)


def first_to_begin(notes: Path) -> int:
    until = time.monotonic() + 120
    while not (notes.exists() and "begin" in notes.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return int(notes.read_text().split()[1])


def check_as_undisturbed(settings: Settings, folder: Path) -> None:
    state = State(settings)
    encoder, store = state.encoder("smalti-mini"), state.datasets.require_writable("field")
    quiet = create_store(folder / "quiet.icechunk", encoder.identity, dims=encoder.dims)
    embed_source(SOURCE, encoder, quiet, min_s2=15)
    for level in (1, 2, 32):
        blocks = quiet.blocks(YEAR, level=level)
        assert store.blocks(YEAR, level=level) == blocks
        assert store.versions(YEAR, blocks) == quiet.versions(YEAR, blocks), "versions are hashes of the content"
    blocks = quiet.blocks(YEAR)
    assert store.fingerprints(YEAR, blocks) == quiet.fingerprints(YEAR, blocks)
    shutil.rmtree(folder / "quiet.icechunk")
