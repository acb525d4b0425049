"""Published checkpoints: used to the last tensor or refused.

A wrong family, a tensor too few or too many, or the statistics of another release would all give plausible nonsense:
so every name is accounted for, and what the file says about itself is held against the shapes of its tensors.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from service.errors import Conflict, Corrupt, InvalidInput
from service.families import Family, family
from service.registry import sha256_of
from service.training.networks import Network, build
from service.training.payload import AGAIN, read_payload, stamp_of

State = dict[str, Tensor]

HEADS: Final = ("projector.", "segmented_matryoshka_projector.")
"""What training looked through and embedding does not: dropped, and counted."""

KINDS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What a weight may be; all are used in float32."""


_SHOWN: Final = 5
"""Names of a list that an error shows."""

_CONTAINERS: Final = {
    "tessera-v2": (("model",), "args"),
    "tessera-v2-teacher": (("encoder_state_dict",), "arch"),
}
_V1_CONTAINERS: Final = (("model_state", "model_state_dict"), "config")
"""Where the tensors stand in a payload, and what describes them."""

_SOURCES: Final = {"mpc": ("mpc", "20260425_133615"), "aws": ("aws", "202039")}
"""How published v1.1 files are named: releases that differ in nothing but weights and statistics."""


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint, read and accounted for."""

    path: Path
    sha256: str
    family: Family
    sizes: Mapping[str, int | bool]
    """Of the network, by their published names."""
    depths: tuple[int, ...]
    """Prefix lengths it was trained for."""
    network: Network
    """In evaluation mode; its weights lie in the file until they are read."""
    dropped: Mapping[str, int]
    """How many tensors of heads were left out, by the head's name."""
    tensors: int
    """How many are used: all the others."""
    stamp: tuple[int, ...]
    """What `stamp_of` said of the file before it was read."""

    @property
    def parameters(self) -> int:
        """Numbers in the tensors used."""
        return sum(p.numel() for p in self.network.parameters())

    def require_same(self) -> None:
        """See that the file is the one that was read: weights lie in it until they are used.

        Raises:
            Conflict: Somebody wrote to it, or put another in its place.
        """
        if stamp_of(self.path) != self.stamp:
            raise Conflict(
                f"{self.path} changed while it was being read.", remedy="Repeat once nobody writes to it any more."
            )


def read_checkpoint(path: Path, family_name: str) -> Checkpoint:
    """Read a checkpoint as one of a family.

    Args:
        path: A file of `torch.save`.
        family_name: One of service.families.

    Raises:
        NotFound: There is no file.
        InvalidInput: No such family, or the file is plainly of another.
        Corrupt: It is no checkpoint, holds more than tensors and plain values, or a tensor is missing, left over, of
            a wrong shape, or not finite.
        Conflict: It was written to meanwhile.
    """
    kind = family(family_name)
    require_source(path, kind)
    path = path.absolute()
    stamp = stamp_of(path)
    payload = read_payload(path)
    state, about = _unpacked(payload, kind, path)
    state, dropped = _without_heads(state)
    require_family(state, kind, path)
    sizes = sizes_of(state, about, kind, path)
    network = _filled(state, kind, sizes, path)
    depths = _depths(about, kind, sizes, path)
    read = Checkpoint(path, sha256_of(path), kind, sizes, depths, network, dropped, len(state), stamp)
    read.require_same()
    return read


def require_source(path: Path, kind: Family) -> None:
    """Refuse a file whose name says one v1.1 release where the family is the other: the tensors cannot tell.

    Raises:
        InvalidInput: They disagree.
    """
    if not kind.name.startswith("tessera-v1.1-"):
        return
    said = {source for source, marks in _SOURCES.items() if any(mark in path.name.lower() for mark in marks)}
    source = kind.name.rpartition("-")[2]
    if said and source not in said:
        (other,) = said
        raise InvalidInput(
            f"{path.name} is named as the {other} release, and {kind.name} has the statistics of {source}.",
            field="family",
            remedy=f"State tessera-v1.1-{other}; or, where the name is wrong, rename the file.",
        )


