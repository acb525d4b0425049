"""Named PCA bases: the colours of a dataset, fitted once and kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from api.problems import documented
from api.schemas import Strict
from api.security import require
from api.state import State, get_state
from service.colour import Basis, fit_basis
from service.colour.basis import MAX_SAMPLE, MIN_SAMPLE
from service.errors import InvalidInput, NotFound
from service.values import Window, checked_id

router = APIRouter(tags=["bases"])


class BasisInfo(BaseModel):
    """One basis."""

    name: str
    id: str = Field(description="made from the content; `pca:{id}` means the same for ever, `pca:{name}` may move")
    dataset: str
    model: str = Field(description="only vectors of this model can be shown with it")
    dims: int
    windows: list[str] = Field(description="where its sample came from")
    sample: int = Field(description="pixels it was fitted to")
    seed: int
    explained: list[float] = Field(description="share of the variance along red, green and blue")


class BasisList(BaseModel):
    """The bases of a dataset."""

    bases: list[BasisInfo]


class BasisBody(Strict):
    """A basis to fit."""

    dataset: str = Field(max_length=64)
    name: str = Field("default", max_length=64, description="`default` is what view=pca shows")
    windows: list[str] | None = Field(None, min_length=1, max_length=50, description="all there are where absent")
    seed: int = Field(0, ge=0, lt=2**31)
    sample: int = Field(100_000, ge=MIN_SAMPLE, le=MAX_SAMPLE, description="pixels to draw")


@router.get("/bases", responses=documented(401, 403, 404, 422), dependencies=[Depends(require("read"))])
def bases(
    state: Annotated[State, Depends(get_state)], dataset: Annotated[str, Query(max_length=64, description="dataset id")]
) -> BasisList:
    """The saved bases of a dataset."""
    shelf = state.bases(state.datasets[dataset].id)
    return BasisList(bases=[_info(name, dataset, shelf.get(key)) for name, key in shelf.names().items()])


@router.post(
    "/bases",
    status_code=201,
    responses=documented(401, 403, 404, 409, 413, 422),
    dependencies=[Depends(require("write"))],
)
def fit(state: Annotated[State, Depends(get_state)], body: BasisBody) -> BasisInfo:
    """Fit a basis to a sample of the dataset's pixels and give it a name. Takes seconds on large datasets."""
    held = state.datasets[body.dataset]
    name = checked_id(body.name, "name")
    windows = [Window.parse(text) for text in body.windows] if body.windows else list(held.store.windows())
    if not windows:
        raise NotFound(f"dataset {body.dataset!r} holds no window yet.", field="dataset", remedy="Embed some first.")
    store, *others = {id(at.store): at.store for at in map(held.at, windows)}.values()
    if others:
        raise InvalidInput("years and other windows lie apart.", field="windows", remedy="Fit a basis for each.")
    basis = fit_basis(store, windows, seed=body.seed, sample=body.sample)
    document = basis.to_document()
    key = state.bases(held.id).put(document, name)
    return _info(name, held.id, (key, document))


def _info(name: str, dataset: str, shelved: tuple[str, Mapping[str, Any]]) -> BasisInfo:
    key, document = shelved
    basis = Basis.from_document(document)
    return BasisInfo(
        name=name,
        id=key,
        dataset=dataset,
        model=str(basis.identity),
        dims=basis.dims,
        windows=[str(window) for window in basis.windows],
        sample=basis.sample,
        seed=basis.seed,
        explained=list(basis.explained),
    )
