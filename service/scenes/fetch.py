"""Fetching from hosts that are not trusted: pages of catalogues, and parts of files.

Redirects are followed by hand, each checked as the first address was; tokens go to the host that they are for and to
no other; time and bytes are counted as they come, so that neither a slow answer nor an endless one costs more than
was allowed. What may pass is tried again, after as long as the other side asks for. Proxies of the environment are not
used: behind one, what a name means would be theirs to say.
"""

from __future__ import annotations

import email.utils
import re
import ssl
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import sleep
from typing import Final, TypeVar

import httpcore2
import httpx2
from cachetools import TTLCache

from service import VERSION
from service.errors import BadSource, LimitExceeded, SmaltiError, Unavailable
from service.scenes.budget import Budget
from service.scenes.hosts import Policy, origin_of
from service.scenes.resolved import Resolved, TooSlow
from service.scenes.signing import Signer

T = TypeVar("T")

_AGENT: Final = f"smalti/{VERSION}"
_HOPS: Final = 5
_CONNECT_S: Final = 10.0
_SILENCE_S: Final = 20.0
"""Seconds without a byte after which an answer is given up."""
_PAUSE_S: Final = 0.5
"""Before the first repetition; doubled before each other."""
_PATIENCE_S: Final = 30.0
"""The longest wait before one; who asks for more is told of as unavailable."""
_CONNECTIONS: Final = 32
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_FILES: Final = 100_000
"""Whose size and state are remembered."""
_KNOWN_S: Final = 3600.0
"""Seconds for which they are: a file may be replaced by a better one under its address."""
_THIS_PROCESS: Final = uuid.uuid4().hex
"""Stands for the state of a file whose server tells none: what is kept of it is not used by others."""
_TOKEN_BYTES: Final = 100_000
_GONE: Final = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException)


@dataclass(frozen=True)
class Part:
    """Some bytes of a file."""

    body: bytes
    size: int
    """Of the whole file."""
    validator: str
    """Another one for another state of it, as far as the server tells."""


class _Passing(Exception):
    """Something that may go right in a moment."""

    def __init__(self, told: str, wait: float | None = None) -> None:
        super().__init__(told)
        self.told = told
        self.wait = wait


