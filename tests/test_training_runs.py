"""Training runs: stopped and gone on with, refused, probed, drawn."""

from __future__ import annotations

import json
import resource
import weakref
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")


from service.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable  # noqa: E402
from service.training import probe as probing  # noqa: E402
from service.training import sources  # noqa: E402
from service.training.loop import objective_of, train  # noqa: E402
from service.training.networks import Sizes, StudentConfig  # noqa: E402
from service.training.optimise import Updater  # noqa: E402
from service.training.recipes import PRESETS, Recipe, recipe  # noqa: E402
from service.training.runs import Run, read_curves  # noqa: E402

CPU = torch.device("cpu")
TINY = StudentConfig(repr_dim=32, latent_dim=2, num_layers=1, nhead=2, dim_feedforward=16)
RECIPE = Recipe(
    TINY, steps=13, batch=16, pixels=80, min_s2=0, min_s1=0, views="sparse", s2_times=(4, 12), s1_times=(4, 12),
    projector=24, monthly=1.0, by_width=True, hidden=2, log_every=3, save_every=4,
)  # fmt: skip
V1 = replace(
    PRESETS["v1"], student=Sizes(32, 2, 1, 4, 16), steps=13, batch=16, pixels=120, projector=24, log_every=3,
    save_every=4, probe_every=0,
)  # fmt: skip
SAME = ("step", "loss", "twins", "mix", "monthly", "rank_me", "rank_entropy", "learning_rate", "probe")


class Stopped(Exception):
    """The run is stopped as if it had been killed."""


def trained(folder: Path, made: Recipe = RECIPE, stop_after: int = 0, seed: int = 2, **options):
    """Train in this process; optionally break off after some steps."""

    def tick(done: int, _: int, __: str) -> None:
        if done == stop_after:
            raise Stopped

    if made.pool:
        from service.training.data import training_series
        from service.training.views import Pool

        source = sources.Pooled(Pool(training_series(made.pixels, seed, made.published.statistics)), made, seed)
        pixels = {"simulated": made.pixels}
    else:
        found = sources.shuffled(made, (), folder / "pixels", seed)
        source, pixels = sources.Streamed(found, made, seed), found.source
    return train(Run(folder, made, seed, pixels), objective_of(made, seed), source, CPU, on_progress=tick, **options)


def curve(folder: Path) -> list[dict[str, float]]:
    return [{k: row[k] for k in SAME if k in row} for row in read_curves(folder / "curves.jsonl")]


def weights(folder: Path) -> bytes:
    state = torch.load(folder / "resume.pt", weights_only=True)["module"]
    return b"".join(name.encode() + value.numpy().tobytes() for name, value in sorted(state.items()))


@pytest.fixture
def undrawn(monkeypatch):
    """Runs that leave out the picture of their curves, which is most of the time of so small ones."""
    monkeypatch.setattr("service.training.loop.plot", lambda folder: None)


