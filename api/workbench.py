"""What a worker does for an order: a block, the overviews above its blocks, the index beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from api.claims import Claims
from api.progress import Order
from api.state import State
from indexing.search import EXACT_BLOCKS
from service.embed import embed_block, missing_blocks
from service.encoder import Encoder
from service.errors import IdentityMismatch, Unavailable
from service.grid import Block, Zone
from service.pipeline import Pipeline
from service.scenes.folder import DPIXELS
from service.shelf import content_id
from service.sources import Source
from service.store.contract import WritableStore
from service.values import Window

REINDEX: Final = EXACT_BLOCKS // 8
"""Blocks behind the index after which it is built anew: well before there are more than a search may scan."""
TOLD_S: Final = 1.0
"""Seconds between two notes of how far a block is."""
SOURCE_S: Final = 600.0
"""Seconds for which what a catalogue told is believed."""
LOOK_S: Final = 0.25
"""Seconds between two looks whether a block is still in somebody's hand."""


class Bench:
    """What this process works with.

    Args:
        state: Datasets and models.
        claims: Where it is noted who makes which block; None where nobody else does.
        is_cancelled: Whether the job of the block that this thread has in hand was cancelled.
        tell: Notes how many pixels of that block are done.
    """

    def __init__(
        self,
        state: State,
        claims: Claims | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
        tell: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.state, self._claims = state, claims
        self._is_cancelled, self._tell = is_cancelled, tell
        self._sources: dict[tuple[str, str, str, str], tuple[float, Source]] = {}
        self.pipeline = Pipeline(state.settings.blocks_at_once)
        """Closed once this worker ends."""

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """Once this worker ends, whatever was not begun waits until the process is gone: it has not failed."""
        try:
            yield
        except Unavailable:
            if not self.pipeline.closed:
                raise
            threading.Event().wait()

    def of(self, order: Order, block: Block) -> tuple[Source, Encoder, WritableStore]:
        """What a block of an order needs, checked.

        Raises:
            IdentityMismatch: The encoder's file, or what it computes in, is not what the job was asked with.
            InvalidInput: The dataset has no source any more.
        """
        encoder = self.state.encoder(order.model)
        if encoder.digest != order.encoder:
            raise IdentityMismatch(f"the file of {order.model} here is not the one this job was asked with.")
        if encoder.precision != order.precision:
            raise IdentityMismatch(
                f"this job was asked with {order.precision}, and this worker computes in {encoder.precision}.",
                field="precision",
                remedy="Give server and workers the same SMALTI_PRECISION.",
            )
        return self._source(order, block), encoder, self.store(order)

    def _source(self, order: Order, block: Block) -> Source:
        """Kept for a while, unless another was said: what a catalogue told of one block, it told of those around it.

        What lies in a folder is looked at each time: files come and go there.
        """
        document = self.state.source(order.dataset) or {}
        if document.get("type") == DPIXELS:
            return self.state.source_in(order.dataset, Window.parse(order.window), Zone.parse(block.zone))
        key = order.dataset, order.window, block.zone, content_id(document)
        since, source = self._sources.get(key, (0.0, None))
        if source is None or time.monotonic() - since > SOURCE_S:
            source = self.state.source_in(order.dataset, Window.parse(order.window), Zone.parse(block.zone))
            now = time.monotonic()
            kept = {other: held for other, held in self._sources.copy().items() if now - held[0] < SOURCE_S}
            self._sources = {**kept, key: (now, source)}
        return source

    def store(self, order: Order) -> WritableStore:
        """Where an order's blocks go."""
        return self.state.datasets.writable(order.dataset, Window.parse(order.window))

    def embed(self, order: Order, block: Block) -> dict[str, Any]:
        """Embed one block, unless it is: what its pixels became, and how fast that went."""
        what = self.of(order, block)
        if _is_there(*what, order, block):
            return self._noted(order, block)
        with self._alone(order, block):
            if self._is_cancelled():
                return {}
            if _is_there(*what, order, block):  # made by another job meanwhile
                return self._noted(order, block)
            return self._made(*what, order, block)

    def _noted(self, order: Order, block: Block) -> dict[str, Any]:
        """What a block that is stored came to, if that was noted when it was made."""
        stored = self.store(order).fingerprints(Window.parse(order.window), [block])
        reports = self.state.reports(order.dataset).of(stored.get(block, ""))
        return {"outcome": reports[0].get("pixels")} if reports else {}

    def _made(
        self, source: Source, encoder: Encoder, store: WritableStore, order: Order, block: Block
    ) -> dict[str, Any]:
        how: dict[str, Any] = {"pipeline": self.pipeline, "min_s2": order.min_s2, "on_progress": _Told(self._tell)}
        how["reports"] = self.state.reports(order.dataset)
        with self.lasting():
            made = embed_block(source, encoder, store, block, wanted=lambda: not self._is_cancelled(), **how)
            if made is None:
                return {}
            if self._is_cancelled():  # the overviews of its job may have been renewed before it was stored
                with self.pipeline.unbroken():
                    store.write_overviews(source.window, [block])
        speed = {"model": order.model, "pixels": order.pixels[block.name], "seconds": made.seconds}
        return {**speed, "outcome": made.pixels}

    @contextmanager
    def _alone(self, order: Order, block: Block) -> Iterator[None]:
        """Wait until nobody else makes the block, of this dataset and window; nobody begins it meanwhile."""
        claims, what = self._claims, f"{order.dataset}/{order.window}/{block.name}"
        if claims is None:
            yield
            return
        while not (taken := claims.take(what)) and not self._is_cancelled():
            time.sleep(LOOK_S)
        try:
            yield
        finally:
            if taken:
                with suppress(Unavailable):  # it is tidied up later
                    claims.drop(what)

    def hands(self) -> int:
        """Blocks that all workers there are have in hand at a time, if the others are set up like this one.

        Raises:
            Unavailable: The jobs database cannot be reached.
        """
        hands = self.state.jobs.hands()
        return hands.workers * hands.at_once

    def renew_overviews(self, order: Order) -> int:
        """Renew the overviews above all blocks of a job; how many changed."""
        store = self.store(order)
        with self.lasting(), self.pipeline.unbroken():
            store.refresh()
            window = Window.parse(order.window)
            return store.write_overviews(window, [Block.parse(name) for name in order.pixels])

    def renew_index(self, order: Order) -> int:
        """Index the window anew where searches have many blocks to scan beside it; how many those were.

        A worker that ends does not wait for it, and what served goes on serving.
        """
        window = Window.parse(order.window)
        self.state.datasets.look_now()
        dataset = self.state.datasets[order.dataset].at(window)
        behind = self.state.searcher(dataset).behind(window)
        if behind > REINDEX:
            self.state.build_index(dataset, window)
        return behind


def _is_there(source: Source, encoder: Encoder, store: WritableStore, order: Order, block: Block) -> bool:
    store.refresh()
    return not missing_blocks(source, encoder, store, [block], min_s2=order.min_s2)


class _Told:
    """Notes now and then how many pixels of a block are done."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell, self._last = tell, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if done < total and time.monotonic() - self._last > TOLD_S:
            self._last = time.monotonic()
            self._tell(done)
