"""The published recipe number by number: losses, projector, groups, learning rate, clipping, quantisation, rank."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from service.errors import InvalidInput, Unavailable  # noqa: E402
from service.families import FAMILIES  # noqa: E402
from service.training import losses, optimise  # noqa: E402
from service.training.networks import Sizes  # noqa: E402
from service.training.objectives import Twins, projector  # noqa: E402
from service.training.optimise import Updater, optimiser_of, rate, take_device  # noqa: E402
from service.training.recipes import PRESETS, SIZES, Recipe  # noqa: E402
from service.training.views import Batch, View  # noqa: E402

TINY = replace(PRESETS["smoke"].student, repr_dim=16, latent_dim=2, nhead=2, dim_feedforward=16)
RECIPE = Recipe(TINY, steps=50, batch=8, projector=12)


def correlation(a, b):
    """Literally: standardised with Bessel's correction, summed one by one, divided by B."""
    n, p = a.shape
    a, b = ((z - z.mean(axis=0)) / np.maximum(z.std(axis=0, ddof=1), 1e-9) for z in (a, b))
    return np.array([[sum(a[k, i] * b[k, j] for k in range(n)) / n for j in range(p)] for i in range(p)])


def batch_of(n: int = 8, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)

    def one() -> View:
        days = [torch.randint(1, 366, (n, 5), generator=rng).float() for _ in range(2)]
        return View(torch.randn(n, 5, 10, generator=rng), days[0], torch.randn(n, 5, 2, generator=rng), days[1])

    return Batch(one(), one(), torch.tensor(0.3), torch.randperm(n, generator=rng))


def test_the_total_is_twins_and_mix_as_written():
    torch.manual_seed(0)
    trainer, batch = Twins(RECIPE).train(), batch_of()
    parts, vectors = trainer.losses(batch)
    mixed = batch.one.mixed(batch.two, batch.alpha, batch.order)
    views = [trainer.student(v.s2, v.s2_doy, v.s1, v.s1_doy) for v in (batch.one, batch.two, mixed)]
    z1, z2, zm = (trainer.projector(v).detach().double().numpy() for v in views)
    c, order, alpha = correlation(z1, z2), batch.order.numpy(), 0.3
    twins = sum((c[i, i] - 1) ** 2 for i in range(12))
    twins += 5e-3 * sum(c[i, j] ** 2 for i in range(12) for j in range(12) if i != j)
    g_a = alpha * correlation(z1, z1) + (1 - alpha) * correlation(z2[order], z1)
    g_b = alpha * correlation(z1, z2) + (1 - alpha) * correlation(z2[order], z2)
    mix = 5e-3 * (((correlation(zm, z1) - g_a) ** 2).sum() + ((correlation(zm, z2) - g_b) ** 2).sum())
    assert float(parts["twins"].detach()) == pytest.approx(twins, rel=1e-4)
    assert float(parts["mix"].detach()) == pytest.approx(mix, rel=1e-4)
    assert float(parts["loss"].detach()) == pytest.approx(twins + mix, rel=1e-4)
    assert torch.equal(vectors, views[0])


def test_views_are_mixed_days_included():
    batch = batch_of()
    mixed = batch.one.mixed(batch.two, batch.alpha, batch.order)
    for name in ("s2", "s2_doy", "s1", "s1_doy"):
        one, two = getattr(batch.one, name), getattr(batch.two, name)
        assert torch.allclose(getattr(mixed, name), 0.3 * one + 0.7 * two[batch.order])
    assert mixed.s2_logm is None


def test_the_diagonal_of_a_perfect_pair_is_what_the_divisor_makes_of_it():
    z = torch.randn(10, 1, generator=torch.Generator().manual_seed(1))
    assert float(losses.barlow_twins(z, z)) == pytest.approx((9 / 10 - 1) ** 2, rel=1e-3)


def test_the_projector_has_the_published_shape():
    net = projector(128, 32, 5)
    kinds = [type(layer).__name__ for layer in net]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 5 + ["Linear"]
    assert len(net.state_dict()) == 37  # keys of the published checkpoints' projector

    def parameters(p: int) -> int:
        return 128 * p + 5 * p * p + 16 * p

    assert sum(p.numel() for p in net.parameters()) == parameters(32)
    assert parameters(PRESETS["v1"].projector) == 1_344_536_576  # counted in the published checkpoint


def test_the_published_numbers():
    v1 = PRESETS["v1"]
    assert (v1.projector, v1.hidden, v1.off_diagonal, v1.mix, v1.twins, v1.by_width) == (16_384, 5, 5e-3, 1, 1, False)
    assert (v1.base_rate, v1.weight_decay, v1.warm_up, v1.plateau, v1.clip) == (0.002, 1e-6, 0.1, 0, 2.0)
    assert (v1.s2_times, v1.s1_times, v1.views, v1.batch, v1.steps) == ((40, 40), (40, 40), "drawn", 256, 28_381)
    assert (optimise.WEIGHTS_RATE, optimise.BIASES_RATE) == (0.2, 0.0048)
    assert (v1.qat, v1.monthly, v1.min_s2, v1.min_s1, v1.dropout) == (True, 0, 20, 20, 0.1)
    assert v1.family == "tessera-v1.0-qat"
    assert asdict(v1.student) == dict(FAMILIES["tessera-v1.0-qat"].sizes)


