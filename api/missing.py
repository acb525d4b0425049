"""Why a place is empty, and who is filling it: told from what is known already; nothing here reads or asks.

Three things decide: what the store says of the pixel, whether the dataset's source reaches there, and whether a job
that waits or runs holds its block. `lookout.py` knows the last two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal, TypedDict

import numpy as np

from api.progress import Order
from service.errors import Corrupt
from service.frame import lonlat_box
from service.grid import Block, Zone, archive_grid, zone_numbers
from service.sources import Placement
from service.values import (
    BLOCK,
    NOT_EMBEDDED,
    OUTSIDE,
    REJECTED,
    VALID,
    WATER,
    BoolArray,
    Float64Array,
    Int64Array,
    UInt8Array,
)
from service.warp import Target, ZoneMap, zone_maps

Box = tuple[float, float, float, float]
Reason = Literal["outside", "water", "not-embedded", "rejected", "embedding"]
EMPTY: Final = "X-Smalti-Empty"
"""Header of a tile that shows no vector: one of the reasons."""
STATUS_RELATION: Final = "status"
"""Of the `Link` to the job, where the reason is `embedding` (RFC 8631)."""
REASON: Final = (
    "why there is no vector: `embedding` (a job that waits or runs holds its block), `not-embedded`, `water`, "
    "`rejected` (too few observations), `outside` (neither the dataset nor its source reaches there); null if valid"
)
JOB: Final = "address of the job, where the reason is `embedding`"
ON_VIEW: Final = "embed_on_view"
"""Member of a source's document that says what is embedded because somebody looks at it."""
_MOST_ON_VIEW: Final = 4096
"""Blocks an hour that such a budget may be."""
_FEW: Final = 16
"""Blocks of a job in a picture's box up to which each is looked for in the picture; more are there for sure."""


