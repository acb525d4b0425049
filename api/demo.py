"""`smalti demo`: a landscape of our own making, embedded, coloured, indexed, ready to serve. Needs no network.

It lies on the Dogger Bank, land until about 6500 BC and sea since, so that nobody takes it for a real place.
Every step looks first at what is there, so a second run does next to nothing.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from api.catalogue import Dataset, open_or_make
from api.state import State
from api.terminal import bar, console
from service.area import MIN_S2, bounds_of
from service.colour import fit_basis
from service.embed import embed_source
from service.encoder import Encoder
from service.errors import NotFound
from service.grid import Block, Zone, archive_grid
from service.shelf import content_id
from service.simulate import Landscape
from service.sources import Placement, Simulated
from service.store.contract import WritableStore
from service.values import BLOCK, Window

ID: Final = "demo"
MODEL: Final = "smalti-mini"
MODE: Final = "mpc"
"""As which catalogue the demo's scenes are told of."""
SEED: Final = 7
SIDE: Final = 256
"""Pixels along a side: 2.56 km."""
YEARS: Final = (2023, 2024)
CORNER: Final = (2.30, 54.70)
"""lon, lat near which the landscape's middle lies; it is moved to the nearest corner of four blocks."""
EXAMPLE: Final = 48
"""Side, in pixels, of the example upload for the empty quarter."""


