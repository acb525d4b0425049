"""What arrays hold of each block. Every block has a chunk of its own, so many blocks are asked for together.

zarr asks for chunks one by one, at a tenth of a millisecond each: a tile at a low zoom would take longer to learn
whether its overviews are up to date than to be drawn, and the first one of a hundred thousand blocks half a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
from zarr.core.buffer import BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync

from service.errors import Corrupt, InvalidInput
from service.grid import Block
from service.store.codecs import is_native
from service.store.faults import Array, read_array, reading

_AT_ONCE: Final = 2048
"""Chunks to a request: over a network each must end in time."""


def block_values(location: str, array: Array, time: int, blocks: Sequence[Block]) -> dict[Block, Any]:
    """What an array (time, block row, block column[, k]) holds for each block: a number, or (k,) numbers.

    Args:
        location: Of the store, for messages.
        array: One chunk to a block.
        time: Position in time.
        blocks: Of one grid.

    Raises:
        InvalidInput: A block lies beyond the grid.
        Corrupt: Stored bytes cannot be read.
        Unavailable: The transport failed.
    """
    _, height, width, *tail = array.shape
    if not all(0 <= b.row < height and 0 <= b.col < width for b in blocks):
        raise InvalidInput(f"a block lies beyond the grid of {array.path.rpartition('/')[0]}.", field="block")
    if not _is_bare(array):
        return {b: read_array(location, array, time, b.row, b.col)[()] for b in blocks}
    zeros = (0,) * len(tail)
    keys = [_key(array, (time, block.row, block.col, *zeros)) for block in blocks]
    with reading(location, f"array {array.path}"):
        chunks = [
            chunk
            for start in range(0, len(keys), _AT_ONCE)
            for chunk in sync(_fetched(array, keys[start : start + _AT_ONCE]))
        ]
    unwritten = np.full(tail, array.fill_value, array.dtype).tobytes()
    for key, chunk in zip(keys, chunks, strict=True):
        if chunk is not None and len(chunk) != len(unwritten):
            raise Corrupt(f"{location}: chunk {key} has {len(chunk)} bytes, not {len(unwritten)}.")
    stored = b"".join(unwritten if chunk is None else chunk for chunk in chunks)
    return dict(zip(blocks, np.frombuffer(stored, array.dtype).reshape(-1, *tail), strict=True))


def _is_bare(array: Array) -> bool:
    """Whether the bytes of a chunk are the numbers of one block."""
    codecs = array.metadata.codecs if array.metadata.zarr_format == 3 else ()
    return len(codecs) == 1 and is_native(codecs[0]) and array.chunks == (1, 1, 1, *array.shape[3:])


def _key(array: Array, chunk: tuple[int, ...]) -> str:
    return f"{array.path}/{array.metadata.encode_chunk_key(chunk)}"


class _AsItIs:
    """Takes the place of zarr's buffers: icechunk hands them None for a chunk that was never written."""

    @staticmethod
    def from_bytes(chunk: bytes | None) -> bytes | None:
        return chunk


_PROTOTYPE: Final = BufferPrototype(cast(Any, _AsItIs), default_buffer_prototype().nd_buffer)


async def _fetched(array: Array, keys: Sequence[str]) -> list[bytes | None]:
    found = await array.store.get_partial_values(_PROTOTYPE, [(key, None) for key in keys])
    return cast("list[bytes | None]", found)
