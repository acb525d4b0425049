"""Connections to addresses that were looked at: a name is resolved once, here, and is not resolved again."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import httpcore2

from service.errors import InvalidInput
from service.scenes.hosts import Hosts, is_public


class Resolved(httpcore2.SyncBackend):
    """Connects to addresses that were looked at, never to names."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

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
        except OSError as error:
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
                return super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return super().connect_tcp(addresses[-1], port, timeout, local_address, socket_options)