@dataclass(frozen=True)
class Scene:
    """Where the landscape lies: the middle is where four blocks meet, so that one quarter can stay empty."""

    placement: Placement
    empty: Block
    """The north-eastern block, left for the user to fill."""

    @classmethod
    def make(cls, side: int = SIDE) -> Scene:
        """The demo scene, `side` pixels square."""
        zone = Zone.of(*CORNER)
        row, col = (round(v / BLOCK) for v in archive_grid(zone).cell(*CORNER))
        placement = Placement(zone, row * BLOCK - side // 2, col * BLOCK - side // 2, side, side)
        return cls(placement, Block(zone.name, row - 1, col))

    def source(self, year: int) -> Simulated:
        """The time series of one year, all over the landscape."""
        place = self.placement
        return Simulated(place, Landscape(SEED, place.height, place.width), Window.year(year))

    def quarter(self) -> list[float]:
        """[west, south, east, north] within the empty quarter: no other block is touched."""
        rows, cols = self.placement.within(self.empty)
        place = replace(
            self.placement, row=self.placement.row + rows.start, col=self.placement.col + cols.start,
            height=rows.stop - rows.start, width=cols.stop - cols.start,
        )  # fmt: skip
        return _inner(place)

    @property
    def ground(self) -> Placement:
        """What satellites see: the whole empty block. The land goes on there, beyond the landscape's edges."""
        return Placement(self.placement.zone, self.empty.rows.start, self.empty.cols.start, BLOCK, BLOCK)

    def example(self) -> tuple[slice, slice]:
        """Rows and columns, within the landscape, of the part of the empty quarter nearest the middle."""
        rows, cols = self.placement.within(self.empty)
        side = min(EXAMPLE, rows.stop - rows.start)
        return slice(rows.stop - side, rows.stop), slice(cols.start, cols.start + side)

    def example_corner(self) -> tuple[float, float]:
        """(left, top) of the example, metres in the zone's CRS."""
        rows, cols = self.example()
        grid = archive_grid(self.placement.zone)
        return grid.x0 + 10 * (self.placement.col + cols.start), grid.y0 - 10 * (self.placement.row + rows.start)


def prepare(state: State, side: int = SIDE) -> Dataset:
    """Make whatever of the demo is not there yet, with progress bars, and return its dataset."""
    scene = Scene.make(side)
    encoder = state.encoder(MODEL)
    model = state.registry.get(MODEL).manifest
    store = open_or_make(state.storage, ID, model.identity, model.dims, Window.year(YEARS[0]))
    for year in YEARS:
        _embed(state, scene.source(year), encoder, store, scene.empty)
    state.sources.put(scene.source(YEARS[-1]).to_document(), ID)  # so that the empty quarter can be asked for
    _example(state.settings.home / "examples" / "quarter.npz", scene)
    state.datasets.look_now()
    dataset = state.datasets[ID]
    _basis(state, dataset)
    for window in dataset.windows():
        _index(state, dataset.at(window), window)
    return dataset


def scenes_of(state: State) -> Path:
    """The folder of the demo's scenes."""
    return state.settings.home / "scenes" / ID


def publish(state: State) -> None:
    """Make the scenes from which the empty block can be filled, with a progress bar, if they are not there yet."""
    from service.simulate.passes import Tiling
    from service.simulate.scenes import publish as publish_  # brings pystac, which only this needs

    scene = Scene.make()
    source = scene.source(YEARS[-1])
    with bar(f"Making scenes of {YEARS[-1]}") as tick:
        publish_(
            source.landscape, source.placement, scenes_of(state), MODE, source.window, ground=scene.ground,
            tiling=Tiling(BLOCK, overlap=0, split=0), on_progress=tick,
        )  # fmt: skip


@contextmanager
def looking_at(state: State, address: str) -> Iterator[None]:
    """Have the empty block filled from the scenes that are served at an address, for as long as the block runs.

    Before and after that, by `smalti serve`, it is filled from the landscape itself.
    """
    bounds = _inner(Scene.make().ground)
    state.sources.put({"type": "scenes", "mode": MODE, "s2": address, "s1": address, "bounds": bounds}, ID)
    try:
        yield
    finally:
        state.sources.put(Scene.make().source(YEARS[-1]).to_document(), ID)


def _inner(place: Placement) -> list[float]:
    """[west, south, east, north] well within a rectangle of pixels: a box of degrees is turned against the grid."""
    west, south, east, north = bounds_of(place)
    inward, down = 0.1 * (east - west), 0.1 * (north - south)
    return [round(v, 6) for v in (west + inward, south + down, east - inward, north - down)]


def _embed(state: State, source: Simulated, encoder: Encoder, store: WritableStore, empty: Block) -> None:
    """Embed one year, once: what people store in the landscape afterwards is not written over by the next start."""
    window = source.window
    made = {"type": "demo", "source": source.to_document(), "model": encoder.digest, "location": store.location}
    shelf = state.shelf("demo year", "demo")
    if shelf.names().get(str(window)) == content_id(made):
        return
    with bar(f"Embedding {window}, pixels") as tick:
        embed_source(
            source, encoder, store, min_s2=MIN_S2, leave_out=(empty,), on_progress=tick, reports=state.reports(ID)
        )
    shelf.put(made, str(window))


def _basis(state: State, dataset: Dataset) -> None:
    shelf = state.bases(dataset.id)
    try:
        shelf.get("default")
    except NotFound:
        console.print("Fitting the colours (PCA of 128 numbers to red, green, blue)")
        shelf.put(fit_basis(dataset.store, dataset.store.windows()).to_document(), "default")


def _index(state: State, dataset: Dataset, window: Window) -> None:
    state.fetch_index(dataset.id, window)
    if state.searcher(dataset).is_current(window):
        return
    with bar(f"Indexing {window}, blocks") as tick:
        try:
            state.build_index(dataset, window, on_progress=tick)
        except NotFound:  # people may have asked for a window of which every pixel was rejected
            return


def _example(path: Path, scene: Scene) -> None:
    """Write the time series of a corner of the empty quarter, as anyone could upload theirs."""
    if path.exists():
        return
    rows, cols = scene.example()
    path.parent.mkdir(parents=True, exist_ok=True)
    body = io.BytesIO()
    np.savez_compressed(body, allow_pickle=False, **scene.source(YEARS[-1]).landscape.dpixels(YEARS[-1], rows, cols))
    path.write_bytes(body.getvalue())


def greeting(state: State, dataset: Dataset, base: str) -> Iterator[str]:
    """What to try first: the page, and a curl line for each journey."""
    scene = Scene.make()
    left, top = scene.example_corner()
    extent = state.extent(dataset)
    lon, lat = extent.center if extent else CORNER
    x, y = _tile_of(lon, lat, 14)
    year = YEARS[-1]
    yield f"smalti serves the demo at {base}/   (Ctrl-C ends it)"
    yield ""
    yield "A tile:            " + f"curl -o tile.png '{base}/datasets/{ID}/{year}/tiles/WebMercatorQuad/14/{x}/{y}.png'"
    yield "Places like one:   " + f"curl '{base}/datasets/{ID}/{year}/search?lon={lon:.6f}&lat={lat:.6f}&k=5'"
    yield (
        "Embed and store:   "
        + f"curl -H 'Content-Type: application/x-npz' --data-binary @{state.settings.home}/examples/quarter.npz "
        + f"'{base}/embed?dataset={ID}&window={year}&epsg={scene.placement.zone.epsg}"
        + f"&left={left:.0f}&top={top:.0f}&answer=json'"
        + " -o embedded.json"
    )
    yield (
        "Embed an area:     "
        + f"curl -H 'Content-Type: application/json' '{base}/areas' "
        + f"""-d '{{"dataset": "{ID}", "window": "{year}", "bbox": {scene.quarter()}}}'"""
    )


def _tile_of(lon: float, lat: float, zoom: int) -> tuple[int, int]:
    """XYZ tile of a place, Web Mercator."""
    n = 2**zoom
    x = (lon + 180) / 360 * n
    y = (1 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2 * n
    return int(x), int(y)
