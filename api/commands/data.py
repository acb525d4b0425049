"""Commands about datasets: listing, ingesting, caring for stores, colours and indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from api.catalogue import open_or_make
from api.commands.shared import AsJson, DatasetId, WindowText, show, windows_of
from api.missing import ON_VIEW
from api.state import State
from api.terminal import bar, console
from api.views import prefix_name
from service.area import reach_of
from service.colour import Region, fit_basis
from service.embed import require_writable
from service.errors import InvalidInput, NotFound
from service.ingest import ingest as ingest_
from service.ingest import plan_ingest
from service.origins import places_of, require_suited
from service.scenes.folder import DPIXELS
from service.scenes.source import SCENES
from service.scenes.value import MODES
from service.store.export import export_geoemb
from service.values import Area, ModelIdentity, Window, checked_id

_ANY: Final = Window.year(2024)
"""A calendar year, which all share one store."""
datasets_app = typer.Typer(no_args_is_help=True, help="What embeddings there are.")
store_app = typer.Typer(no_args_is_help=True, help="Care for a dataset's store.")
pca_app = typer.Typer(no_args_is_help=True, help="Colours: the PCA bases of the view `pca`.")


def ingest(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(help="Folder of GeoTessera NPY tiles, or embedding GeoTIFFs.", exists=True)],
    dataset: Annotated[str, typer.Option(help="Id of the dataset to write to; made if it is not there.")],
    model: Annotated[str, typer.Option(help="Which encoder made them: name@version/variant.")],
    window: Annotated[str, typer.Option(help="Which window they cover, e.g. 2024.")],
) -> None:
    """Copy published embeddings into a dataset of our own. Stopped, it goes on where it was."""
    span, identity = Window.parse(window), ModelIdentity.parse(model)
    checked_id(dataset, "dataset")
    plan = plan_ingest(source)
    store = open_or_make(ctx.obj.storage, dataset, identity, plan.dims, span)
    with bar("Ingesting, blocks") as tick:
        report = ingest_(plan, store, span, on_progress=tick)
    with bar("Overviews, blocks") as tick:
        store.write_overviews(span, on_progress=tick)
    console.print(f"{report.written} blocks written, {report.skipped} were there already, into {store.location}")


@datasets_app.command("list")
def datasets_list(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List every dataset of the catalogue."""
    state: State = ctx.obj
    rows: list[dict[str, Any]] = [
        {
            "id": dataset.id,
            "location": dataset.store.location,
            "model": str(dataset.store.identity),
            "windows": [str(w) for w in dataset.windows()],
            "writable": dataset.store.writable,
        }
        for dataset in state.datasets.all()
    ]
    for name, error in state.datasets.broken.items():
        console.print(f"[bold red]broken[/] {name}: {escape(str(error))}", soft_wrap=True)
    state.datasets.require_storage()
    show(rows, as_json, "No datasets yet: `smalti demo` makes one, `smalti ingest` copies published ones.")


@datasets_app.command("create")
def datasets_create(
    ctx: typer.Context,
    dataset: DatasetId,
    model: Annotated[str, typer.Option(help="Encoder that embeds it: a name that `smalti models list` shows.")],
    source: Annotated[
        str,
        typer.Option(
            help="Where time series come from: `mpc` or `aws`, the published catalogues of scenes; the address of a "
            "STAC API or static catalogue; or a folder of d-pixels."
        ),
    ],
    mode: Annotated[
        str, typer.Option(help="How a catalogue of yours names assets and stores values: `mpc` or `aws`.")
    ] = "mpc",
    s1: Annotated[str | None, typer.Option(help="Address of its Sentinel-1 scenes, if it is another one.")] = None,
    bbox: Annotated[str | None, typer.Option(help="Embed nothing outside this box: west,south,east,north.")] = None,
    window: Annotated[
        str | None,
        typer.Option(help="Which window a folder of d-pixels shows, e.g. 2024: they tell days of the year alone."),
    ] = None,
    embed_on_view: Annotated[
        int,
        typer.Option(help="Blocks an hour that are embedded because somebody looks at them; 0: none.", min=0, max=4096),
    ] = 0,
) -> None:
    """Make an empty dataset whose areas can be embedded on demand; or say anew where its time series come from."""
    state: State = ctx.obj
    document = _document(source, mode, s1, bbox, window)
    if embed_on_view:
        document[ON_VIEW] = {"blocks_per_hour": embed_on_view}
    places = places_of(document, state.access)
    for place in (document[sensor] for sensor in ("s2", "s1") if sensor in document):
        if state.access.local(place, "the source") is None:
            state.access.hosts.checked(place, "the source")
    manifest = state.registry.get(model).manifest
    require_suited(document, manifest)
    store = open_or_make(state.storage, dataset, manifest.identity, manifest.dims, _ANY)
    state.sources.put(document, dataset)
    west, south, east, north = document.get("bounds") or reach_of(places)
    console.print(
        f"{dataset!r} takes areas within {west:.2f},{south:.2f},{east:.2f},{north:.2f}, into {store.location}"
    )


