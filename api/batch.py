"""Work in pieces on many machines, by Dask, or on this one in processes. The only door to dask.distributed.

A piece is a plain function of a plain value, and does nothing twice: whoever does it may die at any moment, and
another does it again.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

from service import VERSION
from service.errors import Conflict, InvalidInput, SmaltiError, Unavailable

log = logging.getLogger("smalti.batch")

T = TypeVar("T")
R = TypeVar("R")

CONNECT_S: Final = 15.0
"""How long a scheduler may take to answer, and the first of its workers to be there."""
LOOK_S: Final = 10.0
"""Seconds without a result until it is looked whether anybody works."""
_PAUSE_S: Final = 0.05
ROUNDS: Final = 3
"""Tasks for each thread of a cluster that its scheduler is told of at a time."""
DEATHS: Final = 3
"""Times that processes of ours may die in a row before the work is given up."""
_ADDRESS: Final = re.compile(r"(tcp|tls|ws|wss)://[^/\s@]+")
_AGAIN: Final = "Run it again: pieces that were done are not done again."


class Run(Protocol):
    """Does a function to every task, like `map`: results in the order of the tasks, as they come."""

    def __call__(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        """Begin all of it, and yield what comes of it."""


Outcome = tuple[T, R | None, Exception | None]
"""A task, and what came of it: a result or an error."""


class Cluster:
    """A Dask cluster to run pieces on: called, it is a `Run`.

    Args:
        client: Of its scheduler.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __call__(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        """Do a function to every task; results in their order. The first error ends it."""
        return _spread(self._client, function, tasks)

    def each(self, function: Callable[[T], R], tasks: Iterable[T]) -> Generator[Outcome[T, R], None, None]:
        """Do a function to every task; what came of each, as they end. An error of one is no reason to stop.

        The scheduler knows of a few tasks a thread at a time, so there may be any number of them. A worker that dies
        has its tasks done by others.

        Raises:
            Unavailable: The scheduler is gone.
        """
        return _each(self._client, function, iter(tasks))


@contextmanager
def on_dask(address: str) -> Iterator[Cluster]:
    """A Dask cluster to run pieces on. What is not done when the block ends is cancelled.

    Args:
        address: Of the scheduler, `tcp://name:8786` or `tls://...`; Dask's own settings say with which certificates.

    Raises:
        InvalidInput: It is no address.
        Unavailable: No scheduler answers there, or it has no worker.
        Conflict: Workers run another version of smalti.
    """
    if not _ADDRESS.fullmatch(address):
        raise InvalidInput(f"{address[:200]!r} is no address.", field="scheduler", remedy="Write tcp://name:8786.")
    _require_dask()
    import distributed

    try:
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError):
        raise Unavailable(f"no Dask scheduler answers at {address}.", field="scheduler") from None
    with client:
        _require_workers(client, address)
        yield Cluster(client)


@contextmanager
def on_local_dask(processes: int, threads: int) -> Iterator[Cluster]:
    """A Dask cluster on this machine for as long as the block lasts. A process that dies is replaced.

    Args:
        processes: How many, 1 or more.
        threads: Pieces that each does at a time.

    Raises:
        Unavailable: Dask is not installed.
    """
    _require_dask()
    import distributed

    # What pieces take is bounded by themselves; a worker that Dask ends by its own guess would only come back.
    # One arena for all threads: see `api.heap`, which cannot be asked before another program's process starts.
    how: dict[str, Any] = {
        "env": {"MALLOC_ARENA_MAX": "1"},
        "memory_limit": 0,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
    }
    made = distributed.LocalCluster(processes, threads_per_worker=threads, processes=True, **how)  # type: ignore[no-untyped-call]
    with made, on_dask(made.scheduler_address) as cluster:
        yield cluster


def _require_dask() -> None:
    if importlib.util.find_spec("distributed") is None:
        raise Unavailable(
            "Dask is not installed here.", field="scheduler", remedy="Install smalti[batch], as `make setup` does."
        )


