"""The values that travel between rooms: frozen, and checked when they are made.

Axis order shows in names: y = rows southwards, x = columns eastwards, d = embedding dimension. A value that
exists is consistent; nothing downstream checks it again.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from service.errors import IdentityMismatch, InvalidInput

Int8Array = npt.NDArray[np.int8]
UInt8Array = npt.NDArray[np.uint8]
UInt16Array = npt.NDArray[np.uint16]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Per-pixel status. The numbers are stored; they never change.
NOT_EMBEDDED: Final = 0
VALID: Final = 1
WATER: Final = 2
REJECTED: Final = 3
OUTSIDE: Final = 255
"""Never stored: the answer for a place beyond the grid."""

STATUS_NAMES: Final = {
    NOT_EMBEDDED: "not-embedded",
    VALID: "valid",
    WATER: "water",
    REJECTED: "rejected",
    OUTSIDE: "outside",
}

BLOCK: Final = 256
"""Pixels along a side of a block: the unit of work, of commit, of version, of index change."""

_ID = re.compile(r"[a-z0-9][a-z0-9._~-]{0,63}")


def checked_id(text: str, field: str) -> str:
    """Return `text` if it can be the name of a dataset, model or basis: safe in URLs and as a file name.

    Raises:
        InvalidInput: If it is anything else.
    """
    if not _ID.fullmatch(text) or ".." in text:
        raise InvalidInput(
            f"{text[:80]!r} is not a name.",
            field=field,
            remedy="Use 1 to 64 of a-z 0-9 . _ ~ - and begin with a letter or digit.",
        )
    return text


@dataclass(frozen=True, order=True)
class ModelIdentity:
    """Which encoder made a vector, written `name@version/variant`."""

    name: str
    version: str
    variant: str = "default"

    def __post_init__(self) -> None:
        for name in ("name", "version", "variant"):
            checked_id(str(getattr(self, name)).lower(), f"model.{name}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name@version[/variant]`.

        Raises:
            InvalidInput: If `text` has another form.
        """
        name, at, rest = text.partition("@")
        version, _, variant = rest.partition("/")
        if not (at and name and version):
            raise InvalidInput(
                f"{text!r} is not a model identity.", field="model", remedy="Write name@version/variant."
            )
        return cls(name, version, variant or "default")

    def __str__(self) -> str:
        return f"{self.name}@{self.version}/{self.variant}"

    def require_same(self, other: ModelIdentity, what: str) -> None:
        """Refuse to let vectors of two models meet.

        Raises:
            IdentityMismatch: If `other` is another identity; names both.
        """
        if self != other:
            raise IdentityMismatch(
                f"{what} was made by {other}, these vectors by {self}.",
                remedy="Vectors of different models cannot be compared; use one made by the same model.",
            )


@dataclass(frozen=True, order=True)
class Window:
    """A span of days, both ends included. A calendar year is what the published encoders were trained on."""

    start: dt.date
    end: dt.date

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise InvalidInput(f"the window ends ({self.end}) before it starts ({self.start}).", field="window")
        if (self.end - self.start).days > 366:
            raise InvalidInput(
                "a window spans at most 366 days.", field="window", remedy="Ask for each year on its own."
            )

    @classmethod
    def year(cls, year: int) -> Self:
        """The calendar year `year`."""
        return cls(dt.date(year, 1, 1), dt.date(year, 12, 31))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `2024` or `2024-05-01..2024-09-30`.

        Raises:
            InvalidInput: If `text` has another form or names days that do not exist.
        """
        try:
            if re.fullmatch(r"[12]\d{3}", text):
                return cls.year(int(text))
            start, dots, end = text.partition("..")
            if dots:
                return cls(dt.date.fromisoformat(start), dt.date.fromisoformat(end))
        except InvalidInput:
            raise
        except ValueError:
            pass
        raise InvalidInput(
            f"{text[:80]!r} is not a window.", field="window", remedy="Write 2024 or 2024-05-01..2024-09-30."
        )

    @property
    def is_year(self) -> bool:
        """Whether this is one whole calendar year, hence inside the training distribution."""
        return (
            self.start.year == self.end.year
            and (self.start.month, self.start.day) == (1, 1)
            and (self.end.month, self.end.day) == (12, 31)
        )

    def __contains__(self, day: dt.date) -> bool:
        return self.start <= day <= self.end

    def __str__(self) -> str:
        return f"{self.start.year:04d}" if self.is_year else f"{self.start}..{self.end}"


@dataclass(frozen=True)
class Area:
    """A box in degrees, west to east and south to north; `west > east` crosses the antimeridian."""

    west: float
    south: float
    east: float
    north: float

    def __post_init__(self) -> None:
        ok = -180 <= self.west <= 180 and -180 <= self.east <= 180 and -90 <= self.south < self.north <= 90
        if not ok or self.west == self.east:
            raise InvalidInput(
                f"{self.bounds} is not a box of degrees.", field="bbox", remedy="Give west,south,east,north."
            )

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north), degrees."""
        return self.west, self.south, self.east, self.north


