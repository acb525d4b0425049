"""Indexes in a bucket: built on one machine, published there, and copied by every replica that searches.

    <bucket>/<window>/current              the name of a generation, put last
    <bucket>/<window>/g-<time>-<...>/      manifest.json, put first: what it names is not cleared away meanwhile
    <bucket>/<window>/q-<...>/, s-<...>/   its quantiser and its segments, shared with other generations; each file
                                           with some digits of its hash in its name, so that what two builds on
                                           different machines leave there never gets mixed up

FAISS maps its files from a disk. So each replica keeps a copy of the generation that serves, or of those segments of it
that it is given, in a folder laid out as one that is built in: what is new is fetched beside what there is, checked
against the hashes of its manifest, and takes over in one step. Whatever is lost of a copy is fetched again.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from indexing.fleet.share import ALL, Share
from indexing.index.build import Progress, Run, alone, build_index, drop_generations
from indexing.index.manifest import FileRecord, IndexManifest, current, home_of, load, write_durably
from indexing.index.segment import PART, part_of, put_in_place
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
_MANIFEST: Final = "manifest.json"

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
        share: Which segments to copy.
    """

    def __init__(self, folder: Path, bucket: Bucket, share: Share = ALL) -> None:
        self.folder = folder
        self.share = share
        self._bucket = bucket
        self._lock = threading.Lock()
        self._looks: dict[tuple[Window, int], _Look] = {}

    def look(self, window: Window, level: int = 1) -> None:
        """Have a newer generation fetched in the background, if there is one; goes on with what is there if not.

        Only the first call for a window waits, and not for long.
        """
        with self._lock:
            look = self._looks.setdefault((window, level), _Look())
            first = look.at == float("-inf")
            if not (look.thread and look.thread.is_alive()) and time.monotonic() - look.at > LOOK_AGAIN_S:
                look.at = time.monotonic()
                look.thread = threading.Thread(target=self._try, args=(window, level, look), daemon=True)
                look.thread.start()
            thread = look.thread
        if first and thread:
            thread.join(FIRST_WAIT_S)

    def drop(self, generation: Path) -> None:
        """Forget a copy that cannot be used, so that it is fetched again; what is damaged is found when it is."""
        with suppress(Conflict), alone(generation.parent):  # while another copies, it is left to the next search
            (generation.parent / "current").unlink(missing_ok=True)
            shutil.rmtree(generation, ignore_errors=True)

    def _try(self, window: Window, level: int, look: _Look) -> None:
        fault = ""
        try:
            self.fetch(window, level)
        except (SmaltiError, OSError) as error:
            fault = str(error)
        if fault and fault != look.fault:
            log.warning("the index of window %s could not be fetched: %s", window, fault)
        look.fault = fault

    def fetch(self, window: Window, level: int = 1) -> None:
        """Make the copy that of the generation which is published now; takes as long as it takes.

        Raises:
            Unavailable: The bucket cannot be reached.
            Corrupt: What is published does not hold what its manifest says.
        """
        for attempt in range(_RACES):
            name = published(self._bucket, window, level)
            held = current(self.folder, window, level)
            if name is None or (held and held.name == name and held.is_dir()):
                return
            try:
                self._copy(home_of(self.folder, window, level), name, held)
            except NotFound as error:
                if attempt + 1 == _RACES:
                    raise Corrupt(f"the published index is not whole: {error.message}", remedy=error.remedy) from None

    def _copy(self, home: Path, name: str, before: Path | None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        with alone(home, _LOCK_WAIT_S):
            for leftover in home.glob(f"{PART}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            generation = home / name
            self._folder(home, name, ())
            manifest = load(generation)
            self._folder(home, manifest.quantiser.name, manifest.quantiser.files)
            mine = manifest.held_by(self.share)
            for segment in manifest.segments:
                if segment.name in mine:
                    self._folder(home, segment.name, segment.files)
            write_durably(home / "current", name)
            drop_generations(home, keep={generation, before})

    def _folder(self, home: Path, name: str, files: tuple[FileRecord, ...]) -> None:
        """Have a folder of the index here: a generation where no files are told, which holds its manifest alone."""
        folder = home / name
        if _is_whole(folder, files):
            return
        incoming = part_of(home)
        try:
            for record in files:
                self._bucket.download(f"{home.name}/{name}/{record.key}", incoming / record.name)
                record.check(incoming, whole=True)
            if not files:
                self._bucket.download(f"{home.name}/{name}/{_MANIFEST}", incoming / _MANIFEST)
                load(incoming)
            put_in_place(incoming, folder)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)


def _is_whole(folder: Path, files: tuple[FileRecord, ...]) -> bool:
    try:
        for record in files:
            record.check(folder)
        if not files:
            load(folder)
    except Corrupt:
        return False
    return True


def build_published(
    store: Store,
    dataset_id: str,
    window: Window,
    scratch: Path,
    bucket: Bucket,
    *,
    level: int = 1,
    seed: int = 0,
    rebuild: bool = False,
    on_progress: Progress | None = None,
    run: Run = map,
) -> IndexManifest:
    """Index one window of a dataset and publish it: replicas fetch it within seconds of its end.

    Args:
        store: Where the vectors are.
        dataset_id: The dataset's id.
        window: Which of its windows.
        scratch: A folder to build in. It keeps a copy of what is published, to which the next build adds.
        bucket: Where the dataset's indexes are published.
        level: As of `build_index`.
        seed: What sampling and clustering start from.
        rebuild: As of `build_index`.
        on_progress: Told how far it is.
        run: As of `build_index`; `scratch` has to be seen by whoever makes a segment.

    Raises:
        NotFound, Conflict, Corrupt: As `build_index` does.
        ReadOnly, Unavailable: The bucket does not allow it, or cannot be reached; the index before it serves on.
    """
    name = published(bucket, window, level)  # rather told now than after the work
    damaged = False
    if not rebuild:
        try:
            Mirror(scratch, bucket).fetch(window, level)
        except Corrupt as error:
            damaged = True
            log.warning("the published index of window %s is made anew: %s", window, error)
    manifest = build_index(
        store, dataset_id, window, scratch,
        level=level, seed=seed, rebuild=rebuild, on_progress=on_progress, run=run,
    )  # fmt: skip
    generation = current(scratch, window, level)
    assert generation is not None  # noqa: S101  # it was just built
    if damaged or generation.name != name:
        publish(generation, bucket, anew=damaged)
    return manifest


def publish(generation: Path, bucket: Bucket, *, anew: bool = False) -> None:
    """Send a generation and point at it once all of it is there; remove what nothing has pointed at for an hour.

    Args:
        generation: Its folder, in that of an index; it is given the name that it is published by.
        bucket: Where the dataset's indexes are published.
        anew: Whether to send what is there already too, as it may be damaged.

    Raises:
        ReadOnly, Unavailable: The bucket does not allow it, or cannot be reached.
        Conflict: Another build removed what was sent; what served goes on.
    """
    home, manifest = generation.parent, load(generation)
    at = home.name
    name = f"{datetime.now(UTC).strftime(_TIME)}-{uuid.uuid4().hex[:8]}"
    bucket.upload(generation / _MANIFEST, f"{at}/{name}/{_MANIFEST}")
    wanted = _files_of(manifest)
    for folder, files in wanted.items():
        there = () if anew else bucket.names(f"{at}/{folder}")
        for key in sorted(files.keys() - set(there)):
            bucket.upload(home / folder / files[key], f"{at}/{folder}/{key}")
    wanted[name] = {_MANIFEST: _MANIFEST}
    if any(not files.keys() <= set(bucket.names(f"{at}/{folder}")) for folder, files in wanted.items()):
        # Sent for over an hour, or by a clock that is wrong.
        raise Conflict(
            f"another build cleared away what was being sent to {bucket.location}/{at}.", remedy="Repeat it."
        )
    before = _pointer(bucket, at)
    bucket.put(f"{at}/current", name.encode())
    _clear(bucket, at, {name, before})
    generation.rename(home / name)
    write_durably(home / "current", name)


def _files_of(manifest: IndexManifest) -> dict[str, dict[str, str]]:
    """For each folder of an index the files it has, by what they are called in a bucket."""
    parts = {manifest.quantiser.name: manifest.quantiser.files} | {each.name: each.files for each in manifest.segments}
    return {name: {record.key: record.name for record in files} for name, files in parts.items()}


def _clear(bucket: Bucket, at: str, keep: set[str | None]) -> None:
    """Remove generations that nothing has pointed at for an hour, and what no other refers to."""
    oldest = (datetime.now(UTC) - KEPT).strftime(_TIME)
    folders, needed = bucket.folders(at), set()
    gone = [name for name in folders if name.startswith("g-") and name not in keep and name < oldest]
    for name in set(folders) - set(gone):
        if name.startswith("g-"):
            try:
                needed |= set(_files_of(IndexManifest.from_json(bucket.get(f"{at}/{name}/{_MANIFEST}").decode())))
            except (NotFound, Corrupt, UnicodeDecodeError):
                continue
    gone += [name for name in folders if name[:2] in {"q-", "s-"} and name not in needed]
    for name in gone:
        for file in bucket.names(f"{at}/{name}"):
            bucket.delete(f"{at}/{name}/{file}")


def published(bucket: Bucket, window: Window, level: int = 1) -> str | None:
    """The name of the generation that is published; None where none is.

    Raises:
        Corrupt: The pointer names something that cannot be one.
        Unavailable: The bucket cannot be reached.
    """
    return _pointer(bucket, home_of(Path(), window, level).name)


def _pointer(bucket: Bucket, at: str) -> str | None:
    try:
        name = bucket.get(f"{at}/current").decode("ascii", "replace").strip()
    except NotFound:
        return None
    if not name.startswith("g-") or not name.replace("-", "").isalnum():
        raise Corrupt(f"{bucket.location}/{at}/current names no generation.", remedy="Build the index again.")
    return name
