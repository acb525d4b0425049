"""Indexes in a bucket: built on one machine, published there, and copied by every replica that searches.

    <bucket>/<window>/current            the name of a generation, put last
    <bucket>/<window>/g-<time>-<...>/    manifest.json and the files of FAISS; never changed once named

FAISS maps its files from a disk. So each replica keeps a copy of the generation that serves, in a folder laid out as
one that is built in: it is fetched beside the one before, checked against the hashes of its manifest, and takes over
in one step. Whatever is lost of a copy is fetched again.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from indexing.build import Progress, alone, build_index, drop_generations
from indexing.manifest import IndexManifest, current, load, write_durably
from service.bucket import Bucket
from service.errors import Conflict, Corrupt, NotFound, SmaltiError
from service.store.contract import Store
from service.values import Window

LOOK_AGAIN_S: Final = 2.0
"""Seconds between two looks for a newer generation, while searches come in."""
FIRST_WAIT_S: Final = 2.0
"""Seconds that the first search waits for the first copy; later ones go on with what is there."""
KEPT: Final = timedelta(hours=1)
"""How long a generation that nothing points at stays published: others may be fetching it, or still sending it."""
_TIME: Final = "g-%Y%m%dT%H%M%SZ"
_RACES: Final = 3
_LOCK_WAIT_S: Final = 600.0

log = logging.getLogger("smalti")


@dataclass
class _Look:
    at: float = float("-inf")
    thread: threading.Thread | None = None
    fault: str = ""
    """What went wrong the last time."""


class Mirror:
    """The copies of one dataset's indexes on this machine. Threads may share it, and processes the folder.

    Args:
        folder: Where the copies lie; made when there is something to copy.
        bucket: Where the indexes are published.
    """

    def __init__(self, folder: Path, bucket: Bucket) -> None:
        self.folder = folder
        self._bucket = bucket
        self._lock = threading.Lock()
        self._looks: dict[Window, _Look] = {}

    def look(self, window: Window) -> None:
        """Have a newer generation fetched in the background, if there is one; goes on with what is there if not.

        Only the first call for a window waits, and not for long.
        """
        with self._lock:
            look = self._looks.setdefault(window, _Look())
            first = look.at == float("-inf")
            if not (look.thread and look.thread.is_alive()) and time.monotonic() - look.at > LOOK_AGAIN_S:
                look.at = time.monotonic()
                look.thread = threading.Thread(target=self._try, args=(window, look), daemon=True)
                look.thread.start()
            thread = look.thread
        if first and thread:
            thread.join(FIRST_WAIT_S)

    def drop(self, generation: Path) -> None:
        """Forget a copy that cannot be used, so that it is fetched again."""
        (generation.parent / "current").unlink(missing_ok=True)
        shutil.rmtree(generation, ignore_errors=True)

    def _try(self, window: Window, look: _Look) -> None:
        fault = ""
        try:
            self.fetch(window)
        except (SmaltiError, OSError) as error:
            fault = str(error)
        if fault and fault != look.fault:
            log.warning("the index of window %s could not be fetched: %s", window, fault)
        look.fault = fault

    def fetch(self, window: Window) -> None:
        """Make the copy that of the generation which is published now; takes as long as it takes.

        Raises:
            Unavailable: The bucket cannot be reached.
            Corrupt: What is published does not hold what its manifest says.
        """
        for attempt in range(_RACES):
            name = published(self._bucket, window)
            held = current(self.folder, window)
            if name is None or (held and held.name == name and held.is_dir()):
                return
            try:
                self._copy(window, name)
            except NotFound as error:
                if attempt + 1 == _RACES:
                    raise Corrupt(f"the published index is not whole: {error.message}", remedy=error.remedy) from None

    def _copy(self, window: Window, name: str) -> None:
        home = self.folder / str(window)
        home.mkdir(parents=True, exist_ok=True)
        with alone(home, _LOCK_WAIT_S):
            for leftover in home.glob(".incoming-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            before, generation = current(self.folder, window), home / name
            if not generation.is_dir():
                incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=home))
                try:
                    self._download(window, name, incoming)
                    incoming.rename(generation)
                except BaseException:
                    shutil.rmtree(incoming, ignore_errors=True)
                    raise
            write_durably(home / "current", name)
            drop_generations(home, keep={generation, before})

    def _download(self, window: Window, name: str, incoming: Path) -> None:
        self._bucket.download(f"{window}/{name}/manifest.json", incoming / "manifest.json")
        for record in load(incoming).files:
            self._bucket.download(f"{window}/{name}/{record.name}", incoming / record.name)
            record.check(incoming, whole=True)


def build_published(
    store: Store,
    dataset_id: str,
    window: Window,
    scratch: Path,
    bucket: Bucket,
    *,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> IndexManifest:
    """Index one window of a dataset and publish it: replicas fetch it within seconds of its end.

    Args:
        store: Where the vectors are.
        dataset_id: The dataset's id.
        window: Which of its windows.
        scratch: A folder to build in; nothing of note stays there.
        bucket: Where the dataset's indexes are published.
        seed: What sampling and clustering start from.
        on_progress: Told how far it is.

    Raises:
        NotFound, Conflict, Corrupt: As `build_index` does.
        ReadOnly, Unavailable: The bucket does not allow it, or cannot be reached; the index before it serves on.
    """
    published(bucket, window)  # rather now than after the work
    manifest = build_index(store, dataset_id, window, scratch, seed=seed, on_progress=on_progress)
    generation = current(scratch, window)
    assert generation is not None  # noqa: S101  # it was just built
    publish(generation, window, bucket)
    shutil.rmtree(generation, ignore_errors=True)
    (scratch / str(window) / "current").unlink(missing_ok=True)
    return manifest


def publish(generation: Path, window: Window, bucket: Bucket) -> None:
    """Send a generation and point at it once all of it is there; remove what nothing has pointed at for an hour.

    Raises:
        ReadOnly, Unavailable: The bucket does not allow it, or cannot be reached.
        Conflict: Another build removed what was sent; what served goes on.
    """
    name = f"{datetime.now(UTC).strftime(_TIME)}-{uuid.uuid4().hex[:8]}"
    files = {*(record.name for record in load(generation).files), "manifest.json"}
    for file in sorted(files):
        bucket.upload(generation / file, f"{window}/{name}/{file}")
    if not files.issubset(bucket.names(f"{window}/{name}")):  # sent for over an hour, or by a clock that is wrong
        raise Conflict(f"another build cleared away what was being sent to {bucket.location}.", remedy="Repeat it.")
    before = published(bucket, window)
    bucket.put(f"{window}/current", name.encode())
    oldest = (datetime.now(UTC) - KEPT).strftime(_TIME)
    for old in bucket.folders(str(window)):
        if old not in {name, before} and old < oldest:
            for file in bucket.names(f"{window}/{old}"):
                bucket.delete(f"{window}/{old}/{file}")


def published(bucket: Bucket, window: Window) -> str | None:
    """The name of the generation that is published; None where none is.

    Raises:
        Corrupt: The pointer names something that cannot be one.
        Unavailable: The bucket cannot be reached.
    """
    try:
        name = bucket.get(f"{window}/current").decode("ascii", "replace").strip()
    except NotFound:
        return None
    if not name.startswith("g-") or not name.replace("-", "").isalnum():
        raise Corrupt(f"{bucket.location}/{window}/current names no generation.", remedy="Build the index again.")
    return name
