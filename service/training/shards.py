"""Pixels in a global random order on disk: written once in bounded memory, streamed afterwards.

Two passes. Each pixel is appended to a shard that is drawn for it; then each shard is put into a random order. Every
order of all pixels is about equally likely, and no more than a few shards are in memory, however many there are. The
order is a function of the pixels, their order and the seed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.errors import Conflict, Corrupt, Unavailable
from service.training.records import Records

SHARD_BYTES: Final = 64_000_000
"""Mean size of a shard."""
INDEX: Final = "shards.json"


@dataclass(frozen=True)
class Shards:
    """A folder of shuffled pixels."""

    folder: Path
    counts: tuple[int, ...]
    """Pixels of each shard."""
    source: dict[str, Any]
    """What they were made of."""

    def __len__(self) -> int:
        return sum(self.counts)

    def path(self, shard: int, column: str = "pixels") -> Path:
        """Where a column of a shard lies."""
        return self.folder / f"{column}-{shard:05d}.npy"

    def read(self, shard: int, column: str = "pixels") -> npt.NDArray[Any]:
        """One column of one shard, whole.

        Raises:
            Corrupt: The file is missing or cut short.
        """
        path = self.path(shard, column)
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Corrupt(f"{path} cannot be read: {error}") from None
        if len(array) != self.counts[shard]:
            raise Corrupt(f"{path} holds {len(array)} pixels of {self.counts[shard]}.")
        return np.asarray(array)


def write(
    parts: Iterable[Records], most: int, folder: Path, seed: int, source: dict[str, Any], shard_bytes: int = SHARD_BYTES
) -> Shards:
    """Shuffle pixels into a new folder, which appears whole or not at all.

    Args:
        parts: The pixels, a part at a time.
        most: No more than so many will come.
        folder: To make; a half-made one of a killed run is made anew.
        seed: Of the order.
        source: Plain values that tell what the pixels are; kept with them.
        shard_bytes: Mean size of a shard, if `most` come.

    Raises:
        Unavailable: There is no room.
    """
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        counts = _filled(parts, most, temporary, seed, shard_bytes)
        (temporary / INDEX).write_text(json.dumps({"source": source, "counts": counts}))
        temporary.rename(folder)
    except OSError as error:
        remedy = "Make room on that disk and ask for the same again."
        raise Unavailable(f"{folder} cannot be written: {error}.", field="out", remedy=remedy) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Shards(folder, tuple(counts), source)


def _filled(parts: Iterable[Records], most: int, folder: Path, seed: int, shard_bytes: int) -> list[int]:
    """Both passes. Returns how many pixels each shard has."""
    rng = np.random.default_rng([seed, 0])
    counts: list[int] = []
    kind = np.dtype([])
    for part in parts:
        if not len(part):
            continue
        if not counts:
            kind = part.dtype
            counts = [0] * max(-(-most * kind.itemsize // shard_bytes), 1)
        for shard, records in _scattered(part, rng.integers(0, len(counts), len(part))):
            with (folder / f"{shard:05d}").open("ab") as file:
                file.write(records.tobytes())
            counts[shard] += len(records)
    for shard in range(len(counts)):
        _settle(folder, shard, kind, [seed, 1, shard])
    return counts


def _scattered(part: Records, shard: npt.NDArray[np.int64]) -> Iterator[tuple[int, Records]]:
    order = np.argsort(shard, kind="stable")
    numbers, starts = np.unique(shard[order], return_index=True)
    yield from zip(map(int, numbers), np.split(part[order], starts[1:]), strict=True)


def _settle(folder: Path, shard: int, kind: np.dtype[Any], seed: list[int]) -> None:
    """Bring one shard into its final order."""
    raw = folder / f"{shard:05d}"
    records = np.fromfile(raw, kind) if raw.exists() else np.zeros(0, kind)
    np.save(folder / f"pixels-{shard:05d}.npy", records[np.random.default_rng(seed).permutation(len(records))])
    raw.unlink(missing_ok=True)


def open_shards(folder: Path, source: dict[str, Any]) -> Shards | None:
    """The shards in a folder, or None where there are none.

    Raises:
        Conflict: They were made of something else.
        Corrupt: The index cannot be read.
    """
    try:
        body = json.loads((folder / INDEX).read_text())
        found = Shards(folder, tuple(body["counts"]), body["source"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{folder / INDEX} cannot be read: {error}", remedy="Delete the folder.") from None
    if found.source != source:
        differs = sorted(k for k in {*source, *found.source} if source.get(k) != found.source.get(k))
        remedy = "Choose another folder, or delete it."
        raise Conflict(f"{folder} was shuffled from other pixels ({', '.join(differs)} differ).", remedy=remedy)
    return found


class Reader:
    """Batches of shuffled pixels: which ones is a function of the step, so nothing has to be remembered.

    Each pass goes over the shards in another order, and over each shard in another order. What is left of a pass
    that does not fill a batch is left out of it.

    Args:
        shards: Where from.
        batch: Pixels of a batch.
        seed: Of the orders.
        columns: What to read.
    """

    def __init__(self, shards: Shards, batch: int, seed: int, columns: tuple[str, ...] = ("pixels",)) -> None:
        if batch > len(shards):
            raise Conflict(f"a batch of {batch} from {len(shards)} pixels.", remedy="Take more pixels, or --batch.")
        self._shards, self._batch, self._seed, self._columns = shards, batch, seed, columns
        self._held: dict[tuple[int, int], list[npt.NDArray[Any]]] = {}

    def rows(self, step: int) -> list[npt.NDArray[Any]]:
        """The batch of a step: each column's rows."""
        turn, place = divmod(step, len(self._shards) // self._batch)
        order = np.random.default_rng([self._seed, 2, turn]).permutation(len(self._shards.counts))
        ends = np.cumsum([self._shards.counts[shard] for shard in order])
        start, parts = place * self._batch, []
        for shard, end in zip(order, ends, strict=True):
            first = end - self._shards.counts[shard]
            inside = slice(max(start - first, 0), max(start + self._batch - first, 0))
            if inside.stop > 0 and first + inside.start < end:
                parts.append([column[inside] for column in self._read(turn, int(shard))])
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    def _read(self, turn: int, shard: int) -> list[npt.NDArray[Any]]:
        """A shard in this pass's order; the last two stay in memory."""
        if (turn, shard) not in self._held:
            order = np.random.default_rng([self._seed, 3, turn, shard]).permutation(self._shards.counts[shard])
            self._held[turn, shard] = [self._shards.read(shard, column)[order] for column in self._columns]
            for old in list(self._held)[:-2]:
                del self._held[old]
        return self._held[turn, shard]
