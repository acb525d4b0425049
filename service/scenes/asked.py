"""The only door to pystac-client, which knows how to ask a STAC API and to turn its pages.

It fetches nothing itself: all it wants is read by a function that is handed down.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urljoin

import httpx2
from pystac import Link
from pystac_client import Client
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import PystacClientWarning

from service.errors import InvalidInput
from service.values import Window

PAGE: Final = 250
"""Items asked for at once."""

Read = Callable[[str, Mapping[str, Any] | None], dict[str, Any]]
"""The JSON object at an address; or, where there is a question, what it is answered with."""
Box = tuple[float, float, float, float]

warnings.simplefilter("ignore", PystacClientWarning)  # of conformance: what matters is looked at


def pages(url: str, collection: str, window: Window, box: Box, read: Read) -> Iterator[dict[str, Any]]:
    """The pages of a STAC API's answer: what has items of a collection in a window and a box of degrees.

    Raises:
        SmaltiError: As `read` does.
        Exception: Anything, where what it is sent is no STAC.
    """
    client = Client.open(url, stac_io=_Io(url, read))
    client.add_conforms_to("ITEM_SEARCH")
    search = client.search(
        collections=[collection],
        bbox=box,
        datetime=f"{window.start}T00:00:00Z/{window.end}T23:59:59.999Z",
        limit=PAGE,
    )
    yield from search.pages_as_dicts()


class _Io(StacApiIO):
    """What pystac-client reads with. Headers that a page wants to be told with the next question are not told."""

    def __init__(self, url: str, read: Read) -> None:
        super().__init__(max_retries=None)
        self._url = url
        self._read = read

    def read_json(
        self,
        source: Any,
        *_: Any,
        method: str | None = None,
        parameters: dict[str, Any] | None = None,
        **__: Any,
    ) -> dict[str, Any]:
        """What is at an address, or what the link to a next page leads to."""
        if not isinstance(source, Link):
            if method == "POST":
                return self._read(str(source), parameters or {})
            return self._read(str(httpx2.URL(str(source)).copy_merge_params(parameters or {})), None)
        link = source.to_dict()
        href = urljoin(self._url, link["href"])
        if link.get("method", "GET") != "POST":
            return self._read(href, None)
        body = link.get("body", {})
        return self._read(href, {**(parameters or {}), **body} if link.get("merge") else body)

    def read_text(self, source: Any, *_: Any, **__: Any) -> str:
        """Nothing is read as text, least of all files."""
        raise InvalidInput(f"{self._url} leads to {source!s:.200}.")
