"""How questions to other machines' shards and their answers travel: a line of JSON, then arrays as they lie in memory.

Whoever reads one believes nothing: its size, the names, types and shapes of its arrays are checked against what was
expected before a byte of them is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.errors import Corrupt

MEDIA_TYPE: Final = "application/x-smalti-shards"
MAX_HEAD: Final = 8_000_000
"""Bytes of the JSON: a thousand names of shards, and what is asked of them."""

Arrays = Mapping[str, npt.NDArray[Any]]
Kinds = Mapping[str, tuple[str, int]]
"""Name of an array -> what its dtype is called, little-endian, and how many dimensions it has."""


def packed(head: Mapping[str, Any], arrays: Arrays) -> bytes:
    """One message.

    Args:
        head: What is no array, as JSON knows it.
        arrays: The others.
    """
    held = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    told = {**head, "arrays": {name: list(array.shape) for name, array in held.items()}}
    line = json.dumps(told, separators=(",", ":"), allow_nan=False).encode()
    return b"\n".join([line, b"".join(array.data for array in held.values())])


def unpacked(message: bytes, kinds: Kinds) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read a message back; the arrays are views of it.

    Args:
        message: All of it.
        kinds: The arrays it has to hold, in this order.

    Raises:
        Corrupt: It is not such a message.
    """
    end = message.find(b"\n", 0, MAX_HEAD)
    try:
        head: Any = json.loads(message[:end]) if end >= 0 else None
    except (ValueError, RecursionError):
        head = None
    shapes = head.pop("arrays", None) if isinstance(head, dict) else None
    if not isinstance(shapes, dict) or list(shapes) != list(kinds):
        raise Corrupt("is no message about shards.")
    arrays, at = {}, end + 1
    for name, (kind, dims) in kinds.items():
        shape, dtype = shapes[name], np.dtype(kind)
        if not (isinstance(shape, list) and len(shape) == dims and all(type(n) is int and n >= 0 for n in shape)):
            raise Corrupt(f"has no array {name!r} of {dims} dimensions.")
        count = 1
        for size in shape:
            count *= size
        if count * dtype.itemsize > len(message) - at:
            raise Corrupt(f"ends within its array {name!r}.")
        arrays[name] = np.frombuffer(message, dtype, count, at).reshape(shape)
        at += count * dtype.itemsize
    if at != len(message):
        raise Corrupt("goes on after its last array.")
    return head, arrays
