"""One column after another of a table of observations, checked and made into plain arrays."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import types

from service.dpixels import BANDS
from service.errors import InvalidInput, LimitExceeded
from service.tables.open import check_columns
from service.values import BoolArray, Float64Array, Int64Array, Window

RADAR: Final = ("VV", "VH")
KNOWN: Final = ("pixel", "date", "sensor", "orbit", *sorted(BANDS), *RADAR, "mask", "scl", "lon", "lat")
"""Every column there may be."""
SENSORS: Final = ("s2", "s1")
ORBITS: Final = ("ascending", "descending")
_PER_DAY: Final = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


@dataclass(frozen=True)
class Columns:
    """Which columns a table has; consistent once it exists."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, schema: pa.Schema) -> Columns:
        """Check names and types.

        Raises:
            InvalidInput: A column is missing, unknown, there twice, or of a type it cannot be; names it.
            LimitExceeded: There are far too many.
        """
        check_columns(len(schema))
        names = tuple(schema.names)
        for name in names:
            if name not in KNOWN:
                remedy = f"Drop it, or name it one of {', '.join(KNOWN)}."
                raise InvalidInput("is no column of observations.", field=name[:60], remedy=remedy)
            if names.count(name) > 1:
                raise InvalidInput("is there twice.", field=name, remedy="Each column once.")
            _check_type(name, schema.field(name).type)
        _check_missing(names)
        return cls(names)

    @property
    def reordered(self) -> bool:
        """Whether bands stand in another order than the model's."""
        bands = tuple(name for name in self.names if name in BANDS)
        return bool(bands) and bands != BANDS

    @property
    def usable(self) -> str:
        """`mask` or `scl`."""
        return "mask" if "mask" in self.names else "scl"


def _check_type(name: str, kind: pa.DataType) -> None:
    held = kind.value_type if types.is_dictionary(kind) else kind
    text = types.is_string(held) or types.is_large_string(held)
    whole = types.is_integer(held) and held is kind
    if name == "pixel":
        good, remedy = text or types.is_integer(held), "It must be text or integers."
    elif name in ("sensor", "orbit"):
        good, remedy = text or types.is_null(held), "It must be text."
    elif name == "date":
        good, remedy = text or types.is_date(kind) or types.is_timestamp(kind), "It must be dates, times or ISO text."
    else:
        good = whole or types.is_floating(kind) or types.is_null(kind) or (name == "mask" and types.is_boolean(kind))
        remedy = "It must be numbers."
    if not good:
        raise InvalidInput(f"is a column of {str(kind)[:40]}.", field=name, remedy=remedy)


def _check_missing(names: tuple[str, ...]) -> None:
    s2, s1 = [any(name in names for name in group) for group in (BANDS, RADAR)]
    needed = ["pixel", "date", "sensor", *(sorted(BANDS) if s2 else ()), *(("orbit", *RADAR) if s1 else ())]
    needed += [name for name, other in (("lon", "lat"), ("lat", "lon")) if other in names]
    missing = [name for name in needed if name not in names]
    if missing:
        raise InvalidInput(f"column {', '.join(missing)} missing.", field=missing[0], remedy="Add it.")
    if not (s2 or s1):
        raise InvalidInput("has columns of neither sensor.", field="body", remedy="Send B02 ... B12, or VV and VH.")
    if s2 and ("mask" in names) == ("scl" in names):
        raise InvalidInput("give either mask or scl.", field="mask", remedy="Exactly one of them is needed.")


def _complain(name: str, bad: BoolArray, first: int, what: str, remedy: str | None = None) -> None:
    """Refuse the first of some bad rows, if there is one."""
    if bad.any():
        raise InvalidInput(f"row {first + int(np.argmax(bad)):,} {what}", field=name, remedy=remedy)


def _nulls(column: pa.Array) -> BoolArray:
    return np.asarray(column.is_null(nan_is_null=False).to_numpy(zero_copy_only=False), bool)


def names_of(column: pa.Array, name: str, first: int) -> tuple[Int64Array, list[Any]]:
    """Text or integers as numbers and what they stand for: (rows,) places in a list; -1 where null."""
    if not types.is_dictionary(column.type):
        column = column.dictionary_encode()
    held = column.dictionary
    if len(held) > 1_000_000:
        raise LimitExceeded(f"its dictionary has {len(held):,} entries.", field=name, remedy="Send fewer pixels.")
    codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    used, codes = np.unique(codes, return_inverse=True)
    values = [None if code < 0 else held[int(code)].as_py() for code in used]
    _complain(name, np.array([v is None for v in values], bool)[codes] & (name != "orbit"), first, "is null.")
    if len(used) and values[0] is None and used[0] == -1:
        return codes - 1, values[1:]
    return codes, values


