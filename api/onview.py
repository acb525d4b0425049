"""Embedding on view: what somebody looks at and is empty is asked for, where the dataset allows it, within its budget.

Off unless the dataset's source says `embed_on_view = {blocks_per_hour = 16}`. Then a tile that turned out empty, and
shows few blocks, becomes a job of its own: for those only who could ask POST /areas for it, one job of the dataset at
a time, and never more blocks an hour than the budget, however many servers there are. What failed before, was
cancelled, or holds anything, is left to people. The tile itself waits for none of this.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from dataclasses import replace
from typing import Final

from api.jobs import KEPT, Jobs
from api.missing import blocks_per_hour
from api.progress import Order
from api.state import State
from service.area import MIN_S2, plan_area
from service.embed import require_writable
from service.errors import NotFound, SmaltiError
from service.frame import lonlat_box
from service.grid import PIXEL
from service.polygons import Polygon
from service.store.contract import WritableStore
from service.values import BLOCK, Area, Window
from service.warp import Target

log = logging.getLogger("smalti.onview")

BLOCKS: Final = 4
"""Most blocks that a tile may touch: at lower zooms nobody looks at any of them in particular."""
AGAIN_S: Final = 60.0
"""Seconds for which the same tile is not looked into again."""
_REMEMBERED: Final = 1024
_BLOCK_M2: Final = (BLOCK * PIXEL) ** 2


def _square_metres(target: Target) -> float:
    return Polygon.of_area(Area(*lonlat_box(target))).square_metres


class OnView:
    """Asks for what is looked at; one at a time, beside the requests.

    Args:
        state: Datasets, sources, encoders and jobs.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._busy = threading.Lock()
        self._lately: dict[tuple[str, Window, Target], float] = {}

    def seen(self, dataset: str, window: Window, target: Target) -> None:
        """An empty tile was looked at by somebody who may have it embedded. Returns at once, whatever comes of it."""
        if _square_metres(target) > BLOCKS * _BLOCK_M2:
            return
        now, key = time.monotonic(), (dataset, window, target)
        if now - self._lately.get(key, float("-inf")) < AGAIN_S or not self._busy.acquire(blocking=False):
            return
        if len(self._lately) >= _REMEMBERED:
            self._lately.clear()
        self._lately[key] = now
        threading.Thread(target=self._asked, args=key, daemon=True).start()

    def _asked(self, dataset: str, window: Window, target: Target) -> None:
        try:
            self._ask(dataset, window, target)
        except SmaltiError as error:
            log.info("%s %s is not embedded on view: %s", dataset, window, error)
        except Exception:  # nobody else would tell
            log.exception("%s %s is not embedded on view", dataset, window)
        finally:
            self._busy.release()

    def _ask(self, dataset: str, window: Window, target: Target) -> None:
        state, jobs = self._state, self._state.jobs
        document = state.source(dataset)
        if document is None or any(order.dataset == dataset for order in jobs.running().values()):
            return
        box = Area(*lonlat_box(target))
        encoder = state.encoder(str(state.datasets.require_writable(dataset).identity))
        store = _store(state, dataset, window)
        plan = plan_area(
            state.sources_of(dataset, window, box), encoder, store, Polygon.of_area(box), min_s2=MIN_S2, most=BLOCKS
        )
        # What holds anything was made by somebody, in a way that this would undo.
        held = store.versions(window, plan.left) if store and plan.left else {}
        pixels = {block.name: plan.blocks[block] for block in plan.left if not held.get(block)}
        by = f"view:{dataset}"
        order = Order(dataset, str(window), str(encoder.identity), encoder.digest, MIN_S2, pixels, encoder.precision)
        order = _new(jobs, order, by) if pixels else order
        spent = sum(len(asked.pixels) for _, asked in jobs.asked_by(by, dt.timedelta(hours=1)))
        if not order.pixels or spent + len(order.pixels) > blocks_per_hour(document):
            return
        jobs.ask(order, missing=True, by=by, alone=True)  # else two servers, neither of which saw the other's
        state.lookout.look_soon()
        log.info("%s %s: %d blocks are embedded on view", dataset, window, len(order.pixels))


def _store(state: State, dataset: str, window: Window) -> WritableStore | None:
    """Where blocks of a window would go; None where that is yet to be made."""
    held = state.datasets[dataset]
    if window.is_year:
        return require_writable(held.store, dataset)
    return next((require_writable(store, dataset) for store in held.others if window in store.windows()), None)


def _new(jobs: Jobs, order: Order, by: str) -> Order:
    """What of an order never failed and was never cancelled, whichever other blocks it was asked for with."""
    keys = {key for key, asked in jobs.asked_by(by, KEPT) if _overlap(asked, order)} | {order.id}
    undone = {name for key in keys for name in _undone(jobs, key)}
    return replace(order, pixels={name: count for name, count in order.pixels.items() if name not in undone})


def _overlap(one: Order, other: Order) -> bool:
    """Whether the same would be made of some block."""
    return replace(one, pixels=other.pixels) == other and not one.pixels.keys().isdisjoint(other.pixels)


def _undone(jobs: Jobs, key: str) -> set[str]:
    """Blocks that a job did not embed, whoever asked for it last; none where there is no such job."""
    try:
        return {told.block for told in jobs.read(key).blocks or () if told.state != "done"}
    except NotFound:
        return set()
