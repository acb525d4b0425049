"""WMTS 1.0.0 (OGC 07-057r7), RESTful: a small capabilities document, one layer with its views as styles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Annotated, Final, Literal
from urllib.parse import urlencode
from xml.sax.saxutils import escape, quoteattr

from fastapi import Query, Request, Response
from morecantile import TileMatrixSet

from api.params import Layer
from api.standards.links import address, layer_path
from api.standards.tilesets import FORMATS, Shown, attribution, covering, kept
from api.state import get_state
from api.views import USES, Style
from service.matrices import limits
from service.tiles import TileReader

MEDIA: Final = "application/xml"
MAX_STYLES: Final = 32
_NAMES: Final = (
    'xmlns="http://www.opengis.net/wmts/1.0" xmlns:ows="http://www.opengis.net/ows/1.1" '
    'xmlns:xlink="http://www.w3.org/1999/xlink" version="1.0.0"'
)
_KVP: Final = frozenset(
    {"service", "request", "version", "acceptversions", "sections", "updatesequence", "acceptformats"}
)
"""What clients add to the address of a capabilities document, in any case: nothing that tiles take."""


def capabilities(
    request: Request,
    shown: Shown,
    tile_format: Annotated[
        Literal["png", "webp", "jpg"] | None, Query(description="the one format to name; all where absent")
    ] = None,
) -> Response:
    """The capabilities document: a layer, its views as styles, and the zooms that hold more than the one before."""
    formats = [tile_format] if tile_format else list(FORMATS)
    readers = [TileReader(shown, tms=tms) for tms in covering(shown.footprint.bounds)]
    here = str(request.url)
    text = "".join((
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Capabilities {_NAMES}>',
        _service(request, shown),
        "<Contents><Layer>",
        *_layer(request, shown),
        *(f"<Format>{FORMATS[name]}</Format>" for name in formats),
        *map(_link, readers),
        *_resources(request, shown, formats),
        "</Layer>",
        *map(_matrix_set, readers),
        f"</Contents><ServiceMetadataURL xlink:href={quoteattr(here)}/></Capabilities>\n",
    ))  # fmt: skip
    return Response(text, media_type=MEDIA)


def _service(request: Request, shown: Layer) -> str:
    dataset = get_state(request).datasets[shown.dataset]
    return (
        f"<ows:ServiceIdentification><ows:Title>{escape(dataset.title)}</ows:Title>"
        "<ows:ServiceType>OGC WMTS</ows:ServiceType><ows:ServiceTypeVersion>1.0.0</ows:ServiceTypeVersion>"
        f"<ows:AccessConstraints>{escape(attribution(dataset))}</ows:AccessConstraints></ows:ServiceIdentification>"
    )


def _layer(request: Request, shown: Layer) -> Iterator[str]:
    dataset = get_state(request).datasets[shown.dataset]
    west, south, east, north = shown.footprint.bounds
    yield f"<ows:Title>{escape(dataset.title)} {shown.window}</ows:Title>"
    yield f"<ows:Abstract>{escape(str(shown.store.identity))}. {escape(attribution(dataset))}</ows:Abstract>"
    yield f"<ows:WGS84BoundingBox><ows:LowerCorner>{west} {south}</ows:LowerCorner>"
    yield f"<ows:UpperCorner>{east} {north}</ows:UpperCorner></ows:WGS84BoundingBox>"
    yield f"<ows:Identifier>{escape(f'{shown.dataset}_{shown.window}')}</ows:Identifier>"
    for number, style in enumerate(styles(request, shown)):
        mark = ' isDefault="true"' if number == 0 else ""
        yield f"<Style{mark}><ows:Identifier>{escape(style)}</ows:Identifier></Style>"


def styles(request: Request, shown: Layer) -> list[str]:
    """The views a client may choose from, the default first: the one asked for, or every one without an argument.

    Those that have a use for all that is said of how they look: the address of each tile says it too.
    """
    asked = request.query_params.get("view")
    if asked:
        return [asked]
    state = get_state(request)
    bases = [f"pca:{name}" for name in sorted(state.bases(shown.dataset).names()) if name != "default"]
    windows = [f"change:{other}" for other in state.datasets[shown.dataset].windows() if other != shown.window]
    said = set(request.query_params) & {one.name for one in fields(Style)}
    found = [name for name in ("pca", *bases, *windows) if said <= set(USES[name.partition(":")[0]])]
    return found[:MAX_STYLES]


def _resources(request: Request, shown: Layer, formats: Iterable[str]) -> Iterator[str]:
    """Where a tile is: its address with the names that clients fill in."""
    query = [
        (name, value) for name, value in kept(request, "tile_format", "view", "tilesize") if name.lower() not in _KVP
    ]
    rest = "".join(f"&{urlencode([pair])}" for pair in query)
    root = f"{address(request, layer_path(shown.dataset, shown.window))}/tiles"
    for name in formats:
        tile = f"{root}/{{TileMatrixSet}}/{{TileMatrix}}/{{TileCol}}/{{TileRow}}.{name}?view={{Style}}{rest}"
        yield f'<ResourceURL format="{FORMATS[name]}" resourceType="tile" template={quoteattr(tile)}/>'


def _link(reader: TileReader) -> str:
    found = limits(reader.tms, reader.bounds, (reader.minzoom, reader.maxzoom))
    each = "".join(
        "<TileMatrixLimits>"
        + "".join(f"<{part[0].upper()}{part[1:]}>{value}</{part[0].upper()}{part[1:]}>" for part, value in one.items())
        + "</TileMatrixLimits>"
        for one in found
    )
    return (
        f"<TileMatrixSetLink><TileMatrixSet>{reader.tms.id}</TileMatrixSet>"
        f"<TileMatrixSetLimits>{each}</TileMatrixSetLimits></TileMatrixSetLink>"
    )


def _matrix_set(reader: TileReader) -> str:
    """The matrices that hold something: a document that names all zooms of all sets is mostly empty tiles."""
    tms = reader.tms
    each = "".join(
        f"<TileMatrix><ows:Identifier>{m.id}</ows:Identifier><ScaleDenominator>{m.scaleDenominator}</ScaleDenominator>"
        f"<TopLeftCorner>{m.pointOfOrigin[0]} {m.pointOfOrigin[1]}</TopLeftCorner>"
        f"<TileWidth>{m.tileWidth}</TileWidth><TileHeight>{m.tileHeight}</TileHeight>"
        f"<MatrixWidth>{m.matrixWidth}</MatrixWidth><MatrixHeight>{m.matrixHeight}</MatrixHeight></TileMatrix>"
        for m in (tms.matrix(zoom) for zoom in range(reader.minzoom, reader.maxzoom + 1))
    )
    return (
        f"<TileMatrixSet><ows:Identifier>{tms.id}</ows:Identifier><ows:SupportedCRS>{urn(tms)}</ows:SupportedCRS>"
        f"{each}</TileMatrixSet>"
    )


def urn(tms: TileMatrixSet) -> str:
    """The name of a matrix set's CRS as OWS 1.1 writes it: `urn:ogc:def:crs:EPSG::3857`."""
    name = str(tms.crs.srs)
    if name.startswith("urn:"):
        return name
    authority, version, code = name.removeprefix("http://www.opengis.net/def/crs/").split("/")
    return f"urn:ogc:def:crs:{authority}:{'' if version == '0' else version}:{code}"