def _unpacked(payload: Mapping[str, Any], kind: Family, path: Path) -> tuple[State, Mapping[str, Any]]:
    """The tensors, by names without what wrappers put before them, and what the payload says of the network."""
    containers, described = _CONTAINERS.get(kind.name, _V1_CONTAINERS)
    name = next((name for name in containers if name in payload), None)
    if name is None:
        elsewhere = [c for other, _ in (_V1_CONTAINERS, *_CONTAINERS.values()) for c in other if c in payload]
        if not elsewhere:
            raise Corrupt(f"{path} has no {' or '.join(containers)}; it has {_some(payload)}.", remedy=AGAIN)
        name = elsewhere[0]  # of another family, which the names of its tensors will tell
    tensors = payload[name]
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise Corrupt(f"{path}: {name} is no collection of named tensors.", remedy=AGAIN)
    state = {str(key).replace("_orig_mod.", "").removeprefix("module."): tensor for key, tensor in tensors.items()}
    if len(state) != len(tensors):
        raise Corrupt(f"{path}: tensors of {name} have the same name once `_orig_mod.` and `module.` are dropped.")
    about = payload.get(described)
    about = vars(about) if isinstance(about, argparse.Namespace) else about
    return state, about if isinstance(about, Mapping) else {}


def _without_heads(state: State) -> tuple[State, dict[str, int]]:
    dropped = Counter(head.rstrip(".") for key in state for head in HEADS if key.startswith(head))
    return {key: tensor for key, tensor in state.items() if not key.startswith(HEADS)}, dict(dropped)


def looks_like(names: Collection[str]) -> str:
    """Which family tensors of these names belong to; empty: to none."""
    if "fusion_modality_embed" in names:
        return "tessera-v2-teacher"
    if "s2_backbone.attn_pool.query.weight" not in names:
        return ""
    if "s2_backbone.attn_pool.temporal_context.weight_ih_l0" in names:
        return "tessera-v1.0-early"
    if any("temporal_context.gru_cell." in name for name in names):
        return "tessera-v1.1" if "dim_reducer.4.weight" in names else "tessera-v1.0-qat"
    return "tessera-v2"


def require_family(state: State, kind: Family, path: Path) -> None:
    """Refuse tensors that bear the names of another family, or of none.

    Raises:
        InvalidInput: They do.
    """
    found = looks_like(state)
    if found == "tessera-v1.1" and kind.name.startswith("tessera-v1.1-"):
        return
    if found != kind.name:
        what = f"looks like {found}" if found else f"is no TESSERA encoder; it has {_some(state)}"
        stated = "tessera-v1.1-mpc or tessera-v1.1-aws" if found == "tessera-v1.1" else found
        remedy = f"State --family {stated}." if found else AGAIN
        raise InvalidInput(f"{path.name} {what}, not {kind.name}.", field="family", remedy=remedy)


def sizes_of(state: State, about: Mapping[str, Any], kind: Family, path: Path) -> dict[str, int | bool]:
    """Sizes of the network: what the tensors show, and what the payload or the family says of the rest.

    Raises:
        Corrupt: The payload and the tensors contradict each other, or a tensor that tells a size is missing.
    """
    shown = _shown(state, path)
    # A `config` of v1.1 describes its training, in names of its own: there the family's constants hold.
    said = {name: about[name] for name in kind.sizes if name in about and kind.name in _CONTAINERS}
    if odd := [f"{name} is {value!r:.60}" for name, value in said.items() if not isinstance(value, int)]:
        raise Corrupt(f"{path}: {'; '.join(odd)}, no whole number.")
    sizes = {name: shown.get(name, said.get(name, usual)) for name, usual in kind.sizes.items()}
    wrong = [f"{name} is {said[name]}, the tensors have {sizes[name]}" for name in said if said[name] != sizes[name]]
    if wrong:
        raise Corrupt(f"{path} contradicts itself: {'; '.join(wrong)}.", remedy=AGAIN)
    for name in sizes:
        if not isinstance(sizes[name], bool) and sizes[name] < 1:
            raise Corrupt(f"{path}: {name} is {sizes[name]!r}.")
    if 4 * sizes["latent_dim"] % sizes["nhead"]:
        raise Corrupt(f"{path}: {sizes['nhead']} heads do not divide a width of {4 * sizes['latent_dim']}.")
    return sizes


