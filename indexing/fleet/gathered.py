"""Candidates for many directions, one after the other: the form in which they are put together and travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexing.index.proposals import Proposal
from service.values import Float32Array, Int64Array


@dataclass(frozen=True, eq=False)
class Table:
    """Candidates of all directions and shards, one after the other."""

    query: Int64Array
    segment: Int64Array
    position: Int64Array
    estimate: Float32Array


def table_of(found: Sequence[Proposal]) -> Table:
    """Proposals for successive directions, one after the other."""
    sizes = [len(each.position) for each in found]
    segment = np.concatenate([np.empty(0, np.int64), *(each.segment for each in found)])
    position = np.concatenate([np.empty(0, np.int64), *(each.position for each in found)])
    estimate = np.concatenate([np.empty(0, np.float32), *(each.estimate for each in found)])
    return Table(np.repeat(np.arange(len(found)), sizes), segment, position, estimate)
