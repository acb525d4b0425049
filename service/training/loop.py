"""The loop: batches in, weights out, and on the way curves, plots, probes and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from service.training.networks import Network
from service.training.objectives import Distilled, Twins
from service.training.optimise import Updater, rate
from service.training.plots import plot
from service.training.probe import Probe
from service.training.recipes import Recipe
from service.training.runs import CURVES, Run, read_curves
from service.training.sources import Source
from service.training.teacher import Taught

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, a word on how it goes)."""
PLOT_EVERY: Final = 30.0
"""Least seconds between two drawings of the curves."""


@dataclass
class _Clock:
    """Seconds of the whole run, earlier processes of it included, and the pace of training."""

    before: float
    began: float
    last: float
    steps: int = 0

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def pace(self, batch: int) -> float:
        """Pixels a second since the last rest."""
        return batch * self.steps / max(time.perf_counter() - self.last, 1e-9)

    def rest(self) -> None:
        """Count anew: what was done just now is no training."""
        self.last, self.steps = time.perf_counter(), 0


def objective_of(recipe: Recipe, seed: int, taught: Taught | None = None) -> nn.Module:
    """The network with what only training needs, weights drawn from a seed.

    Args:
        recipe: Sizes.
        seed: Of the weights.
        taught: What there is of the teacher, for distillation.
    """
    torch.manual_seed(seed)
    return Distilled(recipe, taught) if taught else Twins(recipe)


def train(
    run: Run,
    objective: nn.Module,
    source: Source,
    device: torch.device,
    *,
    resume: bool = False,
    on_progress: Progress | None = None,
) -> tuple[Network, dict[str, Any]]:
    """Train to the last step, from the last checkpoint on where the run folder holds one.

    The same recipe, seed, pixels and kind of processor give the same weights bit for bit, however often the run was
    killed. On a GPU some sums are made in whatever order they are ready, and weights are the same but for that.

    Args:
        run: What is made, and where.
        objective: Of `objective_of`.
        source: Of batches.
        device: Of `take_device`.
        resume: There must be a checkpoint.
        on_progress: Told of steps done.

    Returns:
        The network in evaluation mode on the CPU, and the last logged numbers.

    Raises:
        Conflict, NotFound, Corrupt: See Run.begin.
        InvalidInput: It diverges.
        Unavailable: The disk is full; there is a checkpoint to go on from.
    """
    recipe = run.recipe
    torch.set_num_threads(recipe.threads)
    updater = Updater(objective, recipe, device)
    first, before = _restored(run.begin(device, resume=resume), updater, source)
    now = time.perf_counter()
    clock = _Clock(before, now, now)
    probe = Probe(recipe) if recipe.probe_every else None
    drawn = -PLOT_EVERY
    row: dict[str, Any] = (read_curves(run.folder / CURVES) or [{}])[-1]
    for step in range(first, recipe.steps):
        outcome = updater.step(step, source.batch(step))
        clock.steps += 1
        last = step == recipe.steps - 1
        probed = probe if probe and (last or step % recipe.probe_every == 0) else None
        saved = last or (step + 1) % recipe.save_every == 0
        logged = last or probed or step % recipe.log_every == 0
        if logged or saved:
            outcome.require_finite()
        if logged:
            row = {"step": step, **_timed(clock, recipe, step), **outcome.numbers()}
            if probed:
                row["probe"] = round(probed.accuracy(updater.objective.student, device), 4)
            run.log(row)
            if last or clock.seconds() - drawn > PLOT_EVERY:
                plot(run.folder)
                drawn = clock.seconds()
            clock.rest()
        if saved:
            updater.require_finite()
            kept = {**updater.state(), "source": source.state(), "random": _random(device), "seconds": clock.seconds()}
            run.save(updater.objective.student, step, kept)
        if on_progress:
            on_progress(step + 1, recipe.steps, f"loss {row.get('loss', 0):.4g}")
    return updater.objective.student.cpu().eval(), row


def _timed(clock: _Clock, recipe: Recipe, step: int) -> dict[str, float]:
    return {
        "seconds": round(clock.seconds(), 1),
        "pixels_per_second": round(clock.pace(recipe.batch), 1),
        "learning_rate": round(rate(step, recipe), 8),
    }


def _restored(state: dict[str, Any] | None, updater: Updater, source: Source) -> tuple[int, float]:
    """Take up a state, if any. Returns the number of the next step, and the seconds that went by before it."""
    if state is None:
        return 0, 0.0
    updater.restore(state)
    source.restore(state["source"])
    torch.set_rng_state(state["random"]["cpu"])
    if updater.device.type == "cuda" and "cuda" in state["random"]:
        torch.cuda.set_rng_state(state["random"]["cuda"], updater.device)
    return int(state["step"]) + 1, state["seconds"]


def _random(device: torch.device) -> dict[str, torch.Tensor]:
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found
