"""Training: two sparse random views of the same pixel must agree, and no two numbers of a vector may say the same.

Barlow Twins with the mix term, as TESSERA v1; beside it, a linear reading of the vector must give the pixel's
smoothed monthly means, which keeps in the vector what classifiers of small labelled sets ask for.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from service.dpixels import from_arrays
from service.encoder import Encoder
from service.errors import Corrupt, NotFound
from service.registry import RegisteredModel
from service.simulate import Landscape
from service.training.data import Pool, View, training_series
from service.training.export import PUBLISHED_V2, export
from service.training.losses import barlow_twins, masked_mse, mix, rank_me
from service.training.networks import Student, StudentConfig
from service.training.reference import reference_vectors
from service.values import ModelIdentity

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

WEIGHTS_RATE: Final = 0.2
"""Learning rate of weight matrices, as a share of the base rate."""
BIASES_RATE: Final = 0.0048
"""Of biases and norms."""
PARITY: Final = 2e-5
"""Most that the exported graph may differ from torch on any number of a vector."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what comes out, beside the seed."""

    student: StudentConfig
    steps: int
    batch: int = 256
    pixels: int = 49_152
    """Simulated pixels in the pool."""
    projector: int = 512
    """Width of the projector that the loss looks through; dropped after training."""
    base_rate: float = 0.01
    weight_decay: float = 1e-6
    warm_up: float = 0.1
    """Share of the steps."""
    clip: float = 2.0
    """Largest global norm of a gradient."""
    twins: float = 1.0
    """Weight of Barlow Twins and mix, divided by the projector's width."""
    monthly: float = 2.0
    """Weight of the monthly means."""
    s2_times: tuple[int, int] = (6, 24)
    """Least and most Sentinel-2 observations of a view; one number a batch."""
    s1_times: tuple[int, int] = (6, 24)
    threads: int = 1
    """Of torch: sums depend on it, and tensors are too small for more."""
    log_every: int = 20
    save_every: int = 500


MINI: Final = StudentConfig(repr_dim=128, latent_dim=16, num_layers=3, nhead=4, dim_feedforward=128)

PRESETS: Final = {
    "mini": TrainConfig(MINI, steps=2000),
    "smoke": TrainConfig(replace(MINI, num_layers=1), steps=60, batch=64, pixels=1024, projector=128, log_every=5),
}
"""`mini` is the shipped recipe; `smoke` only shows that everything runs."""


class Trainer(nn.Module):
    """The student with what only training needs."""

    def __init__(self, config: TrainConfig, targets: int) -> None:
        super().__init__()
        d, p = config.student.repr_dim, config.projector
        self.student = Student(config.student)
        hidden = [nn.Linear(d, p), nn.BatchNorm1d(p), nn.ReLU(), nn.Linear(p, p), nn.BatchNorm1d(p), nn.ReLU()]
        self.projector = nn.Sequential(*hidden, nn.Linear(p, p))
        self.reading = nn.Linear(d, targets)

    def vectors(self, view: View) -> Tensor:
        """(B, d)."""
        return self.student(view.s2, view.s2_doy, view.s1, view.s1_doy, view.s2_logm, view.s1_logm)  # type: ignore[no-any-return]


def train(
    config: TrainConfig, pool: Pool, out: Path, seed: int, on_progress: Progress | None = None
) -> tuple[Student, dict[str, Any]]:
    """Train a student. The same configuration, seed and number of threads give the same weights.

    Writes `curves.jsonl` (one object a logged step) and `checkpoint.pt` (`model`, `args`, `step`, `seed`) into `out`.

    Returns:
        The student in evaluation mode, and the last logged numbers.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    trainer = Trainer(config, pool.monthly.shape[1]).train()
    optimiser = _optimiser(trainer, config)
    last: dict[str, Any] = {}
    began = time.perf_counter()
    with (out / "curves.jsonl").open("w") as curves:
        for step, pixels in enumerate(_pixels(len(pool), config, generator)):
            for group in optimiser.param_groups:
                group["lr"] = group["share"] * rate(step, config)
            numbers = _step(trainer, optimiser, pool, pixels, config, generator)
            if step % config.log_every == 0 or step == config.steps - 1:
                last = {"step": step, "seconds": round(time.perf_counter() - began, 1), **numbers()}
                curves.write(json.dumps(last) + "\n")
                curves.flush()
            if (step + 1) % config.save_every == 0 or step == config.steps - 1:
                _save(trainer.student, out / "checkpoint.pt", step, seed)
            if on_progress:
                on_progress(step + 1, config.steps)
    return trainer.student.eval(), last


def rate(step: int, config: TrainConfig) -> float:
    """Base learning rate at a step: linear warm-up, then half a cosine down to 0."""
    warm = int(config.warm_up * config.steps)
    if step < warm:
        return config.base_rate * step / warm
    return config.base_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (config.steps - warm)))


def _optimiser(trainer: Trainer, config: TrainConfig) -> torch.optim.Optimizer:
    matrices = [p for p in trainer.parameters() if p.ndim > 1]
    others = [p for p in trainer.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "share": WEIGHTS_RATE}, {"params": others, "share": BIASES_RATE}]
    return torch.optim.AdamW(groups, lr=config.base_rate, weight_decay=config.weight_decay)


def _pixels(n: int, config: TrainConfig, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of pixels, each pass over the pool in a new order."""
    order, at = torch.randperm(n, generator=generator), 0
    for _ in range(config.steps):
        if at + config.batch > n:
            order, at = torch.randperm(n, generator=generator), 0
        yield order[at : at + config.batch]
        at += config.batch


