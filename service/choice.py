"""At which level each part of a picture is read: the coarsest that is fine enough, up to date and may be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.footprint import Box, Side
from service.grid import WORLD_GRID, WORLD_LEVELS, ZONE_LEVELS, Block
from service.warp import Target, ZoneMap, pixel_step, zone_maps


@dataclass(frozen=True, eq=False)
class Choice:
    """The level at which one part of a picture is read."""

    shown: ZoneMap
    box: Box | None
    """What is read, as level-1 pixels; None where the part shows no data."""
    level: int
    stale: bool = False

    @property
    def count(self) -> int:
        """Stored pixels to read."""
        return _count(self.box, self.level) if self.box else 0


def level_for(levels: Sequence[int], steps: Sequence[float]) -> int:
    """The coarsest of some levels whose pixels are no larger than the picture's; the finest where none is."""
    # A hair of tolerance: a picture drawn at exactly 20 m shows the 20 m level, one of the whole world one block.
    step = min(steps, default=1.0) * (1 + 1e-3)
    return max((level for level in levels if level <= step), default=levels[0])


def choices(
    target: Target, sides: Sequence[Side], levels: Sequence[int], budget: float, around: bool
) -> tuple[Choice, ...]:
    """A level for each part of a picture: one for each zone, or where it is small enough the world for all of them.

    Args:
        target: The picture.
        sides: The windows it is made of.
        levels: At which all of them can be read.
        budget: Stored pixels that may be read of each.
        around: Whether pixels beside those shown are read too.
    """
    coarse = [level for level in levels if level in WORLD_LEVELS]
    whole: tuple[Choice, ...] = ()
    if coarse and level_for([1, *coarse], [pixel_step(target, WORLD_GRID)]) > 1:
        whole = _of_world(target, sides, coarse, budget, around)
        if whole and not any(choice.stale for choice in whole):
            return whole
    parts = _of_zones(target, sides, [level for level in levels if level in ZONE_LEVELS], budget, around)
    poor = any(choice.stale for choice in parts) or sum(choice.count for choice in parts) > budget
    return whole if whole and poor else parts


def _of_world(
    target: Target, sides: Sequence[Side], levels: Sequence[int], budget: float, around: bool
) -> tuple[Choice, ...]:
    """One level for the whole picture; nothing where the overviews of the world were never built."""
    maps = zone_maps(target, (WORLD_GRID,))
    fitting = level_for(levels, [part.step for part in maps])
    boxes = [_held(sides, part, fitting if around else 0) for part in maps]
    kept: tuple[Choice, ...] = ()
    for level in sorted((level for level in levels if level <= fitting), reverse=True):
        found = tuple(Choice(part, box, level) for part, box in zip(maps, boxes, strict=True))
        if sum(choice.count for choice in found) > budget:
            break
        blocks = [_parents(side, found) for side in sides]
        if not any(side.store.stale(side.window, own) for side, own in zip(sides, blocks, strict=True)):
            return found
        if not kept and _are_there(sides, blocks):
            kept = tuple(Choice(part, box, level, stale=True) for part, box in zip(maps, boxes, strict=True))
    return kept


def _of_zones(
    target: Target, sides: Sequence[Side], levels: Sequence[int], budget: float, around: bool
) -> tuple[Choice, ...]:
    """A level for each zone. What the finer levels may cost beyond the fitting one is shared out evenly."""
    maps = zone_maps(target, sides[0].footprint.grids)
    fitting = level_for(levels, [part.step for part in maps])
    finer = sorted((level for level in levels if level <= fitting), reverse=True)
    boxes = [_held(sides, part, fitting if around else 0) for part in maps]
    costs = [_count(box, fitting) for box in boxes if box]
    spare = (budget - sum(costs)) / max(1, len(costs))
    return tuple(
        _chosen(sides, part, box, finer, spare) if box and fitting > 1 and spare >= 0 else Choice(part, box, fitting)
        for part, box in zip(maps, boxes, strict=True)
    )


def _held(sides: Sequence[Side], part: ZoneMap, reach: int) -> Box | None:
    """What a part of a picture shows, and so much around it, cut to where every side holds data."""
    top, bottom, left, right = part.box
    box: Box | None = (top - reach, bottom + reach, left - reach, right + reach)
    for side in sides:
        box = side.footprint.clip(part.grid.zone.name, box) if box else None
    return box


def _chosen(sides: Sequence[Side], part: ZoneMap, box: Box, levels: Sequence[int], spare: float) -> Choice:
    """The coarsest level, from the fitting one on, that is up to date and may be read; else one that is not."""
    budget = _count(box, levels[0]) + spare
    kept: Choice | None = None
    for level in (known for known in levels if _count(box, known) <= budget):
        found = Choice(part, box, level)
        blocks = [_parents(side, [found]) for side in sides]
        if level == 1 or not any(side.store.stale(side.window, own) for side, own in zip(sides, blocks, strict=True)):
            return found
        if kept is None and _are_there(sides, blocks):
            kept = Choice(part, box, level, stale=True)
    return kept or Choice(part, box, 1)  # no overviews at all: `plan` refuses it, unless other zones left room


def _parents(side: Side, found: Sequence[Choice]) -> list[Block]:
    """The blocks with data that are read."""
    return [
        block
        for choice in found
        if choice.box
        for block in side.footprint.parents(choice.shown.grid.zone.name, choice.box, choice.level)
    ]


def _are_there(sides: Sequence[Side], blocks: Sequence[Sequence[Block]]) -> bool:
    """Whether each side holds any of its blocks."""
    return all(any(side.store.versions(side.window, own).values()) for side, own in zip(sides, blocks, strict=True))


def _count(box: Box, level: int) -> int:
    """Pixels of a level in a level-1 box."""
    top, bottom, left, right = (edge // level for edge in box)
    return (bottom - top + 1) * (right - left + 1)