@dataclass(frozen=True, eq=False)
class Running:
    """A job that waits or runs, and the blocks it will fill."""

    id: str
    dataset: str
    window: str
    rows: Mapping[str, Int64Array] = field(repr=False)
    """Per zone: (n,) rows of blocks."""
    cols: Mapping[str, Int64Array] = field(repr=False)
    """Per zone: (n,) columns of blocks."""

    @classmethod
    def of(cls, job: str, order: Order) -> Running:
        """A job from its order."""
        zones: dict[str, list[Block]] = {}
        for name in order.pixels:
            block = Block.parse(name)
            zones.setdefault(block.zone, []).append(block)
        rows = {zone: np.array([block.row for block in some], np.int64) for zone, some in zones.items()}
        cols = {zone: np.array([block.col for block in some], np.int64) for zone, some in zones.items()}
        return cls(job, order.dataset, order.window, rows, cols)

    def shown_in(self, part: ZoneMap) -> bool:
        """Whether a part of a picture shows any of its blocks."""
        zone = part.grid.zone.name
        if zone not in self.rows:
            return False
        top, bottom, left, right = (edge // BLOCK for edge in part.box)
        rows, cols = self.rows[zone], self.cols[zone]
        near = np.flatnonzero((rows >= top) & (rows <= bottom) & (cols >= left) & (cols <= right))
        if len(near) > _FEW:
            return True
        return any(((part.rows // BLOCK == rows[i]) & (part.cols // BLOCK == cols[i])).any() for i in near)

    def holds(self, zone: str, row: Int64Array, col: Int64Array) -> BoolArray:
        """(n,) which pixels of a zone's grid lie in its blocks."""
        if zone not in self.rows:
            return np.zeros(len(row), bool)
        return np.isin((row // BLOCK << 32) + col // BLOCK, (self.rows[zone] << 32) + self.cols[zone])


class Why(TypedDict):
    """Why a place has no vector, as answers tell it."""

    reason: Reason | None
    job: str | None


@dataclass(frozen=True)
class Chance:
    """What may become of the empty parts of a picture."""

    job: str | None = None
    """The job that will fill some of it."""
    reached: bool = False
    """Whether the dataset's source reaches any of it."""
    on_view: bool = False
    """Whether that may be embedded because somebody looks at it."""

    @property
    def mark(self) -> str:
        """Part of the validator of a picture: empty where neither is so."""
        return f"j{self.job[:12]}" if self.job else "s" * self.reached

    def reason(self, statuses: Collection[int]) -> Reason | None:
        """Why a picture is empty; None where it is not. What can be done about it comes before what is so.

        Args:
            statuses: Of its pixels.
        """
        if VALID in statuses:
            return None
        if self.job:
            return "embedding"
        if self.reached and not {NOT_EMBEDDED, OUTSIDE}.isdisjoint(statuses):
            return "not-embedded"
        return "rejected" if REJECTED in statuses else "water" if WATER in statuses else "not-embedded"


NO_CHANCE: Final = Chance()


@dataclass(frozen=True)
class Hope:
    """What the source of a dataset can do for a window that can be written to."""

    reach: tuple[Placement, ...] = ()
    """Where it reaches."""
    on_view: int = 0
    """Blocks an hour that are embedded because somebody looks at them."""


@dataclass(frozen=True, eq=False)
class Outlook:
    """What is known of the empty places of one window of a dataset."""

    running: tuple[Running, ...] = ()
    reach: tuple[Placement, ...] = ()
    on_view: int = 0
    """Blocks an hour that are embedded because somebody looks at them; 0: none."""
    busy: bool = False
    """Whether a job of the dataset waits or runs, of this window or another."""

    @property
    def mark(self) -> str:
        """Part of the validator of answers about single places."""
        return ",".join([job.id for job in self.running] + ["source"] * bool(self.reach))

    def of_picture(self, target: Target) -> Chance:
        """What may become of a picture; reads nothing."""
        if not (self.running or self.reach):
            return NO_CHANCE
        near = _zones_of(target)
        reached = any(_reached(target, place) for place in self.reach if place.zone.name in near)
        job = next((job.id for job in self.running if _shown(job, target, near)), None)
        return Chance(job, reached, reached and self.on_view > 0 and not self.busy)

    def job_of(self, block: Block) -> str | None:
        """The job that will fill a block, if any."""
        at = np.array([block.rows.start]), np.array([block.cols.start])
        return next((job.id for job in self.running if job.holds(block.zone, *at).any()), None)

    def of_places(self, lon: Float64Array, lat: Float64Array) -> tuple[list[str | None], BoolArray]:
        """For each of (n,) places the job that will fill it, if any, and whether the source reaches it."""
        jobs: list[str | None] = [None] * len(lon)
        reached = np.zeros(len(lon), bool)
        numbers, south = zone_numbers(lon), lat < 0
        for name in {place.zone.name for place in self.reach} | {name for job in self.running for name in job.rows}:
            zone = Zone.parse(name)
            (mine,) = np.nonzero((numbers == zone.number) & (south == zone.south))
            if not len(mine):
                continue
            row, col = (np.floor(one).astype(np.int64) for one in archive_grid(zone).from_lonlat(lon[mine], lat[mine]))
            for place in self.reach:
                if place.zone == zone:
                    reached[mine] |= _inside(place, row, col)
            for job in reversed(self.running):  # the newest is told
                for held in mine[job.holds(name, row, col)]:
                    jobs[held] = job.id
        return jobs, reached


def whys(outlook: Outlook, bounds: Box, lonlat: Float64Array, status: UInt8Array) -> list[Why]:
    """For each of (n, 2) places why it has no vector, as answers tell it.

    Args:
        outlook: What is known of the window.
        bounds: (west, south, east, north) of what is embedded: beyond it, and beyond the source, is outside.
        lonlat: Places.
        status: (n,) as it is stored.
    """
    out = [Why(reason=None, job=None)] * len(status)
    (empty,) = np.nonzero(status != VALID)
    lon, lat = (lonlat[empty, 0] + 180) % 360 - 180, lonlat[empty, 1]
    west, south, east, north = bounds
    near = (status[empty] != OUTSIDE) & (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
    jobs, reached = outlook.of_places(lon, lat)
    for at, job, known in zip(empty.tolist(), jobs, (near | reached).tolist(), strict=True):
        reason: Reason = "embedding" if job else _STORED.get(int(status[at]), "not-embedded" if known else "outside")
        out[at] = Why(reason=reason, job=f"/jobs/{job}" if job else None)
    return out


_STORED: Final[Mapping[int, Reason]] = {WATER: "water", REJECTED: "rejected"}


def blocks_per_hour(document: Mapping[str, Any]) -> int:
    """The budget of a dataset, from the document of its source; 0 where nothing is embedded on view.

    Raises:
        Corrupt: It is said in a way that means nothing.
    """
    said = document.get(ON_VIEW, False)
    if said is False:
        return 0
    budget = said.get("blocks_per_hour") if isinstance(said, Mapping) and set(said) == {"blocks_per_hour"} else None
    if not isinstance(budget, int) or isinstance(budget, bool) or not 0 <= budget <= _MOST_ON_VIEW:
        remedy = f"Write {ON_VIEW} = {{blocks_per_hour = 16}}, at most {_MOST_ON_VIEW}, or leave it out."
        raise Corrupt(f"{ON_VIEW} = {said!r} is no budget.", field=ON_VIEW, remedy=remedy)
    return budget


def told(reason: Reason | None, chance: Chance = NO_CHANCE) -> dict[str, str]:
    """The headers that say why a tile is empty; none where it is not."""
    if reason is None:
        return {}
    job = {"Link": f'</jobs/{chance.job}>; rel="{STATUS_RELATION}"'} if chance.job else {}
    return {EMPTY: reason, **job}


def _inside(place: Placement, row: Int64Array, col: Int64Array) -> BoolArray:
    rows, cols = place.rows, place.cols
    return np.asarray((row >= rows.start) & (row < rows.stop) & (col >= cols.start) & (col < cols.stop))


def _zones_of(target: Target) -> set[str]:
    """Names of the nominal zones that a picture's box of degrees touches."""
    west, south, east, north = lonlat_box(target)
    lon = (np.append(np.arange(west, east, 3.0), east) + 180) % 360 - 180
    halves = [half for half, there in ((False, north >= 0), (True, south < 0)) if there]
    return {Zone(int(number), half).name for number in set(zone_numbers(lon).tolist()) for half in halves}


def _shown(job: Running, target: Target, near: set[str]) -> bool:
    grids = [archive_grid(Zone.parse(name)) for name in sorted(near & set(job.rows))]
    return any(job.shown_in(part) for grid in grids for part in zone_maps(target, (grid,)))


@lru_cache(maxsize=8192)
def _reached(target: Target, place: Placement) -> bool:
    for part in zone_maps(target, (archive_grid(place.zone),)):
        top, bottom, left, right = part.box
        rows, cols = place.rows, place.cols
        if top < rows.stop and bottom >= rows.start and left < cols.stop and right >= cols.start:
            return bool(_inside(place, part.rows.astype(np.int64), part.cols.astype(np.int64)).any())
    return False
