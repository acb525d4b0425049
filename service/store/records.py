"""What was fetched over a network stays near: a few bytes in memory, many on disk.

A record is an object, or a part of one, under what it was read from: location, generation (a snapshot id, or a hash
of the root metadata), key and part. Another generation has other names, so that what changed is never mixed with what
was. Any number of processes may share a folder: records appear whole or not at all, and carry a checksum; the ones
used longest ago go first. Nothing here is needed: a full disk, a damaged record or no folder at all cost speed only.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
import threading
import time
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.cache import ByteCache
from service.locks import hold, let_go
from service.values import CacheUse

log = logging.getLogger("smalti.near")

MEMORY: Final = 128_000_000
"""Bytes of records kept in memory, for a rectangle that was fetched just now and is read in a moment."""
_HEAD: Final = struct.Struct("<4sIH")
_MAGIC: Final = b"sna1"
_FULL_TO: Final = 0.95
"""Share of the bound at which old records go."""
_EMPTY_TO: Final = 0.85
_WAITING: Final = 64_000_000
"""Bytes that may wait to be written; beyond, they are not kept."""
_AGED: Final = 60.0
"""Seconds after which a record that is used again is marked as used."""
_PAUSE: Final = 60.0
"""Seconds without trying after a disk refused to take more."""


@dataclass(frozen=True)
class Record:
    """What was fetched."""

    body: bytes
    validator: str = ""
    """What the transport said of the object."""


class Records:
    """Records on disk and in memory. Many threads and processes may share one folder.

    Args:
        folder: Where; None keeps records in memory alone.
        limit: Bytes on disk; 0 as no folder.
        memory: Bytes in memory.
    """

    def __init__(self, folder: Path | None = None, limit: int = 0, memory: int = MEMORY) -> None:
        self._folder = folder if limit > 0 else None
        self._limit = limit
        self._memory: ByteCache[Record] = ByteCache(memory, lambda record: len(record.body) + 200)
        self._writer: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._waiting = 0
        self._written = 0
        self._held: int | None = None
        self._not_before = 0.0
        self._hits = self._misses = 0

    @property
    def folder(self) -> Path | None:
        """Where; None where nothing is kept on disk."""
        return self._folder

    @property
    def memory(self) -> int:
        """Bytes that may lie in memory."""
        return self._memory.limit

    def get(self, object_name: str, part: str) -> Record | None:
        """A record, if it is kept and undamaged."""
        found = self._memory.get((object_name, part))
        if found is None:
            found = self._read(object_name, part)
            if found is not None:
                self._memory.put((object_name, part), found)
            with self._lock:
                self._hits, self._misses = self._hits + (found is not None), self._misses + (found is None)
        return found

    def put(self, object_name: str, part: str, record: Record) -> None:
        """Keep a record: at once in memory, soon on disk."""
        self._memory.put((object_name, part), record)
        size = len(record.body)
        with self._lock:
            if self._folder is None or time.monotonic() < self._not_before:
                return
            if size > self._limit // 8 or self._waiting + size > _WAITING:
                return
            self._waiting += size
            if self._writer is None:
                self._writer = ThreadPoolExecutor(1, "near")
            self._writer.submit(self._write, self._folder, object_name, part, record)

    def forget(self, object_name: str) -> None:
        """Drop what lies on disk of an object that is another one now."""
        if self._folder is not None:
            shutil.rmtree(_place(self._folder, object_name), ignore_errors=True)

    def settle(self) -> None:
        """Wait until everything put so far is on disk."""
        if self._writer is not None:
            self._writer.submit(lambda: None).result()

    def use(self) -> CacheUse:
        """How the disk was used since the process began, and what is known to lie there."""
        with self._lock:
            return CacheUse(self._hits, self._misses, (self._held or 0) + self._written)

    # The folder

    def _read(self, object_name: str, part: str) -> Record | None:
        if self._folder is None:
            return None
        path = _place(self._folder, object_name) / part
        try:
            text = path.read_bytes()
        except OSError:
            return None
        record = _unpacked(text)
        if record is None:
            log.warning("%s was damaged and is fetched anew", path)
            path.unlink(missing_ok=True)
        else:
            _mark_used(path)
        return record

    def _write(self, folder: Path, object_name: str, part: str, record: Record) -> None:
        path = _place(folder, object_name) / part
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(_packed(record))
            temporary.replace(path)
            self._written += len(record.body)
            self._make_room(folder)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            if not isinstance(error, FileNotFoundError):  # its folder was just swept away: another time
                log.warning("%s keeps nothing for a minute: %s", folder, error.strerror)
                self._not_before = time.monotonic() + _PAUSE
        finally:
            with self._lock:
                self._waiting -= len(record.body)

    def _make_room(self, folder: Path) -> None:
        """Remove what was used longest ago once too much may lie there, whoever put it there."""
        known = self._held is not None and self._held + self._written <= self._limit * _FULL_TO
        if known and self._written <= self._limit / 16:
            return
        try:
            handle = hold(folder)
        except BlockingIOError:  # another process does it
            self._held, self._written = self._held or 0, 0
            return
        try:
            self._held, self._written = _swept(folder, self._limit), 0
        finally:
            let_go(handle)


def _place(folder: Path, object_name: str) -> Path:
    """Where the records of one object lie."""
    return folder / object_name[:2] / object_name[2:]


def _swept(folder: Path, limit: int) -> int:
    """Remove the records used longest ago if there are too many; the bytes that are left."""
    found = sorted(_records(folder))
    total = sum(size for _, size, _ in found)
    if total <= limit * _FULL_TO:
        return total
    for _, size, path in found:
        if total <= limit * _EMPTY_TO:
            break
        path.unlink(missing_ok=True)
        total -= size
        with suppress(OSError):  # only an empty folder goes
            path.parent.rmdir()
    return total


def _records(folder: Path) -> list[tuple[float, int, Path]]:
    """(time of last use, bytes, path) of every record; what a killed process left half-written counts as oldest."""
    out = []
    for path in folder.glob("*/*/*"):
        with suppress(OSError):
            stat = path.stat()
            stale = path.name.startswith(".") and time.time() - stat.st_mtime > _AGED
            out.append((0.0 if stale else stat.st_mtime, stat.st_size, path))
    return out


def _mark_used(path: Path) -> None:
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > _AGED:
            os.utime(path)


def _packed(record: Record) -> bytes:
    validator = record.validator.encode()[:0xFFFF]
    rest = validator + record.body
    return _HEAD.pack(_MAGIC, zlib.crc32(rest), len(validator)) + rest


def _unpacked(text: bytes) -> Record | None:
    """The record that a file holds; None where it is damaged."""
    if len(text) < _HEAD.size:
        return None
    magic, checksum, length = _HEAD.unpack_from(text)
    rest = memoryview(text)[_HEAD.size :]
    if magic != _MAGIC or zlib.crc32(rest) != checksum or length > len(rest):
        return None
    return Record(bytes(rest[length:]), bytes(rest[:length]).decode(errors="replace"))


def object_name(location: str, generation: str, key: str) -> str:
    """What records of one object in one generation are called."""
    return hashlib.sha256("\n".join((location, generation, key)).encode()).hexdigest()[:40]
