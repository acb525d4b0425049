"""Builds that are killed at any moment: what served goes on serving, and the next build goes on where they were."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from indexing.index.ann import unit
from indexing.index.build import build_index
from indexing.index.manifest import IndexManifest, current, load
from indexing.index.opened import OpenedIndex
from tests.conftest import ROOT
from tests.fakes import MemoryStore
from tests.test_indexing import YEAR, landscape

SIDE = 170
_KILLED = """
import sys
from pathlib import Path
from indexing.index.build import build_index
from tests.test_index_kills import YEAR, state_of
folder, states = Path(sys.argv[1]), [state_of(n) for n in range(4)]
n = int(sys.argv[2])
print("go", flush=True)
while True:
    n += 1  # growing, swapping, and now and then all anew
    build_index(states[n % 4], "demo", YEAR, folder, most_blocks=2, rebuild=n % 5 == 0)
"""


def state_of(number: int) -> MemoryStore:
    """One store in four states: blocks come, change and go."""
    store = landscape(side=SIDE, seed=1)
    vectors = store.parts[0].vectors
    if number == 1:
        vectors.codes[156:, 156:] //= 2
    if number == 2:
        vectors.codes[40:120, 60:80] //= 3
    if number == 3:
        vectors.scales[156:], vectors.status[156:], vectors.codes[156:] = 0, 0, 0
    return store


def require_whole(folder: Path, states: list[MemoryStore]) -> IndexManifest:
    """What serves is whole, is of one of the states, and finds the pixels of that state."""
    generation = current(folder, YEAR)
    assert generation is not None
    manifest = load(generation)
    for part in (manifest.quantiser, *manifest.segments):
        for record in part.files:
            record.check(generation.parent / part.name, whole=True)
    store = next(s for s in states if dict(s.versions(YEAR, s.blocks(YEAR))) == dict(manifest.blocks))
    index = OpenedIndex.of(generation, store, "demo", YEAR)
    codes = store.parts[0].vectors.codes[60:70, 60:70].reshape(-1, 128)
    for wanted, proposal in zip(codes, index.propose(unit(codes), 20, 16), strict=True):
        assert (index.rows(proposal)[1].codes == wanted).all(axis=1).any()
    return manifest


@pytest.mark.slow
def test_twenty_kills_at_random_moments_never_disturb_what_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexing.index.learn.HELD_OUT", 40)
    states = [state_of(number) for number in range(4)]
    began = time.monotonic()
    build_index(states[0], "demo", YEAR, tmp_path, most_blocks=2)
    longest = max(1.5, 2 * (time.monotonic() - began))  # so that some builds end, on a slow machine too
    rng, seen = np.random.default_rng(0), set()
    for kill in range(20):
        arguments = [sys.executable, "-c", _KILLED, str(tmp_path), str(kill)]
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.02, longest))
        process.kill()
        process.wait()
        process.stdout.close()
        require_whole(tmp_path, states)
        seen.add(current(tmp_path, YEAR))
    assert len(seen) > 2, "some builds did end"
    for store in states:
        build_index(store, "demo", YEAR, tmp_path, most_blocks=2)
        assert dict(require_whole(tmp_path, [store]).blocks) == dict(store.versions(YEAR, store.blocks(YEAR)))
    home = tmp_path / "2024"
    assert not list(home.glob(".part-*"))
    kept = {name for path in home.glob("g-*") for name in _named(load(path))}
    assert {path.name for path in home.glob("[qs]-*")} == kept, "nothing is left of what was killed"


def _named(manifest: IndexManifest) -> set[str]:
    return {manifest.quantiser.name, *(segment.name for segment in manifest.segments)}
