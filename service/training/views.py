"""Views of pixels: random parts of their observations, as the network takes them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.sampling import PADDING
from service.training.data import Series
from service.training.recipes import Views
from service.values import BoolArray, Float32Array, Int64Array

MONTHS: Final = 12
KERNEL: Final = 18.0
"""Days: width of the Gaussian that smooths observations to monthly means."""


def monthly_means(values: npt.NDArray[Any], doy: Int64Array, valid: BoolArray) -> tuple[Float32Array, BoolArray]:
    """(n, 12, c) observations smoothed by a Gaussian in time around mid-month, and (n, 12) whether any was near."""
    middle = (np.arange(MONTHS, dtype=np.float32) + 0.5) * np.float32(365 / MONTHS)
    weight = np.exp(-0.5 * np.square((doy[:, None, :] - middle[:, None]) / np.float32(KERNEL))) * valid[:, None, :]
    weight = weight.astype(np.float32)
    total = weight.sum(axis=2)
    return np.asarray(weight @ values / np.maximum(total, 1e-6)[..., None], np.float32), total > 0.05


def monthly_targets(
    s2: tuple[Float32Array, Int64Array, BoolArray], s1: tuple[Float32Array, Int64Array, BoolArray]
) -> tuple[Tensor, Tensor]:
    """(n, 12 * 12) monthly means, ten bands and two polarisations a month, and which of them are known."""
    (means2, near2), (means1, near1) = monthly_means(*s2), monthly_means(*s1)
    known = np.concatenate((np.repeat(near2[..., None], 10, 2), np.repeat(near1[..., None], 2, 2)), axis=2)
    means = np.concatenate((means2, means1), axis=2).reshape(len(means2), -1)
    return torch.from_numpy(means), torch.from_numpy(known.reshape(len(means), -1))


@dataclass(frozen=True)
class View:
    """Some observations of some pixels. Days are float32: mixed views have days between days."""

    s2: Tensor
    """(B, T2, 10) standardised."""
    s2_doy: Tensor
    """(B, T2)."""
    s1: Tensor
    s1_doy: Tensor
    s2_logm: Tensor | None = None
    """(B, T2) 0, or PADDING where there is no observation; None: there is one everywhere."""
    s1_logm: Tensor | None = None

    def mixed(self, other: View, alpha: Tensor, order: Tensor) -> View:
        """Alpha * self + (1 - alpha) * other[order], days included (TESSERA training code)."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        mixed: dict[str, Any] = {
            k: None if a is None else alpha * a + (1 - alpha) * b[order] for k, (a, b) in pairs.items()
        }
        return View(**mixed)

    def part(self, rows: slice) -> View:
        """Some of the pixels."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        parts = {name: None if each is None else each[rows] for name, each in parts.items()}
        return View(**parts)

    def to(self, device: torch.device) -> View:
        """The same on another device."""
        return View(**_moved(self, device))


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    one: View
    two: View | None = None
    """Another view of the same pixels; None in distillation."""
    alpha: Tensor | None = None
    """Scalar in [0, 1], how the two are mixed."""
    order: Tensor | None = None
    """(B,) permutation, which two are mixed."""
    target: Tensor | None = None
    """(B, 144) monthly means, or (B, d) vectors of the teacher."""
    known: Tensor | None = None
    """(B, 144) bool, which monthly means are known."""

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(**_moved(self, device))


def _moved(held: View | Batch, device: torch.device) -> dict[str, Any]:
    parts = {f.name: getattr(held, f.name) for f in fields(held)}
    return {name: None if part is None else part.to(device) for name, part in parts.items()}


class Pool:
    """Training pixels in memory, with their smoothed monthly means, and sparse random views of them."""

    def __init__(self, series: Series) -> None:
        self._tensors = {name: torch.from_numpy(value) for name, value in series.__dict__.items()}
        self.monthly, self.known = monthly_targets(
            (series.s2, series.s2_doy, series.s2_valid), (series.s1, series.s1_doy, series.s1_valid)
        )

    def __len__(self) -> int:
        return len(self.monthly)

    def view(self, pixels: Tensor, s2_times: int, s1_times: int, generator: torch.Generator) -> View:
        """Draw up to so many observations of each sensor, without replacement, of some pixels."""
        s2, s2_doy, s2_logm = self._drawn("s2", pixels, s2_times, generator)
        s1, s1_doy, s1_logm = self._drawn("s1", pixels, s1_times, generator)
        return View(s2, s2_doy, s1, s1_doy, s2_logm, s1_logm)

    def _drawn(
        self, sensor: str, pixels: Tensor, times: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        valid = self._tensors[f"{sensor}_valid"][pixels]
        luck = torch.rand(valid.shape, generator=generator) + valid
        chosen = luck.topk(times, dim=1).indices
        row = torch.arange(len(pixels))[:, None]
        held = valid[row, chosen]
        values = self._tensors[sensor][pixels[:, None], chosen] * held[..., None]
        doy = (self._tensors[f"{sensor}_doy"][pixels[:, None], chosen] * held).float()
        logm = torch.zeros(held.shape).masked_fill(~held, float(PADDING))
        logm[:, 0] = 0.0  # a sensor without observations is one token of zeros on day 0
        return values, doy, logm


def drawn(valid: BoolArray, times: int, rng: np.random.Generator) -> Int64Array:
    """(n, times) places of valid observations in the order of time: the rule of TESSERA v1.

    Without replacement where there are enough, else with. Where there are none, all places are 0.
    """
    count = valid.sum(axis=1)
    luck = np.where(valid, rng.random(valid.shape), 2.0)
    without = luck.argsort(axis=1, kind="stable")[:, : min(times, valid.shape[1])]
    repeated = np.floor(rng.random((len(valid), times)) * count[:, None]).astype(np.int64)
    repeated = np.take_along_axis(np.argsort(~valid, axis=1, kind="stable"), repeated, axis=1)
    if valid.shape[1] >= times:
        repeated = np.where((count >= times)[:, None], without, repeated)
    return np.sort(repeated, axis=1)


def sparse(valid: BoolArray, times: int, rng: np.random.Generator) -> Int64Array:
    """(n, at most times) random places, valid ones first: without replacement, fewer where there are fewer."""
    luck = np.where(valid, rng.random(valid.shape), 2.0)
    return luck.argsort(axis=1, kind="stable")[:, :times]


Stream = tuple[Float32Array, Int64Array, BoolArray]


def taken(seen: Stream, places: Int64Array) -> Stream:
    """The observations at (n, times) places."""
    values, doy, valid = seen
    return (
        np.take_along_axis(values, places[..., None], axis=1),
        np.take_along_axis(doy, places, axis=1),
        np.take_along_axis(valid, places, axis=1),
    )


def view(s2: Stream, s1: Stream, kind: Views, times: tuple[int, int], rng: np.random.Generator) -> View:
    """One view of pixels that are given as streams: see service.training.records.stream.

    Args:
        s2: Sentinel-2.
        s1: Sentinel-1.
        kind: Which rule; see Recipe.views.
        times: Observations of each sensor; nothing to `all`.
        rng: What draws.
    """
    s2_values, s2_doy, s2_logm = _part(s2, kind, times[0], rng)
    s1_values, s1_doy, s1_logm = _part(s1, kind, times[1], rng)
    return View(s2_values, s2_doy, s1_values, s1_doy, s2_logm, s1_logm)


def _part(seen: Stream, kind: Views, times: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
    if kind != "all":
        seen = taken(seen, (drawn if kind == "drawn" else sparse)(seen[2], times, rng))
    values, doy, valid = seen
    values = np.where(valid[..., None], values, np.float32(0))
    days = np.where(valid, doy, 0).astype(np.float32)
    if kind == "drawn":
        return torch.from_numpy(values), torch.from_numpy(days), None
    logm = np.where(valid, np.float32(0), PADDING)
    logm[:, 0] = 0  # a sensor without observations is one token of zeros on day 0
    return torch.from_numpy(values), torch.from_numpy(days), torch.from_numpy(logm)