def _require_workers(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError:
        raise Unavailable(f"the Dask scheduler at {address} has no worker.", remedy="Start some.") from None
    for worker, found in client.run(_version, on_error="return").items():
        if found != VERSION:
            told = f"smalti {found}" if isinstance(found, str) else f"no smalti ({type(found).__name__})"
            raise Conflict(f"the Dask worker {worker} runs {told}, this is {VERSION}.", field="scheduler")


def _version() -> str:
    return VERSION


def _spread(client: Any, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
    """`Run` by the workers of a cluster. What is large travels once, to the worker that does it."""
    from distributed import CancelledError, KilledWorker

    futures = client.map(function, tasks, pure=False)
    try:
        for future in futures:
            yield future.result()
    except KilledWorker as error:
        told = f"its workers died, {error.allowed_failures + 1} in a row, at the same piece of work."
        raise Unavailable(told, remedy=f"Look for what ended them: memory? {_AGAIN}") from None
    except CancelledError:
        raise Unavailable("the Dask scheduler is gone.", remedy=_AGAIN) from None
    finally:
        client.cancel(futures)


def _each(client: Any, function: Callable[[T], R], tasks: Iterator[T]) -> Generator[Outcome[T, R], None, None]:
    from distributed import CancelledError, KilledWorker, as_completed
    from distributed.comm import CommClosedError  # type: ignore[attr-defined]

    going, ended = dict[Any, T](), as_completed(loop=client.loop)  # type: ignore[no-untyped-call]
    try:
        while True:
            for task in islice(tasks, max(0, ROUNDS * _threads(client) - len(going))):
                future = client.submit(function, task, pure=False)
                going[future] = task
                ended.add(future)  # type: ignore[no-untyped-call]
            if not going:
                return
            future = _next(client, ended)
            task, error = going.pop(future), future.exception()
            if isinstance(error, CancelledError):
                raise error
            if isinstance(error, KilledWorker):
                told = f"{error.allowed_failures + 1} workers in a row died over it."
                error = Unavailable(told, remedy=f"Look for what ended them: memory? {_AGAIN}")
            yield task, None if error else future.result(), error
    except (CancelledError, CommClosedError):
        raise Unavailable("the Dask scheduler is gone.", remedy=_AGAIN) from None
    finally:
        client.cancel(list(going))


def _next(client: Any, ended: Any) -> Any:
    """The next that ends. Where nobody is left to end one, the log says so, once: some may come back."""
    told, look_at = False, time.monotonic() + LOOK_S
    while not ended.has_ready():
        time.sleep(_PAUSE_S)
        if not told and time.monotonic() > look_at:
            look_at = time.monotonic() + LOOK_S
            if told := not client.nthreads():
                log.warning("the Dask scheduler has no worker any more: what is left waits until some are started")
    return next(ended)


def _threads(client: Any) -> int:
    """Of all workers together, as far as they are there now."""
    threads: dict[str, int] = client.nthreads()
    return max(1, sum(threads.values()))


@contextmanager
def on_this_machine(processes: int) -> Iterator[Run]:
    """Processes of this machine to run pieces in; with one, this very process.

    Args:
        processes: How many, 1 or more.
    """
    if processes == 1:
        yield lambda function, tasks: map(function, tasks)
    else:
        yield lambda function, tasks: _by_processes(processes, function, tasks)


def _by_processes(processes: int, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
    """`Run` by processes. One that dies takes the others with it: what was not done by then is begun anew."""
    done, deaths = 0, 0
    while done < len(tasks):
        # `spawn`: a forked process would hold locks of threads that are not there, Icechunk's and FAISS's among them.
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            try:
                for result in pool.map(function, tasks[done:]):
                    yield result
                    done, deaths = done + 1, 0
            except BrokenProcessPool:
                deaths += 1
                if deaths == DEATHS:
                    raise Unavailable(f"processes died, {deaths} times in a row.", remedy=_AGAIN) from None
            except SmaltiError:
                pool.shutdown(cancel_futures=True)
                raise
