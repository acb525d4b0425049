"""Where batches come from: pixels in memory, or shuffled on disk; simulated, or of tile folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from service.errors import InvalidInput
from service.training import shards
from service.training.data import S1_TIMES, S2_TIMES, simulated_dpixels
from service.training.folders import Tile, find_tiles, read_tile
from service.training.recipes import Recipe
from service.training.records import SENSORS, Records, record_type, stream, to_records, with_dates
from service.training.views import Batch, Pool, monthly_targets, view

MOST_S2 = 146
"""Most Sentinel-2 dates kept of a pixel of a tile folder: one in two and a half days."""
MOST_S1 = 128
"""Most dates kept of one orbit of Sentinel-1."""
STRANGE = 3.0
"""Standard deviations that the mean of a band of training pixels may lie from the mean of the statistics."""

Progress = Callable[[int, int], None]


class Source(Protocol):
    """Gives the batch of every step. `batch` is called with 0, 1, 2, ... or, after `restore`, from there on."""

    def batch(self, step: int) -> Batch:
        """What step number `step` learns from."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs besides the number of the step."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""


class Pooled:
    """Sparse views of pixels in memory. One generator draws order and views, one after the other.

    Args:
        pool: The pixels.
        recipe: Batch size and lengths of views.
        seed: Of the generator.
    """

    def __init__(self, pool: Pool, recipe: Recipe, seed: int) -> None:
        self._pool, self._recipe = pool, recipe
        self._generator = torch.Generator().manual_seed(seed)
        self._order, self._at = torch.randperm(len(pool), generator=self._generator), 0

    def batch(self, step: int) -> Batch:  # noqa: ARG002  # its generator knows the step
        """See Source. Each pass over the pool is in a new order."""
        recipe, generator = self._recipe, self._generator
        if self._at + recipe.batch > len(self._pool):
            self._order, self._at = torch.randperm(len(self._pool), generator=generator), 0
        pixels = self._order[self._at : self._at + recipe.batch]
        self._at += recipe.batch
        s2_times, s1_times = self._draw(recipe.s2_times), self._draw(recipe.s1_times)
        one, two = (self._pool.view(pixels, s2_times, s1_times, generator) for _ in range(2))
        alpha = torch.rand((), generator=generator)  # Beta(1, 1)
        order = torch.randperm(len(pixels), generator=generator)
        return Batch(one, two, alpha, order, self._pool.monthly[pixels], self._pool.known[pixels])

    def _draw(self, bounds: tuple[int, int]) -> int:
        return int(torch.randint(bounds[0], bounds[1] + 1, (), generator=self._generator))

    def state(self) -> dict[str, Any]:
        """See Source."""
        return {"generator": self._generator.get_state(), "order": self._order, "at": self._at}

    def restore(self, state: dict[str, Any]) -> None:
        """See Source."""
        self._generator.set_state(state["generator"])
        self._order, self._at = state["order"], state["at"]


