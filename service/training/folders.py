"""Training pixels from d-pixel tile folders, as the published pipeline writes them: seven arrays, time first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.dpixels import ARRAYS, from_arrays
from service.errors import InvalidInput, NotFound
from service.training.records import Records, to_records, with_dates

AT_ONCE: Final = 4096
"""Pixels read in one go, and at least one row."""


@dataclass(frozen=True)
class Tile:
    """One folder, as the headers of its files promise it."""

    path: Path
    s2: int
    """Sentinel-2 dates."""
    s1: int
    """Dates of the orbit with more of them."""
    shape: tuple[int, int]

    def pixels(self, spacing: int) -> int:
        """How many are taken if only every so many-th row and column is."""
        return -(-self.shape[0] // spacing) * -(-self.shape[1] // spacing)


def find_tiles(folders: Sequence[Path]) -> tuple[Tile, ...]:
    """Every tile folder among and below some folders, by path, each once.

    Raises:
        NotFound: A folder is not there, or holds none.
        InvalidInput: A tile folder lacks an array, or one cannot be read; names it.
    """
    found: set[Path] = set()
    for folder in folders:
        below = {path.parent.resolve() for name in ARRAYS for path in folder.rglob(f"{name}.npy")}
        if not below:
            remedy = f"A tile folder holds {', '.join(f'{name}.npy' for name in ARRAYS)}."
            raise NotFound(f"{folder} holds no d-pixel tile folders.", field="data", remedy=remedy)
        found |= below
    return tuple(_tile(path) for path in sorted(found))


def _tile(path: Path) -> Tile:
    arrays = _mapped(path)
    bands = arrays["bands"]
    if bands.ndim != 4:
        raise InvalidInput(f"has shape {bands.shape}, not (T, H, W, 10).", field=str(path / "bands.npy"))
    s1 = max(len(arrays[f"sar_{orbit}"]) if arrays[f"sar_{orbit}"].ndim else 0 for orbit in ("ascending", "descending"))
    return Tile(path, len(bands), s1, (bands.shape[1], bands.shape[2]))


def _mapped(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The seven arrays, mapped: nothing is read yet but headers."""
    arrays = {}
    for name in ARRAYS:
        file = path / f"{name}.npy"
        try:
            # An array without elements cannot be mapped.
            arrays[name] = np.load(file, mmap_mode="r" if file.stat().st_size > 4096 else None, allow_pickle=False)
        except FileNotFoundError:
            remedy = "All seven arrays of a d-pixel folder are needed; give a radar orbit without passes 0 frames."
            raise InvalidInput("is missing.", field=str(file), remedy=remedy) from None
        except (ValueError, EOFError, OSError) as error:
            raise InvalidInput(f"cannot be read: {error}", field=str(file)) from None
    return arrays


def read_tile(tile: Tile, kind: np.dtype[Any], *, min_s2: int, min_s1: int, spacing: int) -> Iterator[Records]:
    """The pixels of a tile, row by row, some thousand at a time.

    Args:
        tile: Which.
        kind: Of `record_type`.
        min_s2: Pixels with fewer valid Sentinel-2 dates are left out.
        min_s1: Likewise both orbits of Sentinel-1 together.
        spacing: Take every so many-th row and column.

    Raises:
        InvalidInput: An array is not what it should be; names folder and array.
    """
    arrays = _mapped(tile.path)
    rows = max(AT_ONCE // -(-tile.shape[1] // spacing), 1) * spacing
    for start in range(0, tile.shape[0], rows):
        part = (slice(None), slice(start, start + rows, spacing), slice(None, None, spacing))
        try:
            dpixels = from_arrays({k: np.ascontiguousarray(a[part]) if a.ndim > 1 else a for k, a in arrays.items()})
        except InvalidInput as error:
            where = f"{tile.path}/{error.field}" if error.field else str(tile.path)
            raise InvalidInput(error.message, field=where, remedy=error.remedy) from None
        yield with_dates(to_records(dpixels, kind), min_s2, min_s1)
