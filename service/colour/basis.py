"""A PCA basis: three directions and their stretch, fitted once and saved, so that colours mean the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np

from service.errors import Corrupt, InvalidInput, LimitExceeded
from service.grid import Block, Zone
from service.shelf import content_id
from service.store.contract import Store
from service.values import Float32Array, Float64Array, ModelIdentity, Window

MAX_SAMPLE: Final = 200_000
MAX_BLOCKS: Final = 256
"""Blocks read at most: 2 GB of codes, one at a time."""
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
    """Where they came from."""

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
            )
        except (KeyError, TypeError) as error:
            raise Corrupt(f"this basis lacks a field: {error!r}.") from None


def fit_basis(store: Store, windows: Sequence[Window], *, seed: int = 0, sample: int = 100_000) -> Basis:
    """Fit a basis to valid pixels drawn from all blocks of a dataset.

    The same seed on the same data gives the same basis: blocks are visited in a seeded order, pixels of a block
    drawn without repetition, directions come from the float64 covariance and have a fixed sign.

    Args:
        store: Where the vectors are; at most 256 of its blocks are read, one at a time.
        windows: Which of its windows to draw from.
        seed: Seed of the sample.
        sample: Pixels to draw, at most; all there are where there are fewer.

    Raises:
        LimitExceeded: `sample` is over 200,000.
        InvalidInput: There are fewer than 16 valid pixels, or fewer than 3 dimensions.
        NotFound: No such window.
        Corrupt: A block cannot be read.
    """
    if store.dims < DIRECTIONS:
        raise InvalidInput(f"{store.dims} dimensions have no three directions.", field="dataset")
    if not MIN_SAMPLE <= sample <= MAX_SAMPLE:
        raise LimitExceeded(f"a sample has {MIN_SAMPLE} to {MAX_SAMPLE:,} pixels, not {sample:,}.", field="sample")
    drawn = list(_draw(store, windows, seed, sample))
    vectors = np.concatenate(drawn)[:sample] if drawn else np.empty((0, store.dims), np.float32)
    if len(vectors) < MIN_SAMPLE:
        raise InvalidInput(
            f"{len(vectors)} valid pixels are too few for a basis.", field="dataset", remedy="Embed some first."
        )
    return _fitted(store.identity, vectors, seed, tuple(windows))


def _draw(store: Store, windows: Sequence[Window], seed: int, sample: int) -> Iterator[Float32Array]:
    """(n, d) vectors of one block after the other, until there are enough."""
    places: list[tuple[Window, Block]] = [(window, block) for window in windows for block in store.blocks(window)]
    order = np.random.default_rng(seed).permutation(len(places))
    quota = -(-sample // max(1, min(len(places), MAX_BLOCKS)))
    short = sample
    for index in order[: 4 * MAX_BLOCKS].tolist():
        window, block = places[index]
        vectors = store.read(Zone.parse(block.zone), window, block.rows, block.cols)
        held = np.flatnonzero(vectors.valid.reshape(-1))
        # Of few blocks each gives its share; a block short of valid pixels is made up for by the next ones.
        want = min(len(held), short, quota if len(places) > 1 else short)
        chosen = np.sort(np.random.default_rng((seed, index)).choice(held, want, replace=False))
        codes = vectors.codes.reshape(-1, vectors.dims)[chosen].astype(np.float32)
        yield codes * vectors.scales.reshape(-1, 1)[chosen]
        short -= want
        if short <= 0:
            return


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
