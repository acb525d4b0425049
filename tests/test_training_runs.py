"""Training runs: stopped and gone on with, refused, probed, drawn; distillation; the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from typer.testing import CliRunner  # noqa: E402

from api.cli import app  # noqa: E402
from service.dpixels import from_arrays  # noqa: E402
from service.encoder import Encoder  # noqa: E402
from service.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable  # noqa: E402
from service.registry import SHIPPED, Registry, read_model  # noqa: E402
from service.simulate import Landscape  # noqa: E402
from service.training import probe as probing  # noqa: E402
from service.training import sources, teacher  # noqa: E402
from service.training.loop import objective_of, train  # noqa: E402
from service.training.networks import Sizes, StudentConfig, load_student  # noqa: E402
from service.training.recipes import PRESETS, Recipe, recipe  # noqa: E402
from service.training.runs import Run, read_curves  # noqa: E402
from service.training.train import run  # noqa: E402
from tests.test_training_data import tile  # noqa: E402

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


def test_a_finished_run_is_not_trained_again(tmp_path):
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
        {"dropout": 1.0}, {"family": "tessera-v1.0-qat"}, {"student": V1.student},
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
    probing.labelled.cache_clear()
    _, label, learns = probing.labelled()
    probing.labelled.cache_clear()
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


# --- folders, distillation, the command


def test_training_from_tile_folders_gives_a_model_that_says_so(tmp_path):
    for seed in range(2):
        tile(tmp_path / "data" / str(seed), seed)
    options = {"seed": 1, "data": (tmp_path / "data",), "min_s2": 5, "min_s1": 5}
    small = {k: getattr(V1, k) for k in ("student", "steps", "batch", "projector", "save_every")}
    model = run("v1", tmp_path / "run", **options, **small, probe_every=0)
    told = model.manifest.training
    assert (told["data"], told["source"]["tiles"]) == ("2 d-pixel tile folders", 2)
    assert (told["qat"], told["projector"], told["pixels"]) == (True, 24, PRESETS["v1"].pixels)
    assert told["parity"] < 2e-5
    assert model.manifest.licence == "NOASSERTION"
    again = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert again["recipe"]["steps"] == 13
    assert again["made_with"]["device"] == "cpu"
    twin = run(str(tmp_path / "run" / "recipe.json"), tmp_path / "twin", seed=1, data=(tmp_path / "data",))
    assert twin.manifest.sha256 == model.manifest.sha256


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distil")
    model = run(
        "distil", folder, seed=1, teacher=Registry((SHIPPED,)).get("smalti-mini"), pixels=512, steps=150, batch=64,
        student=replace(TINY, repr_dim=128, latent_dim=4), base_rate=0.02, log_every=10, probe_every=0,
    )  # fmt: skip
    return folder, model


def test_distillation_learns_the_teacher(distilled):
    folder, model = distilled
    rows = read_curves(folder / "curves.jsonl")
    for name in ("loss", "prefix_16", "prefix_32", "prefix_64", "prefix_128"):
        assert rows[-1][name] < 0.75 * rows[0][name]
    assert model.manifest.depths == (16, 32, 64, 128)
    assert "after smalti-mini@0.1.0/default" in model.manifest.origin
    payload = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert not [name for name in payload["model"] if "head" in name]  # discarded
    load_student(payload)


def test_prefixes_of_a_distilled_student_read_the_teacher(distilled):
    """On pixels that neither was trained on, by least squares from each prefix; the teacher's rows are its own."""
    _, model = distilled
    d = from_arrays(Landscape(9, 24, 24).dpixels(2023))
    student = Encoder.open(model, engine="cpu").encode(d).floats.astype(np.float64)
    taught = Encoder.open(Registry((SHIPPED,)).get("smalti-mini"), engine="cpu").encode(d).floats.astype(np.float64)
    half = np.arange(len(d)) % 2 == 0

    def left(depth: int) -> float:
        x = np.concatenate((student[:, :depth], np.ones((len(d), 1))), axis=1)
        fitted = np.linalg.solve(x[half].T @ x[half] + 0.1 * np.eye(depth + 1), x[half].T @ taught[half])
        return float(((x[~half] @ fitted - taught[~half]) ** 2).mean() / taught[~half].var(axis=0).mean())

    assert left(16) < 0.8
    assert left(64) < 0.6


def test_the_teachers_vectors_lie_beside_their_pixels(distilled):
    folder, _ = distilled
    shipped = Registry((SHIPPED,)).get("smalti-mini")
    made = replace(PRESETS["distil"], pixels=512)
    found = sources.shuffled(made, (), folder / "pixels", 1)
    vectors = found.read(0, "teacher")
    from service.training.records import to_dpixels

    want = Encoder.open(shipped, engine="cpu").encode(to_dpixels(found.read(0)[:50])).floats
    assert np.allclose(vectors[:50], want, atol=1e-5, equal_nan=True)
    stamp = found.path(0, "teacher").stat().st_mtime_ns
    taught = teacher.teach(shipped, found)
    assert found.path(0, "teacher").stat().st_mtime_ns == stamp
    told = vectors[np.isfinite(vectors).all(axis=1)].astype(np.float64)
    assert taught.variance == pytest.approx(told.var(axis=0).mean(), rel=1e-5)
    other = replace(shipped, manifest=replace(shipped.manifest, sha256="0" * 64))
    with pytest.raises(Conflict, match="holds the vectors of smalti-mini"):
        teacher.teach(other, found)


def test_wrong_teachers_and_devices_are_refused(tmp_path):
    shipped = Registry((SHIPPED,)).get("smalti-mini")
    with pytest.raises(InvalidInput, match=r"teacher: .* Give --teacher"):
        run("distil", tmp_path)
    with pytest.raises(InvalidInput, match="teacher"):
        run("smoke", tmp_path, teacher=shipped)
    with pytest.raises(InvalidInput, match="data: this recipe keeps simulated pixels in memory"):
        run("mini", tmp_path, data=(tile(tmp_path / "t", 0),))
    if not torch.cuda.is_available():
        with pytest.raises(Unavailable, match="CUDA"):
            run("smoke", tmp_path, device="cuda")
    assert not list(tmp_path.glob("*.json*"))


def test_the_command_trains_goes_on_and_refuses(tmp_path, monkeypatch):
    monkeypatch.setenv("SMALTI_HOME", str(tmp_path / "home"))
    start = ["train", "--preset", "smoke", "--out", str(tmp_path / "run"), "--steps", "4", "--name", "mine@2"]
    done = CliRunner().invoke(app, [*start, "--projector", "16", "--precision", "fp32", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    model = read_model(tmp_path / "run" / "model")
    assert str(model.manifest.identity) == "mine@2/default"
    assert model.manifest.training["projector"] == 16
    again = CliRunner().invoke(app, [*start, "--projector", "32"])
    assert isinstance(again.exception, Conflict)
    missing = CliRunner().invoke(app, [*start[:-4], "--out", str(tmp_path / "new"), "--resume"])
    assert isinstance(missing.exception, NotFound)
    (tmp_path / "teacher.pt").write_bytes(b"weights")
    wrong = ["train", "--preset", "distil", "--teacher", str(tmp_path / "teacher.pt"), "--out", str(tmp_path / "d")]
    told = CliRunner().invoke(app, wrong)
    assert isinstance(told.exception, InvalidInput)
    assert "smalti models import" in str(told.exception)
