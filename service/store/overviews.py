"""Overviews of the embeddings: 2x to 32x in the zone grids, from 64x on one grid of the world, all built alike.

An overview pixel is the mean of the valid level-1 vectors under it, re-quantised. Each level is made from the one
before, weighted by how many level-1 pixels stand behind each pixel, so the mean stays exact through the levels
up to rounding. Only what is dirty is rebuilt (`service.store.lineage`), one block in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from typing import Final

import icechunk
import numpy as np
import numpy.typing as npt

from service.errors import Conflict
from service.globe import FINEST, ancestors, children
from service.grid import Block, Zone
from service.store.faults import read_array, writing
from service.store.layer import Layer, read_counts_window, read_window
from service.store.layout import COUNT_NAMES, add_counts, add_overview
from service.store.mean import Summary, halved
from service.store.repository import Repository
from service.store.snapshot import Snapshot
from service.store.world import Part, gathered
from service.values import BLOCK, NOT_EMBEDDED, Window

Progress = Callable[[int, int], None]
Look = Callable[[str, icechunk.Session], Snapshot]

_BATCH: Final = 32
"""Overview blocks to a commit: about as many seconds of work are lost to a kill."""
_RACES: Final = 20


def build_overviews(
    repository: Repository,
    window: Window,
    blocks: Sequence[Block] | None,
    on_progress: Progress | None = None,
    look: Look = Snapshot,
) -> int:
    """Rebuild dirty overview blocks, level by level, one in memory at a time.

    Args:
        repository: One that smalti made.
        window: Which.
        blocks: Level-1 blocks whose ancestors to look at; all where absent.
        on_progress: Called with (overview blocks looked at, overview blocks in all).
        look: Makes a snapshot of a session; level 1 may lie elsewhere.

    Returns:
        How many overview blocks changed.

    Raises:
        Conflict: Somebody else keeps rebuilding the same blocks.
        ReadOnly: The location does not allow it.
        Corrupt: A child cannot be read.
    """
    now = look(repository.location, repository.reader(repository.tip()))
    found = now.lineage.above(now.time(window)) if blocks is None else ancestors(now.grids, blocks)
    ordered, changed = sorted(found, key=lambda block: (block.level, block)), 0
    for start in range(0, len(ordered), _BATCH):
        batch = ordered[start : start + _BATCH]
        changed += _rebuild(repository, window, batch, look)
        if on_progress:
            on_progress(start + len(batch), len(ordered))
    return changed


def _rebuild(repository: Repository, window: Window, batch: Sequence[Block], look: Look) -> int:
    """Rebuild those of a batch that are dirty, in one commit; again where somebody else was faster."""
    for _ in range(_RACES):
        with repository.open_for_writing():
            session = repository.writer()
            now = look(repository.location, session)
            levels = groupby(batch, key=lambda block: block.level)
            changed = sum(_rebuild_level(now, now.time(window), list(same)) for _, same in levels)
            if not changed:
                return 0
            try:
                repository.commit(session, f"overviews of {changed} blocks")
            except Conflict:
                continue
            return changed
    raise Conflict(f"{repository.location}: somebody else keeps rebuilding the same overviews.")


def _rebuild_level(now: Snapshot, time: int, blocks: Sequence[Block]) -> int:
    dirty = now.lineage.dirty(time, blocks)
    if not dirty:
        return 0
    with writing(now.location):
        _ensure_groups(now, {(Zone.parse(b.zone), b.level) for b in dirty})
    standing, versions = now.lineage.standing(time, dirty), []
    for block in dirty:
        summary = _summarised(now, time, block)
        with writing(now.location):
            versions.append((block, _put(now, time, block, summary, standing[block])))
    now.wrote(time, versions)
    return len(dirty)


def _ensure_groups(now: Snapshot, wanted: Collection[tuple[Zone, int]]) -> None:
    for zone, level in sorted(wanted):
        if not now.holds(zone, level):
            add_overview(now.root, zone, now.grid(zone, level), len(now.years), now.dims)
        elif not now.has_counts(zone, level):
            add_counts(now.group(now.path(zone, level)), now.grid(zone, level), len(now.years))
            now.forget(zone, level)
    now.wrote()


def _summarised(now: Snapshot, time: int, block: Block) -> Summary:
    """What a block shows of those below it."""
    if block.level == FINEST.level:
        return gathered(block, _parts(now, time, block), now.dims)
    below = children(now.grids, block)
    found = now.versions(time, below)
    held = [child for child in below if found[child]]
    whole = Summary.empty((BLOCK, BLOCK), now.dims)
    if held:  # often one of four: a small area has few neighbours
        rows, cols = _around([child.rows for child in held]), _around([child.cols for child in held])
        part = halved(_summary(now, Zone.parse(block.zone), block.level // 2, time, rows, cols))
        whole.put(rows.start // 2 - block.rows.start, cols.start // 2 - block.cols.start, part)
    return whole


def _around(spans: Sequence[slice]) -> slice:
    return slice(min(span.start for span in spans), max(span.stop for span in spans))


def _parts(now: Snapshot, time: int, block: Block) -> Iterator[Part]:
    """The blocks of zones that hold data under a block of the world."""
    below = children(now.grids, block)
    found = now.versions(time, below)
    for child in sorted(child for child in below if found[child]):
        zone = Zone.parse(child.zone)
        yield Part(now.grid(zone, child.level), child, _summary(now, zone, child.level, time, child.rows, child.cols))


def _summary(now: Snapshot, zone: Zone, level: int, time: int, rows: slice, cols: slice) -> Summary:
    """A rectangle of pixels, and how much stands behind each."""
    if level == 1:
        return Summary.of(*now.pixels(zone, time, rows, cols))
    if not now.holds(zone, level):
        return Summary.empty((rows.stop - rows.start, cols.stop - cols.start), now.dims)
    layer = now.layer(zone, level)
    found = Summary.of(read_window(layer, time, rows, cols), read_counts_window(layer, time, rows, cols))
    rows, cols = (slice(s.start, min(s.stop, n)) for s, n in ((rows, layer.grid.height), (cols, layer.grid.width)))
    stored = read_array(now.location, now.arrays(layer.name)["weight"], time, rows, cols)
    found.weight[: stored.shape[0], : stored.shape[1]] = stored
    return found


def _put(now: Snapshot, time: int, block: Block, summary: Summary, standing: npt.NDArray[np.uint64]) -> int:
    """Write one overview block and return its version; the last ones of a grid may reach beyond it."""
    layer: Layer = now.layer(Zone.parse(block.zone), block.level)
    height = min(BLOCK, layer.grid.height - block.rows.start)
    width = min(BLOCK, layer.grid.width - block.cols.start)
    at = (time, slice(block.rows.start, block.rows.start + height), slice(block.cols.start, block.cols.start + width))
    vectors, counts = summary.vectors, summary.counts
    values = {
        "embeddings": vectors.codes,
        "scales": np.where(vectors.valid, vectors.scales, np.float32(np.nan)),
        "status": vectors.status,
        "weight": summary.weight,
        **dict(zip(COUNT_NAMES, counts.each, strict=True)),
    }
    arrays, version = now.arrays(layer.name), _version(summary)
    for name, value in values.items():
        arrays[name][at] = value[:height, :width]
    cell = (time, block.row, block.col)
    arrays["block_version"][cell] = np.uint64(version)
    arrays["block_children"][cell] = standing
    return version


def _version(summary: Summary) -> int:
    vectors, counts = summary.vectors, summary.counts
    if not (vectors.status != NOT_EMBEDDED).any():
        return 0
    digest = hashlib.blake2b(digest_size=8)
    for array in (vectors.codes, vectors.scales, vectors.status, summary.weight, *counts.each):
        digest.update(np.ascontiguousarray(array).data)
    return int.from_bytes(digest.digest(), "little") or 1
