"""How faithful a model was found to be here: a table of measured differences beside its manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from service.errors import SmaltiError

PARITY: Final = "parity.json"

ENGINES: Final = ("cpu", "openvino", "cuda", "tensorrt")
PRECISIONS: Final = ("fp32", "fp16")


HALF_FILE: Final = "half.onnx on cpu"
"""How rows are named that show what the float16 file loses, where no GPU is: on a processor, with every
result of float16 rounded as a GPU does it."""


@dataclass(frozen=True)
class Plan:
    """What to compare, and on what."""

    engines: Sequence[str] = ENGINES
    precisions: Sequence[str] = PRECISIONS
    pixels: int = 64
    strict: bool = False
    """Whether an engine that is not here is an error; else it is left out. So is a precision, if it is the only one."""
    threads: int | None = None

    def demands(self, error: SmaltiError) -> bool:
        """Whether what could not be opened was asked for by name."""
        return self.strict and (error.field == "engine" or len(self.precisions) == 1)


@dataclass(frozen=True)
class ParityRow:
    """One engine at one precision held against one judge."""

    engine: str
    """cpu, cuda, tensorrt, openvino; `torch` for PyTorch itself."""
    precision: str
    """fp32 or fp16."""
    against: str
    """golden (published numbers), torch (the checkpoint run by the published procedure), or cpu fp32."""
    pixels: int
    """How many were compared."""
    max_abs: float
    """Largest difference of any number of any vector."""
    max_relative: float
    """That, over the largest number of the judge's vectors."""
    step_error_mean: float
    """Mean difference in steps of the int8 that is stored; 0 for golden rows, which are never stored."""
    step_error_max: float
    codes_differ: float
    """Share of int8 codes that differ."""
    ok: bool
    """Whether it holds what is asked of this precision."""
    checked: str
    """Date."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that ran."""


def joined(old: Sequence[ParityRow], new: Sequence[ParityRow]) -> tuple[ParityRow, ...]:
    """What was measured now, and of engines and precisions that were not, what was measured before."""
    measured = {(row.engine, row.precision) for row in new}
    return (*new, *(row for row in old if (row.engine, row.precision) not in measured))


def unfit(rows: Sequence[ParityRow], engine: str, precision: str) -> ParityRow | None:
    """The row that forbids an engine's half precision; None where nothing is known against it.

    What the engine itself was seen to lose decides; where it was never measured, what the float16 file loses.
    """
    if precision != "fp16":
        return None
    rows = [row for row in rows if row.precision == precision]
    own = [row for row in rows if row.engine == engine] or [row for row in rows if row.engine == HALF_FILE]
    return next((row for row in own if not row.ok), None)


def write_parity(folder: Path, rows: Sequence[ParityRow]) -> None:
    """Keep the table beside the manifest; a reader sees the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{PARITY}.part"
    temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    temporary.replace(folder / PARITY)


def read_parity(folder: Path) -> tuple[ParityRow, ...]:
    """The table of a model's folder; empty where it was never verified, or cannot be read: it is soon made anew."""
    try:
        return tuple(ParityRow(**row) for row in json.loads((folder / PARITY).read_bytes()))
    except (OSError, ValueError, TypeError):
        return ()
