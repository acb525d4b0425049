"""The published procedure, literally: repeat observations to a multiple of 8, group pixels by length, run torch.

Slow and plain on purpose: it is what the encoder is held against.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from service.dpixels import DPixels
from service.families import Statistics
from service.sampling import bin_of, pattern, standardise
from service.training.networks import Student
from service.values import Float32Array, Int64Array

Stream = tuple[Float32Array, Int64Array]


def reference_vectors(student: Student, dpixels: DPixels, statistics: Statistics, batch: int = 1024) -> Float32Array:
    """(n, d) float32 vectors by the v2 rule with repeated observations; NaN where a pixel has none at all."""
    streams = [_streams(dpixels, i, statistics) for i in range(len(dpixels))]
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (s2, s1) in enumerate(streams):
        groups[bin_of(len(s2[1])), bin_of(len(s1[1]))].append(i)
    out = np.full((len(dpixels), student.config.repr_dim), np.nan, np.float32)
    for (bin2, bin1), members in sorted(groups.items()):
        for start in range(0, len(members) if bin2 or bin1 else 0, batch):
            part = members[start : start + batch]
            optical = _stacked([streams[i][0] for i in part], bin2)
            radar = _stacked([streams[i][1] for i in part], bin1)
            with torch.inference_mode():
                out[part] = student(*optical, *radar).numpy()
    return out


def _streams(dpixels: DPixels, i: int, statistics: Statistics) -> tuple[Stream, Stream]:
    """Valid, standardised observations of one pixel: Sentinel-2, and ascending followed by descending radar."""

    def one(values: npt.NDArray[Any], doy: npt.NDArray[Any], valid: npt.NDArray[np.bool_], name: str) -> Stream:
        mean, std = getattr(statistics, f"{name}_mean"), getattr(statistics, f"{name}_std")
        return standardise(values[valid], mean, std), doy[valid].astype(np.int64)

    d = dpixels[i : i + 1]
    asc = one(d.s1_asc[0], d.s1_asc_doy[0], d.s1_asc_valid[0], "s1_asc")
    desc = one(d.s1_desc[0], d.s1_desc_doy[0], d.s1_desc_valid[0], "s1_desc")
    s2 = one(d.s2[0], d.s2_doy[0], d.s2_valid[0], "s2")
    return s2, (np.concatenate((asc[0], desc[0])), np.concatenate((asc[1], desc[1])))


def _stacked(streams: list[Stream], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    if length == 0:
        channels = streams[0][0].shape[1]
        return torch.zeros(len(streams), 1, channels), torch.zeros(len(streams), 1, dtype=torch.int64)
    order = [pattern(len(doy), length) for _, doy in streams]
    values = np.stack([values[o] for (values, _), o in zip(streams, order, strict=True)])
    days = np.stack([doy[o] for (_, doy), o in zip(streams, order, strict=True)])
    return torch.from_numpy(values), torch.from_numpy(days)
