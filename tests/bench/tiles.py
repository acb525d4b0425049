"""Tiles from embeddings beside tiles from a picture that was rendered beforehand: one run, over HTTP.

    python -m tests.bench.tiles                              prints a table and writes .bench/tiles.json
    python -m tests.bench.tiles --only z13-own --tiles 40    a quick look at some cases; writes nothing
    python -m tests.bench.tiles --profile                    where the time of our tiles goes

How it is kept fair. Both sides are started by the same uvicorn command as processes of their own, one worker each (two
where throughput is measured), and asked over loopback by clients that keep their connection. The peer is TiTiler's
TilerFactory as it comes, with the settings for GDAL that its documentation advises, on COGs (deflate, blocks of 256,
overviews) that hold the very pixels our view gives; what share of pixels two tiles agree on is printed. PNG, 256
pixels, z13 at 52 N, from stores of 4096 x 4096 pixels: four times what our cache of decoded chunks may hold. The files
lie in the page cache. Servers are started anew for every case, and where the disk is read both make every tile once
before it counts, for the system gives a server that grows its memory page by page. Tiles come in shuffled order and
are asked for once each in one look (later rounds ask for them in another basis, so that no finished tile is kept from
before); all sides make the same tile in turn, each is first equally often, and medians over all tiles are compared;
`count` says how many. Zooms are compared without our caches, since a low zoom has few tiles; views with the blocks
decoded, and without.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
from collections.abc import Sequence
from typing import Final

from tests.bench import published, world
from tests.bench.asking import ZOOM, Look, Row, tiles_at
from tests.bench.serving import end_cleanly
from tests.bench.tile_cases import CASES, drawn, shown

OUT: Final = world.ROOT / ".bench" / "tiles.json"
ALL: Final = 1000


def profile(look: Look) -> None:
    """Make tiles for the first time in this thread, and print where the time goes."""
    source, spent = shown(), cProfile.Profile()
    drawn(source, tiles_at(ZOOM + 1)[0])
    for tile in tiles_at(ZOOM)[: look.tiles]:
        spent.runcall(drawn, source, tile)
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
    print(f"{'case':<34}{'ours':>9}{'other':>9}{'ratio':>8}{'target':>8}{'count':>7}  other")
    for r in rows:
        target = "-" if r["target"] is None else f"{r['target']:.2f}"
        numbers = f"{r['ours']:>9.2f}{r['other']:>9.2f}{r['ratio']:>8.2f}{target:>8}{r['count']:>7}"
        print(f"{r['case']:<34}{numbers}  {r['other_name']}")


def main() -> None:
    """Measure, print, write."""
    end_cleanly()
    wanted = asked()
    look = Look(wanted.tiles, wanted.rounds)
    published.prepare()
    if wanted.profile:
        world.warm()
        profile(look)
        return
    rows: list[Row] = []
    for name in wanted.only or CASES:
        world.warm()
        found = CASES[name](look)
        show(found)
        rows += found
    if not wanted.only and look.tiles >= ALL:
        OUT.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
