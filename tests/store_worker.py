"""A process that writes to a repository, to be raced with and killed.

usage: store_worker.py flip LOCATION            writes one block over and over, all 1 or all 2
       store_worker.py fill LOCATION ROW N      writes N blocks of one row, each its own commit
"""

from __future__ import annotations

import sys

import numpy as np

from service.grid import Block
from service.store import BlockData, open_store
from service.values import BLOCK, VALID, Counts, Vectors, Window

YEAR = Window.year(2024)
FLIPPED = Block("31N", 1400, 130)


def filled(block: Block, number: int, dims: int) -> BlockData:
    """A block whose every number tells which write it came from."""
    shape = (BLOCK, BLOCK)
    codes, scales = np.full((*shape, dims), number, np.int8), np.full(shape, number / 100, np.float32)
    vectors = Vectors(codes, scales, np.full(shape, VALID, np.uint8))
    return BlockData(block, YEAR, vectors, Counts(*(np.full(shape, number, np.uint16),) * 3), f"{number:064x}")


def main(role: str, location: str, *rest: str) -> None:
    store = open_store(location)
    print("ready", flush=True)
    if role == "flip":
        standing = store.read_block(FLIPPED, YEAR).vectors.codes[0, 0, 0]
        number = 2 if standing == 1 else 1
        while True:
            store.write([filled(FLIPPED, number, store.dims)], f"all {number}")
            print(number, flush=True)
            number = 3 - number
    row, blocks = int(rest[0]), int(rest[1])
    for col in range(blocks):
        store.write([filled(Block("31N", row, 100 + col), col + 1, store.dims)], "fill")


if __name__ == "__main__":
    main(*sys.argv[1:])
