"""Pieces of an index, made in other processes and on other machines: what they are told, and what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from api.batch import Run as Spread
from api.here import here, travelling
from api.settings import Settings
from api.state import State
from indexing.index.build import Run
from indexing.index.manifest import SegmentRecord
from indexing.index.segment import SegmentTask, build_segment
from indexing.index.sent import fetch_segment, make_there, send_quantiser


@dataclass(frozen=True)
class Place:
    """Where a segment is made from and for; travels to whoever makes it."""

    settings: Settings
    """Of whoever asks, without what is secret. The usual AWS_* variables are everybody's own."""
    dataset: str
    home: Path | None
    """The folder of the index, where everybody sees it; else segments are left in the storage."""


def place_of(state: State, dataset: str, home: Path | None) -> Place:
    """What those who make segments of a dataset have to know."""
    return Place(travelling(state), dataset, home and home.absolute())


def make_piece(task: SegmentTask, place: Place) -> SegmentRecord:
    """Make a segment, wherever this runs.

    Raises:
        NotFound: There is no such dataset or window here.
        Corrupt, ReadOnly, Unavailable: A block or the quantiser cannot be read, or the segment not be left.
    """
    state = here(place.settings).state
    state.datasets.look_now()
    store = state.datasets[place.dataset].at(task.window).store
    if place.home is not None:
        return build_segment(store, task, place.home)
    return make_there(store, task, state.storage.at("index", place.dataset))


def in_pieces(state: State, place: Place, scratch: Path, spread: Spread) -> Run:
    """How `build_index` has segments made by others.

    Args:
        state: Of whoever asks.
        place: What the others are told.
        scratch: The folder of the index here.
        spread: Has pieces done by others.
    """
    bucket = None if place.home is not None else state.storage.at("index", place.dataset)

    def run(_: Callable[[SegmentTask], SegmentRecord], tasks: Sequence[SegmentTask]) -> Iterator[SegmentRecord]:
        for quantiser in {task.quantiser.name: task.quantiser for task in tasks}.values():
            if bucket is not None:
                send_quantiser(scratch, quantiser, bucket)
        for record in spread(partial(make_piece, place=place), tasks):
            if bucket is not None:
                fetch_segment(scratch, record, bucket)
            yield record

    return run
