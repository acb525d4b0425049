"""The encoders that can be run here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Path

from api.problems import documented
from api.schemas import ModelInfo, ModelList, ParityInfo
from api.security import require
from api.state import State, get_state
from service.errors import SmaltiError
from service.registry import RegisteredModel

router = APIRouter(tags=["models"], dependencies=[Depends(require("read"))])


@router.get("/models")
def models(state: Annotated[State, Depends(get_state)]) -> ModelList:
    """Every encoder, with its licence, the device it runs on, and how faithful it was measured to be here.

    To ask opens none of them: that takes time and memory, and happens with the first upload.
    """
    return ModelList(models=[_info(state, model) for model in state.registry.list()])


@router.get("/models/{name}", responses=documented(404, 422))
def model(state: Annotated[State, Depends(get_state)], name: Annotated[str, Path(max_length=200)]) -> ModelInfo:
    """One encoder."""
    return _info(state, state.registry.get(name))


def _info(state: State, model: RegisteredModel) -> ModelInfo:
    manifest = model.manifest
    return ModelInfo(
        name=manifest.identity.name,
        model=str(manifest.identity),
        family=manifest.family,
        dims=manifest.dims,
        depths=list(manifest.depths),
        bands=list(manifest.bands),
        licence=manifest.licence,
        origin=manifest.origin,
        sha256=manifest.sha256,
        device=_device(state, model),
        parity=[ParityInfo(**asdict(row)) for row in model.parity],
    )


def _device(state: State, model: RegisteredModel) -> str:
    encoder = state.encoders().get(str(model.manifest.identity))
    if encoder is not None:
        return encoder.device
    try:
        model.require_files()
    except SmaltiError as error:
        return f"none: {error}"
    return "not opened"
