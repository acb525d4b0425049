"""The pixels of a segment as they are stored, in plain files: what candidates are ranked by.

    codes.i8   (slots, 256, 256, d) int8        norms.f32   (slots, 256, 256), 0 where a pixel can be no hit
    scales.f32 (slots, 256, 256)

Ranking a query's candidates takes some hundred reads of one pixel each from all over. Out of the compressed store
every one of them would decode a chunk; here each is a few bytes of a mapped file.
"""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from indexing.index.manifest import REBUILD
from indexing.pixels import Pixels
from service.errors import Corrupt
from service.values import BLOCK, Float32Array, Int8Array, Int64Array

PIXELS: Final = BLOCK * BLOCK
"""Pixels of a slot: position p of a segment is pixel p % PIXELS of slot p // PIXELS."""
NAMES: Final = ("codes.i8", "norms.f32", "scales.f32")
_ROWS: Final = 32
"""Rows of a block that are left out of the file together where they hold zeros only."""


class RowsWriter:
    """Writes the files, block after block, and hashes what it writes. A context: leaving it closes them.

    Args:
        folder: An existing one.
    """

    def __init__(self, folder: Path) -> None:
        self._files = [(folder / name).open("wb") for name in NAMES]
        self._hashes = [hashlib.sha256() for _ in NAMES]

    def add(self, pixels: Pixels) -> None:
        """Add the next slot: (256, 256) pixels with their scales."""
        assert pixels.scales is not None  # noqa: S101  # the writer's caller asked for them
        arrays: tuple[npt.NDArray[Any], ...] = (pixels.codes, pixels.norms, pixels.scales)
        for number, array in enumerate(arrays):
            for top in range(0, BLOCK, _ROWS):
                part = np.ascontiguousarray(array[top : top + _ROWS])
                self._hashes[number].update(part.data)
                if part.any():
                    self._files[number].write(part.data)
                else:
                    self._files[number].seek(part.nbytes, 1)

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each file, by name."""
        return {name: digest.hexdigest() for name, digest in zip(NAMES, self._hashes, strict=True)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.truncate()  # where zeros were left out at the end
            file.close()


@dataclass(frozen=True, eq=False)
class Rows:
    """The files, mapped: pages that are not looked at take no memory. Safe to read from many threads.

    Codes are mapped twice. Where blocks are read from end to end the system may read ahead; where single pixels are,
    each would bring 128 kB along: a query that finds nothing in memory would wait for a hundred megabytes.
    """

    codes: Int8Array
    """(slots * 65536, d) int8, for blocks."""
    scattered: Int8Array
    """The same, for pixels."""
    norms: Float32Array
    """(slots * 65536,) float32."""
    scales: Float32Array
    """(slots * 65536,) float32."""

    @classmethod
    def open(cls, folder: Path, slots: int, dims: int) -> Self:
        """Map the files of a segment.

        Raises:
            Corrupt: One is missing or has another size. Names it.
        """
        count = slots * PIXELS
        codes, norms, scales = (folder / name for name in NAMES)
        return cls(
            _mapped(codes, np.int8, (count, dims)), _mapped(codes, np.int8, (count, dims), scattered=True),
            _mapped(norms, np.float32, (count,)), _mapped(scales, np.float32, (count,), scattered=True),
        )  # fmt: skip

    def block(self, slot: int) -> Pixels:
        """(256, 256) pixels of one slot, as views. Their status is not kept."""
        part = slice(slot * PIXELS, (slot + 1) * PIXELS)
        shape = (BLOCK, BLOCK)
        codes = self.codes[part].reshape(*shape, -1)
        return Pixels(codes, self.norms[part].reshape(shape), None, self.scales[part].reshape(shape))

    def at(self, positions: Int64Array) -> Int8Array:
        """(n, d) codes of (n,) positions."""
        return self.scattered.take(positions, axis=0)

    def scales_at(self, positions: Int64Array) -> Float32Array:
        """(n,) scales of (n,) positions."""
        return self.scales.take(positions)


def _mapped(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], *, scattered: bool = False) -> npt.NDArray[Any]:
    wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size != wanted:
                raise Corrupt(f"index file {path} has {size:,} bytes, not {wanted:,}.", remedy=REBUILD)
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if scattered and hasattr(mmap, "MADV_RANDOM"):
            held.madvise(mmap.MADV_RANDOM)
    except OSError as error:
        raise Corrupt(f"index file {path} cannot be read: {error.strerror}.", remedy=REBUILD) from None
    return np.frombuffer(held, dtype).reshape(shape)
