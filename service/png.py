"""The only door to ISA-L: pictures as PNG (W3C Portable Network Graphics, third edition), in a millisecond.

GDAL takes ten times as long for files of the same size: zlib, and a choice among filters row by row. Here every row is
filtered by `Sub`, which on embeddings seen as colours, and on ramps of indices, gives the smallest files of the five
filters or nearly so.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from typing import Final

import numpy as np
from isal import isal_zlib

from service.errors import InvalidInput
from service.values import UInt8Array

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PALETTE: Final = 3
_COLOUR_TYPE: Final = {1: _PALETTE, 3: 2, 4: 6}
"""By the bytes of a pixel: an index, RGB, RGBA."""
_SUB: Final = 1
"""Each byte less the one of the pixel to its left."""
_SPEED: Final = 1
"""Of ISA-L's levels 0 to 3. Those above take longer and save nothing here."""


def png(pixels: UInt8Array, palette: UInt8Array | None = None) -> bytes:
    """A picture as a PNG file of 8 bits a sample, not interlaced.

    Args:
        pixels: (h, w, 3) RGB, (h, w, 4) RGBA, or (h, w) indices into a palette.
        palette: (256, 4) RGBA, where `pixels` are indices.

    Raises:
        InvalidInput: These are no pixels.
    """
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    if len(shape) != 3 or 0 in shape or shape[2] not in _COLOUR_TYPE or pixels.dtype != np.uint8:
        raise InvalidInput(f"{pixels.dtype} of {pixels.shape} is no picture.", field="pixels")
    if (shape[2] == 1) is (palette is None) or (palette is not None and palette.shape != (256, 4)):
        raise InvalidInput("indices, and nothing else, need a palette of 256 x 4.", field="palette")
    colours = b"" if palette is None else _palette(palette)
    if shape[2] != 3 and not pixels.any():  # transparent wherever a map shows the sea
        return _blank(shape, colours)
    return _file(shape, colours, isal_zlib.compress(_filtered(pixels.reshape(shape)), _SPEED))


@lru_cache(maxsize=64)
def _blank(shape: tuple[int, int, int], colours: bytes) -> bytes:
    """A picture of zeros, made small once and then handed out."""
    return _file(shape, colours, zlib.compress(_filtered(np.zeros(shape, np.uint8)).tobytes(), 9))


def _filtered(pixels: UInt8Array) -> UInt8Array:
    """(h, 1 + w * c) rows as they are compressed: the filter's number, then the bytes."""
    height, width, size = pixels.shape
    flat = pixels.reshape(height, width * size)
    rows = np.empty((height, 1 + width * size), np.uint8)
    rows[:, 0] = _SUB
    rows[:, 1 : 1 + size] = flat[:, :size]
    np.subtract(flat[:, size:], flat[:, :-size], out=rows[:, 1 + size :])
    return rows


def _palette(palette: UInt8Array) -> bytes:
    """The chunks PLTE and tRNS; those at its end that hide nothing need no entry in tRNS."""
    seen_through = np.flatnonzero(palette[:, 3] < 255)
    alpha = palette[: seen_through[-1] + 1, 3].tobytes() if len(seen_through) else b""
    return _chunk(b"PLTE", palette[:, :3].tobytes()) + (_chunk(b"tRNS", alpha) if alpha else b"")


def _file(shape: tuple[int, int, int], colours: bytes, data: bytes) -> bytes:
    height, width, size = shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPE[size], 0, 0, 0)
    parts = _SIGNATURE, _chunk(b"IHDR", header), colours, _chunk(b"IDAT", data), _chunk(b"IEND", b"")
    return b"".join(parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    check = isal_zlib.crc32(data, isal_zlib.crc32(name))
    return b"".join((struct.pack(">I", len(data)), name, data, struct.pack(">I", check)))
