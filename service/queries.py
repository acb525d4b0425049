"""What "like this one" means: examples for and against, and the one formula that scores a pixel.

The search and the similarity view share it, so a pixel has the same score on the map and in a list of hits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, Self, get_args

import numpy as np

from service.errors import InvalidInput, LimitExceeded
from service.linear import Weights, code_norms
from service.shelf import content_id
from service.values import Float32Array, Float64Array, Int8Array, ModelIdentity

MAX_EXAMPLES: Final = 1000
AGAINST: Final = 0.5
"""Weight of the examples against."""
Metric = Literal["cosine", "euclidean"]
_CANCELLED: Final = 1e-6
"""A sum of examples this short beside them has no direction but that of rounding."""
_NEAR: Final = 0.01
"""Of the square of a distance, in lengths of the query: below it float32 cosines no longer tell distances apart."""


@dataclass(frozen=True, eq=False)
class Query:
    """Examples, all made by one model, and how likeness to them is measured.

    Cosine. The query direction is Rocchio's: q = unit(mean(unit(wanted)) - 0.5 mean(unit(unwanted))), and a pixel's
    score is its cosine with q, between -1 and 1. Cosine needs no scale: q . c / |c| on the stored codes is the cosine
    of the dequantised vector (Rocchio 1971, "Relevance feedback in information retrieval").

    Euclidean. On dequantised vectors: q = mean(wanted) + 0.5 (mean(wanted) - mean(unwanted)), or the mean of those
    wanted where nothing is not, and a pixel's score is 1 - |v - q| / |q|: 1 for q itself, 0 for what is as far from it
    as no vector at all, less beyond.
    """

    identity: ModelIdentity
    """The model that made the examples; only its vectors can be scored."""
    wanted: Float32Array
    """(n, d) float32 examples for, n >= 1, each finite and not zero."""
    unwanted: Float32Array
    """(m, d) float32 examples against, m >= 0."""
    metric: Metric = "cosine"

    def __post_init__(self) -> None:
        if self.wanted.ndim != 2 or not len(self.wanted):
            raise InvalidInput("needs at least one example.", field="wanted")
        if self.unwanted.ndim != 2 or self.unwanted.shape[1] != self.wanted.shape[1]:
            raise InvalidInput("has another number of dimensions than the examples for.", field="unwanted")
        if len(self.wanted) + len(self.unwanted) > MAX_EXAMPLES:
            raise LimitExceeded(f"a query takes at most {MAX_EXAMPLES} examples.", field="wanted")
        for field in ("wanted", "unwanted"):
            examples = getattr(self, field)
            if examples.dtype != np.float32 or not np.isfinite(examples).all():
                raise InvalidInput("must hold finite float32 numbers.", field=field)
            if (np.abs(examples).max(axis=1, initial=0) == 0).any():
                raise InvalidInput("holds a vector of zeros, which is like nothing.", field=field)
        if self.metric not in get_args(Metric):
            raise InvalidInput(f"is none of {', '.join(get_args(Metric))}.", field="metric")
        if not np.linalg.norm(self._sum) > _CANCELLED * self._size:
            raise InvalidInput("the examples for and against cancel out.", field="unwanted", remedy="Drop some.")

    @classmethod
    def of(
        cls,
        identity: ModelIdentity,
        wanted: Float32Array,
        unwanted: Float32Array | None = None,
        metric: Metric = "cosine",
    ) -> Self:
        """A query from (n, d) examples for and, optionally, (m, d) against."""
        wanted = np.atleast_2d(np.asarray(wanted, np.float32))
        against = np.empty((0, wanted.shape[1]), np.float32) if unwanted is None else unwanted
        return cls(identity, wanted, np.asarray(against, np.float32).reshape(-1, wanted.shape[1]), metric)

    @property
    def is_mixed(self) -> bool:
        """Whether it is made of several examples: then there may be no pixel near to it."""
        return len(self.wanted) + len(self.unwanted) > 1

    @cached_property
    def _sum(self) -> Float64Array:
        """(d,) float64 what the examples come to: q, or of the cosine its direction."""
        of = _unit if self.metric == "cosine" else np.float64
        wanted = of(self.wanted).mean(axis=0)
        if not len(self.unwanted):
            return np.asarray(wanted, np.float64)
        unwanted = of(self.unwanted).mean(axis=0)
        if self.metric == "cosine":
            return np.asarray(wanted - AGAINST * unwanted, np.float64)
        return np.asarray(wanted + AGAINST * (wanted - unwanted), np.float64)

    @property
    def _size(self) -> float:
        """Length of the longest example, as `_sum` takes it."""
        if self.metric == "cosine":
            return 1.0
        return float(np.linalg.norm(np.float64(np.concatenate([self.wanted, self.unwanted])), axis=1).max())

    @cached_property
    def length(self) -> float:
        """|q| where the metric is Euclidean; 1 of a cosine, which has a direction only."""
        return float(np.linalg.norm(self._sum)) if self.metric == "euclidean" else 1.0

    @cached_property
    def direction(self) -> Float64Array:
        """(d,) float64 unit vector along q."""
        return np.asarray(self._sum / np.linalg.norm(self._sum), np.float64)

    @cached_property
    def weights(self) -> Weights:
        """The direction, ready to be multiplied with codes."""
        return Weights(self.direction[None])

    def score_at(self, distance: float) -> float:
        """The score at a distance: 1 - cosine, or the Euclidean one."""
        return 1 - distance / self.length

    def distance_at(self, score: float) -> float:
        """The distance at a score."""
        return (1 - score) * self.length

    def require_same_space(self, identity: ModelIdentity, dims: int, what: str) -> None:
        """Refuse vectors that another model made.

        Raises:
            IdentityMismatch: Another model.
            InvalidInput: Another number of dimensions.
        """
        identity.require_same(self.identity, "the query")
        if dims != self.wanted.shape[1]:
            raise InvalidInput(f"has {self.wanted.shape[1]} dimensions, {what} {dims}.", field="query")

    def scores(
        self, codes: Int8Array, norms: Float32Array | None = None, scales: Float32Array | None = None
    ) -> Float32Array:
        """(...,) float32 score of each (..., d) code vector; NaN for a zero vector.

        Args:
            codes: (..., d) int8.
            norms: `norms_of(codes)` where they are known already: two thirds of the work.
            scales: (...) float32, without which there is no Euclidean distance; cosines need none.
        """
        flat = codes.reshape(-1, codes.shape[-1])
        lengths = code_norms(flat) if norms is None else norms.ravel()
        with np.errstate(invalid="ignore", divide="ignore"):
            out = self.weights.products(flat)[:, 0]
            out /= lengths
        np.clip(out, -1, 1, out=out)
        if self.metric == "cosine":
            return out.reshape(codes.shape[:-1])
        lengthening = _required(scales).ravel()
        squares = self.squares(out, lengths, lengthening)
        with np.errstate(over="ignore"):  # farther than float32 can tell is as far as can be
            out = np.asarray(1 - np.sqrt(squares), np.float32)
        near = np.flatnonzero(squares < _NEAR)
        out[near] = self.exact_scores(flat[near], lengthening[near])
        return out.reshape(codes.shape[:-1])

    def squares(self, cosines: Float32Array, norms: Float32Array, scales: Float32Array) -> Float64Array:
        """(n,) float64 squared Euclidean distances from q over |q| squared, by the law of cosines.

        Args:
            cosines: (n,) float32 of the code vectors with the direction.
            norms: (n,) float32 of the codes.
            scales: (n,) float32.
        """
        share = np.float64(norms) * scales / self.length
        return np.maximum(share * (share - 2 * np.float64(cosines)) + 1, 0)

    def exact_scores(self, codes: Int8Array, scales: Float32Array | None = None) -> Float64Array:
        """(n,) float64 score of each (n, d) code vector: what hits are ranked by.

        Each row is summed in the same order whatever rows are beside it, so a pixel has one score.
        """
        if self.metric == "cosine":
            rows = codes.astype(np.float64)
            lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
            return np.asarray(np.einsum("nd,d->n", rows, self.direction) / lengths, np.float64)
        rows = (codes * _required(scales)[:, None]).astype(np.float64)  # a vector is what float32 makes of it
        return np.asarray(1 - np.linalg.norm(rows - self._sum, axis=-1) / self.length, np.float64)

    def to_document(self) -> dict[str, Any]:
        """The canonical document to shelve."""
        return {
            "type": "query",
            "metric": self.metric,
            "model": str(self.identity),
            "wanted": self.wanted.astype(float).tolist(),
            "unwanted": self.unwanted.astype(float).tolist(),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a shelved document back.

        Raises:
            InvalidInput: It is not a query.
        """
        if document.get("type") != "query" or document.get("metric") not in get_args(Metric):
            raise InvalidInput("this document is not a query.", field="query")
        wanted, unwanted = (np.array(document[side], np.float32) for side in ("wanted", "unwanted"))
        return cls.of(ModelIdentity.parse(document["model"]), wanted, unwanted, document["metric"])

    @cached_property
    def id(self) -> str:
        """The id it has on the shelf."""
        return content_id(self.to_document())


def norms_of(codes: Int8Array) -> Float32Array:
    """(...,) float32 Euclidean norm of each (..., d) code vector."""
    return code_norms(codes.reshape(-1, codes.shape[-1])).reshape(codes.shape[:-1])


def _required(scales: Float32Array | None) -> Float32Array:
    if scales is None:
        raise TypeError("a Euclidean distance is one of dequantised vectors: it needs scales")
    return scales


def _unit(vectors: Float32Array) -> Float64Array:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float64)
