"""A folder of scenes over HTTP: the static catalogue with its files, and a STAC API that searches it.

For demonstration and tests, on loopback: it asks for no key. Files are answered by ranges, as GDAL reads them. What
is understood of STAC API 1.0: `/`, `/conformance`, `/collections`, their items, and `/search` with `bbox`,
`intersects`, `datetime`, `collections`, `ids`, `query` and `limit`, in pages that link to the next.
"""

from __future__ import annotations

import datetime as dt
import errno
import json
import operator
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import shapely
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from service.errors import InvalidInput, NotFound, SmaltiError, Unavailable

CONFORMS: Final = (
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    *(f"https://api.stacspec.org/v1.0.0/{name}" for name in ("core", "collections", "ogcapi-features", "item-search")),
    "https://api.stacspec.org/v1.0.0/item-search#query",
)
PAGE: Final = 10
"""Items of a page where no limit is asked for."""
LONGEST: Final = 1000
_JSON: Final = "application/geo+json"
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "eq": operator.eq, "neq": operator.ne, "lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge,
}  # fmt: skip


LOOPBACK: Final = "127.0.0.1"
PATIENCE_S: Final = 5.0


class Shelved:
    """The items and collections of a folder, read once; newest first, then by id backwards."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "catalog.json").exists():
            raise NotFound(f"no catalogue in {folder}.", field="folder", remedy="`smalti scenes make` writes one.")
        self.catalogue = json.loads((folder / "catalog.json").read_text())
        documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*/collection.json"))]
        self.collections: dict[str, dict[str, Any]] = {document["id"]: document for document in documents}
        found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/*/*.json"))]
        self.items = sorted(found, key=lambda item: (item["properties"]["datetime"][:10], item["id"]), reverse=True)
        self.shapes = {(item["collection"], item["id"]): shapely.geometry.shape(item["geometry"]) for item in found}

    def search(self, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The items that a search's parameters describe, in the form of a POST body.

        Raises:
            InvalidInput: A parameter cannot be read.
        """
        held = self.items
        for name in ("collections", "ids"):
            if asked.get(name):
                key = "collection" if name == "collections" else "id"
                held = [item for item in held if item[key] in asked[name]]
        if asked.get("datetime"):
            first, last = _times(asked["datetime"])
            held = [item for item in held if first <= _time(item["properties"]["datetime"]) <= last]
        for name, conditions in (asked.get("query") or {}).items():
            held = [item for item in held if _meets(item["properties"].get(name), conditions)]
        where = _where(asked)
        if where is not None:
            held = [item for item in held if where.intersects(self.shapes[item["collection"], item["id"]])]
        return held


def _where(asked: Mapping[str, Any]) -> Any:
    if asked.get("intersects"):
        return shapely.geometry.shape(asked["intersects"])
    if not asked.get("bbox"):
        return None
    if len(asked["bbox"]) != 4:
        raise InvalidInput("write west, south, east, north.", field="bbox")
    west, south, east, north = (float(v) for v in asked["bbox"])
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))


def _time(text: str) -> dt.datetime:
    value = dt.datetime.fromisoformat(text)
    return value if value.tzinfo else value.replace(tzinfo=dt.UTC)


def _times(text: str) -> tuple[dt.datetime, dt.datetime]:
    first, slash, last = text.partition("/")
    try:
        start = dt.datetime.min.replace(tzinfo=dt.UTC) if first in ("", "..") else _time(first)
        end = start if not slash else dt.datetime.max.replace(tzinfo=dt.UTC) if last in ("", "..") else _time(last)
    except ValueError:
        raise InvalidInput(f"{text[:60]!r} is no time or interval.", field="datetime") from None
    return start, end


def _meets(value: Any, conditions: Mapping[str, Any]) -> bool:
    unknown = set(conditions) - set(_COMPARE)
    if unknown:
        raise InvalidInput(f"{sorted(unknown)} are not known.", field="query", remedy=f"Known: {', '.join(_COMPARE)}.")
    return value is not None and all(_COMPARE[name](value, wanted) for name, wanted in conditions.items())


def create_scenery(folder: Path) -> Starlette:
    """The app that serves a folder of scenes: its STAC API, and everything in it by its path.

    Raises:
        NotFound: The folder holds no catalogue.
    """
    held = Shelved(folder)
    routes = [
        Route("/", partial(_landing, held)),
        Route("/conformance", _conformance),
        Route("/collections", partial(_collections, held)),
        Route("/collections/{collection}", partial(_collection, held)),
        Route("/collections/{collection}/items", partial(_items, held)),
        Route("/collections/{collection}/items/{item}", partial(_item, held)),
        Route("/search", partial(_search, held), methods=["GET", "POST"]),
        Mount("/", StaticFiles(directory=folder)),
    ]
    return Starlette(routes=routes, exception_handlers={SmaltiError: _told})


async def _told(_: Request, error: Exception) -> JSONResponse:
    kind = getattr(error, "kind", "internal")
    return JSONResponse({"code": kind, "description": str(error)}, 404 if isinstance(error, NotFound) else 400)


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _link(rel: str, href: str, media: str = "application/json", **more: Any) -> dict[str, Any]:
    return {"rel": rel, "href": href, "type": media, **more}


async def _landing(held: Shelved, request: Request) -> JSONResponse:
    base = _base(request)
    links = [
        _link("self", f"{base}/"), _link("root", f"{base}/"), _link("conformance", f"{base}/conformance"),
        _link("data", f"{base}/collections"), _link("search", f"{base}/search", _JSON, method="GET"),
        _link("search", f"{base}/search", _JSON, method="POST"),
        *(_link("child", f"{base}/collections/{name}") for name in held.collections),
    ]  # fmt: skip
    return JSONResponse(held.catalogue | {"conformsTo": CONFORMS, "links": links})


