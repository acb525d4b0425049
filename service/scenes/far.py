"""A file beyond a network as GDAL reads it, through rasterio: without asking any host itself.

No method may raise while GDAL reads, as an exception would be lost in it or worse: what goes wrong is kept, `check`
tells it, and until then GDAL sees a file that is broken. What was fetched is kept near, under what the server calls
this state of the file, as neighbouring blocks read the same tiles.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

from rasterio.abc import MultiByteRangeResourceContainer

from service.errors import Corrupt, LimitExceeded, Unavailable
from service.scenes.access import Access
from service.scenes.budget import Budget
from service.scenes.fetch import Fetcher, Part
from service.store.records import Record, object_name

_HEAD: Final = 65_536
"""Bytes fetched at once of what is read in small pieces: a header. Most headers are shorter."""


class Far(MultiByteRangeResourceContainer):  # type: ignore[misc]  # rasterio has no types
    """One file: the file system that holds it alone, and, as GDAL has it opened once, what is read from.

    Args:
        access: What may be reached.
        href: Its address.
        budget: What fetching counts against.
        what: What it is called in errors.

    Raises:
        InvalidInput, LimitExceeded, Corrupt, Unavailable: As `Fetcher.part`; or it is larger than may be read.
    """

    def __init__(self, access: Access, href: str, budget: Budget, what: str) -> None:
        self._fetcher: Fetcher = access.fetcher
        self._records = access.records
        self._href = href
        self._budget = budget
        self._what = what
        self.path = href.partition("?")[0]
        self._error: Exception | None = None
        self._at = 0
        known = self._fetcher.known(self.path)
        if known is None:
            first = self._fetcher.part(href, 0, _HEAD, budget, what)
            known = self._fetcher.learn(self.path, first)
            self._keep(known, 0, first)
        self.bytes, self._validator = known
        if self.bytes > access.limits.file_bytes:
            raise LimitExceeded(
                f"{what} has {self.bytes:,} bytes; a file may have {access.limits.file_bytes:,}.",
                remedy="See SMALTI_SCENES__FILE_BYTES.",
            )

    def check(self) -> None:
        """Tell what went wrong, if anything did.

        Raises:
            SmaltiError: It did; as `Fetcher.part`.
        """
        if self._error is not None:
            raise self._error

    # What GDAL asks of the file.

    def read(self, size: int = -1) -> bytes:
        """Bytes from where it stands; fewer at the end, none once something went wrong."""
        end = self.bytes if size < 0 else min(self._at + size, self.bytes)
        body = self._safely(self._at, end)
        self._at += len(body)
        return body

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Several pieces, each as long as asked; zeros once something went wrong."""
        pieces = [self._safely(at, at + size, whole=True) for at, size in zip(offsets, sizes, strict=True)]
        return [piece.ljust(size, b"\0") for piece, size in zip(pieces, sizes, strict=True)]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.bytes}[whence]
        return self._at

    def tell(self) -> int:
        """Where it stands."""
        return self._at

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Far:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    # What GDAL asks of the file system.

    def open(self, path: str, _mode: str = "r", **_: Any) -> Far:
        """The file; there is no other."""
        if path != self.path:
            raise FileNotFoundError(path)
        self._at = 0
        return self

    def isfile(self, path: str) -> bool:
        """Whether it is the file."""
        return path == self.path

    def isdir(self, _path: str) -> bool:
        """There is none."""
        return False

    def ls(self, _path: str) -> list[str]:
        """Nothing is listed."""
        return []

    def mtime(self, _path: str) -> int:
        """Unknown."""
        return 0

    def rm(self, path: str) -> None:
        """Nothing is removed."""
        raise OSError(path)

    def size(self, _path: str) -> int:
        """Bytes of the file."""
        return self.bytes

    def _safely(self, start: int, end: int, *, whole: bool = False) -> bytes:
        if self._error is not None or start >= end:
            return b""
        try:
            if end > self.bytes:
                raise Corrupt(f"{self._what} ends before its header says.")
            if whole or end - start > _HEAD:
                return self._piece(start, end)
            first, last = start // _HEAD * _HEAD, (end - 1) // _HEAD * _HEAD
            held = b"".join(self._piece(at, min(at + _HEAD, self.bytes)) for at in range(first, last + 1, _HEAD))
            return held[start - first : end - first]
        except Exception as error:
            self._error = error
            return b""

    def _piece(self, start: int, end: int) -> bytes:
        """A piece from near, or fetched and kept."""
        self._budget.spend()
        found = self._records.get(self._name(self._validator), f"{start}-{end}")
        if found is not None:
            return found.body
        part = self._fetcher.part(self._href, start, end - start, self._budget, self._what)
        known = self._fetcher.learn(self.path, part)
        if known != (self.bytes, self._validator):
            raise Unavailable(f"{self._what} changed while it was read.", remedy="Try again.", retry_after=1.0)
        self._keep(known, start, part)
        return part.body

    def _keep(self, known: tuple[int, str], start: int, part: Part) -> None:
        name, piece = self._name(known[1]), f"{start}-{start + len(part.body)}"
        self._records.put(name, piece, Record(part.body, known[1]))

    def _name(self, validator: str) -> str:
        return object_name("scenes", validator, self.path)
