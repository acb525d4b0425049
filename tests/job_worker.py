"""A worker as `smalti worker` is one, but its blocks can be slow or broken, and it notes what it embeds.

usage: job_worker.py NAME

In its home it looks for `slow`, seconds to sleep before a block is committed, and `broken`, a block that fails; it
writes `notes`: `begin NAME BLOCK WINDOW` and `end NAME BLOCK WINDOW`, a line each, and `again` before what is begun
although it is stored.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from api import workbench, worker
from api.settings import Settings
from api.state import State
from service import embed
from service.embed import embed_block, missing_blocks, write_piece
from service.errors import InvalidInput
from service.grid import Block
from service.values import Window


def main(name: str) -> None:
    settings = Settings()

    def told(file: str) -> str:
        path = settings.home / file
        return path.read_text() if path.exists() else ""

    def note(word: str, block: Block, window: Window) -> None:
        with Path(settings.home / "notes").open("a") as file:  # one write, so that two workers do not mix
            file.write(f"{word} {name} {block.name} {window}\n")

    def begun(wanted: Callable[[], bool], source: Any, encoder: Any, store: Any, block: Block, min_s2: int) -> bool:
        """Called in a block's turn at the encoder."""
        if not wanted():
            return False
        store.refresh()
        if not missing_blocks(source, encoder, store, [block], min_s2=min_s2):
            note("again", block, source.window)
        note("begin", block, source.window)
        if block.name == told("broken"):
            raise InvalidInput("the scenes of this block contradict themselves.")
        time.sleep(float(told("slow") or 0))
        return True

    def noted(*what: Any, wanted: Callable[[], bool], **how: Any) -> Any:
        return embed_block(*what, wanted=partial(begun, wanted, *what, how["min_s2"]), **how)

    def written(store: Any, window: Any, block: Block, *what: Any, **how: Any) -> None:
        write_piece(store, window, block, *what, **how)
        note("end", block, window)

    workbench.embed_block = noted  # type: ignore[attr-defined]
    embed.write_piece = written
    worker.work(State(settings), name)


if __name__ == "__main__":
    main(*sys.argv[1:])
