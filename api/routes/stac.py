"""STAC 1.1: the catalogue as static clients read it, a Collection for each dataset and an Item for each window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from api.catalogue import Dataset, DatasetWindow
from api.params import DatasetId, dataset_window
from api.problems import documented
from api.security import require
from api.standards.documents import document
from api.standards.links import GEOJSON, JSON, Link, address, layer_path, link
from api.standards.tilesets import FORMATS, attribution
from api.state import State, get_state
from service.errors import NotFound, SmaltiError
from service.extent import Extent
from service.footprint import covering, footprint
from service.values import Window

VERSION: Final = "1.1.0"
PROJECTION: Final = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
MAX_ITEMS: Final = 1000
WMTS_MEDIA: Final = "application/xml"
_ANSWERS: Final[dict[int | str, Any]] = {200: {"content": {JSON: {}}}, 304: {"description": "Not Modified"}}
_ITEMS: Final[dict[int | str, Any]] = {200: {"content": {GEOJSON: {}}}, 304: {"description": "Not Modified"}}

router = APIRouter(prefix="/stac", tags=["standards"], dependencies=[Depends(require("read"))])


@router.get("", responses=_ANSWERS, response_class=Response)
def catalog(request: Request, state: Annotated[State, Depends(get_state)]) -> Response:
    """The root of the STAC catalogue: a child for each dataset that holds something."""
    state.datasets.require_storage()
    children = [
        link(address(request, _path(dataset.id)), "child", title=dataset.title)
        for dataset in state.datasets.all()
        if _held(state, dataset)
    ]
    body = {
        "type": "Catalog",
        "stac_version": VERSION,
        "id": "smalti",
        "title": request.app.title,
        "description": request.app.description,
        "links": [*_ends(request, "/stac"), *children],
    }
    return document(request, body)


@router.get("/{dataset}", responses={**_ANSWERS, **documented(404)}, response_class=Response)
def collection(request: Request, state: Annotated[State, Depends(get_state)], dataset: DatasetId) -> Response:
    """One dataset as a STAC Collection: what it holds where and when, whose it is, an item for each window."""
    held = state.datasets[dataset]
    extent = state.extent(held)
    if extent is None:
        raise NotFound(f"dataset {dataset!r} holds nothing yet.", field="dataset")
    return document(request, _collection(request, held, extent))


@router.get("/{dataset}/items", responses={**_ITEMS, **documented(404, 422)}, response_class=Response)
def items(
    request: Request,
    state: Annotated[State, Depends(get_state)],
    dataset: DatasetId,
    limit: Annotated[int, Query(ge=1, le=MAX_ITEMS, description="items of a page")] = 100,
    after: Annotated[str | None, Query(max_length=40, description="the window that the page before ended with")] = None,
) -> Response:
    """The items of a dataset, page by page, by time."""
    held, path = state.datasets[dataset], f"{_path(dataset)}/items"
    beyond = Window.parse(after) if after else None
    windows = [window for window in held.windows() if beyond is None or window > beyond]
    page = [_item(request, at) for at in _layers(held, windows[:limit])]
    here = [("limit", str(limit)), *([("after", after)] if after else [])]
    links = [link(address(request, path, here), "self", GEOJSON), *_up(request, dataset)]
    if len(windows) > limit:
        on = [("limit", str(limit)), ("after", str(windows[limit - 1]))]
        links.append(link(address(request, path, on), "next", GEOJSON))
    return document(
        request, {"type": "FeatureCollection", "features": page, "numberReturned": len(page), "links": links}, GEOJSON
    )


@router.get("/{dataset}/items/{window}", responses={**_ITEMS, **documented(404, 422)}, response_class=Response)
def item(request: Request, at: Annotated[DatasetWindow, Depends(dataset_window)]) -> Response:
    """One window of a dataset as a STAC Item, with its tiles as assets."""
    return document(request, _item(request, at), GEOJSON)


def _held(state: State, dataset: Dataset) -> bool:
    """Whether a dataset holds something. What cannot be looked at now is left out: the others are told all the same."""
    try:
        return state.extent(dataset) is not None
    except SmaltiError:
        return False


def _layers(dataset: Dataset, windows: Iterable[Window]) -> Iterator[DatasetWindow]:
    """Those of some windows that hold something; what cannot be read now is left out."""
    for window in windows:
        with suppress(SmaltiError):
            at = DatasetWindow(dataset.at(window), window)
            if footprint(at.dataset.store, window).boxes:
                yield at


def _path(dataset: str, window: Window | None = None) -> str:
    part = layer_path(dataset, window or "").removeprefix("/datasets/").split("/")
    return f"/stac/{part[0]}" + (f"/items/{part[1]}" if window else "")


def _ends(request: Request, path: str, media: str = JSON) -> list[Link]:
    return [
        link(address(request, "/stac"), "root", title="STAC catalogue"),
        link(address(request, path), "self", media),
    ]


def _up(request: Request, dataset: str) -> list[Link]:
    above = address(request, _path(dataset))
    return [
        link(address(request, "/stac"), "root", title="STAC catalogue"),
        link(above, "parent"),
        link(above, "collection"),
    ]


def _collection(request: Request, dataset: Dataset, extent: Extent) -> dict[str, Any]:
    windows = dataset.windows()
    interval = [_instants(windows[0])[0], max(_instants(window)[1] for window in windows)]
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "id": dataset.id,
        "title": dataset.title,
        "description": f"Embeddings in {dataset.store.dims} dimensions at 10 m, made by {dataset.store.identity}.",
        "license": "other",
        "providers": _providers(request),
        "extent": {"spatial": {"bbox": [list(extent.bounds)]}, "temporal": {"interval": [interval]}},
        "summaries": {"smalti:model": [str(dataset.store.identity)], "smalti:dims": list(dataset.store.depths)},
        "links": [
            *_ends(request, _path(dataset.id)),
            link(address(request, "/stac"), "parent"),
            link(address(request, f"/datasets/{dataset.id}"), "license", title=dataset.licence),
            link(address(request, f"{_path(dataset.id)}/items"), "items", GEOJSON),
            *(
                link(address(request, _path(dataset.id, at.window)), "item", GEOJSON, str(at.window))
                for at in _layers(dataset, windows)
            ),
        ],
    }


def _item(request: Request, at: DatasetWindow) -> dict[str, Any]:
    dataset, window = at.dataset, at.window
    held, path = footprint(dataset.store, window), layer_path(dataset.id, window)
    start, end = _instants(window)
    codes = [f"EPSG:{grid.zone.epsg}" for grid in held.grids]
    return {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": [PROJECTION],
        "id": f"{dataset.id}:{window}",
        "collection": dataset.id,
        "bbox": list(covering(held.boxes)),
        "geometry": {"type": "MultiPolygon", "coordinates": [[_ring(*box)] for box in held.boxes]},
        "properties": {
            "datetime": None,
            "start_datetime": start,
            "end_datetime": end,
            "title": f"{dataset.title} {window}",
            "gsd": 10,
            "license": "other",
            "providers": _providers(request),
            "proj:code": codes[0] if len(codes) == 1 else None,
            "smalti:model": str(dataset.store.identity),
            "smalti:dims": dataset.store.dims,
            "smalti:revision": dataset.store.revision()[0],
            "smalti:attribution": attribution(dataset),
        },
        "assets": _assets(request, path),
        "links": [
            link(address(request, _path(dataset.id, window)), "self", GEOJSON),
            *_up(request, dataset.id),
            link(address(request, f"/datasets/{dataset.id}"), "license", title=dataset.licence),
            link(f"{address(request, path)}/tiles/WebMercatorQuad/{{z}}/{{x}}/{{y}}.png", "xyz", FORMATS["png"]),
            link(address(request, f"{path}/WMTSCapabilities.xml"), "wmts", WMTS_MEDIA),
        ],
    }


def _assets(request: Request, path: str) -> dict[str, Any]:
    """How an item is looked at. Where its store lies is the operator's business and stands nowhere."""

    def asset(end: str, media: str, title: str, *roles: str) -> dict[str, Any]:
        return {"href": address(request, f"{path}/{end}"), "type": media, "title": title, "roles": list(roles)}

    return {
        "tilejson": asset("WebMercatorQuad/tilejson.json", JSON, "Tiles, described as TileJSON", "tiles"),
        "wmts": asset("WMTSCapabilities.xml", WMTS_MEDIA, "Tiles, described as WMTS", "tiles"),
        "preview": asset("preview.png?max_size=512", FORMATS["png"], "All of it as one picture", "overview"),
        "legend": asset("legend", JSON, "What the colours mean", "metadata"),
        "coverage": asset("coverage", GEOJSON, "Blocks that hold data", "metadata"),
    }


def _providers(request: Request) -> list[dict[str, Any]]:
    return [{"name": "smalti", "roles": ["host"], "url": address(request, "/")}]


def _instants(window: Window) -> tuple[str, str]:
    return f"{window.start}T00:00:00Z", f"{window.end}T23:59:59Z"


def _ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]
