"""Views of one number a pixel, from a threshold to a top: likeness with a query, and change between two windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import numpy as np

from service.colour.ramp import CHANGE, GREY, LIKENESS, hex_colours, palette
from service.colour.tone import indexed
from service.errors import InvalidInput
from service.linear import paired_angles
from service.queries import Metric, Query
from service.values import Float32Array, Int8Array, Int64Array, ModelIdentity, UInt8Array, Vectors, Window

FARTHEST: Final = (-1.0, 2.0)
"""No cosine is smaller, and no change larger."""

_MEANING: Final[Mapping[Metric, str]] = {
    "cosine": "Cosine between each pixel's vector and the query: 1 is the same direction, 0 has nothing in common with "
    "it.",
    "euclidean": "1 less the distance between each pixel's vector and the query's, in lengths of the query: 1 is the "
    "same vector, 0 as far from it as no vector at all.",
}
_UNIT: Final[Mapping[Metric, str]] = {"cosine": "cosine", "euclidean": "1 - distance / length"}


@dataclass(frozen=True)
class Scale:
    """How a number is coloured."""

    threshold: float = 0.0
    """What is shown in the first colour."""
    clip: bool = False
    """Whether pixels below the threshold are transparent."""
    top: float = 1.0
    """What is shown in the last colour."""
    gamma: float = 1.0
    """A number at the share t of the way has the colour at t ** (1 / gamma)."""
    colormap: str = ""
    """The view's own where empty."""

    def __post_init__(self) -> None:
        if not self.threshold < self.top:
            raise InvalidInput(f"{self.top:g} is not above the threshold {self.threshold:g}.", field="top")
        palette(self.colormap or GREY, self.gamma)

    def require_within(self, least: float, most: float) -> None:
        """Refuse ends that no number of a view can have.

        Raises:
            InvalidInput: One is below `least` or above `most`.
        """
        for field, end in (("threshold", self.threshold), ("top", self.top)):
            if not least <= end <= most:
                raise InvalidInput(f"{end:g} is not among {least:g} to {most:g}.", field=field)

    @property
    def key(self) -> str:
        """`0.5..1.0`, `0.5..1.0:clip`, with `:gamma=2.0` and `:ember` where asked for."""
        asked = f":gamma={self.gamma!r}" if self.gamma != 1 else ""
        named = f":{self.colormap}" if self.colormap else ""
        return f"{self.threshold!r}..{self.top!r}{':clip' if self.clip else ''}{asked}{named}"

    def picture(self, values: Float32Array) -> UInt8Array:
        """(..., 1) places in a palette, from 1; 0 where numbers are clipped, or none (NaN)."""
        shown = indexed(values, self.threshold, self.top)
        if self.clip:
            shown[values < np.float32(self.threshold)] = 0
        return shown

    def palette(self, own: str) -> UInt8Array:
        """(256, 4) colours, of the view's own colour map where none was asked for."""
        return palette(self.colormap or own, self.gamma)

    def legend(self, own: str, low: str, high: str) -> Mapping[str, Any]:
        """The range, eleven colours along it, and what its ends mean."""
        name = self.colormap or own
        return {
            "range": [self.threshold, self.top],
            "colours": hex_colours(name, self.gamma),
            "labels": [low, high],
            "clip": self.clip,
            "colormap": name,
            **({"gamma": self.gamma} if self.gamma != 1 else {}),
        }

    @property
    def below(self) -> str:
        """What becomes of pixels below the threshold, in words."""
        return f"Below {self.threshold:g} {'nothing is shown' if self.clip else 'all have the first colour'}."


class Scored(ABC):
    """What views of one number a pixel share: places in a palette, from the threshold to the top of their scale."""

    scale: Scale
    own: ClassVar[str]
    """The colour map where none is asked for."""

    @abstractmethod
    def values(self, vectors: Vectors) -> Float32Array:
        """(..., 1) numbers; NaN where there is none."""

    @property
    def palette(self) -> UInt8Array:
        """(256, 4) colours; see `ramp.palette`."""
        return self.scale.palette(self.own)

    def picture(self, vectors: Vectors) -> UInt8Array:
        """(..., 1): from the threshold to the top; see `Scale.picture`."""
        return self.colours(self.values(vectors))

    def colours(self, values: Float32Array) -> UInt8Array:
        """The same of numbers that are known already."""
        return self.scale.picture(values)


