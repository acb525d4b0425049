"""A region embedded by many: what whoever embeds a block of it is told, and what it does.

A block that holds already what would be made of it is left alone, so a block may be given out twice, and whoever does
it may die at any moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from api.here import here, travelling
from api.settings import Settings
from api.state import State
from service.embed import Made, embed_block, missing_blocks
from service.errors import IdentityMismatch, NotFound
from service.grid import Block, Zone
from service.store.contract import WritableStore
from service.values import Window


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
    settings = travelling(state)
    if threads:
        settings = settings.model_copy(update={"encoder_threads": threads})
    return Region(settings, dataset, window, manifest.sha256, min_s2)


def embed_piece(block: Block, region: Region) -> Made | None:
    """Embed a block, wherever this runs; None where it was embedded already.

    Raises:
        IdentityMismatch: The model's file here is another one.
        InvalidInput, Corrupt, LimitExceeded, Unavailable: As `embed_block`.
    """
    own = here(region.settings)
    state = own.state
    store = _store(state, region)
    encoder = state.encoder(str(store.identity))
    if encoder.digest != region.encoder:
        raise IdentityMismatch(f"the file of {encoder.identity} here is not the one that the region was begun with.")
    source = state.source_in(region.dataset, region.window, Zone.parse(block.zone))
    store.refresh()
    if not missing_blocks(source, encoder, store, [block], min_s2=region.min_s2):
        return None
    reports = state.reports(region.dataset)
    return embed_block(source, encoder, store, block, pipeline=own.pipeline, min_s2=region.min_s2, reports=reports)


def _store(state: State, region: Region) -> WritableStore:
    """Where a region goes. Its dataset may be newer than what this process has open."""
    try:
        return state.datasets.writable(region.dataset, region.window)
    except NotFound:
        state.datasets.look_now()
        return state.datasets.writable(region.dataset, region.window)
