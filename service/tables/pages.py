"""What a Parquet file would unpack to, read from its own words before anything is unpacked.

The footer tells it, but is written by the sender: a page is unpacked to what its own head says. Both are Thrift structs
in the compact protocol (parquet-format, parquet.thrift: FileMetaData and PageHeader), read here because pyarrow's
accessors of damaged metadata may end the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from service.errors import InvalidInput, LimitExceeded

MAGIC: Final = b"PAR1"
MOST_PAGES: Final = 100_000
"""Pages of one column in one row group."""
MOST_FOOTER: Final = 32_000_000
"""Bytes of a footer."""
DEEPEST: Final = 12

Struct = dict[int, Any]


@dataclass(frozen=True)
class Promised:
    """What a Parquet file says of itself."""

    rows: int
    groups: int
    columns: int
    unpacked: int
    """Bytes of all pages."""


def promised(buffer: pa.Buffer) -> Promised:
    """Read the footer and the heads of all pages.

    Raises:
        InvalidInput: They cannot be read, or lead out of the file, or the file is encrypted.
        LimitExceeded: A footer or a column with far too many pages.
        ValueError, EOFError, TypeError, LookupError: They are no Thrift, or say something else.
    """
    raw = memoryview(buffer).cast("B")
    footer = _footer(raw)
    groups = footer[4]
    chunks = [(chunk, _column(chunk)) for group in groups for chunk in group[1]]
    return Promised(
        rows=max(footer[3], sum(group[3] for group in groups)),
        groups=len(groups),
        columns=max([len(footer[2]) - 1, *(len(group[1]) for group in groups)]),
        unpacked=sum(max(told[6], _pages(raw, told)) for _, told in chunks),
    )


def _footer(raw: memoryview) -> Struct:
    end = bytes(raw[-4:])
    if end == b"PARE":
        raise InvalidInput("the Parquet file is encrypted.", field="body", remedy="Write it without encryption.")
    if end != MAGIC or bytes(raw[:4]) != MAGIC or len(raw) < 12:
        raise InvalidInput("is no Parquet file, or is cut short.", field="body", remedy="Was it sent whole?")
    size = int.from_bytes(raw[-8:-4], "little")
    if size > len(raw) - 12:
        raise InvalidInput("its footer lies beyond its beginning.", field="body", remedy="Was it sent whole?")
    if size > MOST_FOOTER:
        raise LimitExceeded(f"its footer takes {size:,} bytes.", field="body", remedy="Write larger row groups.")
    return Thrift(raw, len(raw) - 8 - size).struct()


def _column(chunk: Struct) -> Struct:
    if 1 in chunk or 8 in chunk or 3 not in chunk:  # in another file, or encrypted
        raise InvalidInput("a column lies elsewhere or is encrypted.", field="body", remedy="Write one plain file.")
    told: Struct = chunk[3]
    return told


def _pages(raw: memoryview, told: Struct) -> int:
    """Bytes that the pages of one column chunk unpack to."""
    start = min((offset for offset in (told[9], told.get(11, 0)) if offset > 0), default=0)
    end, size = start + told[7], 0
    if not 0 <= start <= end <= len(raw):
        raise InvalidInput("a column of the Parquet file lies beyond its end.", field="body", remedy="Send all of it.")
    for _ in range(MOST_PAGES):
        if start >= end:
            return size
        reader = Thrift(raw, start)
        head = reader.struct()
        if head[2] < 0 or head[3] < 0:
            raise InvalidInput("a page of the Parquet file has no size.", field="body", remedy="Was it sent whole?")
        size, start = size + head[2], reader.at + head[3]
    raise LimitExceeded(
        f"a column has over {MOST_PAGES:,} pages in a row group.", field="body", remedy="Write larger pages."
    )


class Thrift:
    """Reads structs of the compact protocol, as dicts by field number; `at` is behind what was read last."""

    def __init__(self, raw: memoryview, at: int) -> None:
        self._raw = raw
        self.at = at

    def struct(self, depth: int = 0) -> Struct:
        """The struct that lies here.

        Raises:
            ValueError, EOFError: There is none.
        """
        if depth > DEEPEST:
            raise ValueError("a struct is too deep")
        found: Struct = {}
        number = 0
        while (kind := self._bytes(1)[0]) & 15:
            number = number + (kind >> 4) if kind >> 4 else self._zigzag()
            found[number] = kind & 15 == 1 if kind & 15 in (1, 2) else self._value(kind & 15, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):
            return self._bytes(1)[0]
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            head = self._bytes(1)[0]
            count = head >> 4 if head >> 4 < 15 else self._varint()
            if count > len(self._raw) - self.at:  # nothing takes less than a byte
                raise EOFError("a list leads out of the file")
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError(f"a field is of the unknown kind {kind}")

    def _bytes(self, count: int) -> bytes:
        if not 0 <= self.at <= self.at + count <= len(self._raw):
            raise EOFError("a struct leads out of the file")
        self.at += count
        return bytes(self._raw[self.at - count : self.at])

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._bytes(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
        raise ValueError("a number has no end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
