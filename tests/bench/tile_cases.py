"""The cases of the tile benchmark: each makes its own servers and gives rows of the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

from rio_tiler.io import Reader

from api.state import State
from service.colour import PcaView
from service.picture import encode
from service.plan import Source
from service.tiles import TileReader
from tests.bench import world
from tests.bench.asking import (
    ZOOM,
    Look,
    Row,
    Sides,
    Tile,
    agreement,
    cog,
    gathered,
    ours,
    rounds,
    row,
    sides,
    tiles_at,
)  # fmt: skip
from tests.bench.landscape import DIMS
from tests.bench.serving import crowd, taking_turns

UTM, WEB = "TiTiler, UTM COG", "TiTiler, web-optimised COG"
CONNECTIONS: Final = 32
SLOW_TILES: Final = 5
"""Of what takes seconds each."""
ZOOMS: Final = tuple(range(ZOOM))
TURNS: Final = 10


def first_visits(look: Look) -> list[Row]:
    """Our own layout, each tile for the first time, against both COGs."""
    with sides() as at:
        tiles = tiles_at(ZOOM)[:8]
        share = statistics.median(agreement(at.ours.tile(ours(t)), at.peer.tile(cog(t))) for t in tiles)
        print(f"{share:.2%} of a tile's pixels are those of the COG's tile")
        _grow(at, look, names=("utm", "web"))
        times = gathered([
            taking_turns({
                "ours": [(at.ours, ours(t, basis)) for t in tiles],
                "utm": [(at.peer, cog(t)) for t in tiles],
                "web": [(at.peer, cog(t, "web")) for t in tiles],
            })
            for basis, tiles in rounds(look)
        ])  # fmt: skip
    return [
        row("z13-own", times["ours"], times["utm"], UTM, 1.25),
        row("z13-own-vs-weboptimised", times["ours"], times["web"], WEB, 1.0),
    ]


def _grow(at: Sides, look: Look, dataset: str = "own", names: Sequence[str] = ("utm",)) -> None:
    """Make every tile once: servers are measured when they have grown, for each new page of memory has a price."""
    for tile in tiles_at(ZOOM)[: look.tiles]:
        at.ours.tile(ours(tile, dataset=dataset))
        for name in names:
            at.peer.tile(cog(tile, name))


def _against_utm(at: Sides, look: Look, path: Callable[[Tile, int], str], before: Callable[[Tile, int], str]) -> Row:
    """Tiles that were prepared by another request just before."""
    found = []
    for basis, tiles in rounds(look):
        ways = {"ours": [(at.ours, path(t, basis)) for t in tiles], "utm": [(at.peer, cog(t)) for t in tiles]}
        found.append(taking_turns(ways, [(at.ours, before(t, basis)) for t in tiles]))
    times = gathered(found)
    return row("", times["ours"], times["utm"], UTM)


def repeat(look: Look) -> list[Row]:
    """The same URL again."""
    with sides() as at:
        return [_against_utm(at, look, ours, ours) | {"case": "z13-repeat", "target": 4.0}]


def other_view(look: Look) -> list[Row]:
    """Another view of blocks that are decoded already."""
    with sides() as at:
        found = _against_utm(at, look, ours, lambda tile, basis: ours(tile, world.LOOKS - basis))
    return [found | {"case": "z13-other-view-cached", "target": 1.67}]


def _published(dataset: str, look: Look) -> Row:
    with sides() as at:
        at.ours.tile(ours(tiles_at(ZOOM + 1)[0], dataset=dataset))
        share = statistics.median(
            agreement(at.ours.tile(ours(t, dataset=dataset)), at.peer.tile(cog(t))) for t in tiles_at(ZOOM)[:4]
        )
        print(f"{dataset}: {share:.2%} of a tile's pixels are those of the COG's tile")
        _grow(at, look, dataset)
        found = [
            taking_turns({
                "ours": [(at.ours, ours(t, basis, dataset)) for t in tiles], "utm": [(at.peer, cog(t)) for t in tiles],
            })
            for basis, tiles in rounds(look)
        ]  # fmt: skip
    times = gathered(found)
    return row("", times["ours"], times["utm"], UTM)


def chunk4(look: Look) -> list[Row]:
    """The older published layout, of 4-pixel chunks."""
    return [_published("chunk4", look) | {"case": "z13-chunk4-vs-cog", "target": 0.67}]


def chunk32(look: Look) -> list[Row]:
    """The published layout of today, of 32-pixel chunks."""
    return [_published("chunk32", look) | {"case": "z13-chunk32", "target": 1.0}]


def xarray_reader(look: Look) -> list[Row]:
    """The same store of 4-pixel chunks through rio-tiler's XarrayReader."""
    tiles = tiles_at(ZOOM)[: min(SLOW_TILES, look.tiles)]
    with sides(xarray=True) as at:
        first = at.ours.tile(ours(tiles[0], dataset="chunk4"))
        for name in ("xarray", "zarrs"):
            share = agreement(first, at.peer.tile(cog(tiles[0], name)))
            print(f"{share:.2%} of a tile's pixels are those of XarrayReader, {name}")
        times = taking_turns({
            "ours": [(at.ours, ours(t, 1, "chunk4")) for t in tiles[1:]],
            "xarray": [(at.peer, cog(t, "xarray")) for t in tiles[1:]],
            "zarrs": [(at.peer, cog(t, "zarrs")) for t in tiles[1:]],
        })  # fmt: skip
    name = "rio-tiler XarrayReader, windowed"
    return [
        row("z13-chunk4-vs-xarrayreader", times["ours"], times["xarray"], name, 40.0),
        row("z13-chunk4, peer decodes by zarrs", times["ours"], times["zarrs"], f"{name}, zarrs pipeline"),
    ]