def choices(column: pa.Array, name: str, allowed: tuple[str, ...], first: int) -> Int64Array:
    """(rows,) which of `allowed` each row is; -1 where null."""
    if types.is_null(column.type):
        return np.full(len(column), -1)
    codes, values = names_of(column, name, first)
    known = np.array([allowed.index(v) if v in allowed else -1 if v is None else -2 for v in values] + [-1])
    found = known[codes]
    if (found == -2).any():
        row = int(np.argmax(found == -2))
        said = f"row {first + row:,} is {str(values[codes[row]])[:20]!r}."
        raise InvalidInput(said, field=name, remedy=f"It must be {' or '.join(allowed)}.")
    return np.asarray(found, np.int64)


def days(column: pa.Array, window: Window, first: int) -> Int64Array:
    """(rows,) days since 1970 in UTC, each within the window."""
    _complain("date", _nulls(column), first, "is null.")
    kind = column.type
    if types.is_timestamp(kind) or types.is_date64(kind):
        per_day = _PER_DAY["ms" if types.is_date64(kind) else kind.unit]
        found = column.cast(pa.int64(), safe=False).to_numpy(zero_copy_only=False) // per_day
    elif types.is_date32(kind):
        found = column.cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64)
    else:
        codes, texts = names_of(column, "date", first)
        read = [_day(text) for text in texts]
        bad = np.array([day is None for day in read], bool)[codes]
        _complain("date", bad, first, "is not a date.", "Write 2024-05-31.")
        found = np.array([day or 0 for day in read], np.int64)[codes]
    start, end = (int(np.datetime64(day).astype(np.int64)) for day in (window.start, window.end))
    outside = (found < start) | (found > end)
    _complain("date", outside, first, f"lies outside the window {window}.")
    return np.asarray(found, np.int64)


def _day(text: str) -> int | None:
    try:
        return dt.date.fromisoformat(text).toordinal() - dt.date(1970, 1, 1).toordinal()
    except ValueError:
        return None


def numbers(batch: pa.RecordBatch, names: tuple[str, ...], mine: BoolArray, sensor: str, first: int) -> Float64Array:
    """(rows of a sensor, columns) float64; the other rows hold nothing there.

    Raises:
        InvalidInput: A cell is null or not finite where it should be a number, or a number where it should be null.
    """
    out = np.empty((int(mine.sum()), len(names)))
    for at, name in enumerate(names):
        if name not in batch.schema.names:
            _complain(name, mine, first, f"is of {sensor}, and the column is missing.")
            continue
        column = batch.column(name)
        nulls = _nulls(column)
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        _complain(name, mine & nulls, first, "is null.", f"Leave the row out: each row of {sensor} is whole.")
        _complain(name, mine & ~np.isfinite(values), first, "is not finite.", "Leave the row out.")
        _complain(name, ~mine & ~nulls & ~np.isnan(values), first, f"is not of {sensor}.", "Leave the cell null.")
        out[:, at] = values[mine]
    return out


def usable(values: npt.NDArray[np.float64], name: str, rows: Int64Array, unusable: tuple[int, ...]) -> BoolArray:
    """(m,) whether each observation is usable, from a column of masks or scene classes."""
    most = 1 if name == "mask" else 11
    bad = (values < 0) | (values > most) | (values != np.rint(values))
    if bad.any():
        said = f"row {int(rows[np.argmax(bad)]):,} holds {values[np.argmax(bad)]:g}."
        raise InvalidInput(said, field=name, remedy=f"Whole numbers 0..{most}.")
    return values == 1 if name == "mask" else ~np.isin(values, unusable)


def units(schema: pa.Schema) -> Mapping[str, str | None]:
    """The units that a table's metadata declares, by sensor."""
    held = schema.metadata or {}
    found = {sensor: held.get(f"{sensor}_unit".encode()) for sensor in SENSORS}
    return {sensor: value.decode(errors="replace") if value else None for sensor, value in found.items()}
