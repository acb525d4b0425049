"""What is not counted as it happens but read when Prometheus asks: how full, how old, how far behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from anyio import CapacityLimiterStatistics

from api.catalogue import Dataset
from api.metrics import Reading
from api.state import State
from indexing.search import EXACT_BLOCKS
from service import warp
from service.errors import SmaltiError
from service.values import CacheUse, Window


def readings(state: State, pool: CapacityLimiterStatistics) -> Iterator[Reading]:
    """Everything that stands in this server now.

    Args:
        state: What the server holds.
        pool: The threads that answer requests.
    """
    yield from _threads(pool)
    yield from _pictures(state)
    yield from _uploads(state)
    yield from _caches(state)
    yield from _jobs(state)
    yield from _datasets(state)
    yield Reading("smalti_index_blocks_behind_limit", "Most blocks that a search scans without an index", EXACT_BLOCKS)


def _datasets(state: State) -> Iterator[Reading]:
    windows: dict[str, tuple[Dataset, tuple[Window, ...]]] = {}
    datasets = state.datasets.all()
    for dataset in datasets:
        with suppress(SmaltiError):  # a store out of reach takes no other's numbers away
            windows[dataset.id] = dataset, dataset.windows()
    helped = "Datasets that can be served, and repositories or catalogue files that cannot be opened or read"
    broken = len(state.datasets.broken) + len(datasets) - len(windows)
    yield Reading("smalti_datasets", helped, len(windows), {"state": "open"})
    yield Reading("smalti_datasets", helped, broken, {"state": "broken"})
    for dataset, held in windows.values():
        for window in held:
            yield from _index(state, dataset, window)


def _threads(pool: CapacityLimiterStatistics) -> Iterator[Reading]:
    helped = "Threads that answer requests, and requests that wait for one"
    yield Reading("smalti_http_threads", helped, pool.borrowed_tokens, {"state": "busy"})
    yield Reading("smalti_http_threads", helped, pool.tasks_waiting, {"state": "waiting"})
    yield Reading("smalti_http_threads_limit", "Threads there are to answer requests", pool.total_tokens)


def _pictures(state: State) -> Iterator[Reading]:
    for place, threads in state.tiles.pictures().items():
        helped = (
            "Threads that make tiles of stores on this machine (near) or elsewhere (far), and tiles that wait for one"
        )
        yield Reading("smalti_picture_threads", helped, threads.borrowed_tokens, {"stores": place, "state": "busy"})
        yield Reading("smalti_picture_threads", helped, threads.tasks_waiting, {"stores": place, "state": "waiting"})
        helped = "Threads there are to make tiles"
        yield Reading("smalti_picture_threads_limit", helped, threads.total_tokens, {"stores": place})


def _uploads(state: State) -> Iterator[Reading]:
    encoding, waiting = state.turns.counts()
    limits = state.settings.limits
    helped = "Uploads being unpacked and encoded, and uploads that wait or still arrive"
    yield Reading("smalti_encoder_uploads", helped, encoding, {"state": "encoding"})
    yield Reading("smalti_encoder_uploads", helped, waiting, {"state": "waiting"})
    helped = "How many there may be, of either state, before more are refused"
    yield Reading("smalti_encoder_uploads_limit", helped, limits.uploads_at_once)
    for encoder in state.encoders().values():
        model, use = {"model": str(encoder.identity)}, encoder.use()
        labels = {**model, "asked": state.settings.device, "device": encoder.device, "precision": encoder.precision}
        yield Reading("smalti_encoder_info", "Encoders that are open, what was asked for and what runs", 1, labels)
        helped = "Pixels of uploads and jobs that an encoder has yet to run"
        yield Reading("smalti_encoder_queue_pixels", helped, use.pixels, model)
        helped = "Places in the batches that were run, and those that held a pixel and no padding"
        yield Reading("smalti_encoder_places", helped, use.places, model | {"held": "all"}, "counter")
        yield Reading("smalti_encoder_places", helped, use.run, model | {"held": "pixel"}, "counter")


def _jobs(state: State) -> Iterator[Reading]:
    helped = "Whether the jobs database answers"
    try:
        told = state.tally()
    except SmaltiError:
        yield Reading("smalti_jobs_reachable", helped, 0)
        return
    yield Reading("smalti_jobs_reachable", helped, 1)
    for job_state, count in told.states.items():
        yield Reading("smalti_jobs", "Jobs among the newest, by state", count, {"state": job_state})
    helped = "Blocks of jobs that have not ended"
    yield Reading("smalti_job_blocks", helped, told.blocks_done, {"state": "done"})
    yield Reading("smalti_job_blocks", helped, told.blocks_left, {"state": "left"})
    yield Reading("smalti_job_waiting_seconds", "Seconds that the oldest job on the queue has waited", told.waiting_s)
    yield Reading("smalti_job_workers", "Workers that were seen lately", told.workers)
    if told.block_seconds is not None:
        helped = "Seconds that a block was in hand, on average over the newest"
        yield Reading("smalti_job_block_seconds", helped, told.block_seconds)


def _caches(state: State) -> Iterator[Reading]:
    yield from _cache("maps", "", warp.cache_use())
    yield from _cache("tiles", "", state.tiles.use())
    yield from _cache("chunks", "", state.datasets.chunks.use())
    yield from _cache("near", "", state.datasets.near.use())
    for dataset, searchers in state.searchers().items():
        uses = [searcher.cache_use() for searcher in searchers]
        total = CacheUse(*(sum(getattr(use, name) for use in uses) for name in ("hits", "misses", "bytes")))
        yield from _cache("blocks", dataset, total)


def _cache(name: str, dataset: str, use: CacheUse) -> Iterator[Reading]:
    labels = {"cache": name, "dataset": dataset}
    helped = (
        "Lookups in memory: maps from picture to stored pixels, decoded chunks, decoded blocks of searches; "
        "on disk: near, what was fetched over a network"
    )
    yield Reading("smalti_cache_lookups", helped, use.hits, labels | {"result": "hit"}, "counter")
    yield Reading("smalti_cache_lookups", helped, use.misses, labels | {"result": "miss"}, "counter")
    yield Reading("smalti_cache_bytes", "Bytes kept", use.bytes, labels)


def _index(state: State, dataset: Dataset, window: Window) -> Iterator[Reading]:
    labels = {"dataset": dataset.id, "window": str(window)}
    try:
        standing = state.searcher(dataset.at(window)).standing(window)
    except SmaltiError:
        yield Reading("smalti_index_broken", "1 where an index cannot serve; /readyz says why", 1, labels)
        return
    yield Reading("smalti_index_broken", "1 where an index cannot serve; /readyz says why", 0, labels)
    if standing is None:
        return
    if standing.built:
        yield Reading("smalti_index_age_seconds", "Seconds since it was built", time.time() - standing.built, labels)
    yield Reading("smalti_index_pixels", "Pixels it holds", standing.pixels, labels)
    yield Reading("smalti_index_recall", "Share of the true 10 best it was measured to find", standing.recall, labels)
    yield Reading(
        "smalti_index_blocks_behind", "Blocks that changed or came since it was built", standing.behind, labels
    )
