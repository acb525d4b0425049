"""What arrays hold of each block. Every block has a chunk of its own, so many blocks are asked for together.

zarr asks for chunks one by one, at a tenth of a millisecond each: whether the overviews of a hundred thousand blocks
are up to date would take half a minute to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import numpy as np
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from service.errors import Corrupt, InvalidInput
from service.grid import Block
from service.store.codecs import is_native
from service.store.faults import Array, read_array, reading

MANY: Final = 256
"""Blocks from which it is worth to find out first which chunks there are."""
_AT_ONCE: Final = 4096
"""Chunks to a request: each must end in time."""
_DENSE: Final = 4
"""Up to so many cells to a block a rectangle is read that holds all of them."""


def block_values(
    location: str,
    array: Array,
    time: int,
    blocks: Sequence[Block],
    written: Callable[[], Collection[tuple[int, ...]]],
) -> dict[Block, Any]:
    """What an array (time, block row, block column[, k]) holds for each block: a number, or (k,) numbers.

    Args:
        location: Of the store, for messages.
        array: One chunk to a block.
        time: Position in time.
        blocks: Of one grid.
        written: Lists the coordinates of the array's chunks that were ever written.

    Raises:
        InvalidInput: A block lies beyond the grid.
        Corrupt: Stored bytes cannot be read.
        Unavailable: The transport failed.
    """
    rows, cols = [b.row for b in blocks], [b.col for b in blocks]
    top, bottom, left, right = min(rows), max(rows) + 1, min(cols), max(cols) + 1
    if top < 0 or left < 0 or bottom > array.shape[1] or right > array.shape[2]:
        raise InvalidInput(f"a block lies beyond the grid of {array.path.rpartition('/')[0]}.", field="block")
    if len(blocks) >= MANY and _is_bare(array):
        return _together(location, array, time, blocks, written())
    if (bottom - top) * (right - left) <= _DENSE * len(blocks):
        box = read_array(location, array, time, slice(top, bottom), slice(left, right))
        return {b: box[b.row - top, b.col - left] for b in blocks}
    return {b: read_array(location, array, time, b.row, b.col)[()] for b in blocks}


def _is_bare(array: Array) -> bool:
    """Whether the bytes of a chunk are the numbers of one block."""
    codecs = array.metadata.codecs if array.metadata.zarr_format == 3 else ()
    return len(codecs) == 1 and is_native(codecs[0]) and array.chunks == (1, 1, 1, *array.shape[3:])


def _together(
    location: str, array: Array, time: int, blocks: Sequence[Block], written: Collection[tuple[int, ...]]
) -> dict[Block, Any]:
    there, tail = {at[1:3] for at in written if at[0] == time}, array.shape[3:]
    held = [i for i, block in enumerate(blocks) if (block.row, block.col) in there]
    found = np.full((len(blocks), *tail), array.fill_value, array.dtype)
    zeros = [0] * len(tail)
    keys = [_key(array, (time, blocks[i].row, blocks[i].col, *zeros)) for i in held]
    size = array.dtype.itemsize * int(np.prod(tail))
    with reading(location, f"array {array.path}"):
        for start in range(0, len(keys), _AT_ONCE):
            buffers = sync(_fetch(array, keys[start : start + _AT_ONCE]))
            chunks = [b"" if buffer is None else buffer.to_bytes() for buffer in buffers]
            if any(len(chunk) != size for chunk in chunks):
                raise Corrupt(f"{location}: array {array.path} holds a chunk that is not of {size} bytes.")
            numbers = np.frombuffer(b"".join(chunks), array.dtype).reshape(-1, *tail)
            found[held[start : start + _AT_ONCE]] = numbers
    return dict(zip(blocks, found, strict=True))


def _key(array: Array, chunk: tuple[int, ...]) -> str:
    return f"{array.path}/{array.metadata.encode_chunk_key(chunk)}"


async def _fetch(array: Array, keys: Sequence[str]) -> list[Any]:
    return await array.store.get_partial_values(default_buffer_prototype(), [(key, None) for key in keys])
