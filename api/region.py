"""A region embedded by many: what whoever embeds a block of it is told, and what it does.

A block that holds already what would be made of it is left alone, so a block may be given out twice, and whoever does
it may die at any moment.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from api.pieces import settings_for
from api.settings import Settings
from api.state import State
from service.embed import Made, embed_block, missing_blocks
from service.errors import IdentityMismatch
from service.grid import Block, Zone
from service.pipeline import Pipeline
from service.values import Window

_OPENING: Final = threading.Lock()
"""Tasks of one process begin at the same moment, and share what they open."""


@dataclass(frozen=True)
class Region:
    """What is embedded, where to and how; travels to whoever embeds a block of it."""

    settings: Settings
    """Of whoever asks, without what is secret."""
    dataset: str
    window: Window
    encoder: str
    """Digest of the model's file: whoever has another one refuses."""
    min_s2: int


def region_of(state: State, dataset: str, window: Window, *, min_s2: int, threads: int | None = None) -> Region:
    """What those who embed blocks of a dataset have to know. Makes the store of a window that has none.

    Args:
        state: Of whoever asks.
        dataset: Its id.
        window: Which.
        min_s2: Least number of valid Sentinel-2 dates of a pixel.
        threads: Of each encoder, where they share a machine.

    Raises:
        NotFound, ReadOnly, InvalidInput: There is no such dataset, or it cannot be written to.
    """
    store = state.datasets.writable(dataset, window)
    manifest = state.registry.get(str(store.identity)).manifest
    settings = settings_for(state)
    if threads:
        settings = settings.model_copy(update={"encoder_threads": threads})
    return Region(settings, dataset, window, manifest.sha256, min_s2)


def embed_piece(block: Block, region: Region) -> Made | None:
    """Embed a block, wherever this runs; None where it was embedded already.

    Raises:
        IdentityMismatch: The model's file here is another one.
        InvalidInput, Corrupt, LimitExceeded, Unavailable: As `embed_block`.
    """
    with _OPENING:
        state, pipeline = _here(region)
        store = state.datasets.writable(region.dataset, region.window)
        encoder = state.encoder(str(store.identity))
    if encoder.digest != region.encoder:
        raise IdentityMismatch(f"the file of {encoder.identity} here is not the one that the region was begun with.")
    source = state.source_in(region.dataset, region.window, Zone.parse(block.zone))
    store.refresh()
    if not missing_blocks(source, encoder, store, [block], min_s2=region.min_s2):
        return None
    reports = state.reports(region.dataset)
    return embed_block(source, encoder, store, block, pipeline=pipeline, min_s2=region.min_s2, reports=reports)


@lru_cache(maxsize=1)
def _here(region: Region) -> tuple[State, Pipeline]:
    """One for all blocks that this process embeds; what it has open outlasts a region."""
    state, pipeline = _open(region.settings)
    state.datasets.look_now()  # the dataset may be new
    return state, pipeline


@lru_cache(maxsize=1)
def _open(settings: Settings) -> tuple[State, Pipeline]:
    return State(settings), Pipeline(settings.blocks_at_once)
