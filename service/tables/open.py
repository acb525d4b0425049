"""Opening an uploaded table: what it would unpack to is judged first, then it is read a bounded batch at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.dpixels import UploadLimits, scratch
from service.errors import InvalidInput, LimitExceeded, SmaltiError
from service.tables.pages import promised

Form = Literal["arrow", "parquet"]
ROWS: Final = 65_536
"""Rows that are looked at together."""
ROW_BYTES: Final = 60
"""That a row takes while it waits and where it is packed, at most: its pixel, date, validity and ten bands."""
MOST_GROUPS: Final = 10_000
"""Row groups of a Parquet file, or batches of an Arrow stream."""
MOST_COLUMNS: Final = 64
TEXTS: Final = ("pixel", "sensor", "orbit")
"""Columns of Parquet that stay numbers and a dictionary: a long name that comes often is never written out."""
TITLES: Final = {"arrow": "Arrow IPC", "parquet": "Parquet"}
_UNREADABLE: Final = (
    LookupError,
    pa.ArrowException,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    struct.error,
    MemoryError,
    OverflowError,
)
"""What pyarrow raises on damaged files."""


@contextmanager
def readable(form: Form) -> Iterator[None]:
    """Make what pyarrow complains about ours.

    Raises:
        InvalidInput: The bytes are not what they are said to be.
    """
    try:
        yield
    except SmaltiError:
        raise
    except _UNREADABLE as error:
        said = str(error).partition("\n")[0][:160].rstrip(".") or type(error).__name__
        raise InvalidInput(
            f"the {TITLES[form]} cannot be read: {said}.", field="body", remedy="Was it sent whole?"
        ) from None


def open_table(source: IO[bytes], form: Form, limits: UploadLimits) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema of a table and its rows, at most ROWS at a time; bytes are read where they lie.

    Args:
        source: A file of `scratch.spool`.
        form: Arrow IPC, stream or file; or Parquet.
        limits: The most it may hold and unpack to; found out before it does.

    Raises:
        InvalidInput: It is cut short, or something else.
        LimitExceeded: Too many rows, columns, parts or bytes.
    """
    with readable(form):
        buffer = pa.py_buffer(scratch.held(source, np.uint8))
        if not buffer.size:
            raise InvalidInput("is empty.", field="body", remedy=f"Send {TITLES[form]}.")
        schema, found = (_arrow if form == "arrow" else _parquet)(buffer, limits)
    return schema, _sliced(found, form, limits)


def _sliced(found: Iterator[pa.RecordBatch], form: Form, limits: UploadLimits) -> Iterator[pa.RecordBatch]:
    seen = 0
    while True:
        with readable(form):
            batch = next(found, None)
            if batch is None:
                return
            batch.validate(full=True)
        seen += batch.num_rows
        _check_rows(seen, limits)
        for start in range(0, batch.num_rows, ROWS):
            yield batch.slice(start, ROWS)


def _check_rows(rows: int, limits: UploadLimits) -> None:
    if rows > limits.rows:
        said = f"{rows:,} rows, at most {limits.rows:,} are taken."
        raise LimitExceeded(said, field="body", remedy="Send fewer observations at once.")


def check_columns(columns: int) -> None:
    """Refuse a table that is much too wide.

    Raises:
        LimitExceeded: It is.
    """
    if columns > MOST_COLUMNS:
        raise LimitExceeded(f"{columns:,} columns, at most {MOST_COLUMNS} are read.", field="body", remedy="Drop some.")


def _check_parts(parts: int, what: str) -> None:
    if parts > MOST_GROUPS:
        said = f"has over {MOST_GROUPS:,} {what}."
        raise LimitExceeded(said, field="body", remedy="Write more rows into each.")


def _check_bytes(size: int, limits: UploadLimits, what: str) -> None:
    if size > limits.unpacked_bytes:
        said = f"{what} unpack to {size:,} of {limits.unpacked_bytes:,} bytes allowed."
        raise LimitExceeded(said, field="body", remedy="Send less at once.")


def _parquet(buffer: pa.Buffer, limits: UploadLimits) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    told = promised(buffer)
    check_columns(told.columns)
    _check_parts(told.groups, "row groups")
    _check_rows(told.rows, limits)
    _check_bytes(told.unpacked, limits, "the pages")
    scratch.expect(told.rows * ROW_BYTES)
    names = _opened(buffer).schema_arrow.names
    file = _opened(buffer, read_dictionary=[name for name in TEXTS if name in names])
    return file.schema_arrow, file.iter_batches(batch_size=ROWS, use_threads=False)


def _opened(buffer: pa.Buffer, **more: Any) -> pq.ParquetFile:
    return pq.ParquetFile(
        pa.BufferReader(buffer),
        pre_buffer=False,
        thrift_string_size_limit=10_000_000,
        thrift_container_size_limit=1_000_000,
        arrow_extensions_enabled=False,
        **more,
    )


def _arrow(buffer: pa.Buffer, limits: UploadLimits) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if buffer[:6].to_pybytes() == b"ARROW1":  # a file is a stream between a magic word and a footer
        buffer = buffer[8:]
    size = rows = 0
    for parts, message in enumerate(pa.ipc.MessageReader.open_stream(buffer)):
        _check_parts(parts, "batches")
        if message.type in ("record batch", "dictionary"):
            told = _Batch(message)
            size, rows = size + told.unpacked, rows + told.rows * (message.type == "record batch")
            _check_bytes(size, limits, "the batches")
            _check_rows(rows, limits)
    scratch.expect(rows * ROW_BYTES)
    reader = pa.ipc.open_stream(buffer)
    return reader.schema, iter(reader)


class _Batch:
    """What the head of one message says: a few fields of the Arrow format's flatbuffers (Message.fbs).

    pyarrow itself does not tell how much memory a compressed batch asks for before it has asked for it.
    """

    def __init__(self, message: Any) -> None:
        self._head = message.metadata.to_pybytes()
        batch = self._follow(self._slot(self._follow(0), 2))
        if message.type == "dictionary":
            batch = self._follow(self._slot(batch, 1))
        length = self._slot(batch, 0)
        self.rows = int(self._read("q", length)) if length else 0
        self.unpacked = message.body.size if message.body else 0
        if self._slot(batch, 3):  # compressed: each buffer begins with its true size
            vector = self._follow(self._slot(batch, 2))
            for index in range(self._read("I", vector)):
                offset = self._read("q", vector + 4 + 16 * index)
                held = self._read("q", vector + 12 + 16 * index)
                if held >= 8:
                    self.unpacked += max(0, struct.unpack("<q", message.body[offset : offset + 8].to_pybytes())[0])

    def _read(self, kind: str, at: int) -> int:
        return int(struct.unpack_from(f"<{kind}", self._head, at)[0])

    def _follow(self, at: int) -> int:
        return at + self._read("I", at)

    def _slot(self, table: int, number: int) -> int:
        """Where a field of a table lies; 0 where it is left out."""
        vtable = table - self._read("i", table)
        offset = self._read("H", vtable + 4 + 2 * number) if 4 + 2 * number < self._read("H", vtable) else 0
        return table + offset if offset else 0
