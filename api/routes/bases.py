"""Named PCA bases: the colours of a dataset, fitted once and kept."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field, model_validator

from api.problems import documented
from api.schemas import Geometry, Lat, Lon, Strict
from api.security import require
from api.state import State, get_state
from api.views import prefix_name
from service.colour import Basis, Region, fit_basis
from service.colour.basis import MAX_SAMPLE, MIN_SAMPLE
from service.errors import InvalidInput, NotFound
from service.shelf import is_id
from service.values import Area, Window, checked_id

router = APIRouter(tags=["bases"])


class Pointed(BaseModel):
    """What a name pointed to, from a moment on."""

    id: str
    since: dt.datetime | None = Field(description="UTC; null where an older version moved the name")


class BasisInfo(BaseModel):
    """One basis, and what it was fitted to."""

    name: str | None = Field(description="null: it was asked for by its id")
    id: str = Field(description="made from the content; `pca:{id}` means the same for ever, `pca:{name}` may move")
    dataset: str
    model: str = Field(description="only vectors of this model can be shown with it")
    dims: int = Field(description="how many dimensions of a vector it takes: all, or a prefix")
    windows: list[str] = Field(description="when its sample is from")
    region: dict[str, Any] | None = Field(
        description="where its sample is from: `bbox`, or a GeoJSON geometry; null: everywhere"
    )
    revision: str | None = Field(description="of the dataset when it was fitted; null where an older version did that")
    sample: int = Field(description="pixels it was fitted to")
    seed: int
    explained: list[float] = Field(description="share of the variance along red, green and blue")


class BasisHistory(BasisInfo):
    """One basis, and what its name meant before."""

    history: list[Pointed] = Field(description="what the name pointed to, newest first; empty for an id")


class BasisList(BaseModel):
    """The bases of a dataset."""

    bases: list[BasisInfo]


class BasisBody(Strict):
    """A basis to fit."""

    dataset: str = Field(max_length=64)
    name: str | None = Field(
        "default",
        max_length=60,
        description="`default` is what view=pca shows; null: known by its id alone. A prefix has names of its own: "
        "`default` fitted to dims 16 is kept as `default~16`",
    )
    windows: list[str] | None = Field(None, min_length=1, max_length=50, description="all there are where absent")
    bbox: tuple[Lon, Lat, Lon, Lat] | None = Field(
        None, description="[w,s,e,n]: fit it to pixels in this box; w > e crosses the antimeridian"
    )
    geometry: Geometry | None = Field(None, description="instead of bbox: to pixels whose centre lies in it")
    dims: int | None = Field(None, ge=1, le=4096, description="a prefix length among the dataset's `depths`")
    seed: int = Field(0, ge=0, lt=2**31)
    sample: int = Field(100_000, ge=MIN_SAMPLE, le=MAX_SAMPLE, description="pixels to draw")

    @model_validator(mode="after")
    def _one_region(self) -> Self:
        if self.bbox is not None and self.geometry is not None:
            raise ValueError("give bbox or geometry, not both")
        return self

    def region(self) -> Region | None:
        """Where to fit it.

        Raises:
            InvalidInput, LimitExceeded: It is no box or polygon, or too complicated.
        """
        if self.bbox is not None:
            return Region.of_box(Area(*self.bbox))
        return Region.of_geojson(self.geometry.model_dump(mode="json")) if self.geometry is not None else None


DatasetText = Annotated[str, Query(max_length=64, description="dataset id")]


@router.get("/bases", responses=documented(401, 403, 404, 422), dependencies=[Depends(require("read"))])
def bases(state: Annotated[State, Depends(get_state)], dataset: DatasetText) -> BasisList:
    """The named bases of a dataset."""
    shelf = state.bases(state.datasets[dataset].id)
    return BasisList(bases=[BasisInfo(**_told(name, dataset, shelf.get(key))) for name, key in shelf.names().items()])


@router.get("/bases/{basis}", responses=documented(401, 403, 404, 422), dependencies=[Depends(require("read"))])
def basis(
    state: Annotated[State, Depends(get_state)],
    basis: Annotated[str, Path(max_length=64, description="name or id of a basis")],
    dataset: DatasetText,
) -> BasisHistory:
    """One basis, by its name or id, and every basis that its name meant before: none is lost when a name moves."""
    shelf = state.bases(state.datasets[dataset].id)
    found, name = shelf.get(basis), None if is_id(basis) else basis
    history = [Pointed(id=moved.id, since=moved.since) for moved in shelf.history(name)] if name else []
    return BasisHistory(**_told(name, dataset, found), history=history)


@router.post(
    "/bases",
    status_code=201,
    responses=documented(401, 403, 404, 409, 413, 422),
    dependencies=[Depends(require("write"))],
)
def fit(state: Annotated[State, Depends(get_state)], body: BasisBody) -> BasisInfo:
    """Fit a basis to a sample of the dataset's pixels, everywhere or in a region, and give it a name.

    Takes seconds on large datasets. A name that is taken moves to the new basis: the old one stays, under its id and
    in the history of the name.
    """
    held = state.datasets[body.dataset]
    name = checked_id(body.name, "name") if body.name is not None else None
    windows = [Window.parse(text) for text in body.windows] if body.windows else list(held.store.windows())
    if not windows:
        raise NotFound(f"dataset {body.dataset!r} holds no window yet.", field="dataset", remedy="Embed some first.")
    store, *others = {id(at.store): at.store for at in map(held.at, windows)}.values()
    if others:
        raise InvalidInput("years and other windows lie apart.", field="windows", remedy="Fit a basis for each.")
    fitted = fit_basis(store, windows, seed=body.seed, sample=body.sample, dims=body.dims, region=body.region())
    if name is not None:
        name = prefix_name(name, None if body.dims == store.dims else body.dims)
    document = fitted.to_document()
    key = state.bases(held.id).put(document, name)
    return BasisInfo(**_told(name, held.id, (key, document)))


def _told(name: str | None, dataset: str, shelved: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    key, document = shelved
    held = Basis.from_document(document)
    return {
        "name": name,
        "id": key,
        "dataset": dataset,
        "model": str(held.identity),
        "dims": held.dims,
        "windows": [str(window) for window in held.windows],
        "region": held.region,
        "revision": held.revision or None,
        "sample": held.sample,
        "seed": held.seed,
        "explained": list(held.explained),
    }
