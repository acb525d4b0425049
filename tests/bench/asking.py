"""What the cases of the tile benchmark share: both servers, which tiles, their paths, rows of the table."""

from __future__ import annotations

import io
import json
import random
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import morecantile
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from tests.bench import published, world
from tests.bench.serving import Answer, Client, server

TMS: Final = morecantile.tms.get("WebMercatorQuad")
ZOOM: Final = 13
OURS: Final = ("--factory", "api.app:create_app")
PEER: Final = ("tests.bench.peer:app",)
ADVISED: Final = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_CACHEMAX": "200", "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "VSI_CACHE": "TRUE", "VSI_CACHE_SIZE": "5000000",
}  # fmt: skip
"""Of TiTiler's documentation on tuning, what concerns files on a disk."""
XARRAY: Final = world.ROOT / ".bench" / "xarray"
"""Where `make bench-tiles` puts what XarrayReader needs."""
Tile = tuple[int, int, int]
"""z, x, y."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """How much is asked for."""

    tiles: int
    """At most so many a round."""
    rounds: int


@dataclass(frozen=True)
class Sides:
    """Both servers."""

    ours: Client
    peer: Client


@contextmanager
def sides(
    *, workers: int = 1, chunk_bytes: int | None = None, tile_bytes: int | None = None, xarray: bool = False
) -> Iterator[Sides]:
    """Fresh servers, both with their code loaded and their data opened; caches as shipped where nothing is said."""
    told = {"SMALTI_HOME": str(world.home()), "SMALTI_CATALOGUE": str(world.catalogue())}
    for name, size in (("CHUNK", chunk_bytes), ("TILE", tile_bytes)):
        if size is not None:
            told[f"SMALTI_CACHES__{name}_BYTES"] = str(size)
    with (
        server(OURS, told, workers=workers) as (mine, _),
        server(PEER, _peer_environment(xarray=xarray), workers=workers) as (
            theirs,
            _,
        ),
    ):
        for tile in tiles_at(ZOOM + 1)[:8]:
            for _ in range(workers):  # a connection stays with one worker
                one, other = Client(mine), Client(theirs)
                one.tile(ours(tile))
                other.tile(cog(tile))
                other.tile(cog(tile, "web"))
        yield Sides(Client(mine), Client(theirs))


def _peer_environment(*, xarray: bool) -> dict[str, str]:
    document = world.basis().to_document()
    basis = {name: document[name] for name in ("mean", "components", "low", "high")}
    return {
        "BENCH_UTM": str(world.utm_cog()),
        "BENCH_WEB": str(world.web_cog()),
        "BENCH_ZARR": str(published.chunk4() / f"{world.YEAR}.zarr"),
        "BENCH_ZONE": published.GROUP,
        "BENCH_CRS": world.SQUARE.grid.crs,
        "BENCH_BASIS": json.dumps(basis),
        **ADVISED,
        **({"PYTHONPATH": str(XARRAY)} if xarray else {}),
    }


def tiles_at(zoom: int, place: world.Place = world.SQUARE, seed: int = 0) -> list[Tile]:
    """Tiles that lie wholly in a square, or that touch it where none lies in it, shuffled."""
    west, south, east, north = place.bounds
    inside, touching = [], []
    for tile in TMS.tiles(west, south, east, north, zoom):
        box = TMS.bounds(tile)
        touching.append((tile.z, tile.x, tile.y))
        if west <= box.left and box.right <= east and south <= box.bottom and box.top <= north:
            inside.append((tile.z, tile.x, tile.y))
    found = inside or touching
    random.Random(seed).shuffle(found)
    return found


def rounds(look: Look, place: world.Place = world.SQUARE) -> Iterator[tuple[int, list[Tile]]]:
    """(number of a basis, tiles) of each round, which has an order of its own."""
    for number in range(look.rounds):
        yield number + 1, tiles_at(ZOOM, place, seed=number)[: look.tiles]


def ours(tile: Tile, look: int = 0, dataset: str = "own", form: str = "png", view: str = "") -> str:
    """Path of our tile; `look` 0 is the view that the COGs were made from."""
    view = view or ("pca" if look == 0 else f"pca:{world.look(look)}")
    name = "/".join(map(str, tile))
    return f"/datasets/{dataset}/{world.YEAR}/tiles/WebMercatorQuad/{name}.{form}?tilesize=256&view={view}"


def cog(tile: Tile, name: str = "utm", more: str = "") -> str:
    """Path of the peer's tile."""
    return f"/{name}/tiles/WebMercatorQuad/{'/'.join(map(str, tile))}.png?tilesize=256{more}"


def agreement(one: Answer, other: Answer) -> float:
    """Share of pixels whose colours two PNGs agree on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(io.BytesIO(one.body)) as a, rasterio.open(io.BytesIO(other.body)) as b:
            return float((a.read([1, 2, 3]) == b.read([1, 2, 3])).all(axis=0).mean())


def gathered(found: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """The times of all rounds together."""
    return {name: [ms for times in found for ms in times[name]] for name in found[0]}


def row(case: str, ours: Sequence[float], other: Sequence[float], other_name: str, target: float | None = None) -> Row:
    """Medians, and how many times as fast ours is."""
    mine, theirs = statistics.median(ours), statistics.median(other)
    return {
        "case": case, "metric": "median time", "unit": "ms", "ours": round(mine, 3), "other": round(theirs, 3),
        "other_name": other_name, "ratio": round(theirs / mine, 3), "target": target, "count": len(ours),
    }  # fmt: skip
