"""One stored block: what became of its pixels, and what they were made from."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field

from api.catalogue import DatasetWindow
from api.params import dataset_window
from api.places import public
from api.problems import documented
from api.schemas import Outcome
from api.security import require
from api.state import State, get_state
from service.embed import outcome, require_writable
from service.errors import NotFound
from service.grid import Block

router = APIRouter(tags=["areas"], dependencies=[Depends(require("read"))])


class BlockInfo(BaseModel):
    """256 x 256 pixels as they are stored."""

    dataset: str
    model: str
    window: str
    revision: str
    block: str = Field(examples=["31N/1279/114"])
    version: str = Field(description="changes when any of its pixels does")
    fingerprint: str | None = Field(
        description="stands for model, window, scenes and parameters; null where the layout keeps none"
    )
    outside_training: bool = Field(description="true for windows that are not calendar years")
    pixels: Outcome | None = Field(description="of all 65,536; null where the layout keeps no block by itself")
    made: list[dict[str, Any]] = Field(
        description="what its pixels were made from, piece by piece, the newest first: model, parameters, and the "
        "source with the scenes it read, without places on the server; empty where nobody noted it"
    )


@router.get("/datasets/{dataset}/{window}/blocks/{zone}/{row}/{col}", responses=documented(401, 403, 404, 422, 503))
def block(
    state: Annotated[State, Depends(get_state)],
    at: Annotated[DatasetWindow, Depends(dataset_window)],
    zone: Annotated[str, Path(pattern=r"^[0-9]{1,2}[NS]$", examples=["31N"])],
    row: Annotated[int, Path(ge=0, le=999_999)],
    col: Annotated[int, Path(ge=0, le=999_999)],
) -> BlockInfo:
    """What one block was made from. Which blocks there are is told by .../coverage."""
    store, asked = at.dataset.store, Block.parse(f"{zone}/{row}/{col}")
    version = store.versions(at.window, [asked]).get(asked)
    if version is None or asked not in store.blocks(at.window):
        raise NotFound(f"block {asked.name} is not embedded.", field="block", remedy="See .../coverage.")
    told = BlockInfo(
        **at.dataset.provenance(at.window),
        block=asked.name,
        version=version,
        fingerprint=None,
        outside_training=not at.window.is_year,
        pixels=None,
        made=[],
    )
    if not store.writable:
        return told
    held = require_writable(store, at.dataset.id).read_block(asked, at.window)
    made = [{**piece, "source": public(piece["source"])} for piece in state.reports(at.dataset.id).of(held.fingerprint)]
    pixels = Outcome(**outcome(held.vectors))
    return told.model_copy(update={"fingerprint": held.fingerprint, "pixels": pixels, "made": made})
