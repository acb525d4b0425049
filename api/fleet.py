"""The other machines of a fleet, over HTTP: one connection pool, hard limits on time and size, no redirects.

Their answers are shown to nobody before `indexing` has checked them, and what they write in an error is not repeated:
it could be anything, the key they were sent included.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from functools import cached_property
from typing import Any, Final, TypeVar

import httpx2
import orjson

from api.problems import STATUS
from api.settings import KEY_HEADER
from api.settings import Fleet as Settings
from indexing.fleet.share import Fleet, Question
from indexing.fleet.wire import MEDIA_TYPE
from service import VERSION
from service.errors import Corrupt, Forbidden, SmaltiError, Unavailable

T = TypeVar("T")

PATH: Final = "/shards"
_CONNECTIONS: Final = 64
"""To all peers together; questions beyond wait their turn, which is part of their time."""
_REFUSAL: Final = 10_000
"""Bytes of an error that are looked at."""


class HttpPeer:
    """A peer at an address.

    Args:
        address: `http://name:port`.
        line: What carries the questions; peers may share it.
    """

    def __init__(self, address: str, line: Line) -> None:
        self.name = address.rstrip("/")
        self._line = line

    def ask(self, question: Question[Any], shards: tuple[str, ...], seconds: float) -> Future[Any]:
        """See `indexing.fleet.Peer.ask`."""
        return self._line.start(self._answer(question, shards, seconds))

    async def _answer(self, question: Question[Any], shards: tuple[str, ...], seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds):
                address, body = f"{self.name}{PATH}/{question.path}", question.to_bytes(shards)
                message = await self._line.post(address, body, question.most)
        except TimeoutError:
            raise Unavailable(f"did not answer within {seconds:.3g} s.") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unavailable(f"cannot be reached ({type(error).__name__}).") from None
        return question.read(message, shards)


class Line:
    """A client that runs in a thread of its own, whatever the number of peers and questions. Connects when first used.

    Args:
        key: The API key to send, if any.
    """

    def __init__(self, key: str | None = None) -> None:
        self._headers = {"Content-Type": MEDIA_TYPE, "Accept-Encoding": "identity", "User-Agent": f"smalti/{VERSION}"}
        if key:
            self._headers[KEY_HEADER] = key
        self._lock = threading.Lock()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine beside whatever else is under way."""
        with self._lock:
            loop = self._loop
        return asyncio.run_coroutine_threadsafe(work, loop)

    async def post(self, address: str, body: bytes, most: int) -> bytes:
        """What is answered, up to `most` bytes.

        Raises:
            Unavailable: The other side says that it cannot answer now.
            Forbidden: It refuses.
            Corrupt: It answers too much, something else, or sends us elsewhere.
            httpx2.HTTPError: It cannot be reached.
        """
        async with self._client.stream("POST", address, content=body) as response:
            media = response.headers.get("content-type", "")
            if response.status_code != 200:
                raise _refusal(response.status_code, await _upto(response, _REFUSAL, cut=True))
            if media != MEDIA_TYPE or response.headers.get("content-encoding", "identity") != "identity":
                raise Corrupt("answers something else: is it of this version?")
            return await _upto(response, most)

    @cached_property
    def _client(self) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        # Neither a proxy nor credentials from the environment: peers are neighbours. Time is limited by the caller.
        return httpx2.AsyncClient(
            headers=self._headers, limits=limits, timeout=None, follow_redirects=False, trust_env=False
        )

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="fleet", daemon=True).start()
        return loop


async def _upto(response: httpx2.Response, most: int, *, cut: bool = False) -> bytes:
    """A body of at most so many bytes; what is beyond is refused, or cut off."""
    parts, size = [], 0
    async for part in response.aiter_raw():
        parts.append(part)
        size += len(part)
        if size > most:
            if cut:
                break
            raise Corrupt(f"answers more than the {most:,} bytes that an answer may have.")
    return b"".join(parts)


def _refusal(status: int, body: bytes) -> SmaltiError:
    """What an answer other than 200 means, in our own words."""
    try:
        problem = orjson.loads(body)
    except orjson.JSONDecodeError:
        problem = None
    kind = problem.get("kind") if isinstance(problem, Mapping) else None
    told = f"answers {status}" + (f" ({kind})" if isinstance(kind, str) and kind in STATUS else "")
    if 300 <= status < 400:
        return Corrupt(f"{told}, which leads elsewhere and is not followed.")
    if status in (401, 403):
        return Forbidden(f"{told}: it does not know our key, name or address.", remedy="See SMALTI_FLEET__KEY.")
    return Unavailable(f"{told}.") if status >= 500 else Corrupt(f"{told}.")


def fleet_of(settings: Settings) -> Fleet:
    """The peers that the settings name."""
    line = Line(settings.key.get_secret_value() if settings.key else None)
    return Fleet([HttpPeer(peer, line) for peer in settings.peers], settings.seconds)
