"""Networks against golden numbers, the exported graph against torch, losses by hand, a training run in small."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from service.dpixels import from_arrays  # noqa: E402
from service.encoder import Encoder  # noqa: E402
from service.errors import Corrupt, NotFound, Unavailable  # noqa: E402
from service.families import FAMILIES  # noqa: E402
from service.registry import SHIPPED, Registry  # noqa: E402
from service.simulate import Landscape  # noqa: E402
from service.training import evaluate as scoring  # noqa: E402
from service.training import losses  # noqa: E402
from service.training.data import training_series  # noqa: E402
from service.training.export import export  # noqa: E402
from service.training.golden import fill  # noqa: E402
from service.training.networks import Student, StudentConfig, load_student  # noqa: E402
from service.training.optimise import rate  # noqa: E402
from service.training.recipes import MINI, PRESETS  # noqa: E402
from service.training.reference import reference_vectors  # noqa: E402
from service.training.train import run  # noqa: E402
from service.training.views import Pool, monthly_means  # noqa: E402
from service.values import VALID, ModelIdentity  # noqa: E402
from tests.pixels import golden_pixels, random_dpixels  # noqa: E402

PARITY = 2e-5
PUBLISHED_V2 = FAMILIES["tessera-v2"].statistics


@pytest.fixture(scope="module")
def small() -> Student:
    return fill(Student(StudentConfig()))


@pytest.fixture(scope="module")
def tiny() -> Student:
    torch.manual_seed(3)
    return Student(StudentConfig(repr_dim=24, latent_dim=4, num_layers=2, nhead=4, dim_feedforward=48)).eval()


def test_golden_pixels_end_to_end(small, tmp_path):
    model = export(small, tmp_path, ModelIdentity("v2-small-golden", "1"))
    result = Encoder.open(model, engine="cpu").encode(golden_pixels())
    want = [
        (-0.27214, 1.35729, -0.68016, -1.04084),
        (-0.3443, 1.36189, -0.62076, -1.09321),
        (-0.25238, 1.35374, -0.69863, -1.02670),
    ]
    assert np.allclose(result.floats[:, :4], want, atol=2e-5)
    assert result.vectors.codes[0, :6].tolist() == [-24, 119, -60, -91, 108, 17]
    assert np.isclose(result.vectors.scales[0], 0.01141075, atol=1e-8)
    assert abs(result.floats - reference_vectors(small, golden_pixels(), PUBLISHED_V2)).max() < PARITY


def test_the_short_form_is_exact(tiny, tmp_path):
    """Any number of observations, none of one sensor and over 256 included, against the literal procedure."""
    rng = np.random.default_rng(5)
    n2 = [0, 7, 1, 8, 9, 300, 257, 0, *rng.integers(0, 60, 20)]
    na = [9, 0, 1, 4, 0, 200, 3, 0, *rng.integers(0, 60, 20)]
    nd = [2, 0, 0, 4, 0, 190, 0, 0, *rng.integers(0, 60, 20)]
    d = random_dpixels(n2, na, nd, t2=320, ta=210)
    encoder = Encoder.open(export(tiny, tmp_path, ModelIdentity("tiny", "1")), engine="cpu")
    ours, theirs = encoder.encode(d), reference_vectors(tiny, d, PUBLISHED_V2)
    assert (ours.vectors.status == VALID).tolist() == np.isfinite(theirs[:, 0]).tolist()
    assert np.nanmax(abs(ours.floats - theirs)) < PARITY


def test_checkpoints_load_strictly(tiny):
    payload = {"model": tiny.state_dict(), "args": asdict(tiny.config) | {"max_seq_len": 256, "matryoshka_dims": "16"}}
    again = load_student(payload)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), tiny.parameters(), strict=True))
    short = {k: v for k, v in tiny.state_dict().items() if not k.endswith("query.bias")}
    with pytest.raises(Corrupt, match=r"query\.bias"):
        load_student({"model": short, "args": payload["args"]})


def test_the_shipped_encoder_computes_what_it_says():
    model = Registry((SHIPPED,)).get("smalti-mini")
    assert model.manifest.training["parity"] < PARITY
    assert model.manifest.training["student"] == asdict(MINI)
    landscape = Landscape(7, 256, 256)  # vectors noted down when the model was made
    pixels = from_arrays(landscape.dpixels(2024, slice(100, 102), slice(100, 101)))
    floats = Encoder.open(model, engine="cpu").encode(pixels).floats
    noted = [[0.93357, -0.24575, 0.2244, -1.66352], [0.95829, -0.22906, 0.24969, -1.53805]]
    assert floats[:, :4] == pytest.approx(np.array(noted), abs=1e-4)


# --- losses


def correlation(a, b):
    a, b = ((z - z.mean(axis=0)) / z.std(axis=0, ddof=1) for z in (a, b))
    return a.T @ b / len(a)


def test_losses_are_the_written_formulas():
    rng = np.random.default_rng(0)
    z1, z2, zm = rng.normal(size=(3, 16, 5))
    order, alpha = rng.permutation(16), 0.3
    c = correlation(z1, z2)
    want = ((np.diag(c) - 1) ** 2).sum() + 5e-3 * (c**2).sum() - 5e-3 * (np.diag(c) ** 2).sum()
    t1, t2, tm = (torch.from_numpy(z) for z in (z1, z2, zm))
    assert np.isclose(losses.barlow_twins(t1, t2), want)
    g_a = alpha * correlation(z1, z1) + (1 - alpha) * correlation(z2[order], z1)
    g_b = alpha * correlation(z1, z2) + (1 - alpha) * correlation(z2[order], z2)
    want = 5e-3 * (((correlation(zm, z1) - g_a) ** 2).sum() + ((correlation(zm, z2) - g_b) ** 2).sum())
    assert np.isclose(losses.mix(t1, t2, tm, torch.tensor(alpha), torch.from_numpy(order)), want)


def test_rank_me():
    assert losses.rank_me(torch.eye(8)) == pytest.approx(1, abs=1e-4)
    assert losses.rank_me(torch.ones(8, 8)) == pytest.approx(1 / 8, abs=1e-3)


def test_learning_rate():
    config = PRESETS["mini"]
    rates = [rate(step, config) for step in range(config.steps)]
    warm = int(config.warm_up * config.steps)
    assert rates[0] == 0
    assert max(rates) == rates[warm] == config.base_rate
    assert rates[warm // 2] == pytest.approx(config.base_rate / 2)
    assert 0 < rates[-1] < 1e-4 * config.base_rate


# --- data and training


def test_series_are_varied_and_repeatable():
    a, b = (training_series(300, 5, PUBLISHED_V2) for _ in range(2))
    assert all(np.array_equal(a.__dict__[name], b.__dict__[name]) for name in a.__dict__)
    n2, n1 = a.s2_valid.sum(axis=1), a.s1_valid.sum(axis=1)
    assert n2.min() == 0 or n1.min() == 0  # a missing sensor is part of the variety
    assert n2.max() > 50
    assert abs(a.s2[a.s2_valid].mean()) < 0.5
    assert not np.array_equal(a.s2, training_series(300, 6, PUBLISHED_V2).s2)


def test_views_draw_only_what_is_valid_and_differ():
    pool = Pool(training_series(200, 5, PUBLISHED_V2))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.arange(200)
    one, two = (pool.view(pixels, 12, 9, generator) for _ in range(2))
    assert one.s2.shape == (200, 12, 10)
    assert one.s1.shape == (200, 9, 2)
    held = one.s2_logm == 0
    valid = pool._tensors["s2_valid"].sum(dim=1)
    assert torch.equal(held.sum(dim=1), valid.clamp(1, 12))
    assert (one.s2_doy[valid > 0][held[valid > 0]] > 0).all()
    assert (one.s2[valid == 0] == 0).all()
    assert not torch.equal(one.s2_doy, two.s2_doy)


def test_monthly_means_smooth_what_is_near():
    values = np.full((1, 3, 1), 5.0, np.float32)
    values[0, 2] = 99
    means, known = monthly_means(values, np.array([[10, 20, 30]]), np.array([[True, True, False]]))
    assert means[0, 0, 0] == pytest.approx(5)
    assert known[0].tolist() == [True, True, *[False] * 10]


def test_a_small_run_learns_and_repeats(tmp_path):
    first, second = (run("smoke", tmp_path / name, seed=3) for name in "ab")
    assert first.manifest.sha256 == second.manifest.sha256
    curve = [json.loads(line) for line in (tmp_path / "a" / "curves.jsonl").read_text().splitlines()]
    assert curve[-1]["loss"] < 0.6 * curve[0]["loss"]
    assert curve[-1]["twins"] < curve[0]["twins"]
    assert first.manifest.training["parity"] < PARITY
    payload = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    d = from_arrays(Landscape(3, 6, 6).dpixels(2023))
    want = reference_vectors(load_student(payload), d, PUBLISHED_V2)
    assert abs(Encoder.open(first, engine="cpu").encode(d).floats - want).max() < PARITY


def test_an_unknown_preset(tmp_path):
    with pytest.raises(NotFound, match="mini"):
        run("huge", tmp_path)


# --- evaluation


def test_leave_one_out_and_intervals():
    label = np.array([1] * 6 + [2] * 6)
    apart = np.concatenate((np.zeros(6), np.full(6, 9)))[:, None] + np.arange(12)[:, None] / 100
    assert scoring.leave_one_out(apart, label).all()
    assert scoring.leave_one_out(apart, np.array([1, 2] * 6)).mean() < 0.5
    found = scoring.score(np.arange(100) < 70)
    assert found.accuracy == 0.7
    assert (round(found.low, 3), round(found.high, 3)) == (0.604, 0.781)


def test_no_parcels_no_score(tmp_path):
    with pytest.raises(Unavailable, match="no parcels"):
        scoring.evaluate(tmp_path, {})


def test_the_shipped_encoder_on_real_parcels(real_data, tmp_path):
    """B8A := B08 here and nowhere else: the parcels have no B8A."""
    pytest.importorskip("pyarrow")
    torch.manual_seed(0)
    untrained = export(Student(MINI).eval(), tmp_path, ModelIdentity("untrained", "1"))
    models = {"mini": Registry((SHIPPED,)).get("smalti-mini"), "untrained": untrained}
    scores = scoring.evaluate(real_data, {k: Encoder.open(m, engine="cpu") for k, m in models.items()})
    assert scores["majority"].accuracy == pytest.approx(0.346, abs=0.001)
    assert scores["monthly means"].accuracy == pytest.approx(0.706, abs=0.01)
    assert scores["mini"].accuracy > scores["majority"].high
    stated = models["mini"].manifest.training["parcels"]
    assert scores["mini"].accuracy == pytest.approx(stated["accuracy"], abs=0.01)
