"""What a frozen teacher says of every training pixel: computed once, kept on disk beside the pixels.

The teacher is any model that smalti can run, of any family: it samples and standardises the stored observations by
its own rules, and gives the vector it would be served with.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from service.encoder import Encoder
from service.errors import Conflict, Corrupt
from service.registry import RegisteredModel
from service.training.records import to_dpixels
from service.training.runs import replace, whole
from service.training.shards import Shards
from service.training.sources import Progress
from service.values import VALID

COLUMN: Final = "teacher"
INDEX: Final = "teacher.json"


@dataclass(frozen=True)
class Taught:
    """What there is of a teacher beside some pixels."""

    model: str
    """Its identity and hash."""
    mean: tuple[float, ...]
    """Of each of its numbers over all pixels."""
    variance: float
    """Mean of the variances of its numbers."""


def name_of(model: RegisteredModel) -> str:
    """Identity and the beginning of the hash: what a recipe says of its teacher."""
    return f"{model.manifest.identity} {model.manifest.sha256[:16]}"


def teach(model: RegisteredModel, shards: Shards, on_progress: Progress | None = None) -> Taught:
    """Write the teacher's vector of every pixel, NaN where it embeds none; what a killed run wrote is kept.

    Args:
        model: The teacher.
        shards: The pixels.
        on_progress: Told of pixels done.

    Raises:
        Conflict: Another teacher's vectors lie there.
        Corrupt: It embeds none of the pixels, or all alike.
        Unavailable: There is no room for its vectors.
    """
    index = shards.folder / INDEX
    begun = _found(index, name_of(model))
    if begun and begun.variance > 0:
        return begun
    replace(index, json.dumps(asdict(Taught(name_of(model), (), 0.0))))  # begun; the variance tells that it is whole
    with closing(Encoder.open(model)) as encoder:  # the device is the student's afterwards
        done, moments = 0, np.zeros((3, encoder.dims))
        for shard, count in enumerate(shards.counts):
            path = shards.path(shard, COLUMN)
            vectors = shards.read(shard, COLUMN) if path.exists() else _written(encoder, shards, shard, path)
            told = vectors[np.isfinite(vectors).all(axis=1)].astype(np.float64)
            moments += np.stack((np.full(encoder.dims, len(told)), told.sum(axis=0), (told**2).sum(axis=0)))
            done += count
            if on_progress:
                on_progress(done, len(shards))
    n = np.maximum(moments[0], 1)
    variance = float(np.mean(moments[2] / n - (moments[1] / n) ** 2))
    if not variance > 0:
        raise Corrupt(f"{model.manifest.identity} embeds no two of these pixels differently.")
    taught = Taught(name_of(model), tuple((moments[1] / n).tolist()), variance)
    replace(index, json.dumps(asdict(taught)))
    return taught


def _found(index: Path, name: str) -> Taught | None:
    if not index.exists():
        return None
    try:
        body = json.loads(index.read_text())
        taught = Taught(**{**body, "mean": tuple(body["mean"])})
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"{index} cannot be read: {error}") from None
    if taught.model != name:
        remedy = "Choose another folder, or delete it."
        raise Conflict(f"{index.parent} holds the vectors of {taught.model}, not of {name}.", remedy=remedy)
    return taught


def _written(encoder: Encoder, shards: Shards, shard: int, path: Path) -> np.ndarray[Any, Any]:
    result = encoder.encode(to_dpixels(shards.read(shard)))
    vectors = np.where((result.vectors.status == VALID)[:, None], result.floats, np.float32(np.nan))
    with whole(path) as file:
        np.save(file, vectors)
    return np.asarray(vectors)
