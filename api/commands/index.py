"""Indexes: building them here or on many machines, and how they stand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from api.batch import Run as Spread
from api.batch import on_dask, on_this_machine
from api.catalogue import Dataset
from api.commands.shared import AsJson, DatasetId, WindowText, show, windows_of
from api.pieces import in_pieces, place_of
from api.state import State
from api.terminal import bar, console
from indexing.index.build import Run
from indexing.index.manifest import IndexManifest, home_of
from indexing.index.status import IndexStatus, status_of
from service.errors import InvalidInput
from service.store.contract import Store
from service.values import Window

index_app = typer.Typer(no_args_is_help=True, help="The search index.")

Level = Annotated[int, typer.Option(help="Whose pixels: 1 of 10 m, or those of an overview: 8 of 80 m.", min=1)]


@index_app.command("build")
def index_build(
    ctx: typer.Context,
    dataset: DatasetId,
    window: WindowText = None,
    level: Level = 1,
    seed: Annotated[int, typer.Option(help="Seed of the training sample.")] = 0,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Learn and make everything anew, not only what has changed.")
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, tcp://name:8786: its workers make the shards.")
    ] = None,
    processes: Annotated[int, typer.Option(help="Processes of this machine that make shards side by side.", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Build the search index, or have it hold what has changed since. The old one serves until the new one is whole.

    Stopped, it goes on where it was.
    """
    state: State = ctx.obj
    held = state.datasets[dataset]
    rows = []
    with _spread(scheduler, processes) as spread:
        for span in windows_of(held, window):
            at = held.at(span)
            _require_level(at, level)
            with bar(f"Indexing {span}, blocks") as tick:
                run = run_of(state, at, span, level, spread, shared=scheduler is None)
                manifest = state.build_index(
                    at, span, level=level, seed=seed, rebuild=rebuild, on_progress=tick, run=run
                )
            rows.append(_row(span, manifest))
            if not as_json:
                console.print(
                    f"{span}: {manifest.count:,} pixels in {len(manifest.segments)} shards, "
                    f"recall@10 {manifest.tuning.recall:.3f}"
                )
    if as_json:
        show(rows, as_json, "")


@index_app.command("status")
def index_status(ctx: typer.Context, dataset: DatasetId, window: WindowText = None, as_json: AsJson = False) -> None:
    """How the search indexes of a dataset stand to what it holds now."""
    state: State = ctx.obj
    held = state.datasets[dataset]
    rows: list[dict[str, Any]] = []
    for span in windows_of(held, window):
        at = held.at(span)
        for level in sorted({1, *at.store.levels()}):
            status = status_of(at.store, dataset, span, state.storage.at("index", dataset), level)
            if status is not None:
                rows.append(_row(span, status.manifest) | _standing(status))
            elif level == 1:
                rows.append({"window": str(span), "level": 1, "state": "none"})
    if as_json:
        show(rows, as_json, "")
    else:
        columns = ("window", "level", "state", "pixels", "shards", "behind", "recall", "built")
        show([{name: row.get(name, "") for name in columns} for row in rows], as_json, "")


def _row(window: Window, manifest: IndexManifest) -> dict[str, Any]:
    """What a build made."""
    built = dt.datetime.fromtimestamp(manifest.built, dt.UTC).isoformat(timespec="seconds")
    return {
        "window": str(window),
        "level": manifest.level,
        "pixels": manifest.count,
        "blocks": len(manifest.blocks),
        "shards": [segment.name for segment in manifest.segments],
        "bytes": manifest.bytes,
        "recall": round(manifest.tuning.recall, 4),
        "model": str(manifest.identity),
        "revision": manifest.revision,
        "built": built if manifest.built else None,
    }


def _standing(status: IndexStatus) -> dict[str, Any]:
    """How that stands to the store now."""
    state = "refused" if status.fault else "behind" if status.behind or status.gone else "current"
    return {
        "state": state, "behind": status.behind, "gone": status.gone, "fault": status.fault or None,
        "generation": status.generation,
    }  # fmt: skip


@contextmanager
def _spread(scheduler: str | None, processes: int) -> Iterator[Spread | None]:
    """Who makes shards beside this process; nobody where absent."""
    if scheduler is not None:
        if processes > 1:
            raise InvalidInput("is for work on this machine; --scheduler sends it elsewhere.", field="processes")
        with on_dask(scheduler) as spread:
            yield spread
    elif processes > 1:
        with on_this_machine(processes) as spread:
            yield spread
    else:
        yield None


def run_of(state: State, at: Dataset, window: Window, level: int, spread: Spread | None, *, shared: bool) -> Run:
    """Who makes the shards of an index: this process where nobody else does, else those that share its disk or not."""
    if spread is None:
        return map
    scratch = home_of(state.build_folder(at.id), window, level)
    home = scratch if shared or not state.storage.remote else None
    return in_pieces(state, place_of(state, at.id, home), scratch, spread)


def _require_level(at: Dataset, level: int) -> None:
    store: Store = at.store
    if level != 1 and level not in store.levels():
        held = ", ".join(map(str, sorted({1, *store.levels()})))
        raise InvalidInput(
            f"has no overviews of level {level}; there are {held}.", field="level",
            remedy=f"Run `smalti store overviews {at.id}`.",
        )  # fmt: skip