@contextmanager
def full_beyond(size: int):
    """A disk on which no file grows beyond so many bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("kind", ["disk", "pool", "quantised bf16", "v1"])
def test_a_stopped_run_goes_on_exactly(tmp_path, undrawn, kind):
    made = {
        "disk": RECIPE,
        "pool": replace(RECIPE, pool=True),
        "v1": V1,
        "quantised bf16": replace(RECIPE, qat=True, precision="bf16", views="drawn", s2_times=(8, 8), s1_times=(8, 8)),
    }[kind]
    trained(tmp_path / "whole", made)
    for stop in (2, 6, 11):  # before the first checkpoint, and past two
        with pytest.raises(Stopped):
            trained(tmp_path / "parts", made, stop_after=stop)
    assert not (tmp_path / "parts" / "curves.jsonl").read_text().count('"step": 12')
    trained(tmp_path / "parts", made)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert [row["step"] for row in curve(tmp_path / "whole")] == [0, 3, 6, 9, 12]
    files = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts")]
    part = "model_state_dict" if kind == "v1" else "model"
    assert all(torch.equal(v, files[1][part][k]) for k, v in files[0][part].items())
    seconds = [row["seconds"] for row in read_curves(tmp_path / "parts" / "curves.jsonl")]
    assert seconds == sorted(seconds)


def test_the_seed_decides(tmp_path, undrawn):
    made = replace(RECIPE, steps=4)
    trained(tmp_path / "a", made)
    trained(tmp_path / "b", made, seed=3)
    assert weights(tmp_path / "a") != weights(tmp_path / "b")


def test_a_torn_line_of_the_curves_is_forgotten(tmp_path, undrawn):
    with pytest.raises(Stopped):
        trained(tmp_path / "a", stop_after=9)
    with (tmp_path / "a" / "curves.jsonl").open("a") as file:
        file.write('{"step": 11, "lo')
    trained(tmp_path / "a")
    trained(tmp_path / "b")
    assert curve(tmp_path / "a") == curve(tmp_path / "b")


def test_another_recipe_seed_or_data_in_the_folder_is_refused(tmp_path, undrawn):
    with pytest.raises(Stopped):
        trained(tmp_path, stop_after=5)
    before = (tmp_path / "curves.jsonl").read_text(), (tmp_path / "recipe.json").read_text()
    with pytest.raises(Conflict, match=r"base_rate 0\.002, not 0\.01"):
        trained(tmp_path, replace(RECIPE, base_rate=0.01))
    with pytest.raises(Conflict, match="num_layers 1, not 2"):
        trained(tmp_path, replace(RECIPE, student=replace(TINY, num_layers=2)))
    with pytest.raises(Conflict, match="seed 2, not 3"):
        Run(tmp_path, RECIPE, 3, {"simulated": 80, "seed": 2}).begin(CPU, resume=False)
    with pytest.raises(Conflict, match=r"source\.simulated 80, not 81"):
        Run(tmp_path, RECIPE, 2, {"simulated": 81, "seed": 2}).begin(CPU, resume=False)
    assert before == ((tmp_path / "curves.jsonl").read_text(), (tmp_path / "recipe.json").read_text())


def test_resume_needs_a_checkpoint_and_a_whole_one(tmp_path, undrawn):
    with pytest.raises(NotFound, match="no checkpoint to go on from"):
        trained(tmp_path, resume=True)
    with pytest.raises(Stopped):
        trained(tmp_path, stop_after=5)
    whole = (tmp_path / "resume.pt").read_bytes()
    (tmp_path / "resume.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Corrupt, match=r"resume\.pt cannot be read"):
        trained(tmp_path, resume=True)
    (tmp_path / "resume.pt").write_bytes(whole)
    student, last = trained(tmp_path, resume=True)
    assert last["step"] == 12
    assert not student.training


def test_a_full_disk_ends_a_run_in_words_and_room_lets_it_go_on(tmp_path, undrawn):
    trained(tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(tmp_path / "full", stop_after=5)
    before = sorted(p.name for p in (tmp_path / "full").iterdir())
    for size in (20_000, 0):  # no room for a checkpoint; none at all
        with full_beyond(size), pytest.raises(Unavailable, match=r"out: .* cannot be written: .* Make room"):
            trained(tmp_path / "full")
        assert sorted(p.name for p in (tmp_path / "full").iterdir()) == before  # nothing half-written stays
    with full_beyond(20_000), pytest.raises(Unavailable, match=r"out: .*pixels cannot be written"):
        trained(tmp_path / "unshuffled")
    assert not list((tmp_path / "unshuffled").iterdir())
    trained(tmp_path / "full")
    assert weights(tmp_path / "full") == weights(tmp_path / "whole")
    assert curve(tmp_path / "full") == curve(tmp_path / "whole")


def test_a_checkpoint_gone_on_from_is_let_go_of(tmp_path, undrawn, monkeypatch):
    with pytest.raises(Stopped):
        trained(tmp_path, stop_after=5)
    begin, step, held = Run.begin, Updater.step, []

    def begun(*args, **options):
        state = begin(*args, **options)
        held.extend(weakref.ref(value) for value in state["module"].values())
        return state

    def stepped(*args):
        assert held
        assert all(value() is None for value in held)  # it is as large as the run itself
        return step(*args)

    monkeypatch.setattr(Run, "begin", begun)
    monkeypatch.setattr(Updater, "step", stepped)
    trained(tmp_path, resume=True)


def test_a_finished_run_is_not_trained_again(tmp_path, undrawn):
    trained(tmp_path)
    before = (tmp_path / "resume.pt").stat().st_mtime_ns
    _, last = trained(tmp_path)
    assert last["step"] == 12
    assert (tmp_path / "resume.pt").stat().st_mtime_ns == before


def test_a_run_that_diverges_stops_before_its_checkpoint_is_lost(tmp_path):
    made = replace(RECIPE, base_rate=1e30, warm_up=0.0, save_every=1, log_every=100)
    with pytest.raises(InvalidInput, match=r"rate: the loss is not finite at step \d+\. Choose"):
        trained(tmp_path, made)
    state = torch.load(tmp_path / "resume.pt", weights_only=True)
    assert state["step"] < 12
    assert all(value.isfinite().all() for name, value in state["module"].items() if "running" not in name)


def test_weights_that_are_no_numbers_are_not_kept(tmp_path, monkeypatch, undrawn):
    """A finite loss may have a gradient that is not."""
    with pytest.raises(Stopped):
        trained(tmp_path, stop_after=5)
    before = (tmp_path / "resume.pt").read_bytes()
    clip, steps = torch.nn.utils.clip_grad_norm_, iter(range(4, 13))

    def overflowed(parameters, most):
        parameters = list(parameters)
        if next(steps) == 7:  # the next checkpoint is written after it
            parameters[0].grad.fill_(float("inf"))
        return clip(parameters, most)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", overflowed)
    with pytest.raises(InvalidInput, match="rate: the weights are not finite"):
        trained(tmp_path, RECIPE)
    assert (tmp_path / "resume.pt").read_bytes() == before


# --- recipes


def test_recipes_survive_writing_and_name_what_is_wrong(tmp_path):
    for made in PRESETS.values():
        assert Recipe.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"recipe": RECIPE.to_dict()}))
    assert recipe(str(path)) == RECIPE
    path.write_text(json.dumps({"recipe": {**RECIPE.to_dict(), "speed": 3}}))
    with pytest.raises(Corrupt, match="speed: is unknown"):
        recipe(str(path))
    with pytest.raises(NotFound, match="v2-nano"):
        recipe("v3")


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0}, {"batch": 1}, {"precision": "fp8"}, {"family": "tessera-v1.1-aws"}, {"s2_times": (5, 4)},
        {"warm_up": 0.6, "plateau": 0.5}, {"clip": 0.0}, {"depths": (16,)}, {"kind": "distil"},
        {"kind": "distil", "depths": (16, 8)}, {"kind": "distil", "depths": (64,)}, {"base_rate": -1.0},
        {"dropout": 1.0}, {"family": "tessera-v1.0-qat"}, {"student": V1.student}, {"steps": 2.5}, {"pool": "no"},
        {"s2_times": (40,)}, {"s2_times": (4.0, 9)}, {"mix": -1.0}, {"off_diagonal": float("nan")},
        {"base_rate": float("inf")}, {"depths": 16},
    ],
)  # fmt: skip
def test_recipes_that_cannot_be_are_refused(changes):
    with pytest.raises(InvalidInput, match="cannot be trained with"):
        replace(RECIPE, **changes)


# --- probe and plots


def test_the_probe_splits_fields_and_tells_a_good_vector_from_a_bad_one():
    probe = probing.Probe(RECIPE)
    land = probing.Landscape(probing.SEED, probing.SIDE, probing.SIDE)
    field, cover = land.stands(probing.YEAR), land.land_cover(probing.YEAR)
    assert all(len(set(cover[field == f])) == 1 for f in np.unique(field)[:50])
    label, learns = torch.from_numpy(probe.label), torch.from_numpy(probe.learns)
    assert set(probe.label[probe.learns]) == set(probe.label[~probe.learns]) == set(range(9))
    assert probe.learns.sum() < 0.1 * len(learns)
    told = torch.nn.functional.one_hot(label, 9).double()
    assert probing.linear_accuracy(told, label, learns) == 1
    noise = torch.randn(len(label), 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert probing.linear_accuracy(noise, label, learns) == pytest.approx(1 / 9, abs=0.05)


def test_no_field_is_both_learned_from_and_asked_about(monkeypatch):
    seen = {}
    monkeypatch.setattr(probing, "_records", lambda land, chosen: seen.setdefault("chosen", chosen))
    _, label, learns = probing.labelled.__wrapped__()  # past its cache
    land = probing.Landscape(probing.SEED, probing.SIDE, probing.SIDE)
    field = land.stands(probing.YEAR).ravel()[seen["chosen"]]
    assert not set(field[learns]) & set(field[~learns])
    assert np.array_equal(label, land.land_cover(probing.YEAR).ravel()[seen["chosen"]])
    assert len(set(field[learns])) == learns.sum()


def test_probing_changes_nothing_and_repeats(tmp_path):
    made = replace(RECIPE, steps=5, log_every=2)
    trained(tmp_path / "quiet", made)
    trained(tmp_path / "probed", replace(made, probe_every=3))
    assert weights(tmp_path / "quiet") == weights(tmp_path / "probed")
    rows = {row["step"]: row for row in read_curves(tmp_path / "probed" / "curves.jsonl")}
    assert sorted(rows) == [0, 2, 3, 4]
    assert [step for step, row in rows.items() if "probe" in row] == [0, 3, 4]
    assert {"pixels_per_second", "seconds", "learning_rate", "rank_me", "rank_entropy"} <= set(rows[2])
    assert (tmp_path / "probed" / "curves.png").read_bytes().startswith(b"\x89PNG")
