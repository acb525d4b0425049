"""Is it alive, and can it serve?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from api.catalogue import Dataset
from api.problems import documented
from api.security import is_allowed_host
from api.state import State, get_state
from service.errors import SmaltiError
from service.registry import DEFAULT, RegisteredModel
from service.values import Window

router = APIRouter(tags=["health"])


class Ready(BaseModel):
    """What can serve and what cannot."""

    ready: bool
    parts: dict[str, str] = Field(description="'ok', or what is wrong, for every part")


@router.get("/livez")
async def livez() -> dict[str, bool]:  # async: needs no thread, for a server whose threads are all busy is alive
    """The process answers."""
    return {"alive": True}


@router.get(
    "/readyz",
    responses={**documented(422), 503: {"model": Ready, "description": "Something cannot serve; `parts` names it"}},
)
def readyz(
    request: Request,
    state: Annotated[State, Depends(get_state)],
    response: Response,
    enough: Annotated[
        Literal["all", "some"],
        Query(
            description="all: every part can serve. some: the storage answers and a dataset opens, where there are "
            "any; what a load balancer should ask, for one broken part must not take away the rest"
        ),
    ] = "all",
) -> Ready:
    """200 once stores, bases, indexes, encoders and jobs can serve; 503 otherwise, each named.

    Whoever calls the server by a name that is not its own, as a kubelet does, learns only whether it is ready.
    """
    parts = dict(_parts(state) if enough == "all" else _least(state))
    fine = [text.startswith("ok") for text in parts.values()]
    ready = all(fine) if enough == "all" else fine[0] and (any(fine[1:]) or len(fine) == 1)
    response.status_code = 200 if ready else 503
    response.headers["Cache-Control"] = "no-store"
    name = request.headers.get("host", "")  # HTTP/1.0 needs none, and some load balancers ask so
    return Ready(ready=ready, parts=parts if is_allowed_host(name, state.settings) else {})


def _least(state: State) -> Iterator[tuple[str, str]]:
    """The storage, then every dataset."""
    storage = _said(_storage, state)
    yield "storage", storage
    if not storage.startswith("ok"):
        return  # all else lies there, and each part would wait for it anew
    for name, error in state.datasets.broken.items():
        yield f"dataset {name}", str(error)
    for dataset in state.datasets.all():
        yield f"dataset {dataset.id}", _said(_dataset, dataset)


def _parts(state: State) -> Iterator[tuple[str, str]]:
    yield from (least := tuple(_least(state)))
    if not least[0][1].startswith("ok"):
        return
    for dataset in state.datasets.all():
        name = dataset.id
        yield f"basis {name}", _said(_basis, state, name)
        for window in dataset.windows():
            yield f"index {name} {window}", _said(_index, state, dataset, window)
    for model in state.registry.list():
        yield f"model {model.manifest.identity}", _said(_encoder, state, model)
    yield "jobs", _said(_jobs, state)


def _storage(state: State) -> str:
    state.storage.folders("datasets")
    return state.storage.location if state.storage.remote else "a folder"


def _dataset(dataset: Dataset) -> str:
    return f"revision {dataset.store.revision()[0]}"


def _basis(state: State, name: str) -> str:
    return f"default is {state.bases(name).get('default')[0]}"


def _index(state: State, dataset: Dataset, window: Window) -> str:
    return state.searcher(dataset.at(window)).describe(window)


def _encoder(state: State, model: RegisteredModel) -> str:
    """The one that runs where none is named is opened; of others, which may be large, the files are looked for."""
    identity = str(model.manifest.identity)
    needed = model.manifest.identity.name == DEFAULT
    if not model.half_path and state.settings.precision == "fp16" and state.settings.device in ("cuda", "tensorrt"):
        return "not run in fp16, for which it has no file"  # no fault of the server's, which others may well use
    encoder = state.encoder(identity) if needed else state.encoders().get(identity)
    if encoder is None:
        model.require_files()
        return "not opened yet"
    chosen = f" ({encoder.engine.why})" if encoder.engine.why else ""
    return f"on {encoder.device} in {encoder.precision}{chosen}"


def _jobs(state: State) -> str:
    """Without a worker jobs wait, but tiles, search and uploads are none the worse: that is said, and no failure."""
    workers = state.jobs.workers()
    return f"workers seen lately: {', '.join(workers)}" if workers else "no worker seen lately: jobs wait for one"


def _said(check: Callable[..., str], *args: object) -> str:
    try:
        return f"ok, {check(*args)}"
    except SmaltiError as error:
        return str(error)
