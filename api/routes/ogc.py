"""OGC APIs: the landing page, what is claimed, and each window of each dataset as a collection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Request, Response

from api.catalogue import DatasetWindow
from api.params import dataset_window
from api.problems import documented
from api.security import require
from api.standards.documents import document
from api.standards.links import JSON, OGC_REL, OPENAPI, Link, address, link, path_of
from api.standards.tilesets import CRS84, FORMATS, attribution
from api.state import State, get_state
from service.errors import InvalidInput, NotFound, SmaltiError
from service.footprint import covering, footprint
from service.values import Window

TILES: Final = "http://www.opengis.net/spec/ogcapi-tiles-1/1.0/conf/"
MAPS: Final = "https://www.opengis.net/spec/ogcapi-maps-1/1.0/conf/"
CLAIMED: Final = (
    *(f"{TILES}{name}" for name in ("core", "tileset", "tilesets-list", "geodata-tilesets", "png", "jpeg")),
    *(f"{MAPS}{name}" for name in ("core", "crs", "tilesets", "collection-map", "png", "jpeg")),
)
"""Requirements classes, each of which has its test in tests/test_ogc.py."""
EPSG: Final = "http://www.opengis.net/def/crs/EPSG/0/"
_ANSWERS: Final[dict[int | str, Any]] = {200: {"content": {JSON: {}}}, 304: {"description": "Not Modified"}}

router = APIRouter(tags=["standards"], dependencies=[Depends(require("read"))])


def landing(request: Request) -> Response:
    """The landing page in JSON: what `/` answers to whoever asks for JSON."""
    links = [
        link(address(request, "/", [("f", "json")]), "self", title="This document"),
        link(address(request, "/"), "alternate", "text/html", "The map page"),
        link(address(request, "/api"), "service-desc", OPENAPI, "What can be asked: OpenAPI 3.1"),
        link(address(request, "/conformance"), f"{OGC_REL}conformance", title="Requirements classes"),
        link(address(request, "/conformance"), "conformance", title="Requirements classes"),
        link(address(request, "/collections"), "data", title="Each window of each dataset"),
        link(address(request, "/collections"), f"{OGC_REL}data", title="Each window of each dataset"),
        link(address(request, "/stac"), "child", title="STAC catalogue"),
        link(address(request, "/tileMatrixSets"), f"{OGC_REL}tiling-schemes", title="Tile matrix sets"),
    ]
    title, description = request.app.title, request.app.description
    return document(request, {"title": title, "description": description, "links": links}, vary="Accept")


@router.get("/api", responses=_ANSWERS | {200: {"content": {OPENAPI: {}}}}, response_class=Response)
def api(request: Request) -> Response:
    """The OpenAPI document, under the media type that OGC APIs link to."""
    body = request.app.openapi()
    root = str(request.base_url).rstrip("/")
    return document(request, {**body, "servers": [{"url": root}]}, OPENAPI)


@router.get("/conformance", responses=_ANSWERS, response_class=Response)
def conformance(request: Request) -> Response:
    """The requirements classes of OGC standards that this server fulfils by its own tests; none is certified."""
    return document(request, {"conformsTo": list(CLAIMED)})


@router.get("/collections", responses=_ANSWERS, response_class=Response)
def collections(request: Request, state: Annotated[State, Depends(get_state)]) -> Response:
    """Every window of every dataset as a collection (OGC API - Common, Part 2)."""
    state.datasets.require_storage()
    found = [_collection(request, at, _name(at)) for at in layers(state)]
    links = [link(address(request, "/collections"), "self", title="This document")]
    return document(request, {"links": links, "collections": found})


@router.get("/collections/{collectionId}", responses={**_ANSWERS, **documented(404, 422)}, response_class=Response)
def collection(
    request: Request,
    state: Annotated[State, Depends(get_state)],
    collectionId: Annotated[str, Path(max_length=100, description="`{dataset}:{window}`")],  # noqa: N803  # as OGC has it
) -> Response:
    """One window of a dataset as a collection: the same document as GET /datasets/{dataset}/{window}."""
    dataset, _, window = collectionId.partition(":")
    try:
        when = Window.parse(window)
        at = DatasetWindow(state.datasets[dataset].at(when), when)
    except (InvalidInput, NotFound):
        raise NotFound("no such collection.", field="collectionId", remedy="GET /collections lists them.") from None
    return document(request, _collection(request, at, _name(at)))


@router.get("/datasets/{dataset}/{window}", responses={**_ANSWERS, **documented(404, 422)}, response_class=Response)
def dataset_collection(request: Request, at: Annotated[DatasetWindow, Depends(dataset_window)]) -> Response:
    """One window of a dataset: extent, CRS, and links to its tiles, maps and descriptions."""
    return document(request, _collection(request, at, path_of(at)))


def layers(state: State) -> Iterator[DatasetWindow]:
    """Every window of every dataset that holds something; what cannot be read now is left out."""
    for dataset in state.datasets.all():
        for window in dataset.windows():
            try:
                at = DatasetWindow(dataset.at(window), window)
                footprint(at.dataset.store, window).bounds  # noqa: B018  # raises where there is nothing
            except SmaltiError:
                continue
            yield at


def _name(at: DatasetWindow) -> str:
    return f"/collections/{at.dataset.id}:{at.window}"


def _collection(request: Request, at: DatasetWindow, here: str) -> dict[str, Any]:
    dataset, window = at.dataset, at.window
    held = footprint(dataset.store, window)
    ends = [f"{window.start}T00:00:00Z", f"{window.end}T23:59:59Z"]
    return {
        "id": f"{dataset.id}:{window}",
        "title": f"{dataset.title} {window}",
        "description": f"Embeddings in {dataset.store.dims} dimensions at 10 m, made by {dataset.store.identity}.",
        "attribution": attribution(dataset),
        **dataset.provenance(window),
        "extent": {
            "spatial": {"bbox": [list(covering(held.boxes))], "crs": CRS84},
            "temporal": {"interval": [ends], "trs": "http://www.opengis.net/def/uom/ISO-8601/0/Gregorian"},
        },
        "crs": [CRS84, f"{EPSG}4326", f"{EPSG}3857", *(f"{EPSG}{grid.zone.epsg}" for grid in held.grids)],
        "dataType": "map",
        "links": _links(request, at, here),
    }


def _links(request: Request, at: DatasetWindow, here: str) -> list[Link]:
    path = path_of(at)
    matrices = f"{path}/WebMercatorQuad/tilejson.json"
    maps = [
        link(address(request, f"{path}/map", [("f", suffix)]), f"{OGC_REL}map", media, f"A map as {media}")
        for suffix, media in FORMATS.items()
    ]
    return [
        link(address(request, here), "self", title="This document"),
        link(address(request, path), "canonical", title="What tiles and maps are of"),
        link(address(request, f"{path}/tiles"), f"{OGC_REL}tilesets-map", title="Tile sets"),
        *maps,
        link(address(request, matrices), "alternate", title="As TileJSON"),
        link(address(request, f"{path}/WMTSCapabilities.xml"), "alternate", "application/xml", "As WMTS"),
        link(address(request, f"{path}/coverage"), "describedby", "application/geo+json", "Where there is something"),
        link(address(request, f"{path}/legend"), "describedby", title="What the colours mean"),
        link(address(request, f"/datasets/{at.dataset.id}"), "up", title="All windows of this dataset"),
    ]