@dataclass(frozen=True)
class Vectors:
    """Embeddings as they are stored, over any leading axes: (...,) pixels of d dimensions.

    A vector is `float32(codes) * scales` where status is VALID, and nothing anywhere else.
    """

    codes: Int8Array
    """(..., d) int8. Zero where there is no data."""
    scales: Float32Array
    """(...) float32, > 0 and finite where VALID; 0 elsewhere."""
    status: UInt8Array
    """(...) uint8, one of NOT_EMBEDDED, VALID, WATER, REJECTED, OUTSIDE."""
    norms: Callable[[], Float32Array] | None = field(default=None, compare=False, repr=False, kw_only=True)
    """Gives (...) float32 the length of each pixel's codes, 0 where not VALID, if whoever read the codes keeps it."""

    def __post_init__(self) -> None:
        lead = self.codes.shape[:-1]
        if self.codes.ndim < 1 or self.scales.shape != lead or self.status.shape != lead:
            raise InvalidInput(
                f"codes {self.codes.shape}, scales {self.scales.shape} and status {self.status.shape} "
                "do not describe the same pixels.",
                field="vectors",
            )
        for name, want in (("codes", np.int8), ("scales", np.float32), ("status", np.uint8)):
            if getattr(self, name).dtype != want:
                raise InvalidInput(f"must be {np.dtype(want)}, is {getattr(self, name).dtype}.", field=name)

    @classmethod
    def empty(cls, lead: tuple[int, ...], dims: int, status: int = NOT_EMBEDDED) -> Self:
        """`lead` pixels that hold nothing, with the reason why."""
        return cls(np.zeros((*lead, dims), np.int8), np.zeros(lead, np.float32), np.full(lead, status, np.uint8))

    @property
    def dims(self) -> int:
        """Embedding dimensions d."""
        return int(self.codes.shape[-1])

    @property
    def valid(self) -> BoolArray:
        """(...) bool: which pixels hold a vector."""
        return np.asarray(self.status == VALID)

    def taken(self, cells: Int64Array) -> Self:
        """(n,) pixels, from their flat indices."""
        return type(self)(
            self.codes.reshape(-1, self.dims).take(cells, axis=0),
            self.scales.ravel().take(cells),
            self.status.ravel().take(cells),
        )

    def dequantised(self) -> Float32Array:
        """(..., d) float32 vectors, NaN where status is not VALID."""
        out = self.codes.astype(np.float32) * self.scales[..., None]
        out[~self.valid] = np.nan
        return np.asarray(out, np.float32)


@dataclass(frozen=True)
class Counts:
    """How many valid observations each pixel was made from, per sensor and orbit."""

    s2: UInt16Array
    """(...) uint16 valid Sentinel-2 dates."""
    s1_asc: UInt16Array
    """(...) uint16 valid Sentinel-1 ascending dates."""
    s1_desc: UInt16Array
    """(...) uint16 valid Sentinel-1 descending dates."""

    def __post_init__(self) -> None:
        if not self.s2.shape == self.s1_asc.shape == self.s1_desc.shape:
            raise InvalidInput("the three counts have different shapes.", field="counts")

    @property
    def each(self) -> tuple[UInt16Array, UInt16Array, UInt16Array]:
        """The three, in the order in which they are stored."""
        return self.s2, self.s1_asc, self.s1_desc

    @classmethod
    def zeros(cls, lead: tuple[int, ...]) -> Self:
        """Counts of nothing: also the answer of layouts that do not record them."""
        return cls(*(np.zeros(lead, np.uint16) for _ in range(3)))


@dataclass(frozen=True)
class CacheUse:
    """How a cache was used since the process began."""

    hits: int
    misses: int
    bytes: int
    """What it holds now."""
