"""Vectors as an Arrow stream: a row a pixel, with its status and counts; codes and scale, or float32 numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa

from service.dpixels.upload import Ids
from service.values import STATUS_NAMES, Counts, Float32Array, Vectors

ROWS: Final = 4096
_STATUS: Final = [STATUS_NAMES.get(code) for code in range(256)]


@dataclass(frozen=True, eq=False)
class PixelTable:
    """n pixels in a row, as an answer tells them."""

    vectors: Vectors
    """(n,) pixels."""
    floats: Float32Array
    """(n, d) float32, NaN where status is not VALID."""
    counts: Counts
    """(n,) valid observations."""
    ids: Ids | None = None
    """What each pixel is called; counted from 0 where absent."""


def write_arrow(file: IO[bytes], table: PixelTable, metadata: Mapping[str, str], *, quantize: bool) -> None:
    """Write some pixels.

    Args:
        file: Where to.
        table: n pixels of d dimensions.
        metadata: What the schema says besides.
        quantize: `codes` (d int8) and `scale`, instead of `vector` (d float32); null where there is no vector.
    """
    dims, ids = table.vectors.dims, table.ids
    held = [("codes", pa.list_(pa.int8(), dims)), ("scale", pa.float32())]
    if not quantize:
        held = [("vector", pa.list_(pa.float32(), dims))]
    pixel = pa.string() if ids and isinstance(ids[0], str) else pa.int64()
    counts = [(name, pa.uint16()) for name in ("s2", "s1_asc", "s1_desc")]
    schema = pa.schema([("pixel", pixel), ("status", pa.string()), *counts, *held], dict(metadata))
    with pa.ipc.new_stream(file, schema) as writer:
        for start in range(0, len(table.vectors.status), ROWS):
            part = slice(start, start + ROWS)
            writer.write_batch(pa.record_batch(_columns(table, part, quantize=quantize), schema))


def _columns(table: PixelTable, part: slice, *, quantize: bool) -> list[Any]:
    vectors, counts, ids = table.vectors, table.counts, table.ids
    status = vectors.status[part]
    names = list(range(part.start, part.start + len(status))) if ids is None else ids[part]
    out: list[Any] = [names, [_STATUS[code] for code in status], counts.s2[part], counts.s1_asc[part]]
    out.append(counts.s1_desc[part])
    absent = ~vectors.valid[part]
    out.append(_lists(vectors.codes[part] if quantize else table.floats[part], absent))
    return [*out, pa.array(vectors.scales[part], mask=absent)] if quantize else out


def write_columns(file: IO[bytes], columns: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays as the columns of one table.

    Args:
        file: Where to.
        columns: (n,) or (n, k) each; a float that is NaN, or a row of (n, k) that begins with one, becomes null.
        metadata: What the schema says besides.
    """
    arrays = {name: _column(array) for name, array in columns.items()}
    table = pa.table(arrays).replace_schema_metadata(dict(metadata))
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, ROWS)


def _column(array: np.ndarray) -> Any:
    first = array if array.ndim == 1 else array[:, 0]
    absent = np.isnan(first) if first.dtype.kind == "f" else np.zeros(first.shape, bool)
    return pa.array(array, mask=absent) if array.ndim == 1 else _lists(array, absent)


def _lists(rows: np.ndarray, absent: np.ndarray) -> Any:
    flat = np.ascontiguousarray(rows).ravel()
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1], mask=pa.array(absent))
