"""A PCA basis: three directions and their stretch, fitted once and saved, so that colours mean the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Self

import numpy as np

from service.colour.region import Region, draw
from service.errors import Corrupt, InvalidInput, LimitExceeded
from service.shelf import content_id
from service.store.contract import Store
from service.values import Float32Array, Float64Array, ModelIdentity, Window

MAX_SAMPLE: Final = 200_000
MIN_SAMPLE: Final = 16
DIRECTIONS: Final = 3
"""Red, green and blue."""
STRETCH: Final = (2.0, 98.0)
"""Percentiles shown as black and as full colour."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Three principal directions of one model's vectors, and how bright each value is shown."""

    identity: ModelIdentity
    """The model whose vectors it was fitted to; only those can be shown with it."""
    mean: Float64Array
    """(d,) mean vector of the sample."""
    components: Float64Array
    """(3, d) orthonormal directions, most variance first; the largest weight of each is positive."""
    low: Float64Array
    """(3,) 2nd percentile of the sample along each direction: shown as 0."""
    high: Float64Array
    """(3,) 98th percentile: shown as 255."""
    band_low: Float64Array
    """(d,) 2nd percentile of each dimension on its own."""
    band_high: Float64Array
    """(d,) 98th percentile of each dimension."""
    explained: tuple[float, float, float]
    """Share of the variance that each direction carries."""
    seed: int
    """Seed of the sample."""
    sample: int
    """Pixels it was fitted to."""
    windows: tuple[Window, ...]
    """When they are from."""
    region: Mapping[str, Any] | None = None
    """Where they are from: `{"bbox": [w, s, e, n]}` or a GeoJSON geometry; None: everywhere."""
    revision: str = ""
    """Of the store when it was fitted; empty where an older version did that."""

    def __post_init__(self) -> None:
        d = self.mean.shape[0]
        shapes = {"mean": (d,), "components": (3, d), "low": (3,), "high": (3,), "band_low": (d,), "band_high": (d,)}
        for field, shape in shapes.items():
            value = getattr(self, field)
            if value.shape != shape or not np.isfinite(value).all():
                raise InvalidInput(f"must be {shape} finite numbers.", field=f"basis.{field}")

    @property
    def dims(self) -> int:
        """Embedding dimensions d."""
        return int(self.mean.shape[0])

    @cached_property
    def id(self) -> str:
        """The id it has on the shelf."""
        return content_id(self.to_document())

    def to_document(self) -> dict[str, Any]:
        """The document to shelve."""
        return {
            "type": "basis",
            "model": str(self.identity),
            "mean": self.mean.tolist(),
            "components": self.components.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "band_low": self.band_low.tolist(),
            "band_high": self.band_high.tolist(),
            "explained": list(self.explained),
            "seed": self.seed,
            "sample": self.sample,
            "windows": [str(window) for window in self.windows],
            **({"region": dict(self.region)} if self.region is not None else {}),
            **({"revision": self.revision} if self.revision else {}),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a shelved document back.

        Raises:
            Corrupt: It is not a basis, or a field is missing.
            InvalidInput: Its numbers do not fit together.
        """
        if document.get("type") != "basis":
            raise Corrupt("this document is not a basis.")
        try:
            numbers = {
                field: np.array(document[field], np.float64)
                for field in ("mean", "components", "low", "high", "band_low", "band_high")
            }
            first, second, third = map(float, document["explained"])
            return cls(
                ModelIdentity.parse(document["model"]),
                **numbers,
                explained=(first, second, third),
                seed=int(document["seed"]),
                sample=int(document["sample"]),
                windows=tuple(Window.parse(text) for text in document["windows"]),
                region=document.get("region"),
                revision=document.get("revision", ""),
            )
        except (KeyError, TypeError) as error:
            raise Corrupt(f"this basis lacks a field: {error!r}.") from None


def fit_basis(
    store: Store,
    windows: Sequence[Window],
    *,
    seed: int = 0,
    sample: int = 100_000,
    dims: int | None = None,
    region: Region | None = None,
) -> Basis:
    """Fit a basis to valid pixels drawn from the blocks of a dataset, all of them or those of a region.

    The same seed on the same data gives the same basis: blocks are visited in a seeded order, pixels of a block
    drawn without repetition, directions come from the float64 covariance and have a fixed sign.

    Args:
        store: Where the vectors are; at most 256 of its blocks are read, one at a time.
        windows: Which of its windows to draw from.
        seed: Seed of the sample.
        sample: Pixels to draw, at most; all there are where there are fewer.
        dims: Prefix length to fit it to, one of the store's `depths`; all dimensions where absent.
        region: Where to draw from: pixels whose centre lies in it.

    Raises:
        LimitExceeded: `sample` is over 200,000, or the region's outline is too long.
        InvalidInput: There are fewer than 16 valid pixels, or fewer than 3 dimensions, or no such prefix.
        NotFound: No such window.
        Corrupt: A block cannot be read.
    """
    length = store.dims if dims is None else dims
    if length not in store.depths:
        raise InvalidInput(
            f"{length} is not a depth of this dataset.",
            field="dims",
            remedy=f"It has {', '.join(map(str, store.depths))}.",
        )
    if length < DIRECTIONS:
        raise InvalidInput(f"{length} dimensions have no three directions.", field="dims")
    if not MIN_SAMPLE <= sample <= MAX_SAMPLE:
        raise LimitExceeded(f"a sample has {MIN_SAMPLE} to {MAX_SAMPLE:,} pixels, not {sample:,}.", field="sample")
    drawn = list(draw(store, windows, seed, sample, length, region))
    vectors = np.concatenate(drawn)[:sample] if drawn else np.empty((0, length), np.float32)
    if len(vectors) < MIN_SAMPLE:
        raise InvalidInput(
            f"{len(vectors)} valid pixels are too few for a basis.",
            field="dataset" if region is None else next(iter(region.document)),
            remedy="Embed some first." if region is None else "Take a larger region.",
        )
    where = None if region is None else region.document
    basis = _fitted(store.identity, vectors, seed, tuple(windows))
    return replace(basis, region=where, revision=store.revision()[0])


def _fitted(identity: ModelIdentity, vectors: Float32Array, seed: int, windows: tuple[Window, ...]) -> Basis:
    wide = vectors.astype(np.float64)
    mean = wide.mean(axis=0)
    centred = wide - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(wide))
    components = directions[:, ::-1][:, :3].T
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(3), largest])[:, None]
    low, high = np.percentile(centred @ components.T, STRETCH, axis=0)
    band_low, band_high = np.percentile(wide, STRETCH, axis=0)
    total = max(float(variances.sum()), np.finfo(float).tiny)
    first, second, third = (float(v) / total for v in np.maximum(variances[::-1][:3], 0))
    return Basis(
        identity, mean, components, low, high, band_low, band_high,
        (first, second, third), seed, len(vectors), windows,
    )  # fmt: skip
