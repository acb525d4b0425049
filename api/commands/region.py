"""The command that embeds a region on many machines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter

from api.batch import Cluster, on_dask, on_local_dask
from api.commands.index import run_of
from api.commands.shared import AsJson
from api.region import Region, embed_piece, region_of
from api.schemas import Geometry
from api.state import State
from api.terminal import bar, console
from service.area import MIN_S2, blocks_in, plan_area
from service.embed import Made, require_writable
from service.encoder.engines import cores
from service.errors import Conflict, InvalidInput, NotFound, SmaltiError, Unavailable
from service.grid import Block
from service.polygons import Polygon
from service.scenes.cells import Cell
from service.sources import Source
from service.store.contract import WritableStore
from service.values import Area, Window

LOCAL: Final = "local"
ATTEMPTS: Final = 3
"""Times that a block is tried whose scenes, say, cannot be had just now."""
_PASSES: Final = (Unavailable, Conflict, OSError)
"""What may be gone when a block is tried again."""
_TOLD: Final = 5
"""Failed blocks that are named."""
_ANY: Final = 2**62
_GEOMETRY: Final[TypeAdapter[Any]] = TypeAdapter(Geometry)


def embed_region(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Option(help="Id of a writable dataset that has a source of time series.")],
    window: Annotated[str, typer.Option(help="2024 or 2024-05-01..2024-09-30.")],
    bbox: Annotated[str | None, typer.Option(help="WEST,SOUTH,EAST,NORTH in degrees.")] = None,
    geometry: Annotated[
        Path | None,
        typer.Option(help="GeoJSON file: a polygon, or features that are one or several.", exists=True, dir_okay=False),
    ] = None,
    scheduler: Annotated[
        str, typer.Option(help="Address of a Dask scheduler, tcp://name:8786; `local`: processes of this machine.")
    ] = LOCAL,
    processes: Annotated[int, typer.Option(help="Processes of this machine, for --scheduler local.", min=1)] = 1,
    min_s2: Annotated[
        int, typer.Option(help="Least number of valid Sentinel-2 dates; pixels with fewer are rejected.", min=0)
    ] = MIN_S2,
    index: Annotated[bool, typer.Option("--index/--no-index", help="Have the search index hold what is new.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would take.")] = False,
    as_json: AsJson = False,
) -> None:
    """Embed a region, block by block, on this machine or a Dask cluster; then its overviews and its index.

    Stopped or repeated, it goes on where it was: what is stored already is not made again. Workers may die meanwhile.
    Ends with 1 if blocks failed: the others are stored.
    """
    state: State = ctx.obj
    if scheduler != LOCAL and processes > 1:
        raise InvalidInput("is for work on this machine; --scheduler sends it elsewhere.", field="processes")
    span, (polygon, area, field) = Window.parse(window), _place(bbox, geometry)
    sources = state.sources_of(dataset, span, area)
    if dry_run:
        _show(_plan(state, dataset, span, sources, polygon, field, min_s2), as_json)
        return
    touched = blocks_in([source.placement for source in sources], polygon, _ANY, field)
    blocks = _neighbours_together(chain.from_iterable(touched.values()))
    region = region_of(state, dataset, span, min_s2=min_s2, threads=_threads(state, scheduler, processes))
    with _cluster(scheduler, processes, state) as cluster:
        told = _embedded(region, blocks, cluster)
        if len(told["failed"]) < len(blocks):
            _overviews(state, region, blocks)
            if index:
                _index(state, region, cluster, shared=scheduler == LOCAL)
    _show({**told, "revision": state.datasets.writable(dataset, span).revision()[0]}, as_json)
    if told["failed"]:
        raise typer.Exit(1)


def _place(bbox: str | None, geometry: Path | None) -> tuple[Polygon, Area, str]:
    """What is meant, the box around it, and what errors call it."""
    if (bbox is None) == (geometry is None):
        raise InvalidInput("give either --bbox or --geometry.", field="bbox")
    if bbox is not None:
        try:
            west, south, east, north = (float(part) for part in bbox.split(","))
        except ValueError:
            raise InvalidInput(
                f"{bbox[:80]!r} is no box.", field="bbox", remedy="Write WEST,SOUTH,EAST,NORTH."
            ) from None
        area = Area(west, south, east, north)
        return Polygon.of_area(area), area, "bbox"
    assert geometry is not None  # noqa: S101  # one of the two is there
    try:
        held = _GEOMETRY.validate_python(_geometry(json.loads(geometry.read_text())))
    except (TypeError, ValueError):  # of JSON, of what should be a list, and of what is no ring of positions
        raise InvalidInput(
            f"{geometry} is no GeoJSON of polygons.",
            field="geometry",
            remedy="Write a GeoJSON Polygon or MultiPolygon, or features of nothing else.",
        ) from None
    polygon = Polygon.of_geojson(held.model_dump(), "geometry")
    return polygon, Area(*polygon.bounds), "geometry"


def _geometry(document: Any) -> dict[str, Any]:
    """One geometry of a GeoJSON document: its polygons together.

    Raises:
        TypeError, ValueError: There is anything else in it: what is left out in silence would never be embedded.
    """
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "Feature":
        return _geometry(document.get("geometry"))
    if kind == "FeatureCollection":
        held = [_geometry(feature) for feature in document.get("features")]
        parts = ([one["coordinates"]] if one["type"] == "Polygon" else one["coordinates"] for one in held)
        return {"type": "MultiPolygon", "coordinates": list(chain.from_iterable(parts))}
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"{kind} is no polygon")
    return {"type": kind, "coordinates": document.get("coordinates")}


def _neighbours_together(blocks: Iterable[Block]) -> list[Block]:
    """Blocks square by square: those of one square share a catalogue's answer, and tiles of its files."""
    return sorted(blocks, key=lambda block: (Cell.of(block), block))


