"""What there is to see: datasets, and where they hold data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Path, Response

from api.catalogue import Dataset, DatasetWindow
from api.legends import drawn
from api.params import Layer, dataset_window, layer
from api.problems import documented
from api.provenance import attribution
from api.schemas import DatasetInfo, DatasetList, Legend
from api.security import require
from api.state import State, get_state
from service.area import reach_of
from service.colour import VectorView
from service.colour.basis import DIRECTIONS
from service.errors import SmaltiError
from service.footprint import footprint, lonlat_near
from service.grid import ZoneGrid
from service.origins import places_of
from service.plan import Source
from service.tiles import TileReader
from service.values import BLOCK

log = logging.getLogger("smalti")

router = APIRouter(tags=["datasets"], dependencies=[Depends(require("read"))])


@router.get("/datasets")
def datasets(state: Annotated[State, Depends(get_state)]) -> DatasetList:
    """Every dataset that can be served, and those that cannot with the reason."""
    state.datasets.require_storage()
    listed, broken = [], {}
    for dataset in state.datasets.all():
        try:
            listed.append(_info(state, dataset))
        except SmaltiError as error:  # one that cannot be looked at takes no other down
            log.warning("dataset %s cannot be looked at: %s", dataset.id, error)
            broken[dataset.id] = state.datasets.named(str(error))
    return DatasetList(datasets=listed, broken=broken | {k: str(v) for k, v in state.datasets.broken.items()})


@router.get("/datasets/{dataset}", responses=documented(404, 422))
def dataset(state: Annotated[State, Depends(get_state)], dataset: Annotated[str, Path(max_length=64)]) -> DatasetInfo:
    """One dataset."""
    return _info(state, state.datasets[dataset])


def _info(state: State, dataset: Dataset) -> DatasetInfo:
    extent = state.extent(dataset)
    revision, strong = dataset.store.revision()
    minzoom, maxzoom = _zooms(dataset) if extent else (0, 0)
    source = state.source(dataset.id)
    return DatasetInfo(
        id=dataset.id,
        title=dataset.title,
        model=str(dataset.store.identity),
        dims=dataset.store.dims,
        depths=list(dataset.store.depths),
        windows=[str(window) for window in dataset.windows()],
        bounds=list(extent.bounds) if extent else None,
        center=list(extent.center) if extent else None,
        minzoom=minzoom,
        maxzoom=maxzoom,
        revision=revision,
        revisions={str(window): store.revision()[0] for store in dataset.others for window in store.windows()},
        revision_strong=strong,
        writable=dataset.store.writable,
        views=_views(dataset),
        bases=sorted(state.bases(dataset.id).names()),
        licence=dataset.licence,
        attribution=attribution(dataset.windows()),
        source=str(source["type"]) if source else None,
        source_bounds=_reach(source) if source else None,
    )


def _views(dataset: Dataset) -> list[str]:
    """The kinds of view that can show something of this dataset."""
    views = ["similarity"] if dataset.store.dims < DIRECTIONS else ["pca", "bands", "similarity"]
    if len(dataset.windows()) > 1:
        views.append("change")
    if any(store.counted() for store in (dataset.store, *dataset.others)):
        views.append("observations")
    return views


def _reach(source: dict[str, Any]) -> list[float] | None:
    """The box that a source covers; None where it cannot be told: of an unknown kind, or a folder that is gone."""
    try:
        return list(source.get("bounds") or reach_of(places_of(source)))
    except SmaltiError:
        return None


def _zooms(dataset: Dataset) -> tuple[int, int]:
    """The zooms of the tiles of the newest window that holds anything, as its TileJSON names them."""
    dims = dataset.store.dims
    for window in reversed(dataset.windows()):
        store = dataset.at(window).store
        if footprint(store, window).boxes:
            reader = TileReader(Source(store, window, VectorView(dims), dims, picture=True))
            return reader.minzoom, reader.maxzoom
    return 0, 0


@router.get(
    "/datasets/{dataset}/{window}/coverage",
    response_class=Response,
    responses={**documented(404, 422), 200: {"content": {"application/geo+json": {}}}},
)
def coverage(at: Annotated[DatasetWindow, Depends(dataset_window)]) -> Response:
    """Blocks that hold data, as GeoJSON boxes with their version."""
    store = at.dataset.store
    grids = {grid.zone.name: grid for grid in store.zones()}
    blocks = store.blocks(at.window)
    versions = store.versions(at.window, blocks)
    features = [_feature(grids[b.zone], b.name, b.row, b.col, versions[b]) for b in blocks]
    body = {"type": "FeatureCollection", **at.dataset.provenance(at.window), "features": features}
    return Response(orjson.dumps(body), media_type="application/geo+json")


def _feature(grid: ZoneGrid, name: str, row: int, col: int, version: str) -> dict[str, Any]:
    rows = np.array([row + 1, row + 1, row, row, row + 1], float) * BLOCK
    cols = np.array([col, col + 1, col + 1, col, col], float) * BLOCK
    lon, lat = lonlat_near(grid, rows, cols)  # over 180, not a ring round the globe
    ring = [[round(x, 7), round(y, 7)] for x, y in zip(lon.tolist(), lat.tolist(), strict=True)]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"block": name, "status": "embedded", "version": version},
    }


@router.get(
    "/datasets/{dataset}/{window}/legend",
    responses=documented(404, 409, 422),
    response_model=Legend,
    response_model_exclude_unset=True,
)
def legend(shown: Annotated[Layer, Depends(layer)]) -> Mapping[str, Any]:
    """What the colours of a view mean: what each shows, or the numbers from end to end and colours along them."""
    return shown.view.legend


@router.get(
    "/datasets/{dataset}/{window}/legend.svg",
    response_class=Response,
    responses={**documented(404, 409, 422), 200: {"content": {"image/svg+xml": {}}}},
)
def legend_picture(shown: Annotated[Layer, Depends(layer)]) -> Response:
    """The same as a small picture, for clients that show one beside the map."""
    return Response(drawn(shown.view.legend), media_type="image/svg+xml")
