"""Colour maps: one number from 0 to 1 as a colour, all computed here, and the palettes that pictures of them carry.

Most are lines in OKLab (Ottosson 2020, "A perceptual color space for image processing") along which lightness rises
evenly, so that equal steps look equal, in grey, in print, and to eyes that tell no red from green or blue from yellow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, cast

import numpy as np

from service.errors import InvalidInput
from service.values import Float64Array, UInt8Array

STEPS: Final = 255
"""Colours of a ramp. With the one that means nothing they fill a palette of 256."""
LEGEND_COLOURS: Final = 11
GAMMAS: Final = (0.1, 10.0)
REVERSED: Final = "_r"
"""Ends the name of a colour map that runs from its last colour to its first."""


def colours(name: str, t: Float64Array, gamma: float = 1.0) -> UInt8Array:
    """(n, 3) uint8 sRGB of (n,) places from 0 to 1 on a colour map, each raised to 1 / gamma.

    Raises:
        InvalidInput: No such colour map, or a gamma beyond 0.1 to 10.
    """
    line = COLORMAPS.get(name.removesuffix(REVERSED))
    if line is None:
        raise InvalidInput(
            f"{name[:40]!r} is no colour map.",
            field="colormap",
            remedy=f"Ask for one of {', '.join(COLORMAPS)}, or one of them with {REVERSED} to turn it round.",
        )
    bent = t ** (1 / checked_gamma(gamma))
    return line(1 - bent if name.endswith(REVERSED) else bent)


@lru_cache(maxsize=256)
def palette(name: str, gamma: float = 1.0) -> UInt8Array:
    """(256, 4) uint8 red, green, blue, alpha: the first is transparent, then a colour map from end to end.

    Raises:
        InvalidInput: As `colours` does.
    """
    table = np.zeros((STEPS + 1, 4), np.uint8)
    table[1:, :3], table[1:, 3] = colours(name, np.linspace(0, 1, STEPS), gamma), 255
    table.flags.writeable = False
    return table


def hex_colours(name: str, gamma: float = 1.0) -> list[str]:
    """Eleven colours along a colour map, as `#190c46`. Raises as `colours` does."""
    return [f"#{colour.tobytes().hex()}" for colour in colours(name, np.linspace(0, 1, LEGEND_COLOURS), gamma)]


def checked_gamma(gamma: float) -> float:
    """Return a gamma if it is one.

    Raises:
        InvalidInput: It is beyond 0.1 to 10.
    """
    least, most = GAMMAS
    if not least <= gamma <= most:
        raise InvalidInput(f"{gamma} is not a number from {least:g} to {most:g}.", field="gamma")
    return gamma


def _fern(t: Float64Array) -> UInt8Array:
    """From dark blue over green to pale yellow."""
    return _srgb(0.22 + 0.75 * t, 0.10 + 0.05 * np.sin(np.pi * t), 285 - 180 * t)


def _ember(t: Float64Array) -> UInt8Array:
    """From a grey dusk over crimson to pale apricot."""
    return _srgb(0.27 + 0.68 * t, 0.04 + 0.13 * np.sin(np.pi * t), 310 + 110 * t)


def _ice(t: Float64Array) -> UInt8Array:
    """From deep blue to a white that is hardly blue."""
    return _srgb(0.25 + 0.72 * t, 0.02 + 0.10 * np.sin(np.pi * (0.2 + 0.8 * t)), 268 - 58 * t)


def _tide(t: Float64Array) -> UInt8Array:
    """From blue over a pale grey in the middle to red: both ends are equally dark. For numbers around zero."""
    away = np.abs(2 * t - 1)
    return _srgb(0.96 - 0.55 * away, 0.005 + 0.135 * away**0.9, np.where(t < 0.5, 252, 30))


def _cubehelix(t: Float64Array) -> UInt8Array:
    """From black around all hues to white, brightness rising evenly.

    Green 2011, "A colour scheme for the display of astronomical intensity images": start 0.5, -1.5 turns, hue 1.
    """
    angle, amplitude = 2 * np.pi * (0.5 / 3 - 1.5 * t), t * (1 - t) / 2
    turn = np.array([[-0.14861, 1.78277], [-0.29227, -0.90649], [1.97294, 0.0]])
    shown = t + amplitude * (turn @ np.stack([np.cos(angle), np.sin(angle)]))
    return cast(UInt8Array, np.rint(255 * np.clip(shown, 0, 1).T).astype(np.uint8))


def _grey(t: Float64Array) -> UInt8Array:
    """From black to white, evenly as they are sent."""
    return np.repeat(np.rint(255 * t).astype(np.uint8)[:, None], 3, axis=1)


COLORMAPS: Final[Mapping[str, Callable[[Float64Array], UInt8Array]]] = {
    "fern": _fern,
    "ember": _ember,
    "ice": _ice,
    "tide": _tide,
    "cubehelix": _cubehelix,
    "grey": _grey,
}
"""Every colour map by its name."""
LIKENESS: Final = "fern"
CHANGE: Final = "ember"
OBSERVATIONS: Final = "ice"
GREY: Final = "grey"


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
