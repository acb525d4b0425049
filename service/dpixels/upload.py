"""What somebody sent to be embedded, whichever form it came in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np

from service.dpixels.value import BLOCK_OF_PIXELS, DPixels
from service.errors import InvalidInput
from service.values import Float64Array, Window

Ids = list[str] | list[int]


@dataclass(frozen=True)
class UploadLimits:
    """The most an upload may hold."""

    pixels: int
    """Pixels; H * W of `bands`."""
    unpacked_bytes: int
    """All arrays together."""
    ratio: float = 250.0
    """Unpacked over packed bytes of the whole file; real series pack 1.5 to 10 times."""
    rows: int = 10_000_000
    """Rows of a table, an observation each."""


@dataclass(frozen=True)
class Declared:
    """What a file cannot say of itself."""

    window: Window | None = None
    """When; every date must lie within."""
    s2_unit: str | None = None
    """`dn` or `reflectance`."""
    s1_unit: str | None = None
    """`db`, `power` or `scaled`."""

    def unit(self, sensor: str, inside: str | None = None) -> str:
        """The unit of `s2` or `s1`, from here or from the file itself.

        Raises:
            InvalidInput: Neither says it, or they contradict each other.
        """
        outside, field = getattr(self, f"{sensor}_unit"), f"{sensor}_unit"
        if outside and inside and outside != inside:
            raise InvalidInput(
                f"is {outside}, and the file says {inside[:20]!r}.", field=field, remedy="Say it once, or the same."
            )
        if not (outside or inside):
            units = "dn or reflectance" if sensor == "s2" else "db, power or scaled"
            raise InvalidInput(f"is needed: what are the {sensor} values in?", field=field, remedy=f"Say {units}.")
        return str(outside or inside)


@dataclass(frozen=True, eq=False)
class Upload:
    """Checked d-pixels, and what came with them."""

    dpixels: DPixels
    reordered: bool = False
    """Whether bands came in another order than the model's and were put right."""
    ids: Ids | None = None
    """What the sender calls each pixel, if anything."""
    lonlat: Float64Array | None = None
    """(n, 2) degrees: where each pixel lies, if it is said."""

    @property
    def digest(self) -> str:
        """What is to be embedded and where, as hex digits: SHA-256 over the shapes, types and bytes of its arrays."""
        sha = hashlib.sha256(f"{self.dpixels.shape}".encode())
        if self.lonlat is not None:
            sha.update(self.lonlat.tobytes())
        for name in (f.name for f in fields(self.dpixels) if f.name != "shape"):
            array = getattr(self.dpixels, name)
            sha.update(f"{name}{array.shape}{array.dtype}".encode())
            for start in range(0, len(array), BLOCK_OF_PIXELS):  # views and files are never copied whole
                sha.update(np.ascontiguousarray(array[start : start + BLOCK_OF_PIXELS]).data)
        return sha.hexdigest()
