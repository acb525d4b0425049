"""How the lists of an index lie in a file: one after the other, each as FAISS keeps it in memory.

    for each list:  blocks of 32 packed codes with their factors, then its positions as int64; begins at 64 bytes

No table is stored beside the sizes of the lists: all else follows from them. FAISS is not needed to read or write it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from service.errors import Corrupt
from service.values import Int64Array, UInt8Array

BLOCK_OF_CODES: Final = 32
"""Codes that are compared at once, and therefore packed together."""
_ALIGNED: Final = 64
_POSITION: Final = 8
_GAP: Final = bytes(_ALIGNED)
_REMEDY: Final = "Build it again with `smalti index build`."


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each list lies."""

    sizes: Int64Array
    """(lists,) int64 pixels of each."""
    block_bytes: int
    """Bytes of a block of 32 codes."""

    @cached_property
    def capacities(self) -> Int64Array:
        """(lists,) codes there is room for."""
        return -(-self.sizes // BLOCK_OF_CODES) * BLOCK_OF_CODES

    @cached_property
    def code_bytes(self) -> Int64Array:
        """(lists,) bytes of the packed codes of each."""
        return self.capacities // BLOCK_OF_CODES * self.block_bytes

    @cached_property
    def list_bytes(self) -> Int64Array:
        """(lists,) bytes of each: its codes, then its positions."""
        return self.code_bytes + self.sizes * _POSITION

    @cached_property
    def _ends(self) -> Int64Array:
        return np.cumsum(-(-self.list_bytes // _ALIGNED) * _ALIGNED)

    @cached_property
    def offsets(self) -> Int64Array:
        """(lists,) where each begins, bytes."""
        return np.concatenate([np.zeros(1, np.int64), self._ends[:-1]])

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return int(self._ends[-1]) if len(self.sizes) else 0


def write(path: Path, lists: Iterable[tuple[UInt8Array, Int64Array]]) -> str:
    """Write lists, each with its packed codes and its positions, in order; returns the SHA-256 of the file."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for codes, positions in lists:
            gap = _GAP[: -(codes.nbytes + positions.nbytes) % _ALIGNED]
            for part in (codes.data, np.ascontiguousarray(positions).data, gap):
                file.write(part)
                digest.update(part)
    return digest.hexdigest()


def read_sizes(path: Path, block_bytes: int, lists: Path) -> Layout:
    """The layout of a file of lists, from the file with their sizes.

    Raises:
        Corrupt: It is no such file, or the file of lists has another size: reading on would end the process.
    """
    try:
        sizes = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Corrupt(f"{path} cannot be read: {error}.", remedy=_REMEDY) from None
    if sizes.ndim != 1 or sizes.dtype != np.int64 or (sizes < 0).any():
        raise Corrupt(f"{path} does not hold the sizes of lists.", remedy=_REMEDY)
    layout = Layout(sizes, block_bytes)
    if layout.bytes != lists.stat().st_size:
        raise Corrupt(f"{lists} has {lists.stat().st_size:,} bytes, not {layout.bytes:,}.", remedy=_REMEDY)
    return layout
