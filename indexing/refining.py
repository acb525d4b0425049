"""Coarse first, then fine: the best overview pixels of a country tell where to look for pixels of 10 m."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from indexing.areas import Within
from indexing.finding import Finder, Found
from indexing.ids import cols_of, pixel_ids, rows_of, zones_of
from indexing.question import Question, Where
from service.grid import Block
from service.values import BLOCK, BoolArray, Int64Array

_CELLS: Final = 16
"""Overview pixels looked below, for each hit that is wanted: what is like a query is seldom the best of its mean."""
_LEAST_CELLS: Final = 256
_BLOCKS: Final = 64
"""The most blocks of 10 m pixels looked into."""


def refined(question: Question, coarse: Finder, fine: Finder) -> Found:
    """The best 10 m pixels below the best pixels of a coarser level; of a small area all are scored.

    Args:
        question: What to look for.
        coarse: Finds pixels of the question's level.
        fine: Finds those of 10 m, exactly.
    """
    within = fine.within(question.where)
    below = replace(question, level=1, refine=False, exact=True)
    if len(within.blocks) <= _BLOCKS:
        return fine.spaced(below, within)
    where = Where(question.where.area, question.where.inside, question.where.outside)  # counts are those of 10 m
    asked = replace(question, where=where, own=None, spacing=0.0)
    found = coarse.best(asked, coarse.within(where), max(_CELLS * question.k, _LEAST_CELLS))
    first = np.empty(0, np.int64) if question.own is None else _above(question.own, question.level)
    cells = _cells(np.concatenate([first, found.top.ids]), question.level, within)
    only = within.only(lambda block: _below(cells[block], block, question.level), frozenset(cells))
    told = fine.spaced(below, only).after(found)
    return replace(told, engine="index+exact", recall=None, stale=coarse.at.stale)


def _above(own: Int64Array, level: int) -> Int64Array:
    """Ids of the overview pixels that cover some pixels of 10 m."""
    each = zip(zones_of(own), rows_of(own) // level, cols_of(own) // level, strict=True)
    return np.array([pixel_ids(zone, row, col, level) for zone, row, col in each], np.int64).ravel()


def _cells(ids: Int64Array, level: int, within: Within) -> dict[Block, Int64Array]:
    """The overview pixels by the block of 10 m pixels that they cover a part of, best first, up to `_BLOCKS`."""
    side = BLOCK // level
    found: dict[Block, list[int]] = {}
    rows, cols = rows_of(ids) // side, cols_of(ids) // side
    for one, zone, row, col in zip(ids.tolist(), zones_of(ids), rows.tolist(), cols.tolist(), strict=True):
        block = Block(zone.name, row, col)
        if block in within.blocks and (block in found or len(found) < _BLOCKS):
            found.setdefault(block, []).append(one)
    return {block: np.array(mine, np.int64) for block, mine in found.items()}


def _below(cells: Int64Array, block: Block, level: int) -> BoolArray:
    """(256, 256) bool: pixels of a block that lie below some overview pixels."""
    side = BLOCK // level
    mask = np.zeros((side, side), bool)
    mask[rows_of(cells) - block.row * side, cols_of(cells) - block.col * side] = True
    return mask.repeat(level, axis=0).repeat(level, axis=1)
