"""How much is at least so alike: pixels counted in each of some polygons, all of them scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from indexing.areas import Drawn, Filter, Within
from indexing.exact import Reader
from indexing.pixels import Snapshot
from indexing.question import PixelCount
from indexing.screens import alike, screen_of
from service.grid import Block
from service.queries import Query
from service.together import together
from service.values import Int64Array


def any_of(shapes: Sequence[Drawn]) -> Filter:
    """Lets through what lies in any of some polygons."""
    return lambda block: np.logical_or.reduce([shape.mask(block) for shape in shapes if block in shape.near])


def counted(
    query: Query, at: Snapshot, within: Within, shapes: Sequence[Drawn], blocks: list[Block], read: Reader, least: float
) -> tuple[tuple[PixelCount, ...], int]:
    """Pixels in each polygon, those with a vector, and those that score at least so much. Exact.

    Args:
        query: What they are like.
        at: The snapshot.
        within: Which pixels count at all.
        shapes: The polygons; where there are none, one count is of all pixels.
        blocks: Every block that may hold any of them.
        read: How to read one, with scales where the query's metric needs them. Called from several threads.
        least: The score.

    Returns:
        The counts, and how many pixels were scored.

    Raises:
        Corrupt, Unavailable: As `read` does.
    """
    screen = screen_of(query)

    def work(mine: Iterator[Block]) -> Int64Array:
        found = np.zeros((max(1, len(shapes)) + 1, 3), np.int64)
        for block in mine:
            held = read(block)
            usable, kept = held.norms > 0, within.mask(at, block)
            near = [(n, kept & shape.mask(block)) for n, shape in enumerate(shapes) if block in shape.near]
            areas = near if shapes else [(0, kept)]
            asked = usable & np.logical_or.reduce([np.zeros_like(kept), *(area for _, area in areas)])
            hit = alike(query, screen, held, least, asked.ravel()).reshape(asked.shape)
            found[-1, 0] += np.count_nonzero(asked)
            for n, area in areas:
                found[n] += [np.count_nonzero(each) for each in (area, area & usable, area & hit)]
        return found

    total = np.sum(together(work, blocks), axis=0)
    counts = tuple(PixelCount(inside, valid, hits, at.level) for inside, valid, hits in total[:-1].tolist())
    return counts, int(total[-1, 0])
