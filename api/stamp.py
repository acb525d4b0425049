"""What every answer made from vectors carries: where it comes from, and a validator that costs no pixel."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from api.params import SUPPORTED_TMS, Layer, layer
from api.state import get_state
from service import VERSION
from service.plan import touched
from service.tiles import tile_target

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
RENDERING: Final = "2"
"""Part of every validator; raised when the same vectors are drawn in another way."""


OVERVIEW: Final = "X-Smalti-Overview"
STALE: Final = "stale"
"""Its value where a picture shows an overview older than the vectors below it; absent otherwise."""


class NotModified(Exception):  # an answer, not an error
    """The client holds this answer already."""


class StampedRoute(APIRoute):
    """A route whose answers carry the headers that `stamp` found, and which answers 304 where `stamp` says so."""

    def get_route_handler(self) -> Handler:
        """Wrap the route's own handler."""
        handle: Callable[[Request], Any] = super().get_route_handler()

        async def stamped(request: Request) -> Response:
            _without_html(request)
            try:
                response: Response = await handle(request)
            except NotModified:
                response = Response(status_code=304)
            response.headers.update(getattr(request.state, "stamp", {}))
            if getattr(request.state, "notes", None):
                response.headers[OVERVIEW] = STALE
            return response

        return stamped


def _without_html(request: Request) -> None:
    """TiTiler would answer browsers with pages that load scripts from elsewhere; ours get JSON."""
    headers = [(k, v) for k, v in request.scope["headers"] if not (k == b"accept" and b"text/html" in v)]
    request.scope["headers"] = headers


def stamp(request: Request, shown: Annotated[Layer, Depends(layer)]) -> None:
    """Name dataset, model, window and revision, and compare the validator, before a pixel is read.

    Raises:
        NotModified: The client's copy is still right.
        TileOutsideBounds: There is no such tile.
    """
    revisions = [side.store.revision() for side in shown.sides]
    revision, strong = revisions[0][0], all(strong for _, strong in revisions)
    headers = {
        "X-Smalti-Dataset": shown.dataset,
        "X-Smalti-Model": str(shown.store.identity),
        "X-Smalti-Window": str(shown.window),
        "X-Smalti-Revision": revision,
    }
    if shown.other is not None:
        headers |= {"X-Smalti-Other-Window": str(shown.other.window), "X-Smalti-Other-Revision": revisions[1][0]}
    request.state.stamp, request.state.notes = headers, shown.notes
    if request.method != "GET":
        headers["Cache-Control"] = "no-store"
        return
    digest = hashlib.sha256()
    for part in _parts(request, shown, [revision for revision, _ in revisions]):
        digest.update(part.encode() + b"\0")
    tag = f'"{digest.hexdigest()[:32]}"' if strong else f'W/"{digest.hexdigest()[:32]}"'
    headers["ETag"] = tag
    # A map must show a new embedding at once, so copies are kept but always asked for again; 304 costs a millisecond.
    settings = get_state(request).settings
    public = settings.public_read or not settings.api_keys
    headers["Cache-Control"] = "public, no-cache" if public else "private, no-cache"
    if "z" not in request.path_params:
        headers["Vary"] = "Accept"
    if holds(request.headers.get("if-none-match"), tag):
        raise NotModified


def holds(header: str | None, tag: str) -> bool:
    """Whether an If-None-Match header names `tag`, compared weakly (RFC 9110, 13.1.2)."""
    if header is None:
        return False
    names = {name.strip().removeprefix("W/") for name in header.split(",")}
    return "*" in names or tag.removeprefix("W/") in names


def _parts(request: Request, shown: Layer, revisions: list[str]) -> Iterator[str]:
    """Everything the answer depends on, as texts."""
    yield from (VERSION, RENDERING, shown.dataset, str(shown.window), shown.view.key, str(shown.dims), request.url.path)
    yield from sorted(f"{name}={value}" for name, value in request.query_params.multi_items() if name != "view")
    versions = _tile_versions(request, shown)
    if versions is None:  # documents hold whole addresses, maps heed Accept, and both show anything of the dataset
        yield from (*revisions, str(request.base_url), request.headers.get("accept", ""))
    else:
        yield from versions


def _tile_versions(request: Request, shown: Layer) -> list[str] | None:
    """The versions of the blocks that a tile shows; None where the request is for no tile, or for too many blocks."""
    path, size = request.path_params, request.query_params.get("tilesize", "")
    asked = [path.get("z", ""), path.get("x", ""), path.get("y", ""), size or "0"]
    if path.get("tileMatrixSetId") not in SUPPORTED_TMS.list() or not all(re.fullmatch(r"\d{1,9}", a) for a in asked):
        return None
    z, x, y, tilesize = map(int, asked)
    tile = tile_target(SUPPORTED_TMS.get(path["tileMatrixSetId"]), x, y, z, tilesize or None)
    found = touched(shown, tile)
    if found.stale:
        shown.notes.add(STALE)  # a copy that is still right is still stale
    if found.blocks is None:
        return None
    versions = [
        f"{block.name}={version}"
        for side in shown.sides
        for block, version in side.store.versions(side.window, found.blocks).items()
    ]
    return [*versions, STALE if found.stale else ""]
