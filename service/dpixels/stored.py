"""Units: what people measure, made into the integers that TESSERA's encoders know. Nowhere else is such a formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from service.errors import InvalidInput
from service.values import Float32Array, Float64Array

UNITS: Final = {"s2": ("dn", "reflectance"), "s1": ("db", "power", "scaled")}
"""dn: reflectance x 10000, offset removed; reflectance. db: 10 log10 of power; power: linear gamma0; scaled: as
published, (2 dB + 50) x 200."""
UNUSABLE_SCL: Final = (0, 1, 2, 3, 8, 9)
"""Scene classes the published pipeline leaves out: no data, saturated, dark, cloud shadow, cloud (medium, high)."""
MAX_REFLECTANCE: Final = 6.5535
"""What uint16 can hold at 10000 a unit."""
MIN_DN: Final = -2000
"""Reflectance slightly below 0 is an artefact of the offset; anything lower is no measurement."""
S2_MAX: Final = 65535
S1_MAX: Final = 32767
"""Largest stored backscatter: the published scaling clips there."""
RAW: Final = "Send what was measured: each encoder standardises by statistics of its own."


@dataclass
class Range:
    """The least and greatest of what came of one sensor so far, and the unit it is said to be in.

    What can never be of that unit is refused as soon as it is seen; what merely cannot be true of all of it (a year
    in which no dn exceeds 2) by `finish`, so that it makes no difference in how many pieces it came.
    """

    sensor: str
    """`s2` or `s1`."""
    unit: str
    values_field: str
    """What errors call the values."""
    unit_field: str
    """What errors call the unit."""
    low: float = np.inf
    high: float = -np.inf

    def __post_init__(self) -> None:
        units = UNITS[self.sensor]
        if self.unit not in units:
            remedy = f"Use {', '.join(units[:-1])} or {units[-1]}."
            raise InvalidInput(f"{str(self.unit)[:20]!r} is not a unit.", field=self.unit_field, remedy=remedy)

    def stored(self, values: Float64Array) -> Float32Array:
        """The next piece, as the published pipeline stores it. See `s2_stored` and `s1_stored`.

        Args:
            values: (..., channels) float64, finite.

        Raises:
            InvalidInput: Values that cannot be of the unit.
        """
        if values.size:
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
            self._check(whole=False)
        return (s2_stored if self.sensor == "s2" else s1_stored)(values, self.unit)

    def finish(self) -> None:
        """Nothing more comes.

        Raises:
            InvalidInput: All of it together is not of the unit.
        """
        if self.low <= self.high:
            self._check(whole=True)

    def _check(self, *, whole: bool) -> None:
        if self.sensor == "s2":
            self._check_s2(whole)
        elif looks := _looks(self.low, self.high, self.unit, whole):
            said = f"values run from {self.low:g} to {self.high:g}: that looks like {looks}."
            raise InvalidInput(said, field=self.unit_field, remedy=RAW if looks == _STANDARDISED else None)

    def _check_s2(self, whole: bool) -> None:
        low, high, reflectance = self.low, self.high, self.unit == "reflectance"
        scale = 10000.0 if reflectance else 1.0
        if (whole or low * scale < MIN_DN) and -20 < low < -0.2 and high < 20:
            said = f"values run from {low:g} to {high:g}: that looks like {_STANDARDISED}."
            raise InvalidInput(said, field=self.values_field, remedy=RAW)
        if reflectance and high > MAX_REFLECTANCE:
            raise InvalidInput(f"values reach {high:g}, no reflectance.", field=self.unit_field, remedy="Is it dn?")
        if low * scale < MIN_DN or high * scale > S2_MAX:
            worst = low if low * scale < MIN_DN else high
            said = f"{worst:g} cannot be {self.unit}."
            raise InvalidInput(said, field=self.values_field, remedy="Is it a no-data value?")
        if whole and not reflectance and 0 < high < 2:
            said = f"values never exceed {high:g}, no dn."
            raise InvalidInput(said, field=self.unit_field, remedy="Is it reflectance?")


_STANDARDISED: Final = "standardised values"


def _looks(low: float, high: float, unit: str, whole: bool) -> str:
    """What backscatter of some range looks like, if not like its unit; "" where there is nothing to say."""
    if unit == "db":
        if high > 40 or low < -100 or (whole and low > 0):
            return "power or scaled" if low > 0 else "scaled, or a no-data value"
        return ""
    if low < 0:
        return _STANDARDISED if low > -6 and 0 < high < 6 else "db, or a no-data value"
    if unit == "power":
        return "scaled" if high > 1000 else ""
    if high > S1_MAX:
        return "a no-data value"
    return "power" if whole and 0 < high < 100 else ""


def s2_stored(values: Float64Array, unit: str) -> Float32Array:
    """Stored integers: reflectance x 10000 to the nearest, dn as cast to uint16 by the published pipeline (truncated).

    Reflectance slightly below 0 becomes 0.

    Args:
        values: (..., 10) float64, finite.
        unit: `dn` or `reflectance`.
    """
    whole = np.trunc(values) if unit == "dn" else np.rint(values * 10000.0)
    return np.asarray(np.maximum(whole, 0), np.float32)


def s1_stored(values: Float64Array, unit: str) -> Float32Array:
    """Backscatter as the published pipeline stores it.

    stored = trunc(clip((20 log10 a + 50) x 200, 0, 32767)) for power a > 0, else 0, in float64. The published formula
    takes 20 log10 of power, so it holds twice the physical decibels: with dB = 10 log10 a it is (2 dB + 50) x 200.

    Args:
        values: (..., 2) float64, finite.
        unit: `db`, `power` or `scaled`.
    """
    if unit == "scaled":
        return np.asarray(np.trunc(values), np.float32)
    with np.errstate(divide="ignore"):
        doubled = 2 * values if unit == "db" else 20 * np.log10(values)
    return np.asarray(np.trunc(np.clip((doubled + 50) * 200, 0, S1_MAX)), np.float32)


def one_piece(sensor: str, values: Float64Array, unit: str, path: str) -> Float32Array:
    """A whole series in its stored form.

    Args:
        sensor: `s2` or `s1`.
        values: (t, channels) float64, finite.
        unit: See UNITS.
        path: Field path for errors.

    Raises:
        InvalidInput: Unknown unit, or values that cannot be of that unit.
    """
    seen = Range(sensor, unit, f"{path}.values", f"{path}.unit")
    stored = seen.stored(values)
    seen.finish()
    return stored
