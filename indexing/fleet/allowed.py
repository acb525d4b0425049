"""Which pixels of a shard may be proposed, small enough to be sent to another machine."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.errors import InvalidInput, LimitExceeded
from service.values import BLOCK, BoolArray, Int64Array, UInt8Array

PIXELS: Final = BLOCK * BLOCK
_SLOT_BYTES: Final = PIXELS // 8
_NONE, _ALL, _SOME = 0, 1, 2
_MOST_BITS: Final = 256_000_000
"""Bytes of bits in one question: of two billion pixels that are neither allowed nor not by whole blocks."""


@dataclass(frozen=True, eq=False)
class Allowed:
    """Which pixels of a shard may be proposed. Blocks of which all or none may take no room."""

    states: UInt8Array
    """(slots,) uint8, for each block: 0 none, 1 all, 2 some."""
    bits: UInt8Array
    """(8192 x blocks of which some may,) uint8: a bit for each of their pixels, lowest first."""

    @classmethod
    def of(cls, bits: UInt8Array) -> Allowed:
        """From a bit for each position of the shard."""
        rows = bits.reshape(-1, _SLOT_BYTES)
        states = np.where(~rows.any(axis=1), _NONE, np.where((rows == 255).all(axis=1), _ALL, _SOME)).astype(np.uint8)
        return cls(states, rows[states == _SOME].ravel())

    @classmethod
    def all(cls, slots: int) -> Allowed:
        """Every pixel of a shard of so many blocks."""
        return cls(np.full(slots, _ALL, np.uint8), np.empty(0, np.uint8))

    def expanded(self) -> UInt8Array:
        """(slots x 8192,) uint8: a bit for each position of the shard."""
        rows = np.zeros((len(self.states), _SLOT_BYTES), np.uint8)
        rows[self.states == _ALL] = 255
        rows[self.states == _SOME] = self.bits.reshape(-1, _SLOT_BYTES)
        return rows.ravel()

    def block(self, slot: int) -> BoolArray | None:
        """(256, 256) bool of one block; None where all of its pixels may be."""
        if self.states[slot] != _SOME:
            return None if self.states[slot] == _ALL else np.zeros((BLOCK, BLOCK), bool)
        row = int((self.states[:slot] == _SOME).sum())
        bits = self.bits[row * _SLOT_BYTES : (row + 1) * _SLOT_BYTES]
        return np.unpackbits(bits, bitorder="little").reshape(BLOCK, BLOCK).astype(bool)

    def may(self, position: Int64Array) -> bool:
        """Whether (n,) pixels, by their position, all may be proposed."""
        slot, offset = np.divmod(position, PIXELS)
        state, row = self.states[slot], np.cumsum(self.states == _SOME) - 1
        some = state == _SOME
        byte = self.bits[row[slot[some]] * _SLOT_BYTES + (offset[some] >> 3)]
        return bool((state != _NONE).all() and (byte >> (offset[some] & 7).astype(np.uint8) & 1).all())


def told_of(allowed: Sequence[Allowed]) -> tuple[UInt8Array, UInt8Array]:
    """How that of some shards, one after the other, is sent: the states, and the bits of all, deflated."""
    nothing = np.empty(0, np.uint8)
    bits = zlib.compress(np.concatenate([nothing, *(each.bits for each in allowed)]).tobytes(), 1)
    return np.concatenate([nothing, *(each.states for each in allowed)]), np.frombuffer(bits, np.uint8)


def untold(slots: Mapping[str, int], states: UInt8Array, told: bytes) -> dict[str, Allowed]:
    """What may be proposed of each shard of which not all may, as `told_of` told it.

    Args:
        slots: Blocks of each shard, in order.
        states: What is allowed of each of them.
        told: The rest.

    Raises:
        InvalidInput: It is not told of these shards.
        LimitExceeded: It is too much.
    """
    size = int((states == _SOME).sum()) * _SLOT_BYTES
    if size > _MOST_BITS:
        raise LimitExceeded(f"at most {_MOST_BITS:,} bytes of bits.", field="bits")
    try:
        bits = np.frombuffer(zlib.decompressobj().decompress(told, size + 1), np.uint8)
    except zlib.error:
        bits = states[:0]
    if len(states) != sum(slots.values()) or (states > _SOME).any() or len(bits) != size:
        raise InvalidInput("are not those of these shards.", field="bits")
    found, at, taken = {}, 0, 0
    for name, count in slots.items():
        mine = states[at : at + count]
        end = taken + int((mine == _SOME).sum()) * _SLOT_BYTES
        if (mine != _ALL).any():
            found[name] = Allowed(mine, bits[taken:end])
        at, taken = at + count, end
    return found
