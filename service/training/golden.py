"""Golden forward checks: weights and inputs by formula, and what the published networks made of them.

The numbers were got by running the published code itself (CPU, float32) with these weights on these inputs. Whoever
claims to run a published network, in torch or in any engine, must get them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import nn

from service.errors import InvalidInput
from service.families import FAMILIES, family
from service.training.networks import Network, build
from service.values import Float32Array

Module = TypeVar("Module", bound=nn.Module)

TOLERANCE: Final = 2e-5
"""Most that any listed number may be missed by, in float32."""
RELATIVE: Final = 1e-5
"""Likewise as a share of the number, where a family's vectors are not of unit size (v1.1)."""


@dataclass(frozen=True)
class Golden:
    """One check: a network, how many dates it is shown, and some numbers of its answer for two pixels."""

    case: str
    family: str
    first: tuple[float, ...]
    """First numbers of the first pixel's vector."""
    last: tuple[float, ...]
    """Last numbers of the second pixel's vector, of the dimensions that the network gives."""
    sizes: Mapping[str, int | bool] = field(default_factory=lambda: MappingProxyType({}))
    """Where they are not the family's."""
    times: tuple[int, int] = (12, 9)
    """Dates of Sentinel-2 and Sentinel-1."""
    relative: float = 0.0
    """Tolerance as a share of the number; TOLERANCE holds where it is 0."""

    @property
    def native_dims(self) -> int:
        """Length of the network's whole vector."""
        return int(self.sizes.get("repr_dim", family(self.family).native_dims))

    def network(self) -> Network:
        """The network with its golden weights."""
        return fill(build(self.family, self.sizes))

    def error(self, vectors: Float32Array) -> float:
        """Largest miss of a listed number, as a share of what is allowed: at most 1 is right.

        Args:
            vectors: (2, d); with d below `native_dims`, as for a graph that gives stored dimensions only, the last
                numbers are not looked at.

        Raises:
            InvalidInput: It is something else.
        """
        if vectors.ndim != 2 or len(vectors) != 2 or not len(self.first) <= vectors.shape[1] <= self.native_dims:
            raise InvalidInput(f"{vectors.shape} are not the vectors of {self.case}.", field="vectors")
        found, want = list(vectors[0, : len(self.first)]), list(self.first)
        if vectors.shape[1] == self.native_dims:
            found, want = found + list(vectors[1, -len(self.last) :]), want + list(self.last)
        allowed = self.relative * np.abs(want) if self.relative else TOLERANCE
        return float((np.abs(np.subtract(found, want)) / allowed).max())


def _v11(source: str) -> Golden:
    first, last = (-0.654044, -3.178517, -4.543524, -4.247097), (1.831249, 3.899509, 4.521473)
    return Golden(f"v1.1 {source}", f"tessera-v1.1-{source}", first, last, relative=RELATIVE)


GOLDEN: Final = (
    Golden(
        "v1.0 early", "tessera-v1.0-early", (0.502704, -0.816637, 0.053124, 0.867362), (-0.068876, 0.880246, -0.421599)
    ),
    Golden("v1.0 QAT", "tessera-v1.0-qat", (-0.073852, -0.062244, 0.157809, 0.047489), (0.154795, 0.045909, -0.123394)),
    Golden(
        "v1.0 QAT, one date",
        "tessera-v1.0-qat",
        (-0.074255, -0.057897, 0.155493, 0.04459),
        (0.153022, 0.042924, -0.119754),
        times=(1, 1),
    ),
    _v11("mpc"),
    _v11("aws"),
    Golden("v2 small", "tessera-v2", (-0.36407, 1.363079, -0.60323, -1.106987), (-0.367383, -1.171664, 1.131263)),
    Golden(
        "v2 small with QK-norm",
        "tessera-v2",
        (0.03806, 1.291484, -0.922733, -0.794743),
        (-0.728991, -0.928053, 1.312558),
        {"enable_qk_norm": True},
    ),
    Golden(
        "v2 teacher, shrunk",
        "tessera-v2-teacher",
        (0.073919, -0.743965, 0.688269, -1.312244),
        (0.169046, -0.462028, 0.730971),
        {"repr_dim": 16, "latent_dim": 8, "num_layers": 2, "nhead": 4, "dim_feedforward": 64},
    ),
)
"""Both sources of v1.1 are one network with other statistics; the teacher is too large to be run whole."""


def golden(name: str) -> tuple[Golden, ...]:
    """The checks of a family.

    Raises:
        InvalidInput: No such family.
    """
    family(name)
    return tuple(one for one in GOLDEN if one.family == name)


def fill(network: Module) -> Module:
    """Give a network its golden weights: a sine over the parameters' names in order; returned in evaluation mode.

    Number a of parameter i, counted over sorted names, is 0.05 sin(0.37 a + i), in float64 and then float32; gains
    of norms are 1 more.
    """
    state = network.state_dict()
    for i, name in enumerate(sorted(state)):
        values = (0.05 * np.sin(0.37 * np.arange(state[name].numel()) + i)).astype(np.float32)
        gain = name.endswith("weight") and ("norm" in name or name.startswith("dim_reducer.1."))
        state[name].copy_(torch.from_numpy((values + np.float32(gain)).reshape(state[name].shape)))
    return network.eval()


def inputs(times: tuple[int, int] = (12, 9)) -> dict[str, Any]:
    """The golden series of two pixels by the names of `Network.forward`: sin(0.3 b + 0.11 t + 0.7 c), day 10 + 15 t."""
    out: dict[str, Any] = {}
    for sensor, count, channels in zip(("s2", "s1"), times, (10, 2), strict=True):
        b, t, c = np.ogrid[:2, :count, :channels]
        out[sensor] = np.sin(0.3 * b + 0.11 * t + 0.7 * c).astype(np.float32)
        out[f"{sensor}_doy"] = np.tile(10 + 15 * np.arange(count), (2, 1))
    return out


def feeds(case: Golden) -> dict[str, Any]:
    """Every input of the exported graph for a check: each date counts once, in the order it stands."""
    out = inputs(case.times)
    for sensor, count in zip(("s2", "s1"), case.times, strict=True):
        out[f"{sensor}_logm"] = np.zeros((2, count), np.float32)
        if FAMILIES[case.family].sampling != "v2":
            out[f"{sensor}_order"] = np.tile(np.arange(count), (2, 1))
            out[f"{sensor}_steps"] = np.zeros((2, count), np.float32)
    return out


def forward(network: Network, arrays: Mapping[str, Any]) -> Float32Array:
    """Run a network on numpy arrays by the names of its inputs -> (B, repr_dim) float32."""
    with torch.inference_mode():
        return network(**{name: torch.from_numpy(array) for name, array in arrays.items()}).numpy()  # type: ignore[no-any-return]
