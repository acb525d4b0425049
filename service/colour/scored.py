"""Views of one number a pixel, from a threshold to a top: likeness with a query, and change between two windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from service.colour.ramp import change_ramp, palette_of, ramp
from service.colour.views import indexed
from service.errors import InvalidInput
from service.queries import Query
from service.values import Float32Array, ModelIdentity, UInt8Array, Vectors, Window

LEGEND_COLOURS: Final = 11
MOST: Final = 2.0
"""No cosine, and no change, is larger."""
_ROWS: Final = 1024
"""Pixels compared at once: their float32 copies, 1 MB, stay in the cache of a core."""


@dataclass(frozen=True)
class Scale:
    """How a number is coloured."""

    threshold: float = 0.0
    """What is shown in the first colour."""
    clip: bool = False
    """Whether pixels below the threshold are transparent."""
    top: float = 1.0
    """What is shown in the last colour."""

    def __post_init__(self) -> None:
        if not -1 <= self.threshold < 1:
            raise InvalidInput(f"{self.threshold} is not a number from -1 to below 1.", field="threshold")
        if not self.threshold < self.top <= MOST:
            raise InvalidInput(f"{self.top} is not above the threshold and at most {MOST:g}.", field="top")

    @property
    def key(self) -> str:
        """`0.5..1.0`, or `0.5..1.0:clip`."""
        return f"{self.threshold!r}..{self.top!r}{':clip' if self.clip else ''}"

    def picture(self, values: Float32Array) -> UInt8Array:
        """(..., 1) places on a ramp, from 1; 0 where they are clipped, or no number (NaN)."""
        shown = indexed(values, self.threshold, self.top)
        if self.clip:
            shown[values < np.float32(self.threshold)] = 0
        return shown

    def legend(self, colours: UInt8Array, low: str, high: str) -> Mapping[str, Any]:
        """The range, eleven colours along it, and what its ends mean."""
        steps = np.linspace(0, len(colours) - 1, LEGEND_COLOURS).astype(int)
        return {
            "range": [self.threshold, self.top],
            "colours": ["#" + colours[step].tobytes().hex() for step in steps],
            "labels": [low, high],
            "clip": self.clip,
        }

    @property
    def below(self) -> str:
        """What becomes of pixels below the threshold, in words."""
        return f"Below {self.threshold:g} {'nothing is shown' if self.clip else 'all have the first colour'}."


@dataclass(frozen=True, eq=False)
class SimilarityView:
    """The cosine of each pixel with a query: the score that the search ranks by."""

    query: Query
    scale: Scale = Scale()

    @property
    def key(self) -> str:
        """The query's id and the scale."""
        return f"similarity:{self.query.id}:{self.scale.key}"

    @property
    def band_names(self) -> tuple[str, ...]:
        """Score."""
        return ("score",)

    @property
    def legend(self) -> Mapping[str, Any]:
        """The query, the range of scores and eleven colours along it."""
        return {
            "view": "similarity",
            "title": "Likeness",
            "text": "Cosine between each pixel's vector and the query: 1 is the same direction, 0 has nothing in "
            f"common with it. {self.scale.below}",
            "query": self.query.id,
            "unit": "cosine",
            **self.scale.legend(ramp(), "less alike", "alike"),
        }

    def check(self, identity: ModelIdentity, dims: int) -> None:
        """Only vectors of the query's model."""
        self.query.require_same_space(identity, dims, "the dataset")

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., 1) cosines, -1 to 1."""
        scores = self.query.scores(vectors.codes)
        scores[~vectors.valid] = np.nan
        return scores[..., None]

    @property
    def palette(self) -> UInt8Array:
        """The colours of likeness."""
        return palette_of(ramp())

    def picture(self, vectors: Vectors) -> UInt8Array:
        """(..., 1): from the threshold to the top; see `Scale.picture`."""
        return self.scale.picture(self.values(vectors))


@dataclass(frozen=True, eq=False)
class ChangeView:
    """How far each pixel's vector turned between two windows: 1 - cos(a, b).

    That is the cosine distance: 0 where both point the same way, 1 where they are orthogonal, 2 at most; half the
    squared Euclidean distance of the two unit vectors. Like every cosine here it is taken on the codes, which scales
    do not turn. It takes pixels of both windows side by side; see `side_by_side`.
    """

    window: Window
    """The window that is shown."""
    other: Window
    """The one it is compared with."""
    scale: Scale = Scale()

    @property
    def key(self) -> str:
        """Both windows and the scale."""
        return f"change:{self.window}:{self.other}:{self.scale.key}"

    @property
    def band_names(self) -> tuple[str, ...]:
        """Change."""
        return ("change",)

    @property
    def legend(self) -> Mapping[str, Any]:
        """Both windows, earlier first, the range of the change and eleven colours along it."""
        first, second = sorted([self.window, self.other])
        return {
            "view": "change",
            "title": f"Change, {first} to {second}",
            "text": "1 - cosine between each pixel's vectors of the two windows: 0 is as before, 1 has nothing in "
            f"common with it. {self.scale.below} Transparent where either window holds no vector.",
            "windows": [str(first), str(second)],
            "unit": "1 - cosine",
            **self.scale.legend(change_ramp(), "as before", "all different"),
        }

    def check(self, identity: ModelIdentity, dims: int) -> None:
        """Any model's vectors: whoever reads both windows sees to it that one model made both."""

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., 1) changes, 0 to 2, of pixels with the codes of both windows side by side."""
        change = np.clip(1 - _cosines(vectors), 0, 2)
        change[~vectors.valid] = np.nan
        return np.asarray(change[..., None], np.float32)

    @property
    def palette(self) -> UInt8Array:
        """The colours of change."""
        return palette_of(change_ramp())

    def picture(self, vectors: Vectors) -> UInt8Array:
        """(..., 1): from the threshold to the top; see `Scale.picture`."""
        return self.scale.picture(self.values(vectors))


def side_by_side(shown: Vectors, other: Vectors) -> Vectors:
    """The same (...,) pixels of two windows as one value of 2d codes, valid where both are.

    Where one is not valid its status is kept, that of the window shown first. Scales are those of the window shown.
    """
    status = np.where(shown.valid, other.status, shown.status)
    return Vectors(np.concatenate([shown.codes, other.codes], axis=-1), shown.scales, status)


def _cosines(pair: Vectors) -> Float32Array:
    """(...,) float32 cosine of the first half of each pixel's codes with the second; NaN where one is all zeros."""
    half = pair.dims // 2
    codes = pair.codes.reshape(-1, 2 * half)
    out = np.empty(len(codes), np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, len(codes), _ROWS):
            rows = codes[start : start + _ROWS].astype(np.float32)
            first, second = rows[:, :half], rows[:, half:]
            norms = np.sqrt(_products(first, first) * _products(second, second))
            out[start : start + _ROWS] = _products(first, second) / norms
    return out.reshape(pair.status.shape)


def _products(first: Float32Array, second: Float32Array) -> Float32Array:
    return np.asarray(np.einsum("nd,nd->n", first, second), np.float32)
