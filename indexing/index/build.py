"""Build an index, or have it hold what has come and changed since: a stream over blocks, in bounded memory.

The lists are learnt from a sample; segments are made, each on its own; the whole is measured on held-out pixels; and
a new manifest takes over in one step. What is finished when a build is killed is found by the next one.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from indexing.index.calibrate import tunings_of
from indexing.index.growth import Plan, is_outgrown, plan
from indexing.index.learn import BLOCKS_SAMPLED, learn
from indexing.index.manifest import (
    IndexManifest,
    QuantiserRecord,
    SegmentRecord,
    current,
    grids_of,
    home_of,
    load,
    write_durably,
)
from indexing.index.segment import MOST_BLOCKS, PART, SegmentTask, build_segment, open_quantiser
from indexing.index.tuning import default_of
from service.errors import Conflict, Corrupt, IdentityMismatch, NotFound
from service.store.contract import Store
from service.values import Window

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""
Run = Callable[[Callable[[SegmentTask], SegmentRecord], Sequence[SegmentTask]], Iterable[SegmentRecord]]
"""Has each task done, and gives the results in order: `map` here, other machines elsewhere."""


def build_index(
    store: Store,
    dataset_id: str,
    window: Window,
    folder: Path,
    *,
    level: int = 1,
    seed: int = 0,
    rebuild: bool = False,
    on_progress: Progress | None = None,
    run: Run = map,
    most_blocks: int = MOST_BLOCKS,
) -> IndexManifest:
    """Index one window of a dataset and let it serve, in place of the index before it in one step.

    Where there is an index of the same pixels, only blocks that are new or changed are added to it. A build that is
    killed leaves the index before it serving; the next build goes on where it was.

    Args:
        store: Where the vectors are. It should stay at one revision; blocks that change meanwhile are left out.
        dataset_id: The dataset's id, recorded.
        window: Which of its windows.
        folder: The folder of the dataset's indexes; made if it is not there.
        level: Whose pixels: 1, or that of an overview.
        seed: What sampling and clustering start from.
        rebuild: Whether to learn everything anew, whatever there is.
        on_progress: Told how far it is.
        run: Has the segments made; each is a `build_segment` of a task, in `home_of(folder, window, level)`.
        most_blocks: The most blocks of a segment.

    Raises:
        NotFound: The window holds no pixel, or there is no such level.
        Conflict: Another process is building this index.
        Corrupt: A block cannot be read.
    """
    home = home_of(folder, window, level)
    home.mkdir(parents=True, exist_ok=True)
    with alone(home):
        for leftover in home.glob(f"{PART}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        before = current(folder, window, level)
        building = _Build(store, dataset_id, window, level, home, seed, on_progress)
        standing = None if rebuild else building.standing(before)
        # A build anew that is killed is gone on with, and never takes for new what it is to replace.
        salt = before.name if rebuild and before else ""
        manifest = building.run(standing, run, most_blocks, salt)
        if standing is not None and manifest is standing:
            return standing
        generation = home / f"g-{uuid.uuid4().hex[:12]}"
        generation.mkdir()
        write_durably(generation / "manifest.json", manifest.to_json())
        write_durably(home / "current", generation.name)
        drop_generations(home, keep={generation, before})
    return manifest


@contextmanager
def alone(home: Path, wait: float = 0) -> Iterator[None]:
    """Be the only process that changes the generations in a folder.

    Raises:
        Conflict: Another one has been, for longer than `wait` seconds.
    """
    lock = FileLock(home / "build.lock", timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        raise Conflict(f"the index in {home} is being built already.", remedy="Wait for it to end.") from None
    try:
        yield
    finally:
        lock.release()


def drop_generations(home: Path, keep: set[Path | None]) -> None:
    """Remove generations but a few, and what only they refer to.

    The one before stays until the next comes: a reader may be about to open it.
    """
    needed: set[str] = set()
    for generation in keep:
        if generation is not None and generation.is_dir():
            try:
                manifest = load(generation)
            except Corrupt:
                continue
            needed |= {manifest.quantiser.name, *(segment.name for segment in manifest.segments)}
    for path in home.iterdir():
        if path.is_dir() and path not in keep and path.name[:2] in {"g-", "q-", "s-"} and path.name not in needed:
            shutil.rmtree(path, ignore_errors=True)


class _Build:
    def __init__(
        self,
        store: Store,
        dataset_id: str,
        window: Window,
        level: int,
        home: Path,
        seed: int,
        on_progress: Progress | None,
    ) -> None:
        self._store, self._dataset, self._window, self._level = store, dataset_id, window, level
        self._home, self._seed, self._on_progress = home, seed, on_progress
        self._revision = store.revision()[0]
        blocks = store.blocks(window, level=level)
        self._versions = {block: version for block, version in store.versions(window, blocks).items() if version}
        self._done, self._steps = 0, 0

    def standing(self, generation: Path | None) -> IndexManifest | None:
        """The index that serves, if it is one that can be added to: of the same pixels, whole, and not outgrown."""
        if generation is None:
            return None
        try:
            manifest = load(generation)
            manifest.require_serves(self._store, self._dataset, self._window, self._level)
            open_quantiser(self._home / manifest.quantiser.name, manifest.quantiser)
            for segment in manifest.segments:
                for file in segment.files:
                    file.check(self._home / segment.name)
        except (Corrupt, Conflict, IdentityMismatch):
            return None
        return None if is_outgrown(manifest, self._versions) else manifest

    def run(self, standing: IndexManifest | None, run: Run, most: int, salt: str) -> IndexManifest:
        if not self._versions:
            raise NotFound(f"there is no pixel to index in window {self._window}.", field="window")
        quantiser = standing.quantiser if standing else self._learnt(salt)
        segments = standing.segments if standing else ()
        todo = plan(quantiser, self._window, self._level, self._versions, segments, most)
        if standing is not None and not todo.tasks and todo.kept == standing.segments:
            return standing
        records = self._made(todo, run, standing is None)
        tunings = tunings_of(self._home, quantiser, records)
        return IndexManifest(
            dataset=self._dataset,
            identity=self._store.identity,
            window=self._window,
            level=self._level,
            grids=grids_of(self._store),
            quantiser=quantiser,
            segments=records,
            tunings=tunings,
            tuning=default_of(tunings),
            revision=self._revision,
            built=time.time(),
        )

    def _learnt(self, salt: str) -> QuantiserRecord:
        self._steps = len(self._versions) + min(len(self._versions), BLOCKS_SAMPLED)
        blocks = sorted(self._versions.items())
        salted = [self._dataset, str(sorted(grids_of(self._store).items())), salt]
        return learn(self._store, self._window, self._level, blocks, self._seed, self._home, salted, self._tick)

    def _made(self, todo: Plan, run: Run, is_new: bool) -> tuple[SegmentRecord, ...]:
        self._steps = self._steps if is_new else todo.blocks
        done = self._steps - todo.blocks
        self._reached(done)
        make = partial(build_segment, self._store, home=self._home, on_block=self._tick)
        made = []
        for task, record in zip(todo.tasks, run(make, todo.tasks), strict=True):
            made.append(record)
            done += len(task.blocks)
            self._reached(done)  # what was found made, or made elsewhere, was not ticked
        return (*todo.kept, *made)

    def _tick(self) -> None:
        self._reached(self._done + 1)

    def _reached(self, step: int) -> None:
        if step > self._done:
            self._done = step
            if self._on_progress:
                self._on_progress(step, self._steps)