def low_zooms(look: Look) -> list[Row]:
    """Every lower zoom of a store with six zones; no caches, for there are few tiles and each is asked for often."""
    world.overviews()
    turns = min(TURNS, look.tiles) * look.rounds
    with sides(chunk_bytes=0, tile_bytes=0) as at:
        found = {z: tiles_at(z) for z in (*ZOOMS, ZOOM)}
        ways = {
            str(z): [(at.ours, ours(tiles[turn % len(tiles)])) for turn in range(turns + 1)]
            for z, tiles in found.items()
        }
        times = {name: spent[1:] for name, spent in taking_turns(ways).items()}
    native, name = times[str(ZOOM)], "our z13, caches off"
    each = [row(f"lowzoom, z{z}", times[str(z)], native, name) for z in ZOOMS]
    worst = min(each, key=lambda r: float(r["ratio"]))
    return [
        worst | {"case": "lowzoom", "metric": f"median time of the slowest, {worst['case'][9:]}", "target": 0.83},
        *each,
    ]


def views(look: Look) -> list[Row]:
    """Likeness and change beside colours of the same blocks: decoded already, and read from the disk."""
    like = f"similarity:{world.likeness()}"

    def ways(at: Sides, tiles: Sequence[Tile], basis: int) -> dict[str, list[tuple[object, str]]]:
        shown = {"pca": f"pca:{world.look(basis)}", "similarity": like, "change": f"change:{world.BEFORE}"}
        more = {"pca": "", "similarity": f"&threshold=0.{basis:02}", "change": f"&threshold=0.{basis:02}"}
        return {name: [(at.ours, ours(tile, view=view) + more[name]) for tile in tiles] for name, view in shown.items()}

    def measured(at: Sides, *, warm: bool) -> list[dict[str, list[float]]]:
        return [
            taking_turns(
                ways(at, tiles, basis),
                [(at.ours, ours(tile, view=f"change:{world.BEFORE}")) for tile in tiles] if warm else None,
            )
            for basis, tiles in rounds(look, world.CHANGED)
        ]

    with sides(tile_bytes=0) as at:
        warm = gathered(measured(at, warm=True))
    with sides(chunk_bytes=0, tile_bytes=0) as at:
        cold = gathered(measured(at, warm=False))
    return [
        row("similarity-view", warm["similarity"], warm["pca"], "our pca", 0.77),
        row("change-view", warm["change"], warm["pca"], "our pca", 0.77),
        row("similarity-view, nothing cached", cold["similarity"], cold["pca"], "our pca"),
        row("change-view, nothing cached", cold["change"], cold["pca"], "our pca, one window read and not two"),
    ]


