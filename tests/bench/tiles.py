"""Tiles from embeddings beside tiles from a picture that was rendered beforehand: one run, over HTTP.

    python -m tests.bench.tiles                              prints a table and writes .bench/tiles.json
    python -m tests.bench.tiles --only z13-own --tiles 40    a quick look at some cases; writes nothing
    python -m tests.bench.tiles --profile                    where the time of our tiles goes

How it is kept fair. Both sides are started by the same uvicorn command as processes of their own, one worker each (two
where throughput is measured), and asked over loopback by clients that keep their connection. The peer is TiTiler's
TilerFactory as it comes, with the settings for GDAL that its documentation advises, on COGs (deflate, blocks of 256,
overviews) that hold the very pixels our view gives; what share of pixels two tiles agree on is printed. PNG, 256
pixels, z13 at 52 N, from stores of 4096 x 4096 pixels: four times what our cache of decoded chunks may hold. The files
lie in the page cache. Servers are started anew for every case. Tiles come in shuffled order and are asked for once each
in one look (later rounds ask for them in another basis, so that no finished tile is kept from before); all sides make
the same tile in turn, each is first equally often, and medians over all tiles are compared.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import random
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import morecantile
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from api.state import State
from service.colour import PcaView
from service.picture import encode
from service.plan import Source
from service.tiles import TileReader
from tests.bench import world
from tests.bench.landscape import DIMS
from tests.bench.serving import Answer, Client, server, taking_turns

OUT: Final = world.ROOT / ".bench" / "tiles.json"
TMS: Final = morecantile.tms.get("WebMercatorQuad")
UTM, WEB = "TiTiler, UTM COG", "TiTiler, web-optimised COG"
OURS: Final = ("--factory", "api.app:create_app")
PEER: Final = ("tests.bench.peer:app",)
ADVISED: Final = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_CACHEMAX": "200", "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "VSI_CACHE": "TRUE", "VSI_CACHE_SIZE": "5000000",
}  # fmt: skip
ALL: Final = 1000
Tile = tuple[int, int, int]
Row = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """How much is asked for."""

    tiles: int
    rounds: int


@dataclass(frozen=True)
class Sides:
    """Both servers."""

    ours: Client
    peer: Client


@contextmanager
def sides(*, workers: int = 1, **environment: str) -> Iterator[Sides]:
    """Fresh servers, both with their code loaded and their data opened."""
    told = {"SMALTI_HOME": str(world.home()), "SMALTI_CATALOGUE": str(world.catalogue())}
    cogs = {"BENCH_UTM": str(world.utm_cog()), "BENCH_WEB": str(world.web_cog())}
    with (
        server(OURS, told | environment, workers=workers) as (mine, _),
        server(PEER, cogs | ADVISED, workers=workers) as (theirs, _),
    ):
        both = Sides(Client(mine), Client(theirs))
        for tile in tiles_at(14)[: 4 * workers]:
            both.ours.tile(ours(tile))
            both.peer.tile(cog(tile))
            both.peer.tile(cog(tile, "web"))
        yield both


def tiles_at(zoom: int, place: world.Place = world.SQUARE, seed: int = 0) -> list[Tile]:
    """Tiles that lie wholly in a square, shuffled."""
    west, south, east, north = place.bounds
    found = []
    for tile in TMS.tiles(west, south, east, north, zoom):
        box = TMS.bounds(tile)
        if west <= box.left and box.right <= east and south <= box.bottom and box.top <= north:
            found.append((tile.z, tile.x, tile.y))
    random.Random(seed).shuffle(found)
    return found


def ours(tile: Tile, look: int = 0, dataset: str = "own", suffix: str = "png", view: str = "") -> str:
    """Path of our tile; `look` 0 is the view that the COGs were made from."""
    view = view or ("pca" if look == 0 else f"pca:{world.look(look)}")
    name = "/".join(map(str, tile))
    return f"/datasets/{dataset}/{world.YEAR}/tiles/WebMercatorQuad/{name}.{suffix}?tilesize=256&view={view}"


def cog(tile: Tile, name: str = "utm") -> str:
    """Path of the peer's tile."""
    return f"/{name}/tiles/WebMercatorQuad/{'/'.join(map(str, tile))}.png?tilesize=256"


