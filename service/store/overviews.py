"""Overviews of the embeddings: 2x to 32x in the zone grids, kept in the same repository.

An overview pixel is the mean of the valid level-1 vectors under it, re-quantised. Each level is made from the one
before, weighted by how many level-1 pixels stand behind each pixel, so the mean stays exact through the levels
up to rounding. Each overview block records the versions of its four children: where they differ from
what stands now it is dirty, and only dirty ones are rebuilt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

import numpy as np

from service.errors import Conflict
from service.grid import Block, Zone
from service.store.faults import read_array, writing
from service.store.layer import Layer, read_counts_window, read_window
from service.store.layout import COUNT_NAMES, LEVELS, add_counts, add_overview
from service.store.mean import Summary, halved
from service.store.repository import Repository
from service.store.snapshot import Snapshot
from service.values import BLOCK, NOT_EMBEDDED, Window

Progress = Callable[[int, int], None]

_BATCH: Final = 32
"""Overview blocks to a commit: about as many seconds of work are lost to a kill."""
_RACES: Final = 20


def build_overviews(
    repository: Repository, window: Window, blocks: Sequence[Block] | None, on_progress: Progress | None = None
) -> int:
    """Rebuild dirty overview blocks, level by level, one in memory at a time.

    Args:
        repository: One that smalti made.
        window: Which.
        blocks: Level-1 blocks whose ancestors to look at; all where absent.
        on_progress: Called with (overview blocks looked at, overview blocks in all).

    Returns:
        How many overview blocks changed.

    Raises:
        Conflict: Somebody else keeps rebuilding the same blocks.
        ReadOnly: The location does not allow it.
        Corrupt: A child cannot be read.
    """
    candidates = _candidates(repository, window, blocks)
    total, done, changed = sum(map(len, candidates.values())), 0, 0
    for level in LEVELS:
        ordered = sorted(candidates[level])
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            changed += _rebuild(repository, window, batch)
            done += len(batch)
            if on_progress:
                on_progress(done, total)
    return changed


def stale_blocks(now: Snapshot, time: int, blocks: Iterable[Block]) -> frozenset[Block]:
    """Which of these overview blocks do not summarise the level-1 blocks below them as they stand.

    A block is stale where it is dirty or any block between it and level 1 is. The snapshot keeps the answers.
    """
    asked = now.above(time).intersection(blocks)
    unknown: dict[int, set[Block]] = {level: set() for level in LEVELS}
    for level in reversed(LEVELS):
        unknown[level] |= {b for b in asked if b.level == level and (time, b) not in now.stale}
        if level > 2:
            below = {child for block in unknown[level] for child in block.children()} & now.above(time)
            unknown[level // 2] |= {b for b in below if (time, b) not in now.stale}
    for level in LEVELS:
        dirty = set(_dirty(now, time, sorted(unknown[level])))
        for block in unknown[level]:
            now.stale[time, block] = block in dirty or any(now.stale.get((time, c), False) for c in block.children())
    return frozenset(block for block in asked if now.stale[time, block])


def _candidates(repository: Repository, window: Window, blocks: Sequence[Block] | None) -> dict[int, set[Block]]:
    """Overview blocks to look at, by level: the ancestors of `blocks`, or of everything there is."""
    below: set[Block] = set(blocks or ())
    now = Snapshot(repository.location, repository.reader(repository.tip()))
    time = now.time(window)
    if blocks is None:
        below = set(now.blocks(1).get(time, ()))
    out: dict[int, set[Block]] = {}
    for level in LEVELS:
        out[level] = {block.parent() for block in below}
        if blocks is None and level in now.levels:
            out[level] |= now.blocks(level).get(time, frozenset())
        below = out[level]
    return out


def _rebuild(repository: Repository, window: Window, batch: Sequence[Block]) -> int:
    """Rebuild those of a batch that are dirty, in one commit; again where somebody else was faster."""
    for _ in range(_RACES):
        with repository.open_for_writing():
            session = repository.writer()
            now = Snapshot(repository.location, session)
            time = now.time(window)
            dirty = _dirty(now, time, batch)
            if not dirty:
                return 0
            with writing(repository.location):
                _ensure_groups(now, {(Zone.parse(b.zone), b.level) for b in dirty})
            now = Snapshot(repository.location, session)
            for block in dirty:
                _rebuild_one(now, time, block)
            try:
                repository.commit(session, f"overviews of {len(dirty)} blocks")
            except Conflict:
                continue
            return len(dirty)
    raise Conflict(f"{repository.location}: somebody else keeps rebuilding the same overviews.")


def _dirty(now: Snapshot, time: int, blocks: Sequence[Block]) -> list[Block]:
    """Those that do not record what stands below them; also all that were made before overviews had counts."""
    counted = {(b.zone, b.level) for b in blocks if now.has_counts(Zone.parse(b.zone), b.level)}
    recorded = now.block_values("block_children", time, [b for b in blocks if (b.zone, b.level) in counted])
    standing = _child_versions(now, time, blocks)
    return [b for b in blocks if not np.array_equal(recorded.get(b, np.zeros(4, np.uint64)), standing[b])]


def _child_versions(now: Snapshot, time: int, blocks: Collection[Block]) -> dict[Block, np.ndarray[Any, Any]]:
    """(4,) uint64 versions of the children of each block, 0 where there is none."""
    children = {b: [c if _on_grid(now, c) else None for c in b.children()] for b in blocks}
    found = now.versions(time, [c for four in children.values() for c in four if c])
    return {
        b: np.array([int(found[c] or "0", 16) if c else 0 for c in four], np.uint64) for b, four in children.items()
    }


def _on_grid(now: Snapshot, block: Block) -> bool:
    zone = Zone.parse(block.zone)
    if zone not in now.zones:
        return False
    grid = now.layer(zone).grid.at_level(block.level)
    return bool(block.rows.start < grid.height and block.cols.start < grid.width)


def _ensure_groups(now: Snapshot, wanted: Collection[tuple[Zone, int]]) -> None:
    dims = int(now.attributes["geoemb:dimensions"])
    for zone, level in sorted(wanted):
        if now.path(zone, level) not in now.root:
            add_overview(now.root, zone, level, len(now.years), dims)
        elif not now.layer(zone, level).counts:
            add_counts(now.group(now.path(zone, level)), now.layer(zone, level).grid, len(now.years))


def _rebuild_one(now: Snapshot, time: int, block: Block) -> None:
    zone = Zone.parse(block.zone)
    below, layer = now.layer(zone, block.level // 2), now.layer(zone, block.level)
    rows, cols = (slice(2 * s.start, 2 * s.stop) for s in (block.rows, block.cols))
    summary = halved(_summary(now, below, time, rows, cols))
    with writing(now.location):
        _put(now, layer, time, block, summary)


def _summary(now: Snapshot, layer: Layer, time: int, rows: slice, cols: slice) -> Summary:
    """A rectangle of pixels, and how much stands behind each."""
    vectors, counts = read_window(layer, time, rows, cols), read_counts_window(layer, time, rows, cols)
    found = Summary.of(vectors, counts)
    if layer.grid.level > 1:
        rows, cols = (slice(s.start, min(s.stop, n)) for s, n in ((rows, layer.grid.height), (cols, layer.grid.width)))
        stored = read_array(now.location, now.array(layer.name, "weight"), time, rows, cols)
        found.weight[: stored.shape[0], : stored.shape[1]] = stored
    return found


def _put(now: Snapshot, layer: Layer, time: int, block: Block, summary: Summary) -> None:
    """Write one overview block; the last row and column of blocks may reach beyond the grid."""
    height = min(BLOCK, layer.grid.height - block.rows.start)
    width = min(BLOCK, layer.grid.width - block.cols.start)
    at = (time, slice(block.rows.start, block.rows.start + height), slice(block.cols.start, block.cols.start + width))
    vectors, counts = summary.vectors, summary.counts
    values = {
        "embeddings": vectors.codes,
        "scales": np.where(vectors.valid, vectors.scales, np.float32(np.nan)),
        "status": vectors.status,
        "weight": summary.weight,
        **dict(zip(COUNT_NAMES, (counts.s2, counts.s1_asc, counts.s1_desc), strict=True)),
    }
    group: Any = now.group(layer.name)
    for name, value in values.items():
        group[name][at] = value[:height, :width]
    cell = (time, block.row, block.col)
    group["block_version"][cell] = np.uint64(_version(summary))
    group["block_children"][cell] = _child_versions(now, time, [block])[block]


def _version(summary: Summary) -> int:
    vectors, counts = summary.vectors, summary.counts
    if not (vectors.status != NOT_EMBEDDED).any():
        return 0
    digest = hashlib.blake2b(digest_size=8)
    for array in (
        vectors.codes, vectors.scales, vectors.status, summary.weight, counts.s2, counts.s1_asc, counts.s1_desc,
    ):  # fmt: skip
        digest.update(np.ascontiguousarray(array).data)
    return int.from_bytes(digest.digest(), "little") or 1
