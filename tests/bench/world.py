"""The data of the tile benchmark, made once and kept under `.bench/`: stores of 4096 x 4096 pixels, and pictures.

Everything follows from SEED and VERSION, which the folder's name tells. Each part is made under another name and
renamed when it is whole, one block or one strip in memory at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from affine import Affine
from filelock import FileLock
from rasterio.shutil import copy as rasterio_copy
from rasterio.transform import from_origin
from rasterio.windows import Window as Strip
from rich.progress import track

from api.settings import Settings
from api.state import State
from service.colour import Basis, PcaView, fit_basis
from service.grid import Block, Zone, ZoneGrid, archive_grid, blocks_of
from service.queries import Query
from service.store import BlockData, Store, WritableStore, create_store, open_store
from service.values import BLOCK, Counts, ModelIdentity, UInt8Array, Window
from tests.bench.landscape import FIRST_YEAR, Landscape

SEED, VERSION = 0, 1
SIDE: Final = 4096
SMALL: Final = 1024
"""Side of what the five other zones hold."""
CHANGED_SIDE: Final = 2048
"""Side of what the year before holds."""
LAT: Final = 52.0
MAIN: Final = Zone(31)
OTHERS: Final = (Zone(28), Zone(29), Zone(30), Zone(32), Zone(33))
YEAR, BEFORE = Window.year(FIRST_YEAR + 1), Window.year(FIRST_YEAR)
MODEL: Final = ModelIdentity("bench", "1")
ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / ".bench" / f"tiles-{SIDE}-seed{SEED}-v{VERSION}"
LOOKS: Final = 48
"""Bases beside the default one, each a little different: a tile in a look of its own has not been asked for before."""
_BATCH: Final = 8


@dataclass(frozen=True)
class Place:
    """A square of whole blocks in the middle of a zone."""

    zone: Zone
    side: int

    @property
    def grid(self) -> ZoneGrid:
        return archive_grid(self.zone)

    @property
    def corner(self) -> tuple[int, int]:
        """(row, col) of the first pixel."""
        west, _, east, _ = self.zone.bounds
        row, col = self.grid.cell((west + east) / 2, LAT)
        return (row - self.side // 2) // BLOCK * BLOCK, (col - self.side // 2) // BLOCK * BLOCK

    @property
    def rows(self) -> slice:
        return slice(self.corner[0], self.corner[0] + self.side)

    @property
    def cols(self) -> slice:
        return slice(self.corner[1], self.corner[1] + self.side)

    @property
    def blocks(self) -> list[Block]:
        return list(blocks_of(self.zone.name, self.rows, self.cols))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north), degrees, of a box that lies wholly inside."""
        rows, cols = (np.array([s.start, s.start, s.stop, s.stop]) for s in (self.rows, self.cols))
        lon, lat = self.grid.to_lonlat(rows, cols[[0, 3, 0, 3]])
        return max(lon[0], lon[2]), max(lat[2:]), min(lon[1], lon[3]), min(lat[:2])


SQUARE: Final = Place(MAIN, SIDE)
CHANGED: Final = Place(MAIN, CHANGED_SIDE)


def whole(path: Path, make: Callable[[Path], Any]) -> Path:
    """What is at `path`, made if it is not there; two runs do not make it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / "lock", is_singleton=True):
        if path.exists():
            return path
        unfinished = FOLDER / "unfinished" / path.name
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(exist_ok=True)
        make(unfinished)
        unfinished.rename(path)
    return path


def warm() -> None:
    """Read every file once: what was not looked at for some minutes need not be in the page cache any more."""
    buffer = memoryview(bytearray(1 << 24))
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def home() -> Path:
    """SMALTI_HOME of the benchmark."""
    return FOLDER / "home"


def catalogue() -> Path:
    """The datasets that are not ours, as an operator would write them down."""
    return FOLDER / "smalti.toml"


def settings() -> Settings:
    """Of a server of the benchmark's stores."""
    return Settings(home=home(), catalogue=catalogue())


