"""What every answer made from vectors carries: where it comes from, and a validator that costs no pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from api.accept import pictured, weighed
from api.params import Layer, layer
from api.state import get_state
from service import VERSION
from service.standing import revisions, standing
from service.warp import Target

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
            _plain_accept(request)
            try:
                response: Response = await handle(request)
            except NotModified:
                response = Response(status_code=304)
            response.headers.update(getattr(request.state, "stamp", {}))
            if getattr(request.state, "notes", None):
                response.headers[OVERVIEW] = STALE
            return response

        return stamped


def _plain_accept(request: Request) -> None:
    """TiTiler would answer browsers with pages that load scripts of others, and fail at a parameter without value."""
    accept = ", ".join(Headers(scope=request.scope).getlist("accept"))  # those of the request would be kept
    headers = [(name, value) for name, value in request.scope["headers"] if name != b"accept"]
    if accept and "text/html" not in accept:
        plain = ", ".join(f"{media};q={weight:g}" for media, weight in weighed(accept))
        headers.append((b"accept", plain.encode("latin-1")))
    request.scope["headers"] = headers


def stamp(request: Request, shown: Annotated[Layer, Depends(layer)]) -> None:
    """Name dataset, model, window and revision, and compare the validator, before a pixel is read.

    Raises:
        NotModified: The client's copy is still right.
    """
    request.state.stamp, request.state.notes = headers_of(request, shown), shown.notes
    if request.method == "GET" and holds(request.headers.get("if-none-match"), request.state.stamp["ETag"]):
        raise NotModified


def headers_of(request: Request, shown: Layer, target: Target | None = None) -> dict[str, str]:
    """What an answer made from vectors carries.

    Args:
        request: What is asked.
        shown: What it shows.
        target: The tile it asks for, if it is one: then the blocks of that decide whether a copy is still right.
    """
    found = revisions(shown)
    headers = {
        "X-Smalti-Dataset": shown.dataset,
        "X-Smalti-Model": str(shown.store.identity),
        "X-Smalti-Window": str(shown.window),
        "X-Smalti-Revision": found[0][0],
    }
    if shown.other is not None:
        headers |= {"X-Smalti-Other-Window": str(shown.other.window), "X-Smalti-Other-Revision": found[1][0]}
    if request.method != "GET":  # HEAD arrives as GET
        return headers | {"Cache-Control": "no-store"}
    digest = hashlib.sha256()
    for part in _parts(request, shown, target):
        digest.update(part.encode() + b"\0")
    strong = all(strong for _, strong in found)
    headers["ETag"] = f'"{digest.hexdigest()[:32]}"' if strong else f'W/"{digest.hexdigest()[:32]}"'
    # A map must show a new embedding at once, so copies are kept but always asked for again; 304 costs a millisecond.
    settings = get_state(request).settings
    public = settings.public_read or not settings.api_keys
    headers["Cache-Control"] = "public, no-cache" if public else "private, no-cache"
    if target is None or _open_form(request):
        headers["Vary"] = "Accept"
    return headers


def holds(header: str | None, tag: str) -> bool:
    """Whether an If-None-Match header names `tag`, compared weakly (RFC 9110, 13.1.2)."""
    if header is None:
        return False
    names = {name.strip().removeprefix("W/") for name in header.split(",")}
    return "*" in names or tag.removeprefix("W/") in names


def marked(tag: str, mark: str) -> str:
    """A validator with something more that it stands for."""
    return f'{tag[:-1]}-{mark}"' if mark else tag


def _open_form(request: Request) -> bool:
    """Whether a tile's address leaves open what it comes as."""
    return request.path_params.get("format") is None


def _parts(request: Request, shown: Layer, target: Target | None) -> Iterator[str]:
    """Everything the answer depends on, as texts."""
    yield from (VERSION, RENDERING, shown.dataset, str(shown.window), shown.view.key, str(shown.dims), request.url.path)
    yield from sorted(f"{name}={value}" for name, value in request.query_params.multi_items() if name != "view")
    stands = None
    if target is not None and _open_form(request):
        yield pictured(request.headers.get("accept"))
    if target is not None:
        stands = standing(shown, target)
        if stands.stale:
            shown.notes.add(STALE)  # a copy that is still right is still stale
    if stands is None or stands.blocks is None:
        yield from (revision for revision, _ in revisions(shown))
    else:
        yield from (stands.blocks, STALE if stands.stale else "")
    if "lon" in request.path_params:  # a place without a vector tells who is making it
        yield get_state(request).lookout.outlook(shown.dataset, str(shown.window)).mark
    if target is None:  # documents hold whole addresses, titles, names of bases and windows; maps heed Accept
        yield from (str(request.base_url), request.headers.get("accept", ""))
        state = get_state(request)
        dataset = state.datasets[shown.dataset]
        yield from (dataset.title, dataset.licence, *sorted(state.bases(dataset.id).names()))
        yield from map(str, dataset.windows())
