"""How weights move: the groups of the optimiser, the learning rate, one update; and where and how exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, cast

import torch
from torch import Tensor, nn

from service.errors import InvalidInput, Unavailable
from service.training.losses import rank_entropy, rank_me
from service.training.objectives import Objective
from service.training.recipes import Precision, Recipe
from service.training.views import Batch

Device = Literal["auto", "cpu", "cuda"]
WEIGHTS_RATE: Final = 0.2
"""Learning rate of weight matrices, as a share of the base rate."""
BIASES_RATE: Final = 0.0048
"""Of biases and norms."""
DIVERGED: Final = "Choose another folder and a lower --rate, or --precision bf16 or fp32."


def take_device(asked: Device, precision: Precision) -> torch.device:
    """The device to train on: what is asked for, or an error; `auto` is the GPU where there is one.

    Raises:
        InvalidInput: No such device is known, or it cannot compute so.
        Unavailable: It is not there.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise InvalidInput(f"{asked!r} is no device.", field="device", remedy="There are auto, cpu and cuda.")
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        remedy = "Install torch for CUDA and a driver, or use --device cpu."
        raise Unavailable("this torch sees no CUDA device.", field="device", remedy=remedy)
    device = torch.device("cuda" if there and asked != "cpu" else "cpu")
    if device.type == "cpu" and precision == "fp16":
        raise InvalidInput("fp16 needs a GPU.", field="precision", remedy="Use fp32 or bf16 on a CPU.")
    if device.type == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InvalidInput("this GPU has no bf16 arithmetic.", field="precision", remedy="Use fp16.")
    return device


def rate(step: int, recipe: Recipe) -> float:
    """Base learning rate at a step: linear warm-up, a plateau if any, then half a cosine down to 0 (TESSERA v1)."""
    warm = int(recipe.warm_up * recipe.steps)
    flat = int(recipe.plateau * recipe.steps) + warm
    if step < warm:
        return recipe.base_rate * step / warm
    if step < flat:
        return recipe.base_rate
    return recipe.base_rate * 0.5 * (1 + math.cos(math.pi * (step - flat) / (recipe.steps - flat)))


def optimiser_of(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over matrices, and over biases and norms at a smaller rate (TESSERA v1)."""
    matrices = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "share": WEIGHTS_RATE}, {"params": others, "share": BIASES_RATE}]
    return torch.optim.AdamW(groups, lr=recipe.base_rate, weight_decay=recipe.weight_decay)


@dataclass(frozen=True)
class Outcome:
    """What came of one update. Numbers cost time, and are made only where somebody asks."""

    step: int
    parts: dict[str, Tensor]
    vectors: Tensor

    def numbers(self) -> dict[str, float]:
        """The loss, its parts, and both forms of the effective rank of the vectors."""
        losses = {name: round(float(value.detach()), 5) for name, value in self.parts.items()}
        ranks = {"rank_me": rank_me(self.vectors), "rank_entropy": rank_entropy(self.vectors)}
        return losses | {name: round(value, 4) for name, value in ranks.items()}

    def require_finite(self) -> None:
        """Stop before nonsense is logged, or written over the last good checkpoint.

        Raises:
            InvalidInput: The loss is not a number any more.
        """
        if not bool(self.parts["loss"].isfinite()):
            raise InvalidInput(f"the loss is not finite at step {self.step}.", field="rate", remedy=DIVERGED)


class Updater:
    """Everything that moves while training, on one device.

    Args:
        objective: A module with the student and the loss.
        recipe: Rates, clipping, precision.
        device: Where.
    """

    def __init__(self, objective: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self.module = objective.to(device).train()
        self.objective = cast(Objective, objective)
        self.recipe, self.device = recipe, device
        self.optimiser = optimiser_of(objective, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")

    def step(self, step: int, batch: Batch) -> Outcome:
        """One update."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["share"] * rate(step, self.recipe)
        kind = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.recipe.precision]
        with torch.autocast(self.device.type, dtype=kind, enabled=kind is not None):
            parts, vectors = self.objective.losses(batch.to(self.device))
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(parts["loss"]).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return Outcome(step, parts, vectors.detach())

    def require_finite(self) -> None:
        """Stop before weights are written over good ones that the next step could do nothing with.

        Raises:
            InvalidInput: A weight is not a number any more.
        """
        if not all(bool(p.isfinite().all()) for p in self.module.parameters()):
            raise InvalidInput("the weights are not finite any more.", field="rate", remedy=DIVERGED)

    def state(self) -> dict[str, object]:
        """Weights and the state of optimiser and scaler."""
        return {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, dict[str, object]]) -> None:
        """Go on from such a state."""
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
