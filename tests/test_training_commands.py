"""Training as it is asked for: from tile folders, after a teacher, by the command."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from typer.testing import CliRunner  # noqa: E402

from api.cli import app  # noqa: E402
from service.dpixels import from_arrays  # noqa: E402
from service.encoder import Encoder  # noqa: E402
from service.errors import Conflict, InvalidInput, NotFound, Unavailable  # noqa: E402
from service.registry import SHIPPED, Registry, read_model  # noqa: E402
from service.simulate import Landscape  # noqa: E402
from service.training import sources, teacher  # noqa: E402
from service.training.networks import Student, load_student  # noqa: E402
from service.training.recipes import PRESETS  # noqa: E402
from service.training.reference import reference_vectors  # noqa: E402
from service.training.runs import held, read_curves  # noqa: E402
from service.training.train import run  # noqa: E402
from tests.test_training_data import tile  # noqa: E402
from tests.test_training_runs import TINY, V1  # noqa: E402

DISTILLED = replace(TINY, repr_dim=128, latent_dim=4)


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
        student=DISTILLED, base_rate=0.02, log_every=10, probe_every=0,
    )  # fmt: skip
    return folder, model


def test_distillation_learns_the_teacher(distilled):
    folder, model = distilled
    rows = read_curves(folder / "curves.jsonl")
    for name in ("loss", "prefix_16", "prefix_32", "prefix_64", "prefix_128"):
        assert rows[-1][name] < 0.75 * rows[0][name]
    assert model.manifest.depths == (16, 32, 64, 128)
    assert "after smalti-mini@0.1.0/default" in model.manifest.origin
    assert model.manifest.licence == "NOASSERTION"  # what the teacher's licence asks of it we do not know
    payload = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert not [name for name in payload["model"] if "head" in name]  # discarded
    load_student(payload)


def test_prefixes_of_a_distilled_student_read_the_teacher(distilled):
    """On pixels that neither was trained on, by least squares from each prefix: better than an untrained one's."""
    _, model = distilled
    d = from_arrays(Landscape(9, 24, 24).dpixels(2023))
    student = Encoder.open(model, engine="cpu").encode(d).floats.astype(np.float64)
    taught = Encoder.open(Registry((SHIPPED,)).get("smalti-mini"), engine="cpu").encode(d).floats.astype(np.float64)
    torch.manual_seed(1)
    fresh = Student(DISTILLED).eval()
    untrained = reference_vectors(fresh, d, model.manifest.statistics, sampling="v2").astype(np.float64)
    half = np.arange(len(d)) % 2 == 0

    def left(vectors, depth: int) -> float:
        x = np.concatenate((vectors[:, :depth], np.ones((len(d), 1))), axis=1)
        fitted = np.linalg.solve(x[half].T @ x[half] + 0.1 * np.eye(depth + 1), x[half].T @ taught[half])
        return float(((x[~half] @ fitted - taught[~half]) ** 2).mean() / taught[~half].var(axis=0).mean())

    for depth in (16, 32, 64, 128):
        assert left(student, depth) < 0.7 * left(untrained, depth)


def test_a_teacher_is_let_go_of_once_it_has_told(tmp_path, monkeypatch):
    opened = []

    def opening(*args, **options):
        opened.append(Encoder.open(*args, **options))
        return opened[-1]

    monkeypatch.setattr(teacher, "Encoder", SimpleNamespace(open=opening))
    found = sources.shuffled(replace(PRESETS["distil"], pixels=16), (), tmp_path / "pixels", 1)
    teacher.teach(Registry((SHIPPED,)).get("smalti-mini"), found)
    assert [encoder.close.alive for encoder in opened] == [False]


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


def test_there_must_be_a_checkpoint_before_pixels_are_made(tmp_path):
    with pytest.raises(NotFound, match="no checkpoint to go on from"):
        run("cpu", tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    with held(tmp_path), pytest.raises(Conflict, match="out: another process trains in"):
        run("smoke", tmp_path)
    assert not list(tmp_path.iterdir())
    with held(tmp_path):
        pass  # the one before has let go


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