@pytest.mark.parametrize(("size", "parameters"), [("nano", 1.07e6), ("small", 7_112_322), ("large", 43_831_170)])
def test_the_sizes_are_those_of_the_published_students(size, parameters):
    from service.training.networks import Student

    with torch.device("meta"):
        assert sum(p.numel() for p in Student(SIZES[size]).parameters()) == pytest.approx(parameters, rel=2e-3)


def test_the_rate_warms_up_stays_and_falls():
    recipe = replace(RECIPE, steps=200, base_rate=0.01, warm_up=0.1, plateau=0.25)
    rates = [rate(step, recipe) for step in range(200)]
    assert rates[:20] == [0.01 * step / 20 for step in range(20)]
    assert set(rates[20:71]) == {0.01}
    assert rates[135] == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * 65 / 130)))
    assert rates[-1] < 2e-6
    assert rate(0, replace(RECIPE, warm_up=0.0)) == RECIPE.base_rate


def test_matrices_and_the_rest_learn_at_their_own_rates():
    trainer = Twins(RECIPE)
    groups = optimiser_of(trainer, RECIPE).param_groups
    assert [group["share"] for group in groups] == [0.2, 0.0048]
    assert [{p.ndim > 1 for p in group["params"]} for group in groups] == [{True}, {False}]
    assert sum(len(group["params"]) for group in groups) == len(list(trainer.parameters()))
    updater = Updater(trainer, RECIPE, torch.device("cpu"))
    updater.step(20, batch_of())
    assert [g["lr"] for g in updater.optimiser.param_groups] == [s * rate(20, RECIPE) for s in (0.2, 0.0048)]


def test_gradients_are_clipped_together():
    updater = Updater(Twins(RECIPE), RECIPE, torch.device("cpu"))
    numbers = updater.step(5, batch_of()).numbers()
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in updater.module.parameters()]))
    assert numbers["loss"] > 1
    assert float(norm) == pytest.approx(2.0, rel=1e-3)


def test_fake_quantisation_has_one_scale_and_lets_gradients_pass():
    x = torch.tensor([[-2.54, 1.0], [0.013, 0.51]], requires_grad=True)
    y = losses.fake_quantised(x)
    scale = 2.54 / 127
    assert torch.allclose(y, torch.tensor([[-127.0, 50], [1, 26]]) * scale, atol=1e-6)  # 25.5 rounds to even
    (y * torch.tensor([[1.0, 2], [3, 4]])).sum().backward()
    assert x.grad.tolist() == [[1, 2], [3, 4]]
    assert losses.fake_quantised(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["tessera-v2", "tessera-v1.0-qat"])
def test_quantised_training_quantises(kind, precision):
    torch.manual_seed(0)
    sizes = {"tessera-v2": TINY, "tessera-v1.0-qat": Sizes(16, 2, 1, 4, 16)}[kind]
    trainer, batch = Twins(replace(RECIPE, qat=True, family=kind, student=sizes)), batch_of()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        _, vectors = trainer.losses(batch)
    steps = vectors.detach() / (vectors.detach().abs().max() / 127)
    assert vectors.dtype == torch.float32
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert all(p.grad is None for p in trainer.parameters())
    trainer.losses(batch)[0]["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainer.parameters())


def test_both_forms_of_rank():
    assert losses.rank_entropy(torch.eye(8)) == pytest.approx(1, abs=1e-3)
    assert losses.rank_entropy(torch.ones(8, 8)) == pytest.approx(0, abs=1e-3)
    two = torch.diag(torch.tensor([1.0, 1, 0, 0]))
    assert losses.rank_entropy(two) == pytest.approx(math.log(2) / math.log(4), abs=1e-3)
    assert losses.rank_me(two) == pytest.approx(2 / 4, abs=1e-3)


def test_bf16_on_a_cpu_computes_in_bf16_and_keeps_float32_weights():
    torch.manual_seed(0)
    updater = Updater(Twins(replace(RECIPE, precision="bf16")), replace(RECIPE, precision="bf16"), torch.device("cpu"))
    torch.manual_seed(0)
    exact = Updater(Twins(RECIPE), RECIPE, torch.device("cpu"))
    ours, theirs = (u.step(20, batch_of()).numbers()["loss"] for u in (updater, exact))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.1)
    assert {p.dtype for p in updater.module.parameters()} == {torch.float32}


def test_the_device_asked_for_or_none():
    assert take_device("cpu", "fp32").type == "cpu"
    assert take_device("cpu", "bf16").type == "cpu"
    with pytest.raises(InvalidInput, match="fp16 needs a GPU"):
        take_device("cpu", "fp16")
    with pytest.raises(InvalidInput, match="no device"):
        take_device("tpu", "fp32")
    if not torch.cuda.is_available():
        assert take_device("auto", "fp32").type == "cpu"
        with pytest.raises(Unavailable, match="no CUDA device"):
            take_device("cuda", "fp32")
