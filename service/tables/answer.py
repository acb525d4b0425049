"""Vectors as an Arrow stream: a row a pixel, with its status and counts; codes and scale, or float32 numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa

from service.dpixels.upload import Ids
from service.encoder import EncodeResult
from service.values import STATUS_NAMES

ROWS: Final = 4096
_STATUS: Final = [STATUS_NAMES.get(code) for code in range(256)]


def write_arrow(
    file: IO[bytes], result: EncodeResult, ids: Ids | None, metadata: Mapping[str, str], *, quantize: bool
) -> None:
    """Write what an encoder made.

    Args:
        file: Where to.
        result: n pixels of d dimensions.
        ids: What each pixel is called; counted from 0 where absent.
        metadata: What the schema says besides.
        quantize: `codes` (d int8) and `scale`, instead of `vector` (d float32); null where there is no vector.
    """
    dims = result.vectors.dims
    held = [("codes", pa.list_(pa.int8(), dims)), ("scale", pa.float32())]
    if not quantize:
        held = [("vector", pa.list_(pa.float32(), dims))]
    pixel = pa.string() if ids and isinstance(ids[0], str) else pa.int64()
    counts = [(name, pa.uint16()) for name in ("s2", "s1_asc", "s1_desc")]
    schema = pa.schema([("pixel", pixel), ("status", pa.string()), *counts, *held], dict(metadata))
    with pa.ipc.new_stream(file, schema) as writer:
        for start in range(0, len(result.vectors.status), ROWS):
            part = slice(start, start + ROWS)
            writer.write_batch(pa.record_batch(_columns(result, ids, part, quantize=quantize), schema))


def _columns(result: EncodeResult, ids: Ids | None, part: slice, *, quantize: bool) -> list[Any]:
    vectors, counts = result.vectors, result.counts
    status = vectors.status[part]
    names = list(range(part.start, part.start + len(status))) if ids is None else ids[part]
    out: list[Any] = [names, [_STATUS[code] for code in status], counts.s2[part], counts.s1_asc[part]]
    out.append(counts.s1_desc[part])
    absent = ~vectors.valid[part]
    numbers = vectors.codes[part] if quantize else result.floats[part]
    mask = pa.array(absent)
    out.append(pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(numbers).ravel(), vectors.dims, mask=mask))
    return [*out, pa.array(vectors.scales[part], mask=absent)] if quantize else out
