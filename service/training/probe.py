"""A linear probe: how well a logistic regression tells land cover from frozen vectors, on land of known truth.

Fields are split, not pixels, as TESSERA's own evaluation does: neighbours of a training pixel are never asked about.
The land is the demonstration landscape's generator with a seed of its own, which no training set is drawn from.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from service.dpixels import from_arrays
from service.sampling import DRAWS
from service.simulate import CLASSES, Landscape
from service.training.networks import Network
from service.training.objectives import vectors_of
from service.training.recipes import Recipe
from service.training.records import Records, record_type, stream, to_records
from service.training.views import Stream, sparse, taken, view
from service.values import BoolArray, Int64Array

SEED: Final = 40_961
SIDE: Final = 192
YEAR: Final = 2023
PER_CLASS: Final = 12
"""Most fields of a class that it learns from, one pixel of each; few labels are the case that matters."""
ASKED: Final = 160
"""Most pixels of a class that it is asked about."""
S2_SEEN: Final = 10
"""Dates of Sentinel-2 that a pixel is seen on, drawn anew for each: a cloudy year."""
S1_SEEN: Final = 6
DECAY: Final = 1e-2
"""Of the squares of the regression's weights."""
AT_ONCE: Final = 512


class Probe:
    """Labelled pixels, ready to be embedded.

    Args:
        recipe: What is trained: its statistics, and its rule of sampling.
    """

    def __init__(self, recipe: Recipe) -> None:
        records, self.label, self.learns = labelled()
        rng = np.random.default_rng(SEED)
        s2, s1 = (stream(records, sensor, recipe.published.statistics) for sensor in ("s2", "s1"))
        if recipe.published.sampling == "v1.0":
            s2, s1 = _few(s2, S2_SEEN, rng), _few(s1, S1_SEEN, rng)
            self._view = view(s2, s1, "drawn", (DRAWS, DRAWS), rng)
        else:
            self._view = view(s2, s1, "sparse", (S2_SEEN, S1_SEEN), rng)

    @torch.inference_mode()
    def vectors(self, student: Network, device: torch.device) -> Tensor:
        """(n, d) float64 of a network, in float32 arithmetic; it is left in the mode it was in."""
        mode = student.training
        student.eval()
        parts = []
        for at in range(0, len(self.label), AT_ONCE):
            part = self._view.part(slice(at, at + AT_ONCE))
            parts.append(vectors_of(student, part.to(device)).cpu().double())
        student.train(mode)
        return torch.cat(parts)

    def accuracy(self, student: Network, device: torch.device) -> float:
        """Mean over the classes of the share of their pixels that is told right."""
        label, learns = torch.from_numpy(self.label), torch.from_numpy(self.learns)
        return linear_accuracy(self.vectors(student, device), label, learns)


def _few(seen: Stream, times: int, rng: np.random.Generator) -> Stream:
    """A random part of the observations, still in the order of time."""
    return taken(seen, np.sort(sparse(seen[2], times, rng), axis=1))


@lru_cache(maxsize=1)
def labelled() -> tuple[Records, Int64Array, BoolArray]:
    """Pixels of the probe's land, (n,) codes of their land cover, and (n,) which of them it learns from."""
    land = Landscape(SEED, SIDE, SIDE)
    label, field = land.land_cover(YEAR).ravel().astype(np.int64), land.stands(YEAR).ravel()
    rng = np.random.default_rng(SEED)
    taught, asked = [], []
    for code in range(len(CLASSES)):
        mine = rng.permutation(np.flatnonzero(label == code))
        fields, first = np.unique(field[mine], return_index=True)
        order = rng.permutation(len(fields))
        few = order[: min(PER_CLASS, len(fields) // 2)]
        taught.append(mine[first[few]])
        rest = mine[~np.isin(field[mine], fields[few])]
        asked.append(rest[:ASKED])
    chosen = np.concatenate((*taught, *asked))
    learns = np.arange(len(chosen)) < sum(map(len, taught))
    return _records(land, chosen), label[chosen], learns


def _records(land: Landscape, chosen: Int64Array) -> Records:
    kind = record_type(80, 40)
    rows = []
    for start in range(0, SIDE, 32):
        inside = chosen[(chosen >= start * SIDE) & (chosen < (start + 32) * SIDE)]
        if len(inside):
            made = to_records(from_arrays(land.dpixels(YEAR, slice(start, start + 32))), kind)
            rows.append((inside, made[inside - start * SIDE]))
    out = np.zeros(len(chosen), kind)
    at = {int(pixel): i for i, pixel in enumerate(chosen)}
    for inside, made in rows:
        out[[at[int(pixel)] for pixel in inside]] = made
    return out


def linear_accuracy(vectors: Tensor, label: Tensor, learns: Tensor) -> float:
    """Fit a multinomial logistic regression on some rows and score it on the others, every class counting the same.

    Args:
        vectors: (n, d) float64.
        label: (n,) codes 0, 1, ...
        learns: (n,) bool, the rows to fit on.
    """
    mean, std = vectors[learns].mean(dim=0), vectors[learns].std(dim=0).clamp(min=1e-6)
    x = (vectors - mean) / std
    classes = int(label.max()) + 1
    weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_change=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = cross_entropy(x[learns] @ weight + bias, label[learns]) + DECAY * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    search.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        right = (x[~learns] @ weight + bias).argmax(dim=1) == label[~learns]
    asked = label[~learns]
    shares = [right[asked == code].double().mean() for code in range(classes) if (asked == code).any()]
    return float(torch.stack(shares).mean())