def own() -> Store:
    """The store in our own layout: `YEAR` in six zones, `BEFORE` in a part of one."""
    return open_store(whole(home() / "datasets" / "own.icechunk", _make_own))


def _make_own(path: Path) -> None:
    store = create_store(path, MODEL)
    landscape = Landscape(SEED)
    wanted = [(block, YEAR) for place in (SQUARE, *(Place(z, SMALL) for z in OTHERS)) for block in place.blocks]
    wanted += [(block, BEFORE) for block in CHANGED.blocks]
    counts = Counts(*(np.full((BLOCK, BLOCK), n, np.uint16) for n in (40, 30, 20)))
    for start in track(range(0, len(wanted), _BATCH), "Making the landscape"):
        batch = [
            BlockData(block, window, landscape.block(block, window.start.year), counts, "ab" * 32)
            for block, window in wanted[start : start + _BATCH]
        ]
        store.write(batch, "bench")


def basis() -> Basis:
    """The colours of the pictures; saved as `default` of every dataset, the other looks beside it."""
    datasets = ("own", "chunk32", "chunk4")
    shelves = [State(settings()).bases(name) for name in datasets]
    if not all({"default", look(LOOKS)} <= shelf.names().keys() for shelf in shelves):
        fitted = fit_basis(own(), [YEAR])
        for shelf in shelves:
            for number in range(LOOKS + 1):
                wider = fitted.low - 0.002 * number * (fitted.high - fitted.low)
                shelf.put(replace(fitted, low=wider).to_document(), look(number) if number else "default")
    return Basis.from_document(shelves[0].get("default")[1])


def overviews() -> None:
    """Whatever overviews the dataset has not got yet."""
    store = own()
    assert isinstance(store, WritableStore)
    for window in (YEAR, BEFORE):
        store.write_overviews(window)


def likeness() -> str:
    """Id of a query for pixels like one in the middle."""
    rows, cols = (slice(s.start + SIDE // 2, s.start + SIDE // 2 + 1) for s in (SQUARE.rows, SQUARE.cols))
    vector = own().read(MAIN, YEAR, rows, cols).dequantised()[0, 0]
    return State(settings()).queries.put(Query.of(MODEL, vector).to_document())


def look(number: int) -> str:
    """Name of a basis."""
    return f"look-{number}"


def utm_cog() -> Path:
    """The whole square through our view, as a cloud-optimised GeoTIFF in its own zone."""
    return whole(FOLDER / "utm.tif", _cog)


def web_cog() -> Path:
    """The same in Web Mercator, its blocks those of the web map's tiles."""
    return whole(
        FOLDER / "web.tif", lambda path: _cog(path, tiling_scheme="GoogleMapsCompatible", warp_resampling="nearest")
    )


def _cog(path: Path, **options: str) -> None:
    drawn = path.with_name(f"drawn-{path.name}")
    transform = from_origin(*(SQUARE.grid.bounds[i] for i in (0, 3)), 10, 10)
    transform *= Affine.translation(SQUARE.cols.start, SQUARE.rows.start)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "width": SIDE, "height": SIDE, "tiled": True,
               "crs": SQUARE.grid.crs, "transform": transform, "photometric": "RGB"}  # fmt: skip
    with rasterio.open(drawn, "w", **profile) as file:
        for top, picture in _strips():
            file.write(picture.transpose(2, 0, 1), window=Strip(0, top, SIDE, BLOCK))
    rasterio_copy(drawn, path, driver="COG", compress="deflate", blocksize=256, **options)
    drawn.unlink()


def _strips() -> Iterator[tuple[int, UInt8Array]]:
    """(first row, (256, 4096, 3) colours) of each strip."""
    store, view = own(), PcaView(basis())
    for top in track(range(0, SIDE, BLOCK), "Drawing the picture"):
        rows = slice(SQUARE.rows.start + top, SQUARE.rows.start + top + BLOCK)
        yield top, view.picture(store.read(MAIN, YEAR, rows, SQUARE.cols))
