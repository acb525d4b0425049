"""The candidates of many queries ranked together: numpy is called a few times for all of them, not for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from indexing.exact import Top
from indexing.index.proposals import Proposal
from indexing.planner import Index
from indexing.screens import DECIMALS, MARGIN
from service.together import together
from service.values import Float64Array

_AT_ONCE: Final = 32
"""Queries: their candidates are some megabytes."""


def ranked(index: Index, proposals: Sequence[Proposal], directions: Float64Array, k: int) -> list[Top]:
    """The best k of each proposal by cosine in float64, equal ones by id.

    Args:
        index: What proposed them.
        proposals: One for each query.
        directions: (q, d) float64 of length 1.
        k: 1 or more.
    """
    starts = list(range(0, len(proposals), _AT_ONCE))
    found: dict[int, list[Top]] = {}

    def work(mine: Iterator[int]) -> None:
        for start in mine:
            part = slice(start, start + _AT_ONCE)
            found[start] = _some(index, proposals[part], directions[part], k)

    together(work, starts)
    return [top for start in starts for top in found[start]]


def _some(index: Index, proposals: Sequence[Proposal], directions: Float64Array, k: int) -> list[Top]:
    sizes = np.array([len(each.position) for each in proposals])
    every = Proposal(*(np.concatenate([getattr(each, name) for each in proposals]) for name in _FIELDS))
    ids, rows = index.rows(every)
    codes, norms = rows.codes, rows.norms
    ends = np.cumsum(sizes)
    scores = np.empty(len(ids), np.float32)
    narrow = directions.astype(np.float32)
    near = np.zeros(len(ids), bool)
    for n, (start, end) in enumerate(zip((ends - sizes).tolist(), ends.tolist(), strict=True)):
        mine = np.divide(codes[start:end].astype(np.float32) @ narrow[n], norms[start:end], out=scores[start:end])
        near[start:end] = mine >= np.partition(mine, -k)[-k] - 2 * MARGIN if len(mine) > k else True
    left = np.flatnonzero(near)
    query = np.repeat(np.arange(len(sizes)), sizes)[left]
    wide = codes[left].astype(np.float64)
    exact = np.einsum("nd,nd->n", wide, directions[query]) / np.sqrt(np.einsum("nd,nd->n", wide, wide))
    exact = np.clip(np.round(exact, DECIMALS), -1.0, 1.0)
    order = np.lexsort((ids[left], -exact, query))
    cuts = np.searchsorted(query[order], np.arange(len(sizes) + 1)).tolist()
    parts = [order[start : min(start + k, end)] for start, end in pairwise(cuts)]
    return [Top(ids[left[part]], exact[part]) for part in parts]


_FIELDS: Final = ("segment", "position", "estimate")
