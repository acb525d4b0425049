"""What a layer's tiles are, as documents: OGC tile sets and TileJSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import Depends, Path, Query, Request
from morecantile import TileMatrixSet
from titiler.core.models.mapbox import TileJSON

from api.catalogue import Dataset
from api.params import MAX_ZOOM, SUPPORTED_TMS, Layer, layer
from api.standards.links import OGC_REL, Link, address, layer_path, link
from api.state import get_state
from service.errors import InvalidInput, OutsideBounds
from service.matrices import Box, limits
from service.matrices import shown as covered
from service.tiles import TILE_SIZES, TileReader

CRS84: Final = "http://www.opengis.net/def/crs/OGC/1.3/CRS84"
FORMATS: Final = {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg"}
"""Pictures that tiles come as, best first."""
Shown = Annotated[Layer, Depends(layer)]
_MATRIX_SETS: Final = {name: SUPPORTED_TMS.get(name) for name in SUPPORTED_TMS.list()}
"""Shared: `SUPPORTED_TMS.get` copies a set whole, which takes as long as a 304."""


def matrix_set(
    tileMatrixSetId: Annotated[  # noqa: N803  # as OGC API Tiles writes it
        str, Path(description="one of GET /tileMatrixSets", json_schema_extra={"enum": SUPPORTED_TMS.list()})
    ],
) -> TileMatrixSet:
    """The tile matrix set that a path names.

    Raises:
        InvalidInput: It is not one of those there are.
    """
    found = _MATRIX_SETS.get(tileMatrixSetId)
    if found is None:
        names = ", ".join(_MATRIX_SETS)
        raise InvalidInput("is not a tile matrix set of this server.", field="tileMatrixSetId", remedy=f"Use {names}.")
    return found


Matrices = Annotated[TileMatrixSet, Depends(matrix_set)]


def covering(bounds: Box) -> list[TileMatrixSet]:
    """The tile matrix sets in which a box in degrees can be shown."""
    return [tms for tms in map(SUPPORTED_TMS.get, SUPPORTED_TMS.list()) if covered(tms, bounds)]


def _reader(shown: Layer, tms: TileMatrixSet) -> TileReader:
    """What reads a layer in a matrix set.

    Raises:
        OutsideBounds: Nothing of it can be shown there.
    """
    reader = TileReader(shown, tms=tms)
    if covered(tms, reader.bounds) is None:
        raise OutsideBounds(f"{shown.dataset} lies outside {tms.id}.", field="tileMatrixSetId")
    return reader


def kept(request: Request, *left_out: str) -> list[tuple[str, str]]:
    """The parameters of a request that its tiles take too."""
    return [(name, value) for name, value in request.query_params.multi_items() if name not in {"f", *left_out}]


def attribution(dataset: Dataset) -> str:
    """Whom a map of a dataset must name."""
    return f"{dataset.title}: {dataset.licence}"


def tile_set_list(request: Request, shown: Shown) -> dict[str, Any]:
    """The tile sets of this layer, one a tile matrix set (OGC API - Tiles, Tile Set List)."""
    path, query = layer_path(shown.dataset, shown.window), kept(request)
    sets = [_described(request, shown, tms) for tms in covering(shown.footprint.bounds)]
    return {"links": [link(address(request, f"{path}/tiles", query), "self", title="Tile sets")], "tilesets": sets}


def tile_set(request: Request, tms: Matrices, shown: Shown) -> dict[str, Any]:
    """One tile set (OGC API - Tiles, Tile Set; OGC Two Dimensional Tile Matrix Set and Tile Set Metadata 2.0)."""
    dataset = get_state(request).datasets[shown.dataset]
    with _reader(shown, tms) as reader:
        bounds, low, high = reader.bounds, reader.minzoom, reader.maxzoom
    path, query = f"{layer_path(shown.dataset, shown.window)}/tiles/{tms.id}", kept(request)
    templates = [
        link(
            f"{address(request, path)}/{{tileMatrix}}/{{tileCol}}/{{tileRow}}.{suffix}{_mark(query)}",
            "item", media, f"Tiles as {media}", templated=True,
        )
        for suffix, media in FORMATS.items()
    ]  # fmt: skip
    described = _described(request, shown, tms)
    return {
        **described,
        "description": str(shown.view.legend.get("text", "")),
        "attribution": attribution(dataset),
        "license": dataset.licence,
        "boundingBox": {"lowerLeft": bounds[:2], "upperRight": bounds[2:], "crs": CRS84},
        "centerPoint": {"coordinates": _middle(bounds), "crs": CRS84, "tileMatrix": str(max(high - 2, low))},
        "tileMatrixSetLimits": limits(tms, bounds, (tms.minzoom, tms.maxzoom)),
        "layers": [{
            "id": f"{shown.dataset}_{shown.window}", "title": described["title"], "dataType": "map",
            "minTileMatrix": str(low), "maxTileMatrix": str(high),
        }],
        "mediaTypes": list(FORMATS.values()),
        "links": [*described["links"], *templates],
    }  # fmt: skip


def _described(request: Request, shown: Layer, tms: TileMatrixSet) -> dict[str, Any]:
    """What the list of tile sets tells of one."""
    path, query = layer_path(shown.dataset, shown.window), kept(request)
    title = f"{shown.dataset} {shown.window} in {tms.id}"
    links: list[Link] = [
        link(address(request, f"{path}/tiles/{tms.id}", query), "self", title=title),
        link(address(request, f"/tileMatrixSets/{tms.id}"), f"{OGC_REL}tiling-scheme", title=f"Definition of {tms.id}"),
        link(address(request, f"{path}/{tms.id}/tilejson.json", query), "alternate", title="As TileJSON"),
        link(address(request, path), f"{OGC_REL}geodata", title="What is shown"),
    ]
    known = {"tileMatrixSetURI": str(tms.uri)} if str(tms.uri).endswith(f"/{tms.id}") else {}
    return {"title": title, "dataType": "map", "crs": tms.crs.srs, **known, "links": links}


def tile_json(
    request: Request,
    tms: Matrices,
    shown: Shown,
    tilesize: Annotated[int, Query(description="pixels along a side of a tile: 256 or 512")] = 512,
    tile_format: Annotated[Literal["png", "webp", "jpg"], Query(description="format of the tiles")] = "png",
    minzoom: Annotated[int | None, Query(ge=0, le=MAX_ZOOM, description="lowest zoom to name")] = None,
    maxzoom: Annotated[int | None, Query(ge=0, le=MAX_ZOOM, description="highest zoom to name")] = None,
) -> TileJSON:
    """The TileJSON 3.0.0 document: where the tiles are, which zooms, what the colours mean, which licence."""
    dataset, path = get_state(request).datasets[shown.dataset], layer_path(shown.dataset, shown.window)
    query = kept(request, "tile_format", "minzoom", "maxzoom", "tilesize")
    with _reader(shown, tms) as reader:
        bounds = reader.bounds
        low = reader.minzoom if minzoom is None else minzoom
        high = reader.maxzoom if maxzoom is None else maxzoom
    if tilesize not in TILE_SIZES:
        raise InvalidInput(f"{tilesize} is not a tile size.", field="tilesize", remedy="Ask for 256 or 512.")
    if low > high:
        raise InvalidInput(f"is above the highest zoom, {high}.", field="minzoom")
    mark = _mark([*query, ("tilesize", str(tilesize))])
    return TileJSON(
        name=f"{dataset.title} {shown.window}",
        description="; ".join(_told(shown)),
        attribution=attribution(dataset),
        legend=address(request, f"{path}/legend", query),
        tiles=[f"{address(request, path)}/tiles/{tms.id}/{{z}}/{{x}}/{{y}}.{tile_format}{mark}"],
        bounds=list(bounds),
        center=(*_middle(bounds), max(low, high - 2)),
        minzoom=low,
        maxzoom=high,
    )


def _told(shown: Layer) -> Iterator[str]:
    yield f"model {shown.store.identity}"
    yield f"window {shown.window}"
    yield f"revision {shown.store.revision()[0]}"
    legend = shown.view.legend
    yield from (str(legend[name]) for name in ("title", "text") if legend.get(name))


def _middle(bounds: Box) -> tuple[float, float]:
    west, south, east, north = bounds
    return (west + east) / 2, (south + north) / 2


def _mark(query: list[tuple[str, str]]) -> str:
    return f"?{urlencode(query)}" if query else ""