class Fetcher:
    """A client of catalogues and scenes. Many threads may share one."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._limits = policy.limits
        self._connections = Resolved(policy.hosts)
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=_CONNECTIONS,
            max_keepalive_connections=_CONNECTIONS,
            network_backend=self._connections,
        )
        self.signer = Signer(policy.signing, self._token)
        self._lock = threading.Lock()
        self._files: TTLCache[str, tuple[int, str]] = TTLCache(_FILES, _KNOWN_S)

    def page(self, url: str, budget: Budget, what: str, *, body: bytes | None = None) -> bytes:
        """A whole answer, unpacked.

        Args:
            url: Whose.
            budget: What it counts against.
            what: What holds the address, for errors.
            body: JSON to POST.

        Raises:
            InvalidInput: It may not be asked, or leads where nothing may be asked.
            LimitExceeded: The budget is used up, or the answer is too large.
            BadSource: It answers something else.
            Unavailable: It does not answer, after several tries.
        """
        told = {"Accept": "application/geo+json, application/json", "Accept-Encoding": "gzip"}
        if body is not None:
            told["Content-Type"] = "application/json"

        def take(response: httpcore2.Response, pieces: Iterator[bytes]) -> bytes:
            if response.status != 200:
                raise _refusal(response, what)
            encoding = _header(response, "content-encoding")
            return _unpacked(encoding, pieces, self._limits.page_bytes, what)

        return self._tried(lambda: self._followed(url, told, body, budget, what, take), budget, what)

    def part(self, url: str, start: int, size: int, budget: Budget, what: str) -> Part:
        """Some bytes of a file; fewer where it ends.

        Raises:
            InvalidInput, LimitExceeded, BadSource, Unavailable: As `page`.
        """
        told = {"Range": f"bytes={start}-{start + size - 1}", "Accept-Encoding": "identity"}

        def take(response: httpcore2.Response, pieces: Iterator[bytes]) -> Part:
            if response.status == 200:
                raise BadSource(f"{what}: its server sends whole files only, no parts.")
            if response.status != 206:
                raise _refusal(response, what)
            match = re.fullmatch(rf"bytes {start}-\d+/(\d{{1,18}})", _header(response, "content-range"))
            if not match or _header(response, "content-encoding") not in ("", "identity"):
                raise BadSource(f"{what}: its server sends other bytes than it was asked for.")
            total = int(match[1])
            body = b"".join(_upto(pieces, size, f"{what}: its server sends more than it was asked for."))
            if len(body) != min(size, total - start):
                raise _Passing("broke off")
            return Part(body, total, _header(response, "etag") or _header(response, "last-modified"))

        return self._tried(lambda: self._followed(url, told, None, budget, what, take), budget, what)

    def known(self, path: str) -> tuple[int, str] | None:
        """Size and state of a file that was asked for lately, by its address without tokens."""
        with self._lock:
            return self._files.get(path)

    def learn(self, path: str, part: Part) -> tuple[int, str]:
        """Remember size and state of a file, as the server told with a part of it."""
        found = part.size, f"{part.validator or _THIS_PROCESS}/{part.size}"
        with self._lock:
            self._files[path] = found
        return found

    def _token(self, url: str, what: str) -> bytes:
        budget = Budget(_TOKEN_BYTES, self._limits.request_seconds, what)

        def take(response: httpcore2.Response, pieces: Iterator[bytes]) -> bytes:
            if response.status != 200:
                raise _refusal(response, what)
            return b"".join(pieces)

        told = {"Accept-Encoding": "identity"}
        return self._tried(lambda: self._followed(url, told, None, budget, what, take, sign=False), budget, what)

    def _tried(self, work: Callable[[], T], budget: Budget, what: str) -> T:
        """What `work` gives, after as many tries as it takes."""
        step = _PAUSE_S
        for left in range(self._limits.retries, -1, -1):
            budget.spend()
            try:
                return work()
            except _Passing as passing:
                wait = max(step, passing.wait or 0.0)
                if not left or wait > min(_PATIENCE_S, budget.left):
                    raise Unavailable(f"{what}: its server {passing.told}.", retry_after=passing.wait) from None
            sleep(wait)
            step *= 2
        raise AssertionError("the last try returns or raises")

    def _followed(
        self,
        url: str,
        told: dict[str, str],
        body: bytes | None,
        budget: Budget,
        what: str,
        take: Callable[[httpcore2.Response, Iterator[bytes]], T],
        *,
        sign: bool = True,
    ) -> T:
        """What `take` makes of the answer of the first address, or of where that leads."""
        address = self._policy.hosts.checked(url, what)
        for _ in range(_HOPS):
            signed = self.signer.signed(address, what) if sign else address
            headers = [("User-Agent", _AGENT), *told.items(), *self._policy.header_for(address).items()]
            self._connections.end_after(self._limits.request_seconds)
            try:
                with self._pool.stream(
                    "GET" if body is None else "POST", _raw(signed), headers=headers, content=body,
                    extensions={"timeout": {"connect": _CONNECT_S, "read": _SILENCE_S, "write": _SILENCE_S}},
                ) as response:  # fmt: skip
                    place = _header(response, "location")
                    if not (300 <= response.status < 400 and place):
                        if sign and response.status == 403 and self.signer.forget(address):
                            raise _Passing("takes no token that it gave out")
                        return take(response, _counted(response, budget))
            except TooSlow:
                raise _Passing("sends too slowly") from None
            except _GONE as gone:
                raise _Passing(f"at {origin_of(address)} cannot be reached ({type(gone).__name__})") from None
            if body is not None:
                raise BadSource(f"{what}: its server sends a question elsewhere, which is not followed.")
            address = self._policy.hosts.checked(place, f"{what} by a redirect", address)
        raise BadSource(f"{what}: its server redirects in circles.")


def _raw(url: httpx2.URL) -> httpcore2.URL:
    return httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _header(response: httpcore2.Response, name: str) -> str:
    for key, value in response.headers:
        if key.lower() == name.encode():
            return value.decode("latin-1").strip()
    return ""


def _counted(response: httpcore2.Response, budget: Budget) -> Iterator[bytes]:
    """The bytes of an answer, counted."""
    for piece in response.iter_stream():
        budget.spend(len(piece))
        yield piece


def _upto(pieces: Iterator[bytes], most: int, told: str) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > most:
            raise BadSource(told)
        yield piece


def _unpacked(encoding: str, pieces: Iterator[bytes], most: int, what: str) -> bytes:
    """All of an answer; no more of a packed one is unpacked than may be kept."""
    too_large = LimitExceeded(f"{what}: an answer is larger than {most:,} bytes.")
    if encoding not in ("", "identity", "gzip"):
        raise BadSource(f"{what}: its server packs answers as {encoding[:20]!r}, which it was not asked to do.")
    unpacker = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    out = bytearray()
    try:
        for piece in pieces:
            out += unpacker.decompress(piece, most + 1 - len(out)) if unpacker else piece
            if len(out) > most:
                raise too_large
    except zlib.error:
        raise BadSource(f"{what}: an answer cannot be unpacked.") from None
    if unpacker and not unpacker.eof:
        raise _Passing("broke off")
    return bytes(out)


def _refusal(response: httpcore2.Response, what: str) -> SmaltiError | _Passing:
    """What a status that is no success means."""
    status = response.status
    if status in _PASSING:
        return _Passing(f"answers {status}", _retry_after(_header(response, "retry-after")))
    if status in (404, 410):
        return BadSource(f"{what} is not there: its server answers {status}.")
    if status in (401, 403):
        return Unavailable(
            f"{what}: its server answers {status} and wants another token or none.",
            remedy="See SMALTI_SCENES__HEADERS, __EARTHDATA_TOKEN and __PLANETARY_COMPUTER_KEY.",
        )
    return BadSource(f"{what}: its server answers {status}.")


def _retry_after(text: str) -> float | None:
    """Seconds, of a number or a date (RFC 9110, 10.2.3)."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
