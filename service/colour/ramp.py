"""The colours of a score: one ramp, the same in every picture and legend."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import numpy as np

from service.values import UInt8Array


@lru_cache(maxsize=1)
def ramp() -> UInt8Array:
    """(256, 3) uint8 colours whose lightness rises evenly from dark blue to pale yellow, also in grey and in print.

    A straight line in the lightness of OKLab (Ottosson 2020, "A perceptual color space for image processing")
    with the hue turning from blue over green to yellow.
    """
    t = np.linspace(0, 1, 256)
    lightness, chroma = 0.22 + 0.75 * t, 0.10 + 0.05 * np.sin(np.pi * t)
    hue = np.radians(285 - 180 * t)
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cones = np.stack([
        lightness + 0.3963377774 * a + 0.2158037573 * b,
        lightness - 0.1055613458 * a - 0.0638541728 * b,
        lightness - 0.0894841775 * a - 1.2914855480 * b,
    ])  # fmt: skip
    to_rgb = np.array([
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ])  # fmt: skip
    linear = np.clip(to_rgb @ cones**3, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return cast(UInt8Array, np.rint(255 * srgb.T).astype(np.uint8))
