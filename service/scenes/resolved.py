"""Connections to addresses that were looked at: a name is resolved once, here, and is not resolved again."""

from __future__ import annotations

import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore2

from service.errors import InvalidInput
from service.scenes.hosts import Hosts, is_public


class TooSlow(httpcore2.ReadTimeout):
    """An answer takes longer than it may, however steadily it comes."""


class Resolved(httpcore2.SyncBackend):
    """Connects to addresses that were looked at, never to names."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._now = threading.local()

    def end_after(self, seconds: float) -> None:
        """Give this thread so much time for the request that it begins now: from then on it reads nothing more."""
        self._now.end = time.monotonic() + seconds

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first of a name's addresses that answers.

        Raises:
            InvalidInput: One of them is private, and the host was not written out.
            httpcore2.ConnectError: There is none, or none answers.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # a name may be none
            raise httpcore2.ConnectError(str(error)) from None
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        private = [address for address in addresses if not is_public(address)]
        if private and not any(self._hosts.is_written_out(scheme, host, port) for scheme in ("http", "https")):
            raise InvalidInput(
                f"{host} is {private[0]}, which is no address of the open internet.",
                remedy=f"If it is meant, write http://{host}:{port} or https:// into SMALTI_SCENES__HOSTS.",
            )
        for address in addresses[:-1]:
            try:
                return self._connected(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return self._connected(addresses[-1], port, timeout, local_address, socket_options)

    def _connected(self, *where: Any) -> httpcore2.NetworkStream:
        return _Ending(super().connect_tcp(*where), self._is_over)

    def _is_over(self) -> bool:
        return time.monotonic() > getattr(self._now, "end", math.inf)


class _Ending(httpcore2.NetworkStream):
    """A connection from which nothing is read once the time of a request is over.

    Its client limits each silence, which a header that never ends keeps from coming.
    """

    def __init__(self, stream: httpcore2.NetworkStream, is_over: Callable[[], bool]) -> None:
        self._stream = stream
        self._is_over = is_over

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Bytes that came.

        Raises:
            TooSlow: They come too late.
        """
        if self._is_over():
            raise TooSlow
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send."""
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        """Close."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        """The same, encrypted."""
        return _Ending(self._stream.start_tls(ssl_context, server_hostname, timeout), self._is_over)

    def get_extra_info(self, info: str) -> Any:
        """What its client wants to know of the socket."""
        return self._stream.get_extra_info(info)
