"""Which scenes a catalogue has in a window and an area, whatever it is: a STAC API, or files beside each other.

A STAC API is asked. A static catalogue, which nobody can ask, is walked from its root, into one collection alone.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from service.errors import BadSource, LimitExceeded, SmaltiError
from service.polygons import Box
from service.scenes.access import Access
from service.scenes.budget import SMALLER, Budget
from service.scenes.items import Endpoint, Reader, overlaps
from service.scenes.value import Scene
from service.values import Area, Window


def find(endpoint: Endpoint, window: Window, area: Area, access: Access) -> tuple[Scene, ...]:
    """The scenes of a catalogue that may show an area, newest first; see `Scene.order`.

    Args:
        endpoint: Whom to ask.
        window: UTC days.
        area: Degrees; may cross the antimeridian.
        access: What may be reached, and how much of it.

    Raises:
        InvalidInput: It leads where nothing may be read.
        BadSource: It contradicts itself or the rules of STAC; names the item.
        LimitExceeded: It has too much to tell; names the limit.
        Unavailable: It does not answer now.
    """
    limits = access.limits
    pages = _Pages(endpoint, access, Budget(limits.catalogue_bytes, limits.catalogue_seconds, f"{endpoint.url}"))
    try:
        root = pages.read(endpoint.url)
        items = pages.searched(window, area) if _can_be_asked(root) else pages.walked(window, area)
        return Reader(access, endpoint, window, area).scenes(items)
    except SmaltiError:
        raise
    except Exception as error:  # of pystac: somebody else's text can break it in any way
        raise BadSource(f"{endpoint.url} is no catalogue that can be read ({type(error).__name__}).") from error


def _can_be_asked(root: Mapping[str, Any]) -> bool:
    return any(isinstance(link, Mapping) and link.get("rel") == "search" for link in list_of(root, "links"))


class _Pages:
    """The pages and files of one catalogue, as many as may be read for one question."""

    def __init__(self, endpoint: Endpoint, access: Access, budget: Budget) -> None:
        self._endpoint = endpoint
        self._access = access
        self._budget = budget
        self._what = f"catalogue {endpoint.url}"

    def read(self, url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object at an address, or what a question is answered with.

        Raises:
            BadSource: There is something else.
        """
        path = self._access.local(url, self._what)
        sent = None if body is None else json.dumps(body).encode()
        text = self._access.fetcher.page(url, self._budget, self._what, body=sent) if path is None else self._file(path)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise BadSource(f"{self._what}: what is at {url[:200]} is no JSON that can be read.") from None
        if not isinstance(found, dict):
            raise BadSource(f"{self._what}: what is at {url[:200]} is no JSON object.")
        return found

    def _file(self, path: Path) -> bytes:
        try:
            size = path.stat().st_size
            if size > self._access.limits.page_bytes:
                raise LimitExceeded(f"{path} is larger than {self._access.limits.page_bytes:,} bytes.")
            self._budget.spend(size)
            return path.read_bytes()
        except OSError as error:
            raise BadSource(f"{self._what} is not there: {error.strerror}.") from None

    def searched(self, window: Window, area: Area) -> Iterator[tuple[Any, str]]:
        """Items with their addresses, as a STAC API finds them."""
        from service.scenes.asked import pages  # a fifth of a second to import

        left = self._access.limits.pages
        for box in _boxes(area):
            seen: set[str] = set()
            for page in pages(self._endpoint.url, self._endpoint.collection, window, box, self.read):
                left -= 1
                if left < 0:
                    raise LimitExceeded(
                        f"{self._what} has more than {self._access.limits.pages:,} pages here.", remedy=SMALLER
                    )
                items = list_of(page, "features")
                ids = {str(item.get("id")) for item in items if isinstance(item, Mapping)}
                if ids <= seen:
                    raise BadSource(f"{self._what} turns its pages in circles.")
                seen |= ids
                yield from ((item, _self(item, self._endpoint.url)) for item in items)

    def walked(self, window: Window, area: Area) -> Iterator[tuple[Any, str]]:
        """Items of a static catalogue with their addresses; each file is read once, whatever leads to it."""
        waiting, seen = [self._endpoint.url], {self._endpoint.url}
        while waiting:
            url = waiting.pop()
            held = self.read(url)
            if held.get("type") == "Feature":
                yield held, url
            elif held.get("type") == "FeatureCollection":
                yield from ((item, _self(item, url)) for item in list_of(held, "features"))
            elif held.get("type") != "Collection" or self._is_wanted(held, window, area):
                new = [link for link in _linked(held, url) if link not in seen]
                seen.update(new)
                waiting += new
                if len(seen) > self._access.limits.items:
                    raise LimitExceeded(
                        f"{self._what} has more than {self._access.limits.items:,} files.", remedy=SMALLER
                    )

    def _is_wanted(self, collection: Mapping[str, Any], window: Window, area: Area) -> bool:
        """Whether a collection can hold what is looked for; where it tells nothing that is understood, it can."""
        if collection.get("id") != self._endpoint.collection:
            return False
        extent = collection.get("extent")
        try:
            spatial, temporal = extent["spatial"]["bbox"], extent["temporal"]["interval"]  # type: ignore[index]
            start, end = temporal[0]
            early = end is not None and dt.date.fromisoformat(end[:10]) < window.start
            late = start is not None and dt.date.fromisoformat(start[:10]) > window.end
            boxes = [box if len(box) == 4 else (*box[:2], *box[3:5]) for box in spatial]
            return not (early or late) and any(overlaps(box, area) for box in boxes)
        except (KeyError, IndexError, TypeError, ValueError):
            return True


def _boxes(area: Area) -> list[Box]:
    """An area as boxes that any server understands."""
    if area.west < area.east:
        return [area.bounds]
    return [(area.west, area.south, 180.0, area.north), (-180.0, area.south, area.east, area.north)]


def list_of(held: Mapping[str, Any], name: str) -> list[Any]:
    """A list of an object; empty where there is none."""
    found = held.get(name)
    return found if isinstance(found, list) else []


def _linked(held: Mapping[str, Any], base: str) -> list[str]:
    """Where the links to children and items lead."""
    links = [link for link in list_of(held, "links") if isinstance(link, Mapping)]
    leading = [link for link in links if link.get("rel") in ("child", "item", "items")]
    return [urljoin(base, str(link.get("href"))) for link in leading]


def _self(item: Any, base: str) -> str:
    """What the addresses in an item are relative to."""
    links = list_of(item, "links") if isinstance(item, Mapping) else []
    known = [link.get("href") for link in links if isinstance(link, Mapping) and link.get("rel") == "self"]
    return urljoin(base, known[0]) if known and isinstance(known[0], str) else base