def agreement(one: Answer, other: Answer) -> float:
    """Share of pixels whose colours two PNGs agree on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(io.BytesIO(one.body)) as a, rasterio.open(io.BytesIO(other.body)) as b:
            return float((a.read([1, 2, 3]) == b.read([1, 2, 3])).all(axis=0).mean())


def rounds(look: Look) -> Iterator[tuple[int, list[Tile]]]:
    """(number, tiles) of each round; every round has a look and an order of its own."""
    for number in range(look.rounds):
        yield number, tiles_at(13, seed=number)[: look.tiles]


def gathered(found: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """The times of all rounds together."""
    return {name: [ms for times in found for ms in times[name]] for name in found[0]}


def row(case: str, ours: Sequence[float], other: Sequence[float], other_name: str, target: float | None) -> Row:
    """Medians, and how many times as fast ours is."""
    mine, theirs = statistics.median(ours), statistics.median(other)
    return {
        "case": case, "metric": "median time", "unit": "ms", "ours": round(mine, 3), "other": round(theirs, 3),
        "other_name": other_name, "ratio": round(theirs / mine, 3), "target": target, "count": len(ours),
    }  # fmt: skip


def z13(look: Look) -> list[Row]:
    """Our own layout, each tile for the first time, against both COGs."""
    with sides() as at:
        found = []
        for number, tiles in rounds(look):
            if number == 0:
                share = statistics.median(agreement(at.ours.tile(ours(t)), at.peer.tile(cog(t))) for t in tiles[:8])
                print(f"{share:.2%} of a tile's pixels are those of the COG's tile")
            found.append(taking_turns({
                "ours": [(at.ours, ours(t, number + 1)) for t in tiles],
                "utm": [(at.peer, cog(t)) for t in tiles],
                "web": [(at.peer, cog(t, "web")) for t in tiles],
            }))  # fmt: skip
    times = gathered(found)
    return [
        row("z13-own", times["ours"], times["utm"], UTM, 1.25),
        row("z13-own-vs-weboptimised", times["ours"], times["web"], WEB, 1.0),
    ]


CASES: Final[dict[str, Callable[[Look], list[Row]]]] = {"z13-own": z13}
"""What is measured, by the name of the first row each gives."""


def drawn(source: Source, tile: Tile) -> bytes:
    """Our tile by function calls, without HTTP."""
    z, x, y = tile
    with TileReader(source) as reader:
        return encode(reader.tile(x, y, z, tilesize=256), "PNG")


def source() -> Source:
    """What the server shows, opened as the server opens it."""
    state = State(world.settings())
    return Source(state.datasets["own"].at(world.YEAR).store, world.YEAR, PcaView(world.basis()), DIMS)


def profile(look: Look) -> None:
    """Make tiles for the first time in this thread, and print where the time goes."""
    shown, spent = source(), cProfile.Profile()
    drawn(shown, tiles_at(14)[0])
    for tile in tiles_at(13)[: look.tiles]:
        spent.runcall(drawn, shown, tile)
    pstats.Stats(spent).sort_stats("tottime").print_stats(32)


def asked() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tiles", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, help="these cases; nothing is written")
    parser.add_argument("--tiles", type=int, default=ALL, help="at most so many tiles a round")
    parser.add_argument("--rounds", type=int, default=2, help="how often all tiles are asked for")
    parser.add_argument("--profile", action="store_true", help="one process, one thread: where our time goes")
    return parser.parse_args()


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    print(f"{'case':<30}{'ours':>9}{'other':>9}{'ratio':>8}{'target':>8}{'count':>7}  other")
    for r in rows:
        target = "-" if r["target"] is None else f"{r['target']:.2f}"
        print(f"{r['case']:<30}{r['ours']:>9.2f}{r['other']:>9.2f}{r['ratio']:>8.2f}{target:>8}{r['count']:>7}"
              f"  {r['other_name']}")  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    wanted = asked()
    world.basis()
    look = Look(wanted.tiles, wanted.rounds)
    if wanted.profile:
        profile(look)
        return
    rows = [line for name in wanted.only or CASES for line in CASES[name](look)]
    show(rows)
    if not wanted.only and look.tiles >= ALL:
        OUT.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
