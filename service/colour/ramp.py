"""The colours of numbers: one ramp a meaning, the same in every picture and legend.

Each is a line in OKLab (Ottosson 2020, "A perceptual color space for image processing") along which lightness rises
evenly, so that equal steps look equal, in grey, in print, and to eyes that tell no red from green or blue from yellow.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, cast

import numpy as np

from service.values import Float64Array, UInt8Array

STEPS: Final = 255
"""Colours of a ramp. With the one that means nothing they fill a palette of 256."""


def palette_of(colours: UInt8Array) -> UInt8Array:
    """(256, 4) uint8 red, green, blue, alpha: the first is transparent, then the (255, 3) colours of a ramp."""
    table = np.zeros((STEPS + 1, 4), np.uint8)
    table[1:, :3], table[1:, 3] = colours, 255
    return table


@lru_cache(maxsize=1)
def ramp() -> UInt8Array:
    """(255, 3) uint8 colours of likeness: from dark blue over green to pale yellow."""
    t = np.linspace(0, 1, STEPS)
    return _srgb(0.22 + 0.75 * t, 0.10 + 0.05 * np.sin(np.pi * t), 285 - 180 * t)


@lru_cache(maxsize=1)
def change_ramp() -> UInt8Array:
    """(255, 3) uint8 colours of change: from a grey dusk, where all is as it was, over crimson to pale apricot."""
    t = np.linspace(0, 1, STEPS)
    return _srgb(0.27 + 0.68 * t, 0.04 + 0.13 * np.sin(np.pi * t), 310 + 110 * t)


@lru_cache(maxsize=1)
def grey_ramp() -> UInt8Array:
    """(255, 3) uint8 greys, evenly spaced as they are sent: 0 is black, 255 white."""
    return np.repeat(np.rint(np.linspace(0, 255, STEPS)).astype(np.uint8)[:, None], 3, axis=1)


def _srgb(lightness: Float64Array, chroma: Float64Array, hue: Float64Array) -> UInt8Array:
    """(n, 3) uint8 sRGB of (n,) OKLab lightness, chroma and hue in degrees; what sRGB cannot show is clipped."""
    a, b = chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))
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