def throughput(look: Look) -> list[Row]:
    """32 connections and two workers: every tile once in a look of its own, both sides by turns."""
    rates: dict[str, list[float]] = {"ours": [], "utm": []}
    times: dict[str, list[float]] = {"ours": [], "utm": []}
    with sides(workers=2) as at:
        for basis, tiles in rounds(Look(look.tiles, 2 * look.rounds)):
            asked = {"ours": (at.ours, [ours(t, basis) for t in tiles]), "utm": (at.peer, [cog(t) for t in tiles])}
            for name in sorted(asked, reverse=basis % 2 == 0):
                client, paths = asked[name]
                spent, seconds = crowd(client.port, paths, CONNECTIONS)
                rates[name].append(len(paths) / seconds)
                times[name] += spent
    mine, theirs = statistics.median(rates["ours"]), statistics.median(rates["utm"])
    p50, p99 = (statistics.quantiles(times["ours"], n=100)[n - 1] for n in (50, 99))
    other50, other99 = (statistics.quantiles(times["utm"], n=100)[n - 1] for n in (50, 99))
    shared = {"count": len(times["ours"])}
    return [
        {"case": "throughput-32", "metric": "rate", "unit": "tiles/s", "ours": round(mine, 2),
         "other": round(theirs, 2), "other_name": UTM, "ratio": round(mine / theirs, 3), "target": 1.0, **shared},
        {"case": "throughput-32-p99", "metric": "p99", "unit": "ms", "ours": round(p99, 1), "other": round(5 * p50, 1),
         "other_name": f"5 x p50; TiTiler: p50 {other50:.0f}, p99 {other99:.0f} ms", "ratio": round(5 * p50 / p99, 3),
         "target": 1.0, **shared},
    ]  # fmt: skip


def beside(look: Look) -> list[Row]:
    """Rows that inform: other caches, other formats, other ways to ask."""
    few = Look(min(look.tiles, 60), 1)
    with sides(chunk_bytes=0, tile_bytes=0) as at:
        (_, tiles), *_ = rounds(few)
        bare = taking_turns({"ours": [(at.ours, ours(t)) for t in tiles], "utm": [(at.peer, cog(t)) for t in tiles]})
    with sides() as at:
        tags = {tile: at.ours.tile(ours(tile)).headers["etag"] for tile in tiles}
        unchanged = [at.ours.get(ours(tile), {"If-None-Match": tags[tile]}).ms for tile in tiles]
        forms = taking_turns({
            "webp": [(at.ours, ours(t, 1, form="webp")) for t in tiles],
            "png": [(at.ours, ours(t, 2)) for t in tiles],
            "utm": [(at.peer, cog(t)) for t in tiles],
            "unmasked": [(at.peer, cog(t, more="&return_mask=false")) for t in tiles],
        })  # fmt: skip
    mine, theirs = _calls(tiles)
    return [
        row("z13, no caches", bare["ours"], bare["utm"], UTM),
        row("z13, WebP without loss", forms["webp"], forms["utm"], f"{UTM}, PNG"),
        row("z13, peer without mask", forms["png"], forms["unmasked"], f"{UTM}, return_mask=false"),
        row("z13, unchanged (304)", unchanged, forms["utm"], UTM),
        row("z13, function call", mine, theirs, "rio-tiler, UTM COG"),
    ]


def shown() -> Source:
    """What our server shows, opened as the server opens it."""
    store = State(world.settings()).datasets["own"].at(world.YEAR).store
    return Source(store, world.YEAR, PcaView(world.basis()), DIMS)


def drawn(source: Source, tile: Tile) -> bytes:
    """Our tile without HTTP."""
    z, x, y = tile
    with TileReader(source) as reader:
        return encode(reader.tile(x, y, z, tilesize=256), "PNG")


def _calls(tiles: Sequence[Tile]) -> tuple[list[float], list[float]]:
    """Milliseconds of function calls: ours, rio-tiler's."""
    source, path = shown(), str(world.utm_cog())
    times: tuple[list[float], list[float]] = ([], [])

    def theirs(tile: Tile) -> bytes:
        z, x, y = tile
        with Reader(path) as reader:
            return bytes(reader.tile(x, y, z, tilesize=256).render(img_format="PNG"))

    for tile in (tiles[0], *tiles):
        for make, spent in zip((lambda t: drawn(source, t), theirs), times, strict=True):
            start = time.perf_counter()
            make(tile)
            spent.append((time.perf_counter() - start) * 1000)
    return times[0][1:], times[1][1:]


CASES: Final[dict[str, Callable[[Look], list[Row]]]] = {
    "z13-own": first_visits,
    "z13-repeat": repeat,
    "z13-other-view-cached": other_view,
    "z13-chunk4-vs-cog": chunk4,
    "z13-chunk4-vs-xarrayreader": xarray_reader,
    "z13-chunk32": chunk32,
    "lowzoom": low_zooms,
    "views": views,
    "throughput-32": throughput,
    "beside": beside,
}
"""What is measured, by the name of the first row each gives."""
