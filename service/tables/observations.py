"""A long table, an observation a row in any order, becomes d-pixels without ever being held whole."""

from __future__ import annotations

from typing import IO, Any, Final

import numpy as np
import pyarrow as pa

from service.dpixels import BANDS, Declared, DPixels, Upload, UploadLimits, scratch
from service.dpixels.stored import UNUSABLE_SCL, Range
from service.dpixels.value import MAX_FRAMES, MERGE, Number, day_of_year
from service.errors import InvalidInput, LimitExceeded
from service.tables.columns import (
    ORBITS,
    RADAR,
    SENSORS,
    Columns,
    choices,
    days,
    names_of,
    numbers,
    units,
    usable,
)
from service.tables.open import ROWS, Form, open_table, readable
from service.values import Int64Array, Window

LONGEST_ID: Final = 64


def read_table(source: IO[bytes], form: Form, limits: UploadLimits, declared: Declared) -> Upload:
    """D-pixels from a table of observations, pixels in the order in which they first appear.

    Args:
        source: A file of `scratch.spool`.
        form: Arrow IPC or Parquet.
        limits: The most it may hold and unpack to.
        declared: The window, and units where the table's metadata does not say them as `s2_unit` and `s1_unit`.

    Raises:
        InvalidInput: The table, a column or a cell is not what it should be; names column and row.
        LimitExceeded: There is more of something than `limits` allow.
        Unavailable: The disk is full.
    """
    if declared.window is None:
        raise InvalidInput("is needed: dates are held against it.", field="window", remedy="Write 2024.")
    schema, batches = open_table(source, form, limits)
    with readable(form):  # names may be no text
        held = Columns.of(schema)
    table = _Table(held, schema, limits, declared)
    for batch in batches:
        table.add(batch)
    return table.finish()


class _Part:
    """What came so far of one sensor and orbit: rows in a file, in the order they came."""

    def __init__(self, name: str, channels: int, kind: type[np.integer[Any]]) -> None:
        self.name = name
        self.row = np.dtype(
            [("pixel", np.int32), ("day", np.int32), ("valid", np.bool_), ("values", kind, (channels,))]
        )
        self._file = scratch.spool()

    def add(self, pixel: Int64Array, day: Int64Array, valid: Any, values: Number) -> None:
        rows = np.empty(len(pixel), self.row)
        rows["pixel"], rows["day"], rows["valid"], rows["values"] = pixel, day, valid, values
        with scratch.on_disk():
            self._file.write(rows.tobytes())

    def rows(self) -> Number:
        with scratch.on_disk(), self._file:
            return scratch.held(self._file, self.row)


