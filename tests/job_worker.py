"""A worker as `smalti worker` is one, but its blocks can be slow or broken, and it notes what it embeds.

usage: job_worker.py NAME

In its home it looks for `slow`, seconds to sleep before a block is committed, and `broken`, a block that fails; it
writes `notes`: `begin NAME BLOCK` and `end NAME BLOCK`, a line each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from api import worker
from api.settings import Settings
from api.state import State
from service.embed import embed_block
from service.errors import InvalidInput
from service.grid import Block


def main(name: str) -> None:
    settings = Settings()

    def told(file: str) -> str:
        path = settings.home / file
        return path.read_text() if path.exists() else ""

    def note(word: str, block: Block) -> None:
        with Path(settings.home / "notes").open("a") as file:  # one write, so that two workers do not mix
            file.write(f"{word} {name} {block.name}\n")

    def noted(source: Any, encoder: Any, store: Any, block: Block, **how: Any) -> None:
        note("begin", block)
        if block.name == told("broken"):
            raise InvalidInput("the scenes of this block contradict themselves.")
        time.sleep(float(told("slow") or 0))
        embed_block(source, encoder, store, block, **how)
        note("end", block)

    worker.embed_block = noted  # type: ignore[attr-defined]
    worker.work(State(settings), name)


if __name__ == "__main__":
    main(*sys.argv[1:])
