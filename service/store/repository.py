"""An Icechunk repository: opening, sessions, and the one place where commits are serialised.

Icechunk makes a commit atomic. On object stores its conditional put also keeps two committers apart; the local
file system has none, so there a lock file beside the repository does. Chunks are always written outside the lock.
"""

from __future__ import annotations

import atexit
import datetime as dt
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlparse

import icechunk
from filelock import FileLock, Timeout

from service.bucket import Access, is_remote, open_bucket
from service.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from service.store.faults import reading, writing
from service.store.generations import Followed
from service.store.near import Near
from service.store.patient import COMMIT_PATIENCE, PATIENCE, within
from service.store.records import Records

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no shared locks of this kind
    fcntl = None  # type: ignore[assignment]

SPLIT_BLOCKS: Final = 64
"""Blocks along a side of one manifest: a commit rewrites only the manifests it touches (4 to 15 ms, measured)."""
COMMIT_WAIT: Final = 300.0
"""Seconds to wait for another committer."""
CHUNK_CACHE: Final = 128_000_000
"""Bytes of chunks that icechunk keeps of a repository beyond a network, some 60 whole ones, where no records are."""
DIFF_PATIENCE: Final = 10.0
"""Seconds to find out what changed between two snapshots; where that takes longer, all counts as changed."""
_UNSEEN: Final = dt.timedelta(minutes=10)
_TRIES: Final = 3
_BEGUN: Final = ("clean prefix", "updated by other session")
"""What Icechunk says of a repository that somebody else is just making: in a moment it can be opened."""
_RACES: Final = 20
_RACE_PAUSE: Final = 0.2
"""Seconds between looks whether a repository that somebody else began can be opened; twenty of them."""
_BRANCH: Final = "main"
_LAST_WORD_S: Final = 0.05

# A thread of Icechunk that has just handed a result over needs the interpreter once more; before Python 3.14 one that
# comes for it while the interpreter ends aborts the process, 1 in 60 of those that end right after a commit.
atexit.register(time.sleep, _LAST_WORD_S)


