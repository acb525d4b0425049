"""Which hosts scenes may come from, what they are told, and how much may be taken from them.

A catalogue is somebody else's text. Each address in it is looked at here before anything is opened, each redirect as
well, and once more when a connection is made: the name is resolved once, every address it has must be one that the
name may have, and that address is connected to, so that nothing can resolve to something else in between.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import httpx2

from service.errors import InvalidInput

PLANETARY_COMPUTER: Final = "planetarycomputer.microsoft.com"
"""Who is sent its subscription key."""
PUBLISHED: Final = (
    PLANETARY_COMPUTER, "sentinel2l2a01.blob.core.windows.net",
    "sentinel1euwestrtc.blob.core.windows.net", "earth-search.aws.element84.com",
    "sentinel-cogs.s3.us-west-2.amazonaws.com", "cmr.earthdata.nasa.gov", "datapool.asf.alaska.edu",
    "cumulus.asf.earthdatacloud.nasa.gov",
)  # fmt: skip
"""Where the two published modes find catalogues and scenes."""
EARTHDATA: Final = ("datapool.asf.alaska.edu", "*.earthdatacloud.nasa.gov")
"""Who is sent an Earthdata token."""
_PORTS: Final = {"http": 80, "https": 443}
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_REMEDY: Final = "If you trust it, add it to SMALTI_SCENES__HOSTS."

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Hosts:
    """The hosts that may be asked.

    `name` and `*.domain` mean https on its usual port at a public address. Written out with its scheme,
    `http://127.0.0.1:8010`, exactly that is meant, whatever its address.
    """

    names: tuple[str, ...] = PUBLISHED

    def checked(self, url: str, what: str, base: httpx2.URL | None = None) -> httpx2.URL:
        """The address, if it may be asked.

        Args:
            url: Somebody else's text.
            what: What holds it, for errors.
            base: What it is relative to, if anything.

        Raises:
            InvalidInput: It may not.
        """
        try:
            found = base.join(url) if base else httpx2.URL(url)
        except (httpx2.InvalidURL, TypeError, ValueError):
            raise InvalidInput(f"{what} names {url!s:.120}, which is no address.") from None
        if found.scheme not in _PORTS or not found.host:
            raise InvalidInput(
                f"{what} names {url[:120]!r}, which does not begin with https://.", remedy="Only the web is read."
            )
        if found.userinfo:
            raise InvalidInput(f"{what} names an address at {found.host} with a password in it.")
        if not self.allows(found.scheme, found.host, found.port):
            origin = found.host if found.scheme == "https" and found.port is None else origin_of(found)
            raise InvalidInput(
                f"{what} leads to {origin}, which is not among the hosts that scenes may come from.", remedy=_REMEDY
            )
        return found

    def allows(self, scheme: str, host: str, port: int | None) -> bool:
        """Whether anything may be asked of a host at all."""
        return self.is_written_out(scheme, host, port) or (
            scheme == "https"
            and port in (None, 443)
            and not _address(host)
            and any(matches(name, host) for name in self.names)
        )

    def is_written_out(self, scheme: str, host: str, port: int | None) -> bool:
        """Whether just this origin is named, so that it may be private, and no more than http."""
        return (scheme, host, port or _PORTS.get(scheme)) in self._origins

    @cached_property
    def _origins(self) -> frozenset[tuple[str, str, int | None]]:
        urls = [httpx2.URL(name) for name in self.names if "://" in name]
        return frozenset((url.scheme, url.host, url.port or _PORTS.get(url.scheme)) for url in urls)


@dataclass(frozen=True)
class Signing:
    """Planetary Computer's way to open its storage: a token for each container, of which it gives one to anybody."""

    hosts: str = "*.blob.core.windows.net"
    """Whose files need a token."""
    endpoint: str = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
    """Followed by storage account and container."""

    def opens(self, url: httpx2.URL) -> bool:
        """Whether a token is needed for an address."""
        return _is_for(self.hosts, url)


@dataclass(frozen=True)
class Limits:
    """The most that is taken from whoever holds scenes."""

    items: int = 50_000
    """Scenes in the answer to one question."""
    pages: int = 1_000
    """Pages of an API that are read for it; files of a static catalogue count as items."""
    page_bytes: int = 64_000_000
    """Size of one of them, unpacked."""
    catalogue_bytes: int = 1_000_000_000
    """Size of all of them."""
    catalogue_seconds: float = 300.0
    """Time that one question may take."""
    file_bytes: int = 4_000_000_000
    """Size of one file of a scene."""
    tile_bytes: int = 64_000_000
    """Size of a file's tiles, unpacked: the least that can be read of it. Files without tiles may be no larger."""
    block_bytes: int = 16_000_000_000
    """What may be fetched for one block."""
    block_seconds: float = 3600.0
    """Time that fetching it may take."""
    request_seconds: float = 60.0
    """Time that one request may take, from its first byte to its last."""
    retries: int = 4
    """How often it is repeated."""


@dataclass(frozen=True)
class Policy:
    """What may be reached of the world, what it is told, and how much of it is taken."""

    hosts: Hosts = Hosts()
    folders: tuple[Path, ...] = ()
    """Folders on this machine whose catalogues and scenes may be read."""
    headers: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    """By host: the name and the value of a header that it is sent: a token. Others never see it."""
    signing: Signing = Signing()
    limits: Limits = Limits()

    def header_for(self, url: httpx2.URL) -> dict[str, str]:
        """What only the host of an address is told."""
        known = [pair for name, pair in self.headers.items() if _is_for(name, url)]
        return dict(known[:1])

    def local(self, href: str, what: str) -> Path | None:
        """The file on this machine that an href names; None where it names none.

        Raises:
            InvalidInput: It lies outside the folders that may be read.
        """
        if href.startswith("file://"):
            text = unquote(href.removeprefix("file://"))
        elif href.startswith("/"):
            text = href
        else:
            return None
        path = Path(text)
        if "\0" in text or not any(path.resolve().is_relative_to(folder.resolve()) for folder in self.folders):
            raise InvalidInput(
                f"{what} names {text[:1000]!r}, which lies outside the folders that scenes may come from.",
                remedy="If you trust it, add its folder to SMALTI_SCENES__FOLDERS.",
            )
        return path.resolve()


def matches(name: str, host: str) -> bool:
    """Whether a host is meant by its name, or by `*.domain`."""
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, also behind the ways to write one inside another."""
    found: Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in _NAT64:
            inner.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
        if any(one is not None and not is_public(str(one)) for one in inner):
            return False
        if found.ipv4_mapped is not None:
            return True
    return found.is_global and not found.is_multicast


def origin_of(url: httpx2.URL) -> str:
    """`http://127.0.0.1:8010`."""
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_for(name: str, url: httpx2.URL) -> bool:
    if "://" in name:
        return httpx2.URL(name).join("/") == url.join("/")
    return url.scheme == "https" and url.port in (None, 443) and matches(name, url.host)