def _threads(state: State, scheduler: str, processes: int) -> int | None:
    """Of the encoder of each process, where several share the cores of this machine."""
    return max(1, cores() // processes) if scheduler == LOCAL and not state.settings.encoder_threads else None


@contextmanager
def _cluster(scheduler: str, processes: int, state: State) -> Iterator[Cluster]:
    if scheduler == LOCAL:
        with on_local_dask(processes, state.settings.blocks_at_once) as cluster:
            yield cluster
    else:
        with on_dask(scheduler) as cluster:
            yield cluster


def _embedded(region: Region, blocks: list[Block], cluster: Cluster) -> dict[str, Any]:
    """Have all blocks embedded, and what may pass tried again at the end; what came of them."""
    start, tally = time.monotonic(), _Tally()
    with bar(f"Embedding {region.window}, blocks") as tick:
        left = blocks
        for _ in range(ATTEMPTS):
            tick(len(blocks) - len(left), len(blocks))
            for block, made, error in cluster.each(partial(embed_piece, region=region), left):
                tally.add(block, made, error)
                failed = f", {len(tally.failed)} failed" if tally.failed else ""
                rate = sum(tally.pixels.values()) / (time.monotonic() - start)
                tick(len(tally.ended), len(blocks), f"{rate:,.0f} pixels/s{failed}")
            left = [block for block, error in tally.failed.items() if isinstance(error, _PASSES)]
            if not left:
                break
    return {
        "dataset": region.dataset, "window": str(region.window), "blocks": len(blocks), "embedded": tally.new,
        "already": len(blocks) - tally.new - len(tally.failed), "pixels": tally.pixels,
        "failed": {block.name: _words(error) for block, error in tally.failed.items()},
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


class _Tally:
    """What became of blocks so far."""

    def __init__(self) -> None:
        self.ended: set[Block] = set()
        self.new = 0
        self.pixels = dict.fromkeys(("valid", "rejected", "water", "empty"), 0)
        self.failed: dict[Block, Exception] = {}

    def add(self, block: Block, made: Made | None, error: Exception | None) -> None:
        """One more."""
        self.ended.add(block)
        self.failed.pop(block, None)
        if error is not None:
            self.failed[block] = error.with_traceback(None)  # which holds what lay around
        elif made is not None:
            self.new += 1
            self.pixels = {name: count + made.pixels[name] for name, count in self.pixels.items()}


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, SmaltiError) else repr(error)[:300]


def _overviews(state: State, region: Region, blocks: list[Block]) -> None:
    store = state.datasets.writable(region.dataset, region.window)
    store.refresh()
    with bar(f"Overviews {region.window}") as tick:
        store.write_overviews(region.window, blocks, tick)


def _index(state: State, region: Region, cluster: Cluster, *, shared: bool) -> None:
    state.datasets.look_now()
    at = state.datasets[region.dataset].at(region.window)
    with bar(f"Indexing {region.window}, blocks") as tick:
        run = run_of(state, at, region.window, 1, cluster, shared=shared)
        try:
            state.build_index(at, region.window, on_progress=tick, run=run)
        except NotFound as error:  # every pixel may have been rejected
            console.print(f"No index: {error}")


def _plan(
    state: State, dataset: str, window: Window, sources: Sequence[Source], polygon: Polygon, field: str, min_s2: int
) -> dict[str, Any]:
    """What it would take."""
    main = state.datasets.require_writable(dataset)
    store: WritableStore | None = main
    if not window.is_year:  # each such window has a store of its own, made by the first block
        others = state.datasets[dataset].others
        store = next((require_writable(one, dataset) for one in others if window in one.windows()), None)
    encoder = state.encoder(str(main.identity))
    plan = plan_area(sources, encoder, store, polygon, min_s2=min_s2, most=_ANY, field=field)
    return {
        "dataset": dataset, "window": str(window), "blocks": len(plan.blocks), "left": len(plan.left),
        "pixels": plan.pixels, "pixels_left": plan.pixels_left,
        "scenes": plan.cost.scenes, "bytes": plan.cost.bytes,
    }  # fmt: skip


def _show(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    failed = told.get("failed", {})
    for name, reason in list(failed.items())[:_TOLD]:
        console.print(f"{name}: {reason}", soft_wrap=True, markup=False)
    if len(failed) > _TOLD:
        console.print(f"... and {len(failed) - _TOLD} more. Run it again to try them again.")
    if "left" in told:
        console.print(
            f"{told['blocks']:,} blocks, {told['left']:,} of them to be embedded: {told['pixels_left']:,} pixels, "
            f"{told['scenes']:,} scenes, about {told['bytes'] / 1e9:.1f} GB to fetch."
        )
    else:
        console.print(
            f"{told['embedded']:,} blocks embedded in {told['seconds']:,.0f} s, {told['already']:,} were there, "
            f"{len(failed):,} failed; {told['pixels']['valid']:,} pixels got a vector."
        )
