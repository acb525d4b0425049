"""What is asked of a search, and what it answers: values that travel between the doors and the search."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Final, Literal

from service.deadline import Deadline
from service.errors import InvalidInput
from service.grid import PIXEL, ZONE_LEVELS, Zone
from service.polygons import Polygon
from service.queries import Query
from service.values import VALID, Area, Int64Array, Window

Engine = Literal["exact", "index", "index+exact"]

_SQUARE_METRES: Final = 10_000.0
"""In a hectare."""


@dataclass(frozen=True, eq=False)
class Where:
    """Which pixels may be hits; every one that holds a vector where nothing is said."""

    area: Area | None = None
    """Only pixels whose centre lies in it."""
    inside: Polygon | None = None
    """Only pixels whose centre lies in it."""
    outside: tuple[Polygon, ...] = ()
    """No pixel whose centre lies in any of them."""
    exclude: Int64Array | None = None
    """(n,) ids of pixels of 10 m that shall be no hit, nor what they lie in of a coarser level. Hits keep their spacing
    from them too."""
    min_s2: int = 0
    """Least count of valid Sentinel-2 dates behind a pixel; of an overview's, the mean of those below it."""
    min_s1_asc: int = 0
    """Likewise of Sentinel-1 dates from ascending orbits."""
    min_s1_desc: int = 0
    """Likewise from descending orbits."""

    @property
    def least_counts(self) -> tuple[int, int, int]:
        """The three minima, in the order of `Counts.each`."""
        return self.min_s2, self.min_s1_asc, self.min_s1_desc


def _require_level(level: int) -> None:
    if level not in ZONE_LEVELS:
        raise InvalidInput(f"is none of the levels {ZONE_LEVELS}.", field="level")


@dataclass(frozen=True, eq=False)
class Question:
    """The k pixels of a window most like a query."""

    query: Query
    window: Window
    k: int
    """1 or more."""
    level: int = 1
    """Whose pixels: 1 are those of 10 m, 8 are overview pixels of 80 m."""
    where: Where = field(default_factory=Where)
    own: Int64Array | None = None
    """(n,) ids of the pixels the query was made from: looked at whether or not an index proposes them."""
    spacing: float = 0.0
    """Metres between any two hits, at least."""
    recall: float | None = None
    """Share of the 10 best that the index must have been measured to find, 0 to 1; as built where absent."""
    exact: bool = False
    """Whether every pixel is to be scored, whatever an index says."""
    refine: bool = False
    """Whether hits of a level above 1 only tell where to look for pixels of 10 m."""
    deadline: Deadline | None = None
    """When to give up, if ever: looked at before each block."""

    def __post_init__(self) -> None:
        _require_level(self.level)
        if self.k < 1:
            raise InvalidInput("must be 1 or more.", field="k")
        if not (isfinite(self.spacing) and self.spacing >= 0):
            raise InvalidInput("must be 0 metres or more.", field="spacing")
        if self.recall is not None and not 0 < self.recall <= 1:
            raise InvalidInput("must be above 0 and at most 1.", field="recall")
        if self.refine and self.level == 1:
            raise InvalidInput(
                "there is nothing below level 1 to refine to.", field="refine", remedy="Give a level above 1."
            )


@dataclass(frozen=True, eq=False)
class RangeQuestion:
    """How many pixels of a window are at least so alike, in each of some polygons. Always answered exactly."""

    query: Query
    window: Window
    least: float
    """Score from which on a pixel counts; see `Query.score_at` for a distance."""
    level: int = 1
    where: Where = field(default_factory=Where)
    polygons: tuple[Polygon, ...] = ()
    """What to count in, each on its own; everywhere where there is none."""
    most: int = 0
    """How many of the pixels that count are given as hits, best first."""
    deadline: Deadline | None = None

    def __post_init__(self) -> None:
        _require_level(self.level)
        if not isfinite(self.least):
            raise InvalidInput("must be a finite number.", field="least")
        if self.most < 0:
            raise InvalidInput("must be 0 or more.", field="most")


@dataclass(frozen=True)
class Hit:
    """One pixel like the query."""

    lon: float
    """Longitude of its centre, degrees."""
    lat: float
    """Latitude of its centre, degrees."""
    score: float
    """See `Query`: cosine, -1 to 1; or 1 less the distance over the query's length."""
    rank: int
    """From 1; equal scores by zone, row and column."""
    zone: Zone
    row: int
    """Row of the zone's grid at the level of the answer."""
    col: int
    status: int = VALID
    distance: float | None = None
    """Euclidean distance of the vectors; None where the metric is another."""


@dataclass(frozen=True)
class SearchResult:
    """The hits, and how they were found."""

    hits: tuple[Hit, ...]
    engine: Engine
    """`exact`: every pixel scored. `index`: candidates from FAISS. `index+exact`: and some scanned: what
    changed since, what spacing left, or what lies below the best coarse pixels."""
    revision: str
    recall: float | None
    """Share of the 10 best that the index was measured to find; 1 for an exact scan, None where not measured."""
    scanned: int
    """Pixels scored one by one."""
    candidates: int
    """Candidates the index proposed."""
    level: int = 1
    """Of the hits."""
    missing: tuple[str, ...] = ()
    """Names of the shards that could not be asked."""
    probes: int = 0
    """Lists of the index looked into."""
    stale: int = 0
    """Overview blocks looked at that are older than the pixels below them."""
    exhausted: bool = False
    """Whether there are fewer hits than asked for because no other pixel that was looked at may be one."""

    @property
    def partial(self) -> bool:
        """Whether hits may be missing because some shards could not be asked."""
        return bool(self.missing)


@dataclass(frozen=True)
class PixelCount:
    """What of a polygon is alike."""

    inside: int
    """Pixels in it, of those that may be hits, in blocks with data."""
    valid: int
    """Those of them that hold a vector."""
    within: int
    """Those of them that are at least so alike."""
    level: int = 1

    @cached_property
    def hectares(self) -> float:
        """What is alike, on the grid: pixels times their side squared. On the ground UTM is up to 0.2 % off."""
        return self.within * (PIXEL * self.level) ** 2 / _SQUARE_METRES

    @cached_property
    def valid_hectares(self) -> float:
        """What holds a vector, likewise."""
        return self.valid * (PIXEL * self.level) ** 2 / _SQUARE_METRES


@dataclass(frozen=True)
class RangeResult:
    """The counts, and how they were made."""

    counts: tuple[PixelCount, ...]
    """Of each polygon, in order; of everything where there was none."""
    hits: tuple[Hit, ...]
    """The best of the pixels that count, of all polygons together, each once."""
    revision: str
    scanned: int
    """Pixels scored, each once."""
    level: int = 1
    stale: int = 0
    """Overview blocks looked at that are older than the pixels below them."""
