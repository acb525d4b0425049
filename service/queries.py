"""What "like this one" means: examples for and against, and the one formula that scores a pixel.

The search and the similarity view share it, so a pixel has the same score on the map and in a list of hits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np

from service.errors import InvalidInput, LimitExceeded
from service.linear import code_norms, code_products
from service.shelf import content_id
from service.values import Float32Array, Float64Array, Int8Array, ModelIdentity

MAX_EXAMPLES: Final = 1000
AGAINST: Final = 0.5
"""Weight of the examples against."""


@dataclass(frozen=True, eq=False)
class Query:
    """Examples, all made by one model.

    The query direction is Rocchio's: q = unit(mean(unit(wanted)) - 0.5 mean(unit(unwanted))), and a pixel's
    score is its cosine with q, between -1 and 1. Cosine needs no scale: q . c / |c| on the stored codes is
    the cosine of the dequantised vector (Rocchio 1971, "Relevance feedback in information retrieval").
    """

    identity: ModelIdentity
    """The model that made the examples; only its vectors can be scored."""
    wanted: Float32Array
    """(n, d) float32 examples for, n >= 1, each finite and not zero."""
    unwanted: Float32Array
    """(m, d) float32 examples against, m >= 0."""

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
        if not np.linalg.norm(self._raw_direction) > 1e-6:
            raise InvalidInput("the examples for and against cancel out.", field="unwanted", remedy="Drop some.")

    @classmethod
    def of(cls, identity: ModelIdentity, wanted: Float32Array, unwanted: Float32Array | None = None) -> Self:
        """A query from (n, d) examples for and, optionally, (m, d) against."""
        wanted = np.atleast_2d(np.asarray(wanted, np.float32))
        against = np.empty((0, wanted.shape[1]), np.float32) if unwanted is None else unwanted
        return cls(identity, wanted, np.asarray(against, np.float32).reshape(-1, wanted.shape[1]))

    @cached_property
    def _raw_direction(self) -> Float64Array:
        direction = _unit(self.wanted).mean(axis=0)
        if len(self.unwanted):
            direction = direction - AGAINST * _unit(self.unwanted).mean(axis=0)
        return np.asarray(direction, np.float64)

    @cached_property
    def direction(self) -> Float64Array:
        """(d,) float64 unit vector q."""
        return np.asarray(self._raw_direction / np.linalg.norm(self._raw_direction), np.float64)

    def require_same_space(self, identity: ModelIdentity, dims: int, what: str) -> None:
        """Refuse vectors that another model made.

        Raises:
            IdentityMismatch: Another model.
            InvalidInput: Another number of dimensions.
        """
        identity.require_same(self.identity, "the query")
        if dims != self.wanted.shape[1]:
            raise InvalidInput(f"has {self.wanted.shape[1]} dimensions, {what} {dims}.", field="query")

    def scores(self, codes: Int8Array, norms: Float32Array | None = None) -> Float32Array:
        """(...,) float32 cosine of each (..., d) code vector with the query; NaN for a zero vector.

        Args:
            codes: (..., d) int8.
            norms: `norms_of(codes)` where they are known already: half of the work.
        """
        flat = codes.reshape(-1, codes.shape[-1])
        with np.errstate(invalid="ignore", divide="ignore"):
            out = code_products(flat, self.direction[None])[:, 0]
            out /= code_norms(flat) if norms is None else norms.ravel()
        return out.reshape(codes.shape[:-1])

    def exact_scores(self, codes: Int8Array) -> Float64Array:
        """(n,) float64 cosine of each (n, d) code vector: what hits are ranked by."""
        rows = codes.astype(np.float64)
        return np.asarray((rows @ self.direction) / np.linalg.norm(rows, axis=-1), np.float64)

    def to_document(self) -> dict[str, Any]:
        """The canonical document to shelve."""
        return {
            "type": "query",
            "metric": "cosine",
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
        if document.get("type") != "query" or document.get("metric") != "cosine":
            raise InvalidInput("this document is not a query.", field="query")
        identity = ModelIdentity.parse(document["model"])
        return cls.of(identity, np.array(document["wanted"], np.float32), np.array(document["unwanted"], np.float32))

    @cached_property
    def id(self) -> str:
        """The id it has on the shelf."""
        return content_id(self.to_document())


def norms_of(codes: Int8Array) -> Float32Array:
    """(...,) float32 Euclidean norm of each (..., d) code vector."""
    return code_norms(codes.reshape(-1, codes.shape[-1])).reshape(codes.shape[:-1])


def _unit(vectors: Float32Array) -> Float64Array:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float64)
