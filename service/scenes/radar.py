"""Sentinel-1, one date and orbit at a time: backscatter as the published pipeline stores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.dpixels.stored import S1_MAX
from service.scenes.optical import MIN_COVERAGE
from service.scenes.value import S1_ASSETS, Mode
from service.values import BoolArray

ORBITS: Final = ("ascending", "descending")
"""What is called anything else is left out."""
Int16Array = npt.NDArray[np.int16]


def seen(values: npt.NDArray[Any]) -> BoolArray:
    """Which pixels hold a measurement: finite and above 0. Any shape."""
    return np.asarray(np.isfinite(values) & (values > 0))


def scaled(values: npt.NDArray[Any], mode: Mode) -> Int16Array:
    """Gamma nought as it is stored: trunc(clip((20 log10(a) + 50) x 200, 0, 32767)) where a is finite and above 0.

    In float64 in mode `mpc` and in float32 in mode `aws`, as published: cutting off may make a difference of 1.

    Args:
        values: Linear power, any shape; 0, what is negative and what is not finite are no data.
        mode: How it was published.
    """
    held = seen(values)
    power = np.where(held, values, 1).astype(mode.s1_dtype)
    return np.where(held, np.clip((20 * np.log10(power) + 50) * 200, 0, S1_MAX), 0).astype(np.int16)


def frame(scenes: Sequence[Mapping[str, npt.NDArray[Any]]], mode: Mode) -> Int16Array | None:
    """All scenes of a date and orbit as one: in each pixel the first that is valid, by polarisation.

    A scene's polarisation that shows less than MIN_COVERAGE of the region is left out; a polarisation that no scene
    has is zeros.

    Args:
        scenes: Linear power (h, w) by VV and VH, as far as a scene has them; in the order of the catalogue.
        mode: How they were published.

    Returns:
        (h, w, 2) VV, VH; None where nothing is left.
    """
    out: Int16Array | None = None
    for scene in scenes:
        for channel, name in enumerate(S1_ASSETS):
            values = scene.get(name)
            if values is None or seen(values).mean() < MIN_COVERAGE:
                continue
            if out is None:
                out = np.zeros((*values.shape, len(S1_ASSETS)), np.int16)
            merged = out[..., channel]
            np.copyto(merged, scaled(values, mode), where=merged == 0)
    return out
