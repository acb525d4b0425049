"""Checkpoints for tests, in the forms that published ones have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from service.families import family
from service.training.golden import fill
from service.training.networks import build

TINY = {"repr_dim": 128, "latent_dim": 8, "num_layers": 2, "nhead": 4, "dim_feedforward": 48}
"""Sizes that run in no time; families of v1.x and students keep their own number of dimensions."""

FORMS = {
    "tessera-v1.0-early": TINY | {"nhead": 8},
    "tessera-v1.0-qat": TINY,
    "tessera-v1.1-mpc": TINY | {"repr_dim": 192},
    "tessera-v1.1-aws": TINY | {"repr_dim": 192},
    "tessera-v2": TINY,
    "tessera-v2-teacher": TINY | {"repr_dim": 32, "latent_dim": 4},
}


def tensors(name: str, sizes: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """The published names of a family, with golden weights."""
    return dict(fill(build(name, FORMS[name] if sizes is None else sizes)).state_dict())


def payload(name: str, state: dict[str, torch.Tensor], sizes: dict[str, Any] | None = None) -> dict[str, Any]:
    """As the family's files hold it."""
    sizes = dict(family(name).sizes) | (FORMS[name] if sizes is None else sizes)
    match name:
        case "tessera-v2":
            return {"model": state, "args": sizes | {"max_seq_len": 256, "matryoshka_dims": "16,32,64,128"}}
        case "tessera-v2-teacher":
            return {"encoder_state_dict": state, "arch": sizes}
        case "tessera-v1.0-early":
            return {"model_state": {f"_orig_mod.{key}": t for key, t in state.items()}, "step": 1}
        case _:
            return {"epoch": 1, "step": 7, "model_state_dict": state, "optimizer_state_dict": {}, "val_acc": 0.5}


def save(path: Path, name: str, state: dict[str, torch.Tensor] | None = None, **more: Any) -> Path:
    """A checkpoint of a family on disk."""
    torch.save(payload(name, tensors(name) if state is None else state) | more, path)
    return path