class _Table:
    def __init__(self, held: Columns, schema: pa.Schema, limits: UploadLimits, declared: Declared) -> None:
        assert declared.window is not None  # noqa: S101  # read_table has seen to it
        self._columns, self._limits, self._window = held, limits, declared.window
        inside = units(schema)
        self._ranges = {
            sensor: Range(sensor, declared.unit(sensor, inside[sensor]), sensor, f"{sensor}_unit")
            for sensor, name in zip(SENSORS, ("B02", "VV"), strict=True)
            if name in held.names
        }
        self._parts = _Part("s2", 10, np.uint16), *(_Part(f"s1 {orbit}", 2, np.int16) for orbit in ORBITS)
        self._known: dict[Any, int] = {}
        self._places: list[tuple[float, float]] = []
        self._seen = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """The next rows."""
        first = self._seen
        pixel = self._pixels(batch, first)
        day = days(batch.column("date"), self._window, first)
        sensor = choices(batch.column("sensor"), "sensor", SENSORS, first)
        rows = np.arange(first, first + len(batch))
        s2, s1 = sensor == 0, sensor == 1
        if s2.any() or "B02" in self._columns.names:
            values = numbers(batch, BANDS, s2, "s2", first)
            name = self._columns.usable
            given = numbers(batch, (name,), s2, "s2", first)[:, 0]
            valid = usable(given, name, rows[s2], UNUSABLE_SCL)
            self._parts[0].add(pixel[s2], day[s2], valid, self._ranges["s2"].stored(values))
        if s1.any() or "VV" in self._columns.names:
            given = numbers(batch, RADAR, s1, "s1", first)
            stored = self._ranges["s1"].stored(given)
            self._add_radar(batch, s1, pixel, day, stored, first)
        if "lon" in self._columns.names:
            self._place(batch, pixel, first)
        self._seen += len(batch)

    def _add_radar(
        self, batch: pa.RecordBatch, s1: Number, pixel: Int64Array, day: Int64Array, stored: Number, first: int
    ) -> None:
        orbit = choices(batch.column("orbit"), "orbit", ORBITS, first)
        for bad, what in ((s1 & (orbit < 0), "is of s1 and names no orbit."), (~s1 & (orbit >= 0), "is not of s1.")):
            if bad.any():
                row = first + int(np.argmax(bad))
                raise InvalidInput(
                    f"row {row:,} {what}", field="orbit", remedy="s1: ascending or descending; s2: null."
                )
        for number, part in enumerate(self._parts[1:]):
            there = orbit == number
            part.add(pixel[there], day[there], True, stored[there[s1]])

    def _pixels(self, batch: pa.RecordBatch, first: int) -> Int64Array:
        """(rows,) the number of each row's pixel, new ones counted on in the order they appear."""
        codes, names = names_of(batch.column("pixel"), "pixel", first)
        _, at = np.unique(codes, return_index=True)
        for code in np.argsort(at):
            name = names[code]
            if isinstance(name, str) and not 0 < len(name) <= LONGEST_ID:
                said = f"{name[:20]!r} is no name."
                raise InvalidInput(said, field="pixel", remedy=f"Use 1 to {LONGEST_ID} characters.")
            self._known.setdefault(name, len(self._known))
        if len(self._known) > self._limits.pixels:
            said = f"names over {self._limits.pixels:,} pixels."
            raise LimitExceeded(said, field="pixel", remedy="Send fewer pixels at once.")
        return np.array([self._known[name] for name in names], np.int64)[codes] if names else codes

    def _place(self, batch: pa.RecordBatch, pixel: Int64Array, first: int) -> None:
        everywhere = np.ones(len(batch), bool)
        lonlat = numbers(batch, ("lon", "lat"), everywhere, "the table", first)
        beyond = (np.abs(lonlat) > (180, 90)).any(axis=1)
        new, at = np.unique(pixel, return_index=True)
        self._places += [tuple(place) for place in lonlat[at[new >= len(self._places)]].tolist()]
        moved = (np.array(self._places)[pixel] != lonlat).any(axis=1)
        for bad, what in ((beyond, "is no place in degrees."), (moved, "moves its pixel to another place.")):
            if bad.any():
                raise InvalidInput(f"row {first + int(np.argmax(bad)):,} {what}", field="lon", remedy="Give degrees.")

    def finish(self) -> Upload:
        """No more rows come."""
        for seen in self._ranges.values():
            seen.finish()
        if not self._known:
            raise InvalidInput("has no rows.", field="body", remedy="Send at least one observation.")
        ids, rows = list(self._known), [part.rows() for part in self._parts]
        lengths = [np.bincount(held["pixel"], minlength=len(ids)) for held in rows]
        self._check_lengths(ids, lengths)
        (s2, s2_doy, valid), (asc, asc_doy, _), (desc, desc_doy, _) = [
            _packed(held, many, part.name, ids, self._window)
            for held, many, part in zip(rows, lengths, self._parts, strict=True)
        ]
        dpixels = DPixels(s2, s2_doy, valid, asc, asc_doy, desc, desc_doy, shape=(len(ids),))
        lonlat = np.array(self._places, np.float64) if self._places else None
        return Upload(dpixels, self._columns.reordered, ids, lonlat)

    def _check_lengths(self, ids: list[Any], lengths: list[Int64Array]) -> None:
        size = 0
        for many, part in zip(lengths, self._parts, strict=True):
            if many.max() > MAX_FRAMES:
                who = str(ids[int(many.argmax())])[:40]
                said = (
                    f"pixel {who!r} has {many.max():,} observations of {part.name}; at most {MAX_FRAMES:,} are taken."
                )
                raise LimitExceeded(said, field="pixel", remedy=MERGE)
            size += len(ids) * int(many.max()) * part.row.itemsize
        if size > self._limits.unpacked_bytes:
            said = f"{len(ids):,} pixels, as long as the longest of them, take {size:,} bytes."
            raise LimitExceeded(said, field="body", remedy="Send pixels with many observations on their own.")


def _packed(
    rows: Number, lengths: Int64Array, name: str, ids: list[Any], window: Window
) -> tuple[Number, Number, Number]:
    """Values (n, t, c), days of the year (n, t), validity (n, t): each pixel's rows in the order of their dates."""
    start = int(np.datetime64(window.start).astype(np.int64))
    key = rows["pixel"].astype(np.int64) << 10
    key |= rows["day"] - start  # a window has at most 366 days, so ten bits hold them
    order = np.argsort(key, kind="stable")
    key = key[order]
    if len(twice := np.flatnonzero(key[1:] == key[:-1])):
        first = int(key[twice[0]])
        day = np.datetime64(start + (first & 1023), "D")
        said = f"pixel {str(ids[first >> 10])[:40]!r} has {day} twice of {name}."
        raise InvalidInput(said, field="date", remedy=MERGE)
    n, t, channels = len(lengths), int(lengths.max()), rows.dtype["values"].shape[0]
    values = scratch.zeros((n, t, channels), rows.dtype["values"].base)
    doy, valid = scratch.zeros((n, t), np.int16), scratch.zeros((n, t), np.bool_)
    before = np.cumsum(lengths) - lengths
    for begin in range(0, len(rows), ROWS):
        part = rows[order[begin : begin + ROWS]]
        pixel = part["pixel"]
        at = np.arange(begin, begin + len(part)) - before[pixel]
        values[pixel, at], valid[pixel, at] = part["values"], part["valid"]
        doy[pixel, at] = day_of_year(part["day"].astype("datetime64[D]"))
    return values, doy, valid
