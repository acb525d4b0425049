"""What the commands share: arguments, and how a list is printed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from api.catalogue import Dataset
from api.terminal import console
from service.errors import NotFound
from service.values import Window

DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="Id of a dataset; see `smalti datasets list`.")]
WindowText = Annotated[str | None, typer.Option("--window", help="2024 or 2024-05-01..2024-09-30; all where absent.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def windows_of(dataset: Dataset, text: str | None) -> tuple[Window, ...]:
    """The windows a command means: the one named, or all that hold data.

    Raises:
        NotFound: The dataset is empty.
    """
    windows = (Window.parse(text),) if text else dataset.windows()
    if not windows:
        raise NotFound(f"dataset {dataset.id!r} is empty.", remedy="Ingest or embed something first.")
    return windows


def show(rows: list[dict[str, Any]], as_json: bool, empty: str) -> None:
    """Print a list of like objects as JSON on stdout, or as a table for people."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif not rows:
        console.print(empty)
    else:
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*(", ".join(v) if isinstance(v, list) else str(v) for v in row.values()))
        console.print(table)
