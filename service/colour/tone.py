"""From numbers to bytes: between which values, and along which curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from service.colour.ramp import STEPS, checked_gamma
from service.errors import InvalidInput
from service.values import Float32Array, Float64Array, UInt8Array

FARTHEST: Final = 1e6
"""No end of a stretch is farther from zero."""
Span = tuple[float, float]


@dataclass(frozen=True)
class Tone:
    """How dark and bright bands are shown, where somebody says so."""

    spans: tuple[Span, ...] = ()
    """The values shown as 0 and as 255: one pair a band, or one for all; none: the view's own."""
    gamma: float = 1.0
    """A band at the share t of its span is shown at t ** (1 / gamma): above 1 brighter, below 1 darker."""

    def __post_init__(self) -> None:
        checked_gamma(self.gamma)
        for low, high in self.spans:
            if not -FARTHEST <= low < high <= FARTHEST:
                raise InvalidInput(
                    f"{low:g},{high:g} does not run from a lower to a higher number.",
                    field="stretch",
                    remedy=f"Give low,high within {-FARTHEST:,.0f} to {FARTHEST:,.0f}.",
                )

    @property
    def key(self) -> str:
        """Nothing where nobody said anything, so that one picture has one key."""
        spans = [f":{low!r}..{high!r}" for low, high in self.spans]
        return "".join(spans) + (f":gamma={self.gamma!r}" if self.gamma != 1 else "")

    def ends(self, low: Float64Array, high: Float64Array) -> tuple[Float64Array, Float64Array]:
        """((n,) lowest, (n,) highest) value of each of n bands; those of the view where nobody said otherwise.

        Raises:
            InvalidInput: There is neither one pair nor one for each band.
        """
        if not self.spans:
            return low, high
        if len(self.spans) not in (1, len(low)):
            raise InvalidInput(
                f"{len(self.spans)} pairs for {len(low)} bands.", field="stretch", remedy="Give one, or one a band."
            )
        spans = np.broadcast_to(np.array(self.spans, np.float64), (len(low), 2))
        return spans[:, 0], spans[:, 1]

    def legend(self) -> dict[str, Any]:
        """The curve, where it is one."""
        return {"gamma": self.gamma} if self.gamma != 1 else {}


PLAIN: Final = Tone()
"""What a view does by itself."""


def stretched(values: Float32Array, low: Float64Array, high: Float64Array, gamma: float = 1.0) -> UInt8Array:
    """(..., n) values from `low` to `high` as 0 to 255, clipped; NaN becomes 0."""
    span = np.where(high > low, high - low, 1.0)
    gain, shift = (255 / span).astype(np.float32), (low * 255 / span).astype(np.float32)
    shown = np.empty_like(values)
    for band in range(values.shape[-1]):  # numpy takes three times as long over pairs of a long and a short axis
        shown[..., band] = values[..., band] * gain[band] - shift[band]
    np.fmin(np.fmax(shown, 0, out=shown), 255, out=shown)  # of NaN and a number these give the number
    if gamma != 1:
        shown = 255 * (shown / np.float32(255)) ** np.float32(1 / gamma)
    return cast(UInt8Array, np.rint(shown, out=shown).astype(np.uint8))


def indexed(values: Float32Array, low: float, high: float) -> UInt8Array:
    """(...,) values from `low` to `high` as 1 to 255, clipped; NaN becomes 0. A palette has the curve in it."""
    gain = (STEPS - 1) / (high - low) if high > low else float(STEPS - 1)
    place = values * np.float32(gain)
    place -= np.float32(low * gain - 1)
    np.clip(place, 1, STEPS, out=place)
    return cast(UInt8Array, np.fmax(np.rint(place, out=place), 0, out=place).astype(np.uint8))