class Streamed:
    """Views of pixels shuffled on disk. Everything random is a function of seed and step; the next batch is read ahead.

    Args:
        found: The pixels.
        recipe: How views are drawn.
        seed: Of everything random.
    """

    def __init__(self, found: shards.Shards, recipe: Recipe, seed: int) -> None:
        columns = ("pixels", "teacher") if recipe.kind == "distil" else ("pixels",)
        self._reader = shards.Reader(found, recipe.batch, seed, columns)
        self._recipe, self._seed = recipe, seed
        self._ahead: tuple[int, Future[Batch]] | None = None
        self._thread = ThreadPoolExecutor(1, "batches")

    def batch(self, step: int) -> Batch:
        """See Source."""
        ready = self._ahead[1].result() if self._ahead and self._ahead[0] == step else self._made(step)
        self._ahead = (step + 1, self._thread.submit(self._made, step + 1))
        return ready

    def _made(self, step: int) -> Batch:
        recipe = self._recipe
        records, *teacher = self._reader.rows(step)
        rng = np.random.default_rng([self._seed, 4, step])
        s2, s1 = (stream(records, sensor, recipe.published.statistics) for sensor in ("s2", "s1"))
        times = tuple(int(rng.integers(low, high + 1)) for low, high in (recipe.s2_times, recipe.s1_times))
        one = view(s2, s1, recipe.views, (times[0], times[1]), rng)
        if teacher:
            return Batch(one, target=torch.from_numpy(teacher[0]))
        two = view(s2, s1, recipe.views, (times[0], times[1]), rng)
        alpha = torch.tensor(rng.random(), dtype=torch.float32)  # Beta(1, 1)
        order = torch.from_numpy(rng.permutation(len(records)))
        known: tuple[Tensor, Tensor] | tuple[()] = monthly_targets(s2, s1) if recipe.monthly else ()
        return Batch(one, two, alpha, order, *known)

    def state(self) -> dict[str, Any]:
        """See Source."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """See Source."""


def shuffled(
    recipe: Recipe, data: Sequence[Path], folder: Path, seed: int, on_progress: Progress | None = None
) -> shards.Shards:
    """The pixels of tile folders, or simulated ones, shuffled into a folder; made once.

    Args:
        recipe: Which pixels count, and how many are simulated.
        data: Tile folders and folders of them; none: simulated.
        folder: Where they lie.
        seed: Of the order, and of the simulation.
        on_progress: Told of pixels read.

    Raises:
        NotFound, InvalidInput: A folder is not what it should be, or the statistics are not of such data.
        Conflict: Another set of pixels lies in the folder.
    """
    tiles = find_tiles(data) if data else ()
    source = _described(tiles, recipe, seed)
    found = shards.open_shards(folder, source)
    if found is None:
        most = sum(tile.pixels(recipe.spacing) for tile in tiles) if tiles else recipe.pixels
        parts = _checked(_parts(tiles, recipe, seed), recipe, most, on_progress)
        found = shards.write(parts, most, folder, seed, source)
    return found


def _described(tiles: tuple[Tile, ...], recipe: Recipe, seed: int) -> dict[str, Any]:
    """What decides which pixels there are and in which order, as plain values."""
    least = {"min_s2": recipe.min_s2, "min_s1": recipe.min_s1}
    if not tiles:
        return {"simulated": recipe.pixels, "seed": seed, **least}
    sizes = [[str(t.path), *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(t.path.glob("*.npy")))]
             for t in tiles]  # fmt: skip
    hashed = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
    return {"tiles": len(tiles), "files": hashed, "seed": seed, **least, "spacing": recipe.spacing}


def _parts(tiles: tuple[Tile, ...], recipe: Recipe, seed: int) -> Iterator[Records]:
    if not tiles:
        kind = record_type(S2_TIMES, S1_TIMES)
        for part in simulated_dpixels(recipe.pixels, seed):
            yield with_dates(to_records(part, kind), recipe.min_s2, recipe.min_s1)
        return
    kind = record_type(min(max(t.s2 for t in tiles), MOST_S2), min(max(t.s1 for t in tiles), MOST_S1))
    for tile in tiles:
        yield from read_tile(tile, kind, min_s2=recipe.min_s2, min_s1=recipe.min_s1, spacing=recipe.spacing)


def _checked(parts: Iterator[Records], recipe: Recipe, most: int, on_progress: Progress | None) -> Iterator[Records]:
    """Pass the pixels on; once all were seen, refuse none at all, and data that the statistics cannot be of."""
    totals = {name: np.zeros((2, channels)) for name, channels in SENSORS}
    done = 0
    for part in parts:
        for name, total in totals.items():
            total[0] += part[name].sum(axis=(0, 1), dtype=np.float64)
            total[1] += int(part[f"{name}_n"].sum())
        done += len(part)
        if on_progress:
            on_progress(done, most)
        yield part
    if not done:
        remedy = f"At least {recipe.min_s2} Sentinel-2 and {recipe.min_s1} Sentinel-1 dates are wanted of a pixel."
        raise InvalidInput("holds no pixel with enough valid dates.", field="data", remedy=remedy)
    for name, (total, count) in totals.items():
        mean, std = (np.array(getattr(recipe.published.statistics, f"{name}_{what}")) for what in ("mean", "std"))
        away = np.abs(total / np.maximum(count, 1) - mean) / std
        if count[0] and away.max() > STRANGE:
            worst = int(away.argmax())
            raise InvalidInput(
                f"band {worst} of {name} is {total[worst] / count[worst]:.0f} on average, {away[worst]:.1f} deviations "
                f"from the {mean[worst]:.0f} of these statistics.",
                field="statistics",
                remedy="Stored values are reflectance x 10000 with the offset removed, and (2 dB + 50) x 200.",
            )
