"""How often each pixel was seen: the valid observations that its vector was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from service.colour.ramp import OBSERVATIONS
from service.colour.scored import Scale, Scored
from service.colour.spec import Sensor
from service.values import Counts, Float32Array, ModelIdentity, Vectors

MOST: Final = 1000.0
"""Dates: more than a window of 366 days has with two satellites a day."""
TOPS: Final[Mapping[Sensor, float]] = {"s2": 100.0, "s1_asc": 60.0, "s1_desc": 60.0}
"""Valid dates a year that are shown brightest: what is seldom passed, for Sentinel-2 where orbits overlap."""
NAMES: Final[Mapping[Sensor, str]] = {
    "s2": "Sentinel-2",
    "s1_asc": "Sentinel-1 ascending",
    "s1_desc": "Sentinel-1 descending",
}


@dataclass(frozen=True)
class ObservationsView(Scored):
    """The valid observations of one sensor behind each vector. It takes counts where other views take codes.

    A count is handed over as a vector of one dimension, `code * scale`; see `as_vectors`.
    """

    own: ClassVar = OBSERVATIONS
    sensor: Sensor
    scale: Scale

    def __post_init__(self) -> None:
        self.scale.require_within(0, MOST)

    @property
    def key(self) -> str:
        """The sensor and the scale."""
        return f"observations:{self.sensor}:{self.scale.key}"

    @property
    def band_names(self) -> tuple[str, ...]:
        """The sensor."""
        return (self.sensor,)

    @property
    def legend(self) -> Mapping[str, Any]:
        """The sensor, the range of counts and eleven colours along it."""
        top = f"{self.scale.top:g} or more"
        return {
            "view": "observations",
            "title": f"{NAMES[self.sensor]} observations",
            "text": f"Valid {NAMES[self.sensor]} dates that each vector was made from. {self.scale.below}",
            "sensor": self.sensor,
            "unit": "valid dates",
            **self.scale.legend(self.own, f"{self.scale.threshold:g}", top),
        }

    def check(self, identity: ModelIdentity, dims: int) -> None:
        """Any model's pixels: whoever reads them sees to it that counts are recorded."""

    def as_vectors(self, read: Vectors, counts: Counts) -> Vectors:
        """(...,) counts in the form of vectors of one dimension, valid where the pixels that were read are."""
        seen = getattr(counts, self.sensor)
        codes = np.asarray(np.minimum(seen, 1)[..., None], np.int8)
        return Vectors(codes, np.maximum(seen, 1).astype(np.float32), read.status)

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., 1) counts."""
        return vectors.dequantised()