@dataclass(frozen=True, eq=False)
class SimilarityView(Scored):
    """The score of each pixel with a query: the one that the search ranks by."""

    own: ClassVar = LIKENESS
    query: Query
    scale: Scale = Scale()

    def __post_init__(self) -> None:
        self.scale.require_within(*FARTHEST)

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
            "text": f"{_MEANING[self.query.metric]} {self.scale.below}",
            "query": self.query.id,
            "unit": _UNIT[self.query.metric],
            **self.scale.legend(self.own, "less alike", "alike"),
        }

    def check(self, identity: ModelIdentity, dims: int) -> None:
        """Only vectors of the query's model."""
        self.query.require_same_space(identity, dims, "the dataset")

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., 1) scores, at most 1."""
        norms = vectors.norms() if vectors.norms else None
        scores = self.query.scores(vectors.codes, norms, vectors.scales)
        scores[~vectors.valid] = np.nan
        return scores[..., None]

    def of(self, *vectors: Float32Array) -> Float32Array:
        """(n, 1) scores of (n, d) dequantised vectors."""
        (rows,) = vectors
        cosines = _cosine(rows, self.query.direction.astype(np.float32)[None])
        if self.query.metric == "cosine":
            return cosines
        lengths = np.linalg.norm(rows, axis=1).astype(np.float32)
        squares = self.query.squares(cosines[:, 0], lengths, np.ones_like(lengths))
        return np.asarray(1 - np.sqrt(squares)[:, None], np.float32)


@dataclass(frozen=True, eq=False)
class ChangeView(Scored):
    """How far each pixel's vector turned between two windows: 1 - cos(a, b).

    That is the cosine distance: 0 where both point the same way, 1 where they are orthogonal, 2 at most; half the
    squared Euclidean distance of the two unit vectors. Like every cosine here it is taken on the codes, which scales
    do not turn. It takes a `Pair` of pixels.
    """

    own: ClassVar = CHANGE
    window: Window
    """The window that is shown."""
    other: Window
    """The one it is compared with."""
    scale: Scale = Scale()

    def __post_init__(self) -> None:
        self.scale.require_within(*FARTHEST)

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
            **self.scale.legend(self.own, "as before", "all different"),
        }

    def check(self, identity: ModelIdentity, dims: int) -> None:
        """Any model's vectors: whoever reads both windows sees to it that one model made both."""

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., 1) changes, 0 to 2, of a `Pair` of pixels.

        Raises:
            TypeError: It is none.
        """
        if not isinstance(vectors, Pair):
            raise TypeError("change is seen between two windows")
        flat = (codes.reshape(-1, vectors.dims) for codes in (vectors.codes, vectors.others))
        change = np.clip(paired_angles(*flat), 0, 2).reshape(vectors.status.shape)
        change[~vectors.valid] = np.nan
        return change[..., None]

    def of(self, *vectors: Float32Array) -> Float32Array:
        """(n, 1) changes of (n, d) dequantised vectors of the window shown, and of the other."""
        return np.clip(1 - _cosine(*vectors), 0, 2)


@dataclass(frozen=True)
class Pair(Vectors):
    """The same (...,) pixels of two windows, valid where both are; scales are those of the window shown."""

    others: Int8Array
    """(..., d) int8 codes of the window that is compared with."""

    def taken(self, cells: Int64Array) -> Self:
        """(n,) pixels, from their flat indices."""
        one = Vectors(self.codes, self.scales, self.status).taken(cells)
        return type(self)(one.codes, one.scales, one.status, self.others.reshape(-1, self.dims).take(cells, axis=0))


def side_by_side(shown: Vectors, other: Vectors) -> Pair:
    """The same (...,) pixels of two windows. Where one is not valid its status is kept, that of the one shown first."""
    status = np.where(shown.valid, other.status, shown.status)
    return Pair(shown.codes, shown.scales, status, other.codes)


def _cosine(first: Float32Array, second: Float32Array) -> Float32Array:
    """(n, 1) cosines of (n, d) vectors with (n, d) or (1, d) others; NaN where one is all zeros."""
    product = np.einsum("nd,nd->n", first, np.broadcast_to(second, first.shape))
    norms = np.sqrt(np.einsum("nd,nd->n", first, first) * np.einsum("nd,nd->n", second, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((product / norms)[:, None], np.float32)
