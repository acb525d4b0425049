"""Links from one document to another: whole addresses, which stay right behind a proxy that adds a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from fastapi import Request

from api.catalogue import DatasetWindow

JSON: Final = "application/json"
GEOJSON: Final = "application/geo+json"
OPENAPI: Final = "application/vnd.oai.openapi+json;version=3.1"
OGC_REL: Final = "http://www.opengis.net/def/rel/ogc/1.0/"
Link = dict[str, Any]


def address(request: Request, path: str, query: Sequence[tuple[str, str]] = ()) -> str:
    """The whole address of a path of this server, as the client that asks reaches it."""
    mark = f"?{urlencode(query)}" if query else ""
    return f"{str(request.base_url).rstrip('/')}{path}{mark}"


def link(href: str, rel: str, media: str = JSON, title: str = "", *, templated: bool = False) -> Link:
    """One link, as OGC APIs, STAC and the 2D Tile Matrix Set standard write it."""
    made: Link = {"href": href, "rel": rel, "type": media}
    return made | ({"title": title} if title else {}) | ({"templated": True} if templated else {})


def layer_path(dataset: str, window: object) -> str:
    """The path below which one window of a dataset is served."""
    return f"/datasets/{quote(dataset)}/{quote(str(window))}"


def path_of(at: DatasetWindow) -> str:
    """`layer_path` of a dataset and window."""
    return layer_path(at.dataset.id, at.window)
