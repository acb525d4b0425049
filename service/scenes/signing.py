"""Planetary Computer's storage opens to a token for each container, which it gives to anybody, for less than a day.

Its documented JSON interface: GET `<endpoint>/<account>/<container>` answers `{"token": ..., "msft:expiry": ...}`, the
token being a query string. A subscription key, sent as a header to that host alone, lifts limits on how often.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import httpx2
import orjson

from service.errors import BadSource

if TYPE_CHECKING:
    from service.scenes.hosts import Signing

KEY_HEADER: Final = "Ocp-Apim-Subscription-Key"
_EARLY_S: Final = 120.0
"""Before its end a token is replaced: reading with it takes a while."""
_NAME: Final = re.compile(r"[a-z0-9$-]{1,63}")
_QUERY: Final = re.compile(r"[A-Za-z0-9._~%=&+/:-]{1,4000}")


class Signer:
    """Gives the addresses of files what opens them.

    Args:
        signing: Whose files need it, and who gives it.
        ask: Fetches an answer; its arguments are the address and what to call it in errors.
    """

    def __init__(self, signing: Signing, ask: Callable[[str, str], bytes]) -> None:
        self._signing = signing
        self._ask = ask
        self._lock = threading.Lock()
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}

    def signed(self, url: httpx2.URL, what: str) -> httpx2.URL:
        """The address with a token, where its host wants one and it has none.

        Raises:
            BadSource, Unavailable: No token could be had.
        """
        key = self._container(url)
        if key is None or "sig" in url.params:
            return url
        with self._lock:  # one asks, the others wait for the same token
            token, end = self._tokens.get(key, ("", 0.0))
            if time.time() > end - _EARLY_S:
                token, end = self._tokens[key] = self._fetched(key, what)
        query = url.query.decode("ascii")
        return url.copy_with(query=(f"{query}&{token}" if query else token).encode("ascii"))

    def forget(self, url: httpx2.URL) -> bool:
        """Let go of the token that an address was refused with; False where there was none."""
        key = self._container(url)
        with self._lock:
            return key is not None and self._tokens.pop(key, None) is not None

    def _container(self, url: httpx2.URL) -> tuple[str, str] | None:
        """(account, container), where tokens are for them."""
        container = url.path.strip("/").partition("/")[0]
        if not self._signing.opens(url) or not _NAME.fullmatch(container):
            return None
        return url.host.partition(".")[0], container

    def _fetched(self, key: tuple[str, str], what: str) -> tuple[str, float]:
        answer = self._ask(f"{self._signing.endpoint}/{key[0]}/{key[1]}", f"the token for {what}")
        try:
            held = orjson.loads(answer)
            token, end = held["token"], dt.datetime.fromisoformat(held["msft:expiry"])
            if not _QUERY.fullmatch(token) or end.tzinfo is None:
                raise ValueError
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise BadSource(f"the token for {what} has another form than agreed.") from None
        return token, end.timestamp()
