"""A worker of Dask whose blocks take a while and are noted: `begin PID BLOCK` and `end PID BLOCK`, a line each.

usage: python -m tests.region_worker SCHEDULER NOTES
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Worker

from api import region
from service import embed
from service.embed import embed_block, write_piece
from service.grid import Block

SLOW_S = 1.0


async def main(scheduler: str, notes: str) -> None:
    def note(word: str, block: Block) -> None:
        with Path(notes).open("a") as file:  # one write, so that two workers do not mix
            file.write(f"{word} {os.getpid()} {block.name}\n")

    def begun(block: Block) -> bool:
        note("begin", block)
        time.sleep(SLOW_S)
        return True

    def noted(source: Any, encoder: Any, store: Any, block: Block, **how: Any) -> Any:
        return embed_block(source, encoder, store, block, wanted=partial(begun, block), **how)

    def written(store: Any, window: Any, block: Block, *what: Any, **how: Any) -> None:
        write_piece(store, window, block, *what, **how)
        note("end", block)

    region.embed_block = noted  # type: ignore[attr-defined]
    embed.write_piece = written
    async with Worker(scheduler, nthreads=2, host="127.0.0.1", dashboard_address=None) as worker:  # type: ignore[no-untyped-call]
        await worker.finished()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