def _step(
    trainer: Trainer,
    optimiser: torch.optim.Optimizer,
    pool: Pool,
    pixels: Tensor,
    config: TrainConfig,
    generator: torch.Generator,
) -> Callable[[], dict[str, float]]:
    """One update. Returns what yields the numbers to log, so that they cost nothing where nobody asks."""

    def draw(bounds: tuple[int, int]) -> int:
        return int(torch.randint(bounds[0], bounds[1] + 1, (), generator=generator))

    s2_times, s1_times = draw(config.s2_times), draw(config.s1_times)
    one, two = (pool.view(pixels, s2_times, s1_times, generator) for _ in range(2))
    alpha = torch.rand((), generator=generator)  # Beta(1, 1)
    order = torch.randperm(len(pixels), generator=generator)
    vectors = [trainer.vectors(view) for view in (one, two, one.mixed(two, alpha, order))]
    z1, z2, zm = (trainer.projector(v) for v in vectors)
    twins, mixed = barlow_twins(z1, z2), mix(z1, z2, zm, alpha, order)
    target, known = pool.monthly[pixels], pool.known[pixels]
    monthly = torch.stack([masked_mse(trainer.reading(v), target, known) for v in vectors[:2]]).mean()
    loss = config.twins * (twins + mixed) / config.projector + config.monthly * monthly
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(trainer.parameters(), config.clip)
    optimiser.step()
    parts = {"loss": loss, "twins": twins, "mix": mixed, "monthly": monthly}
    return lambda: {
        **{name: round(float(value.detach()), 5) for name, value in parts.items()},
        "rank_me": round(rank_me(vectors[0].detach()), 4),
    }


def _save(student: Student, path: Path, step: int, seed: int) -> None:
    payload = {"model": student.state_dict(), "args": asdict(student.config), "step": step, "seed": seed}
    temporary = path.with_suffix(".part")
    torch.save(payload, temporary)
    temporary.replace(path)


def run(
    preset: str,
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    identity: ModelIdentity | None = None,
    on_progress: Progress | None = None,
) -> RegisteredModel:
    """Train by a preset, export, and hold the exported graph against torch.

    Args:
        preset: One of PRESETS.
        out: Folder for curves, checkpoint, and `model/` with ONNX file and manifest.
        seed: Of everything random.
        steps: Instead of the preset's.
        identity: What to call the result; `smalti-<preset>@0.1.0` where absent.
        on_progress: Told of steps done.

    Returns:
        The exported model.

    Raises:
        NotFound: No such preset.
        Corrupt: The exported graph does not compute what torch does.
    """
    if preset not in PRESETS:
        raise NotFound(f"no preset {preset!r}.", field="preset", remedy=f"There are {', '.join(PRESETS)}.")
    config = replace(PRESETS[preset], steps=steps or PRESETS[preset].steps)
    pool = Pool(training_series(config.pixels, seed, PUBLISHED_V2))
    student, last = train(config, pool, out, seed, on_progress)
    summary = {
        "data": "simulated series (service/training/data.py); no real data",
        "preset": preset,
        "seed": seed,
        **{k: v for k, v in asdict(config).items() if k != "student"},
        "student": asdict(config.student),
        "parameters": sum(p.numel() for p in student.parameters()),
        "last": last,
    }
    name = identity or ModelIdentity(f"smalti-{preset}", "0.1.0")
    return export_checked(student, out / "model", name, summary)


def export_checked(student: Student, folder: Path, identity: ModelIdentity, summary: dict[str, Any]) -> RegisteredModel:
    """Export, and refuse the result where it differs from the published procedure run in torch.

    Raises:
        Corrupt: It differs by more than PARITY on a simulated landscape.
    """
    about = {
        "licence": "MIT",
        "origin": "trained by smalti on simulated Sentinel-1 and Sentinel-2 series",
        "title": "A small encoder of the TESSERA v2 student architecture. It is not TESSERA.",
    }
    model = export(student, folder, identity, training=summary, **about)  # type: ignore[arg-type]
    dpixels = from_arrays(Landscape(1, 16, 16).dpixels(2023))
    ours = Encoder.open(model, engine="cpu").encode(dpixels).floats
    difference = float(abs(ours - reference_vectors(student, dpixels, model.manifest.statistics)).max())
    if not difference <= PARITY:
        raise Corrupt(f"the exported {identity} differs from torch by {difference:.1e}.")
    return export(student, folder, identity, training={**summary, "parity": difference}, **about)  # type: ignore[arg-type]