def _shown(state: State, path: Path) -> dict[str, int | bool]:
    """The sizes that shapes of tensors tell."""

    def side(name: str, axis: int) -> int:
        if name not in state or state[name].ndim <= axis:
            raise Corrupt(f"{path} has no tensor {name}, or not of its shape.")
        return int(state[name].shape[axis])

    width = side("s2_backbone.embedding.0.weight", 0)
    stack = "s2_backbone.transformer_encoder"
    layers = {m[1] for key in state if (m := re.match(rf"{re.escape(stack)}\.(?:layers\.)?(\d+)\.", key))}
    first = next((f"{stack}.{mid}0." for mid in ("layers.", "") if f"{stack}.{mid}0.linear1.weight" in state), "")
    last = "dim_reducer.4.weight" if "dim_reducer.4.weight" in state else "dim_reducer.0.weight"
    shown: dict[str, int | bool] = {
        "repr_dim": side(last, 0),
        "latent_dim": width // 4,
        "num_layers": len(layers),
        "dim_feedforward": side(f"{first}linear1.weight", 0),
        "enable_qk_norm": f"{first}q_norm.weight" in state,
    }
    if shown["enable_qk_norm"]:
        shown["nhead"] = width // max(side(f"{first}q_norm.weight", 0), 1)
    return shown


def _filled(state: State, kind: Family, sizes: Mapping[str, int | bool], path: Path) -> Network:
    """The network with these very tensors.

    Raises:
        Corrupt: One is missing, left over, of another shape or type, or not finite.
    """
    with torch.device("meta"):  # shapes alone: the teacher would take 8 GB before the first tensor is read
        network = build(kind.name, sizes)
    wanted = network.state_dict()
    shapes = [f"{k} is {tuple(state[k].shape)}, not {tuple(wanted[k].shape)}" for k in wanted.keys() & state.keys()
              if state[k].shape != wanted[k].shape]  # fmt: skip
    faults = {
        "missing": sorted(wanted.keys() - state.keys()),
        "left over": sorted(state.keys() - wanted.keys()),
        "of a wrong shape": sorted(shapes),
        "not plain numbers with a fraction": sorted(
            k for k, t in state.items() if t.dtype not in KINDS or t.layout != torch.strided or t.is_meta
        ),
    }
    for what, names in faults.items():
        if names:
            raise Corrupt(f"{path}: {len(names)} of its tensors are {what}: {_some(names)}.", remedy=AGAIN)
    # Tensors may repeat what they hold: a small file may claim a network that fills the disk.
    if (claimed := sum(t.numel() * t.element_size() for t in state.values())) > (size := path.stat().st_size):
        raise Corrupt(f"{path}: its tensors claim {claimed:,} bytes, and the file has {size:,}.", remedy=AGAIN)
    floats = {key: tensor.float() for key, tensor in state.items()}
    if bad := [key for key, tensor in floats.items() if not bool(torch.isfinite(tensor).all())]:
        raise Corrupt(f"{path}: {len(bad)} of its tensors hold NaN or infinity: {_some(bad)}.", remedy=AGAIN)
    network.load_state_dict(floats, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _depths(about: Mapping[str, Any], kind: Family, sizes: Mapping[str, int | bool], path: Path) -> tuple[int, ...]:
    """Prefix lengths of a Matryoshka model; `args` may name its own.

    Raises:
        Corrupt: They are none.
    """
    named = about.get("matryoshka_dims")
    if named is None or not kind.depths:
        return tuple(depth for depth in kind.depths if depth <= sizes["repr_dim"])
    texts = [str(depth).strip() for depth in (named if isinstance(named, list | tuple) else str(named).split(","))]
    if not all(text.isdecimal() and 0 < int(text) <= sizes["repr_dim"] for text in texts if text):
        raise Corrupt(f"{path}: matryoshka_dims is {named!r:.60} of {sizes['repr_dim']} dimensions.")
    return tuple(sorted({int(text) for text in texts if text}))


def _some(names: Collection[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(str(name)[:120] for name in list(names)[:_SHOWN]) or "nothing") + more