def _document(source: str, mode: str, s1: str | None, bbox: str | None, window: str | None) -> dict[str, Any]:
    """What the shelf of sources keeps.

    Raises:
        InvalidInput: The source is none; its window is not said, or is said of scenes.
    """
    if Path(source).is_dir() and source not in MODES:
        for name, said in (("bbox", bbox), ("s1", s1)):
            if said:
                raise InvalidInput("means nothing to a folder of d-pixels.", field=name, remedy="Leave it out.")
        return _folder(source, window)
    if window:
        remedy = "Leave it out: an area is asked for with its window."
        raise InvalidInput("scenes have dates of their own.", field="window", remedy=remedy)
    bounds = {"bounds": list(_box(bbox).bounds)} if bbox else {}
    if source in MODES:
        return {"type": SCENES, "mode": source, **bounds}
    if "://" in source or source.endswith(".json"):
        s2 = source if "://" in source else str(Path(source).resolve())
        return {"type": SCENES, "mode": mode, "s2": s2, "s1": s1 or s2, **bounds}
    remedy = f"Give {' or '.join(MODES)}, an address, or a folder."
    raise InvalidInput(f"{source!r} is neither a catalogue nor a folder.", field="source", remedy=remedy)


def _folder(source: str, window: str | None) -> dict[str, Any]:
    if not window:  # else the same observations would be embedded as any year that is asked for
        remedy = "Add --window, e.g. --window 2024."
        raise InvalidInput("d-pixels tell days of the year, and not of which.", field="window", remedy=remedy)
    return {"type": DPIXELS, "folder": str(Path(source).resolve()), "window": str(Window.parse(window))}


@store_app.command("overviews")
def store_overviews(ctx: typer.Context, dataset: DatasetId, window: WindowText = None, as_json: AsJson = False) -> None:
    """Build the overviews of blocks that changed since the last time. Stopped, it goes on where it was.

    Those of a dataset that is only read are kept beside the datasets of your own.
    """
    state: State = ctx.obj
    rows: list[dict[str, Any]] = []
    for span in windows_of(state.datasets[dataset], window):
        store = state.datasets.overviewed(dataset, span)
        with bar(f"Overviews {span}, blocks") as tick:
            changed = store.write_overviews(span, on_progress=tick)
        rows.append({"window": str(span), "written": changed, "levels": max(store.levels())})
        if not as_json:
            console.print(f"{span}: {changed} overview blocks written")
    if as_json:
        show(rows, as_json, "")


@store_app.command("tidy")
def store_tidy(ctx: typer.Context, dataset: DatasetId) -> None:
    """Forget old snapshots and delete what nothing refers to; refuses while somebody writes."""
    held = ctx.obj.datasets[dataset]
    for store in (held.store, *held.others):
        snapshots, files, size = require_writable(store, dataset).tidy()
        console.print(f"{store.location}: forgot {snapshots} snapshots, deleted {files} files, {size:,} bytes")


@store_app.command("export")
def store_export(
    ctx: typer.Context,
    dataset: DatasetId,
    out: Annotated[Path, typer.Argument(help="Folder to write a geoemb: Zarr store to.")],
) -> None:
    """Write a dataset in the published `geoemb:` layout, to take it elsewhere."""
    state: State = ctx.obj
    held = state.datasets[dataset]
    with bar("Exporting, blocks") as tick:
        export_geoemb(held.store, out, on_progress=tick)
    for store in held.others:  # the published layout holds calendar years only
        windows = ", ".join(map(str, store.windows()))
        console.print(f"[bold yellow]left out[/] {windows}: not a calendar year; it lies in {store.location}")


@pca_app.command("fit")
def pca_fit(
    ctx: typer.Context,
    dataset: DatasetId,
    window: WindowText = None,
    name: Annotated[str, typer.Option(help="Name of the basis, for view=pca:NAME.")] = "default",
    seed: Annotated[int, typer.Option(help="Seed of the sample; the same seed gives the same colours.")] = 0,
    sample: Annotated[int, typer.Option(help="Pixels to fit on.", min=1000, max=200_000)] = 100_000,
    bbox: Annotated[str | None, typer.Option(help="Fit to pixels in this box: west,south,east,north.")] = None,
    dims: Annotated[int | None, typer.Option(help="Fit to a prefix of the vectors, kept as NAME~DIMS.", min=1)] = None,
) -> None:
    """Fit the colours of a dataset, everywhere or in a box, and keep them under a name."""
    state: State = ctx.obj
    held = state.datasets[dataset]
    windows = windows_of(held, window) if window else held.store.windows()
    if not windows:
        raise NotFound(f"dataset {dataset!r} is empty.", remedy="Ingest or embed something first.")
    store, region = held.at(windows[0]).store, Region.of_box(_box(bbox)) if bbox else None
    basis = fit_basis(store, windows, seed=seed, sample=sample, dims=dims, region=region)
    name = prefix_name(name, None if dims == store.dims else dims)
    key = state.bases(dataset).put(basis.to_document(), name)
    console.print(f"basis {key} is now {name!r} of {dataset!r}")


def _box(text: str) -> Area:
    try:
        west, south, east, north = map(float, text.split(","))
    except ValueError:
        raise InvalidInput(f"{text!r} is not four numbers.", field="bbox") from None
    return Area(west, south, east, north)
