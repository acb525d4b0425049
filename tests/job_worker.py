"""A worker as `smalti worker` is one, whose blocks can be slow or broken, and which notes what it embeds.

usage: job_worker.py NAME NOTES SLOW BROKEN
"""

from __future__ import annotations

import os
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


def main(name: str, notes: str, slow: str, broken: str) -> None:
    def note(word: str, block: Block) -> None:
        with Path(notes).open("a") as file:  # one write, so that two workers do not mix
            file.write(f"{word} {name} {block.name} {os.getpid()}\n")

    def noted(source: Any, encoder: Any, store: Any, block: Block, **how: Any) -> None:
        note("begin", block)
        if block.name == broken:
            raise InvalidInput("the scenes of this block contradict themselves.")
        time.sleep(float(slow))
        embed_block(source, encoder, store, block, **how)
        note("end", block)

    worker.embed_block = noted  # type: ignore[attr-defined]
    worker.work(State(Settings()), name)


if __name__ == "__main__":
    main(*sys.argv[1:])
