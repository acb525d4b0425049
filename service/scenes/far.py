"""A file beyond a network as GDAL reads it, through rasterio: without asking any host itself.

No method may raise while GDAL reads, as an exception would be lost in it or worse: what goes wrong is kept, `check`
tells it, and until then GDAL sees a file that is broken. What was fetched is kept near, under what the server calls
this state of the file, as neighbouring blocks read the same tiles.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from rasterio.abc import MultiByteRangeResourceContainer

from service.errors import BadSource, LimitExceeded, Unavailable
from service.scenes.access import Access
from service.scenes.budget import Budget
from service.scenes.fetch import Fetcher, Part
from service.store.records import Record, object_name

_PIECE: Final = 131_072
"""Bytes that are fetched and kept together: more than the header of most files, and little beside a tile."""
_SIGNED: Final = frozenset(
    {"awsaccesskeyid", "expires", "googleaccessid", "key-pair-id", "policy", "security-token", "signature"}
)
"""Parameters that open an address for a while, in lower case: another value of them makes no other file."""
_SIGNED_AS: Final = ("x-amz-", "x-goog-")
"""How others of them begin."""
_AZURE: Final = frozenset(
    {"saoid", "scid", "se", "sig", "sip", "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr", "srt", "ss",
     "st", "suoid", "sv"}
)  # fmt: skip
"""Those of Azure: so short that they are taken for it beside `sig` only."""
_TOKENS: Final = frozenset({"access_token", "token"})
"""Those of others, where the path names a file: else a token may be what does."""


class Far(MultiByteRangeResourceContainer):  # type: ignore[misc]  # rasterio has no types
    """One file: the file system that holds it alone, and, as GDAL has it opened once, what is read from.

    Args:
        access: What may be reached.
        href: Its address.
        budget: What fetching counts against.
        what: What it is called in errors.

    Raises:
        InvalidInput, LimitExceeded, BadSource, Unavailable: As `Fetcher.part`; or it is larger than may be read.
    """

    def __init__(self, access: Access, href: str, budget: Budget, what: str) -> None:
        self._fetcher: Fetcher = access.fetcher
        self._records = access.records
        self._href = href
        self._budget = budget
        self._what = what
        self.path = href.partition("?")[0]
        self._key = _file_of(href)
        self._error: Exception | None = None
        self._at = 0
        known = self._fetcher.known(self._key)
        if known is None:
            first = self._fetcher.part(href, 0, _PIECE, budget, what)
            known = self._fetcher.learn(self._key, first)
            self._keep(known[1], 0, first)
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
        pieces = [self._safely(at, at + size) for at, size in zip(offsets, sizes, strict=True)]
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

    def _safely(self, start: int, end: int) -> bytes:
        """Bytes of the file; none once something went wrong."""
        if self._error is not None or start >= end:
            return b""
        try:
            if end > self.bytes:
                raise BadSource(f"{self._what} ends before its header says.")
            first, last = start // _PIECE, (end - 1) // _PIECE
            held = b"".join(self._pieces(first, last))
            return held[start - first * _PIECE : end - first * _PIECE]
        except Exception as error:
            self._error = error
            return b""

    def _pieces(self, first: int, last: int) -> list[bytes]:
        """Pieces of the file, from near or fetched; those that lie together are fetched by one request."""
        self._budget.spend()
        name = self._name(self._validator)
        found = [self._records.get(name, str(index)) for index in range(first, last + 1)]
        out = [record.body if record else b"" for record in found]
        for missing, group in groupby(range(len(found)), key=lambda at: found[at] is None):
            if missing:
                run = list(group)
                out[run[0] : run[-1] + 1] = self._fetched(first + run[0], len(run))
        return out

    def _fetched(self, index: int, count: int) -> list[bytes]:
        part = self._fetcher.part(self._href, index * _PIECE, count * _PIECE, self._budget, self._what)
        known = self._fetcher.learn(self._key, part)
        if known != (self.bytes, self._validator):
            raise Unavailable(f"{self._what} changed while it was read.", remedy="Try again.", retry_after=1.0)
        return self._keep(known[1], index, part)

    def _keep(self, validator: str, index: int, part: Part) -> list[bytes]:
        name = self._name(validator)
        pieces = [part.body[at : at + _PIECE] for at in range(0, len(part.body), _PIECE)]
        for number, piece in enumerate(pieces, index):
            self._records.put(name, str(number), Record(piece, validator))
        return pieces

    def _name(self, validator: str) -> str:
        return object_name("scenes", validator, self._key)


def _file_of(href: str) -> str:
    """What tells a file from others: its address, without what opens it for a while.

    The rest of the query stays: it may be all that tells two assets apart, as in `/download?asset=B04`.
    """
    path, _, query = href.partition("?")
    named = [(part.partition("=")[0].lower(), part) for part in query.split("&") if part]
    opens = _SIGNED | (_AZURE if any(name == "sig" for name, _ in named) else frozenset())
    if path.lower().endswith((".tif", ".tiff")):
        opens |= _TOKENS
    kept = [part for name, part in named if name not in opens and not name.startswith(_SIGNED_AS)]
    return f"{path}?{'&'.join(kept)}" if kept else path
