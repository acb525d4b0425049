"""How the command line talks: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)
"""Everything for people goes to stderr; stdout is for what a script wants."""


class Tick(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, total: int, word: str = "", /) -> None:
        """So much is done, of so much in all; `word` says how it goes."""


@contextmanager
def bar(title: str) -> Iterator[Tick]:
    """A progress bar for work of unknown size: call the yielded function with (done, in all), or a word as well."""
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(title, total=None)

        def tick(done: int, total: int, word: str = "") -> None:
            described = f"{title}: {word}" if word else title
            progress.update(task, completed=done, total=total, description=described)

        yield tick
