"""How much the pages of a Parquet column unpack to, read from their own heads before anything is unpacked.

The footer tells it too, but is written by the sender; a page is unpacked to what its own head says. Heads are Thrift
structs in the compact protocol (parquet-format, parquet.thrift: PageHeader).
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from service.errors import InvalidInput, LimitExceeded

MOST_PAGES: Final = 100_000
"""Pages of one column in one row group."""
DEEPEST: Final = 8
_UNPACKED, _PACKED = 2, 3
"""Field numbers of PageHeader: uncompressed_page_size, compressed_page_size."""


def unpacked_pages(buffer: pa.Buffer, chunk: Any) -> int:
    """Bytes that the pages of one column chunk unpack to.

    Args:
        buffer: The whole file.
        chunk: pyarrow's ColumnChunkMetaData.

    Raises:
        InvalidInput: The heads cannot be read, or lead out of the file.
        LimitExceeded: There are too many.
    """
    offsets = [chunk.data_page_offset, chunk.dictionary_page_offset if chunk.has_dictionary_page else 0]
    start = min((offset for offset in offsets if offset > 0), default=0)
    end, size = start + chunk.total_compressed_size, 0
    if not 0 <= start <= end <= buffer.size:
        raise InvalidInput(
            "a column of the Parquet file lies beyond its end.", field="body", remedy="Was it sent whole?"
        )
    raw = memoryview(buffer).cast("B")
    for _ in range(MOST_PAGES):
        if start >= end:
            return size
        head = _Head(raw, start)
        fields = head.struct()
        unpacked, packed = fields.get(_UNPACKED, -1), fields.get(_PACKED, -1)
        if unpacked < 0 or packed < 0:
            raise InvalidInput("a page of the Parquet file tells no size.", field="body", remedy="Was it sent whole?")
        size, start = size + unpacked, head.at + packed
    raise LimitExceeded(
        f"a column has over {MOST_PAGES:,} pages in a row group.", field="body", remedy="Write larger pages."
    )


class _Head:
    """Reads one struct, keeps the integers among its own fields, and steps over everything else."""

    def __init__(self, raw: memoryview, at: int) -> None:
        self._raw = raw
        self.at = at

    def struct(self, depth: int = 0) -> dict[int, int]:
        """Integers of a struct by field number; `at` is behind it afterwards."""
        if depth > DEEPEST:
            raise ValueError("a page head is too deep")
        found: dict[int, int] = {}
        number = 0
        while (kind := self._byte()) & 15:
            number = number + (kind >> 4) if kind >> 4 else self._zigzag()
            value = self._value(kind & 15, depth)
            if value is not None:
                found[number] = value
        return found

    def _value(self, kind: int, depth: int) -> int | None:
        if kind in (1, 2):  # true and false lie in the kind itself
            return None
        if kind == 3:
            self.at += 1
        elif kind in (4, 5, 6):
            return self._zigzag()
        elif kind == 7:
            self.at += 8
        elif kind == 8:
            length = self._varint()
            self.at += length
        elif kind in (9, 10):
            self._list(depth)
        elif kind == 12:
            self.struct(depth + 1)
        else:
            raise ValueError(f"a page head holds a field of kind {kind}")
        return None

    def _list(self, depth: int) -> None:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        if count > 1000 or depth > DEEPEST:
            raise ValueError("a page head is too long")
        for _ in range(count):
            if head & 15 in (1, 2):
                self.at += 1
            else:
                self._value(head & 15, depth + 1)

    def _byte(self) -> int:
        if not 0 <= self.at < len(self._raw):
            raise EOFError("a page head leads out of the file")
        self.at += 1
        return self._raw[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a page head holds a number without end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