async def _conformance(_: Request) -> JSONResponse:
    return JSONResponse({"conformsTo": CONFORMS})


async def _collections(held: Shelved, request: Request) -> JSONResponse:
    base = _base(request)
    links = [_link("self", f"{base}/collections"), _link("root", f"{base}/")]
    return JSONResponse({"collections": [_of(held, name, base) for name in held.collections], "links": links})


async def _collection(held: Shelved, request: Request) -> JSONResponse:
    return JSONResponse(_of(held, request.path_params["collection"], _base(request)))


def _of(held: Shelved, name: str, base: str) -> dict[str, Any]:
    if name not in held.collections:
        raise NotFound(f"no collection {name!r}.", field="collection")
    at = f"{base}/collections/{name}"
    links = [_link("self", at), _link("root", f"{base}/"), _link("items", f"{at}/items", _JSON)]
    return held.collections[name] | {"links": links}


async def _item(held: Shelved, request: Request) -> JSONResponse:
    names = request.path_params
    found = held.search({"collections": [names["collection"]], "ids": [names["item"]]})
    if not found:
        raise NotFound(f"no item {names['item']!r}.", field="item")
    return JSONResponse(_absolute(found[0], _base(request)), media_type=_JSON)


async def _items(held: Shelved, request: Request) -> JSONResponse:
    asked = _asked(request.query_params) | {"collections": [_of(held, request.path_params["collection"], "")["id"]]}
    return _page(held, request, asked)


async def _search(held: Shelved, request: Request) -> JSONResponse:
    try:
        asked = await request.json() if request.method == "POST" else _asked(request.query_params)
        return _page(held, request, asked)
    except (ValueError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
        raise InvalidInput(f"this is no search: {error}.", field="search") from None


def _asked(params: Mapping[str, str]) -> dict[str, Any]:
    """The body that the parameters of a GET stand for."""
    out: dict[str, Any] = dict(params)
    for name in {"bbox", "collections", "ids"} & out.keys():
        out[name] = out[name].split(",")
    for name in {"query", "intersects"} & out.keys():
        out[name] = json.loads(out[name])
    return out


def _page(held: Shelved, request: Request, asked: dict[str, Any]) -> JSONResponse:
    """One page of what a search finds. The token of the next is where it begins: nothing here changes."""
    limit, start = int(asked.get("limit", PAGE)), int(asked.get("token", 0))
    if not 1 <= limit <= LONGEST or start < 0:
        raise InvalidInput(f"ask for 1 to {LONGEST} items.", field="limit")
    found, base = held.search(asked), _base(request)
    links = [_link("root", f"{base}/")]
    if start + limit < len(found):
        at, token = str(request.url).partition("?")[0], str(start + limit)
        if request.method == "POST":
            links.append(_link("next", at, _JSON, method="POST", body=asked | {"token": token}))
        else:
            more = urlencode({**request.query_params, "token": token})
            links.append(_link("next", f"{at}?{more}", _JSON, method="GET"))
    page = [_absolute(item, base) for item in found[start : start + limit]]
    told = {"type": "FeatureCollection", "numberMatched": len(found), "numberReturned": len(page)}
    return JSONResponse(told | {"features": page, "links": links}, media_type=_JSON)


def _absolute(item: dict[str, Any], base: str) -> dict[str, Any]:
    """An item as the API tells it: its files by their address."""
    at = f"{base}/{item['collection']}/{item['id']}"
    assets = {
        key: asset | {"href": f"{at}/{asset['href'].removeprefix('./')}"} for key, asset in item["assets"].items()
    }
    here = f"{base}/collections/{item['collection']}"
    links = [_link("self", f"{here}/items/{item['id']}", _JSON), _link("collection", here), _link("root", f"{base}/")]
    return item | {"assets": assets, "links": links}


def listening(port: int = 0) -> socket.socket:
    """A socket of loopback that listens on a port; 0: on a free one.

    Raises:
        Unavailable: Somebody else does.
    """
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        remedy = "Stop what listens there, or choose another: --port."
        raise Unavailable(f"port {port} is taken.", field="port", remedy=remedy) from None


def address_of(listener: socket.socket) -> str:
    """The address under which a listening socket is asked."""
    return f"http://{LOOPBACK}:{listener.getsockname()[1]}"


def run(scenery: Starlette, listener: socket.socket) -> None:
    """Serve until the process is told to end."""
    config = uvicorn.Config(scenery, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def beside(folder: Path) -> Iterator[str]:
    """Serve a folder from a process of its own, on a free port of loopback, for as long as the block runs.

    Of its own, because GDAL may read from it while it holds up every other thread of this one. It can be asked at
    once: questions wait until it has started. It ends when this process does, however that ends.

    Yields:
        Its address.
    """
    with listening() as listener:
        address, number = address_of(listener), listener.fileno()
        command = (sys.executable, "-P", "-m", "api.scenery", str(folder), str(number))
        # A session of its own: Ctrl-C on the terminal is for this process, which ends it in turn.
        child = subprocess.Popen(command, pass_fds=(number,), stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603  # our own
    try:
        yield address
    finally:
        child.terminate()
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
        if child.stdin:
            child.stdin.close()


def _beside(folder: str, number: str) -> None:
    """What `beside` starts: ends with whoever holds the other end of its input."""

    def end() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end, daemon=True).start()
    with suppress(KeyboardInterrupt):
        run(create_scenery(Path(folder)), socket.socket(fileno=int(number)))


if __name__ == "__main__":
    _beside(*sys.argv[1:])
