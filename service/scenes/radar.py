"""Sentinel-1, one date and orbit at a time: backscatter as the published pipeline stores it."""

from __future__ import annotations

from collections.abc import Mapping
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


def merged(frame: Int16Array | None, scene: Mapping[str, npt.NDArray[Any]], mode: Mode) -> Int16Array | None:
    """The frame of a date and orbit with one more scene: in each pixel the first that is valid, by polarisation.

    A polarisation that shows less than MIN_COVERAGE of the region is left out; one that no scene has is zeros.

    Args:
        frame: (h, w, 2) VV, VH of the scenes before it in the order of the catalogue, filled in place; None where
            they show nothing.
        scene: Linear power (h, w) by VV and VH, as far as it has them.
        mode: How it was published.

    Returns:
        (h, w, 2); None where this one shows nothing either.
    """
    for channel, name in enumerate(S1_ASSETS):
        values = scene.get(name)
        if values is None or seen(values).mean() < MIN_COVERAGE:
            continue
        if frame is None:
            frame = np.zeros((*values.shape, len(S1_ASSETS)), np.int16)
        held = frame[..., channel]
        np.copyto(held, scaled(values, mode), where=held == 0)
    return frame
