"""Many small frames of Blosc, each of one block of zstd, unpacked at once.

Sources: the frame of Blosc 1 (github.com/Blosc/c-blosc, README_CHUNK_FORMAT); bitshuffle
(github.com/kiyo-masui/bitshuffle): of n numbers first the lowest bits of all, then the next ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
from numcodecs import blosc
from zstandard import BufferWithSegments, ZstdDecompressor

from service.values import Int64Array, UInt8Array

_HEADER: Final = 16
"""Bytes: version, version of the codec, flags, item size; then size, block size and packed size as uint32."""
_MOST: Final = 2**31 - 1
"""Bytes of a frame."""
_FRAME: Final = 24
"""Where the first frame begins: after the header, the place of the only block, and the frame's size."""
_SHUFFLED, _PLAIN, _BITS, _UNSPLIT = 1, 2, 4, 16
_ZSTD: Final = 4
_MOST_SPLITS: Final = 16
"""Bytes of a number up to which Blosc may have packed each of its planes for itself."""
_WIDEST: Final = 255
"""Bytes of the widest number it knows."""
THREADS: Final = 2
"""Chunks unpacked side by side."""


class UnknownFrameError(Exception):
    """Not what this reads; zarr may know more."""


def unpack_frames(buffer: bytearray, places: Int64Array, size: int, item: int) -> UInt8Array:
    """What was packed in n frames, unpacked by one call.

    Args:
        buffer: Holds them.
        places: (n, 2) first byte and bytes of each.
        size: Bytes of each, unpacked.
        item: Bytes of a number.

    Returns:
        (n, size) uint8.

    Raises:
        UnknownFrameError: One is damaged, or packed in another way.
    """
    stored = np.frombuffer(buffer, np.uint8)
    _require(places[:, 1] >= _HEADER)
    head = _at(stored, places[:, 0], _HEADER)
    sizes = np.ascontiguousarray(head[:, 4:]).view("<u4")
    flags = head[:, 2]
    plain = (flags & _PLAIN) > 0
    _require((head[:, 0] == 2) & (head[:, 3] == item) & (sizes[:, 0] == size) & (sizes[:, 2] == places[:, 1]))
    _require(plain | ((flags >> 5 == _ZSTD) & (sizes[:, 1] == size)))
    out = np.empty((len(places), size), np.uint8)
    if plain.any():
        _require(places[plain, 1] == _HEADER + size)
        out[plain] = _at(stored, places[plain, 0] + _HEADER, size)
    for flag in np.unique(flags[~plain]).tolist():
        chosen = flags == flag
        out[chosen] = _ordered(_unzipped(buffer, stored, places[chosen], size), flag, item)
    return out


def _at(stored: UInt8Array, starts: Int64Array, size: int) -> UInt8Array:
    """(n, size) uint8 so many bytes from each start on."""
    return np.lib.stride_tricks.sliding_window_view(stored, size)[starts]


def _require(good: npt.NDArray[np.bool_]) -> None:
    if not good.all():
        raise UnknownFrameError


def _unzipped(buffer: bytearray, stored: UInt8Array, places: Int64Array, size: int) -> UInt8Array:
    """(n, size) uint8 the only block of each frame, its bits or bytes still in the order in which they were packed."""
    starts = places[:, 0]
    at, packed = (_at(stored, starts + first, 4).view("<i4")[:, 0].astype(np.int64) for first in (_HEADER, _HEADER + 4))
    _require((at == _HEADER + 4) & (packed > 0) & (_FRAME + packed <= places[:, 1]))
    out = np.empty((len(places), size), np.uint8)
    whole = packed == size  # zstd made it no smaller
    if whole.any():
        out[whole] = _at(stored, starts[whole] + _FRAME, size)
    if not whole.all():
        segments = np.stack([starts[~whole] + _FRAME, packed[~whole]], axis=1).astype("<u8")
        frames = BufferWithSegments(buffer, segments.tobytes())
        sizes = np.full(len(segments), size, "<u8").tobytes()
        try:
            done = ZstdDecompressor().multi_decompress_to_buffer(frames, decompressed_sizes=sizes, threads=THREADS)
        except Exception as error:  # its class is not public
            raise UnknownFrameError from error
        blocks = cast(Iterable[bytes], done)  # as good as: they are buffers
        out[~whole] = np.frombuffer(b"".join(blocks), np.uint8).reshape(-1, size)
    return out


def _ordered(blocks: UInt8Array, flag: int, item: int) -> UInt8Array:
    """(n, size) uint8 numbers of `item` bytes, from blocks whose bits or bytes were put together by their place.

    Blosc does it, by vector instructions: of a frame whose blocks are as large packed as unpacked it takes the bytes as
    they are and puts them in order.
    """
    shuffle = flag & (_BITS | _SHUFFLED if item > 1 else _BITS)
    if not shuffle:
        return blocks
    count, size = blocks.shape
    head = np.array([2, 1, shuffle | _UNSPLIT | _ZSTD << 5, item], "u1").tobytes()
    first = _HEADER + 4 * count
    starts = first + (4 + size) * np.arange(count)
    whole = first + (4 + size) * count
    if whole > _MOST:
        raise UnknownFrameError
    frame = np.empty(whole, np.uint8)
    frame[:_HEADER] = np.frombuffer(head + np.array([count * size, size, whole], "<u4").tobytes(), np.uint8)
    frame[_HEADER:first] = starts.astype("<u4").view(np.uint8)
    body = frame[first:].reshape(count, 4 + size)
    body[:, :4] = np.frombuffer(np.array([size], "<u4").tobytes(), np.uint8)
    body[:, 4:] = blocks
    out = np.empty(blocks.shape, np.uint8)
    blosc.decompress(frame, out)
    return out


def unpack_square(frame: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """(rows, cols[, d]) of a frame that holds (1, rows, cols) or (1, d, rows, cols) numbers.

    To undo its shuffle, Blosc puts numbers together from planes of their bytes, by vector instructions. Planes of codes
    of one byte are no different: a frame packed without a shuffle is unpacked as if it held shuffled numbers of d
    bytes, and comes out pixel by pixel, four times as fast as it could be turned around afterwards.

    Args:
        frame: Writable; its header is written to.
        shape: Of what it holds.
        dtype: Likewise.

    Raises:
        UnknownFrameError: It says that it holds something else.
        RuntimeError: It is damaged.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    told, block, packed = (int.from_bytes(frame[at : at + 4], "little") for at in (4, 8, 12))
    if (told, packed) != (size, len(frame)):  # Blosc trusts what it is told
        raise UnknownFrameError
    _, *planes, rows, cols = shape
    plain = dtype.itemsize == 1 and not frame[2] & (_SHUFFLED | _PLAIN | _BITS)
    if plain and planes and block == size and _MOST_SPLITS < planes[0] <= _WIDEST:
        frame[2] |= _SHUFFLED
        frame[3] = planes[0]
        out = np.empty((rows, cols, *planes), dtype)
        blosc.decompress(frame, out)
        return out
    out = np.empty(shape, dtype)
    blosc.decompress(frame, out)
    return np.ascontiguousarray(np.moveaxis(out[0], 0, -1)) if planes else out[0]