class Repository:
    """One Icechunk repository at one location.

    Args:
        location: Absolute path or `s3://bucket/prefix`.
        repo: The opened repository.
        records: Where what is fetched over a network stays.
    """

    def __init__(self, location: str, repo: icechunk.Repository, records: Records | None = None) -> None:
        self.location = location
        self._repo = repo
        self._told: tuple[tuple[str, str], dict[str, list[list[int]]]] | None = None
        self._records = records if records is not None and is_remote(location) else None
        self._followed = Followed(location, self._records.folder, self.changed_chunks) if self._records else None

    @classmethod
    def open(cls, location: str, *, anonymous: bool = False, records: Records | None = None) -> Repository:
        """Open what is there.

        Args:
            location: Absolute path or `s3://bucket/prefix`.
            anonymous: Whether to ask S3 unsigned.
            records: Where what is fetched over a network stays; in icechunk's own cache in memory if absent.

        Raises:
            NotFound: Nothing is there.
            InvalidInput: It is neither a local path nor in a bucket.
            Corrupt: It is no repository, or a damaged one.
            Unavailable: The transport failed.
        """
        storage = _storage(location, anonymous)
        if is_remote(location):
            there = bool(open_bucket(location, anonymous=anonymous).folders())  # knows sooner what is amiss
        else:
            there = Path(location).is_dir()
        if not there:
            raise NotFound(f"there is no repository at {location}.", field="location")
        with reading(location, "the repository"):
            if not within(PATIENCE, icechunk.Repository.exists_async(storage)):
                raise Corrupt(f"{location} has no branch `main`: it was cut short, or is no Icechunk repository.")
            repo = within(PATIENCE, icechunk.Repository.open_async(storage, _reading_config(location, records)))
            return cls(location, repo, records)

    @classmethod
    def create(cls, location: str, fill: Callable[[Repository], None]) -> Repository:
        """Create a repository whose manifests are split.

        On a local disk it appears filled or not at all. In a bucket it appears empty and is then filled by one
        commit, of which only one can be first; what a killed creator left empty, the next one fills.

        Args:
            location: Where.
            fill: Commits what the new repository shall hold first; raises Conflict if it holds that already.

        Raises:
            InvalidInput: Something is there already.
            ReadOnly: The location does not allow it.
        """
        try:
            (_create_remote if is_remote(location) else _create_local)(cls, location, fill)
        except Conflict:
            raise _exists(location) from None
        return cls.open(location)

    def tip(self) -> str:
        """Id of the newest snapshot."""
        with reading(self.location, "branch main"):
            return within(PATIENCE, self._repo.lookup_branch_async(_BRANCH))

    def reader(self, snapshot: str) -> icechunk.Session:
        """A read-only session on one snapshot."""
        with reading(self.location, f"snapshot {snapshot}"):
            return within(PATIENCE, self._repo.readonly_session_async(snapshot_id=snapshot))

    def near(self, snapshot: str) -> Near | None:
        """What keeps near whatever is read of a snapshot; None where the repository is near itself."""
        if self._records is None or self._followed is None:
            return None
        return Near(self._records, self.location, self._followed.at(snapshot).of)

    def writer(self) -> icechunk.Session:
        """A session that starts from the newest snapshot."""
        with reading(self.location, "branch main"):
            return within(PATIENCE, self._repo.writable_session_async(_BRANCH))

    def changed_chunks(self, old: str, new: str) -> dict[str, list[list[int]]] | None:
        """Chunk coordinates written between two snapshots, by array path; None where history is gone or rewritten."""
        if self._told and self._told[0] == (old, new):
            return self._told[1]
        try:
            diff = within(DIFF_PATIENCE, self._repo.diff_async(from_snapshot_id=old, to_snapshot_id=new))
        except (icechunk.IcechunkError, TimeoutError):
            return None
        if diff.deleted_arrays or diff.deleted_groups:  # one of the same name would have other chunks
            return None
        changed = {path.strip("/"): coordinates for path, coordinates in diff.updated_chunks.items()}
        self._told = (old, new), changed
        return changed

    def commit(self, session: icechunk.Session, message: str) -> str:
        """Publish what a session wrote, all or nothing, and return the new snapshot id.

        Raises:
            Conflict: Somebody changed the same chunks since the session began.
            ReadOnly: The location does not allow it.
            Unavailable: Another committer held the lock too long.
        """
        if not session.has_uncommitted_changes:
            return str(session.snapshot_id)
        with writing(self.location), self._one_committer():
            try:
                rebase = icechunk.ConflictDetector()
                return within(COMMIT_PATIENCE, session.commit_async(message, rebase_with=rebase))
            except (icechunk.RebaseFailedError, icechunk.ConflictError) as error:
                raise Conflict(
                    f"{self.location}: somebody else changed the same blocks meanwhile.",
                    remedy="Read them again and repeat.",
                ) from error

    @contextmanager
    def _one_committer(self) -> Iterator[None]:
        if is_remote(self.location):
            yield
            return
        try:
            with FileLock(f"{self.location}.lock", timeout=COMMIT_WAIT):
                yield
        except Timeout:
            raise Unavailable(
                f"{self.location}: another process has been committing for {COMMIT_WAIT:.0f} s.",
                remedy="Repeat once it is done.",
            ) from None

    @contextmanager
    def open_for_writing(self) -> Iterator[None]:
        """Hold while a session has unpublished chunks: `tidy` would collect them as garbage."""
        if is_remote(self.location) or fcntl is None:
            yield
            return
        with writing(self.location), self._writers_file() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield

    def tidy(self, older_than: dt.timedelta) -> tuple[int, int, int]:
        """Forget snapshots older than `older_than` and delete what nothing refers to any more.

        In a bucket writers elsewhere cannot be seen. There `older_than` keeps what they have not published yet, so it
        must be longer than any write takes: a block takes seconds.

        Returns:
            (snapshots forgotten, files deleted, bytes deleted).

        Raises:
            Conflict: A writer is open.
            ReadOnly: The location does not allow it.
            InvalidInput: In a bucket, less than ten minutes.
        """
        if is_remote(self.location) and older_than < _UNSEEN:
            raise InvalidInput(
                f"{older_than} is too short for a bucket.", field="older_than", remedy=f"Give {_UNSEEN}."
            )
        before = dt.datetime.now(dt.UTC) - older_than
        with writing(self.location), self._no_writers(), self._one_committer():
            expired = self._repo.expire_snapshots(before)
            summary = self._repo.garbage_collect(before)
        files = (
            summary.chunks_deleted
            + summary.manifests_deleted
            + summary.snapshots_deleted
            + summary.attributes_deleted
            + summary.transaction_logs_deleted
        )
        return len(expired), files, summary.bytes_deleted

    @contextmanager
    def _no_writers(self) -> Iterator[None]:
        if is_remote(self.location) or fcntl is None:
            yield
            return
        with self._writers_file() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    f"{self.location} is being written to.", remedy="Tidy once the writer is done."
                ) from None
            yield

    @contextmanager
    def _writers_file(self) -> Iterator[int]:
        """The file whose lock writers share; the system lets go of it when a process dies."""
        handle = os.open(f"{self.location}.writers", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            yield handle
        finally:
            os.close(handle)


def is_repository(path: Path) -> bool:
    """Whether a folder holds an Icechunk repository, or what is left of one."""
    return path.name.endswith(".icechunk") or ((path / "snapshots").is_dir() and (path / "refs").is_dir())


def _create_local(cls: type[Repository], location: str, fill: Callable[[Repository], None]) -> None:
    target = f"{location}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with writing(location):
            if Path(location).exists():
                raise _exists(location)
            Path(location).parent.mkdir(parents=True, exist_ok=True)
            repo = icechunk.Repository.create(_storage(target), config=_config())
            fill(cls(target, repo))
            Path(target).rename(location)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _create_remote(cls: type[Repository], location: str, fill: Callable[[Repository], None]) -> None:
    storage = _storage(location)
    open_bucket(location).folders()  # knows sooner what is amiss
    with writing(location):
        fill(cls(location, _begun(storage, _config())))


def _begun(storage: icechunk.Storage, config: icechunk.RepositoryConfig) -> icechunk.Repository:
    """A repository that was just made, here or by somebody else at the same time."""
    for again in reversed(range(_RACES)):
        try:
            return within(PATIENCE, icechunk.Repository.create_async(storage, config))
        except icechunk.IcechunkError as error:
            if within(PATIENCE, icechunk.Repository.exists_async(storage)):
                break
            if not again or not any(words in str(error) for words in _BEGUN):
                raise
            time.sleep(_RACE_PAUSE)
    return within(PATIENCE, icechunk.Repository.open_async(storage, config))


def _exists(location: str) -> InvalidInput:
    return InvalidInput(f"{location} exists already.", remedy="Open it, or choose another name.")


def _storage(location: str, anonymous: bool = False) -> icechunk.Storage:
    # Icechunk warns that local files do not serialise commits; the lock above does.
    icechunk.set_logs_filter("error")
    if not is_remote(location):
        return icechunk.local_filesystem_storage(location)
    url = urlparse(location)
    if url.scheme != "s3":
        raise InvalidInput(f"{location}: an Icechunk repository is read from a local path or s3://.", field="location")
    access = Access.to(url.netloc, anonymous)
    return icechunk.s3_storage(
        bucket=url.netloc,
        prefix=url.path.strip("/"),
        region=access.region,
        endpoint_url=access.endpoint,
        allow_http=True,
        force_path_style=True,  # as obstore does: what compatible servers understand
        network_stream_timeout_seconds=int(PATIENCE),
        anonymous=access.anonymous or None,
        from_env=not access.anonymous or None,
    )


def _reading_config(location: str, records: Records | None) -> icechunk.RepositoryConfig | None:
    """Over a network: few tries, since requests wait for the outcome, and chunks that were fetched are kept once."""
    if not is_remote(location):
        return None
    config = icechunk.RepositoryConfig()
    retries = icechunk.StorageRetriesSettings(max_tries=_TRIES, initial_backoff_ms=100, max_backoff_ms=1000)
    config.storage = icechunk.StorageSettings(retries=retries)
    config.caching = icechunk.CachingConfig(num_bytes_chunks=0 if records else CHUNK_CACHE)
    return config


def _config() -> icechunk.RepositoryConfig:
    axis = icechunk.ManifestSplitDimCondition.Axis
    match = icechunk.ManifestSplitCondition
    codes: dict[Any, int] = {axis(0): 1, axis(1): 2 * SPLIT_BLOCKS, axis(2): 2 * SPLIT_BLOCKS}
    planes: dict[Any, int] = {axis(0): 1, axis(1): SPLIT_BLOCKS, axis(2): SPLIT_BLOCKS}
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(
        splitting=icechunk.ManifestSplittingConfig.from_dict(
            {match.name_matches("embeddings"): codes, match.AnyArray(): planes}
        )
    )
    return config
