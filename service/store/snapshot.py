"""One snapshot of an Icechunk repository: its zones, layers and block versions, found lazily and kept.

A snapshot never changes, so whatever was read of it once stays true. A store moves to a newer snapshot by
swapping the whole object.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import icechunk
import numpy as np
import zarr
from zarr.core.sync import sync

from service.errors import Corrupt, InvalidInput, NotFound
from service.grid import Block, Zone, ZoneGrid
from service.store.chunks import ChunkCache, Kept
from service.store.faults import Array, read_array, reading
from service.store.layer import Layer
from service.store.layout import COUNT_NAMES, LAYOUT, LEVELS, WINDOW, overview_group, years_of
from service.store.patient import zarr_store
from service.values import NOT_EMBEDDED, Window

_ZONE = re.compile(r"\d\d[NS]")


class Snapshot:
    """What one session sees.

    Args:
        location: Of the repository, for messages.
        session: Read-only, or the writable one whose own changes shall be seen.
        chunks: Where decoded squares of arrays are kept, if the session is read-only.
    """

    def __init__(self, location: str, session: icechunk.Session, chunks: ChunkCache | None = None) -> None:
        self.location = location
        self.session = session
        self.id = str(session.snapshot_id)
        with reading(location, "root metadata"):
            self.root = zarr.open_group(zarr_store(location, session), mode="r" if session.read_only else "r+")
            self.attributes: dict[str, Any] = dict(self.root.attrs)
            names = set(self.root.group_keys())
        self.zones = tuple(sorted(Zone.parse(name) for name in names if _ZONE.fullmatch(name)))
        self._overviews = "overviews" in names
        self._layers: dict[tuple[Zone, int], Layer] = {}
        self._kept = Kept(chunks, self._standing) if chunks and session.read_only else None
        self._blocks: dict[int, dict[int, frozenset[Block]]] = {}
        self._versions: dict[tuple[int, Block], str] = {}
        self._above: dict[int, frozenset[Block]] = {}
        self._years: tuple[int, ...] | None = None
        self.stale: dict[tuple[int, Block], bool] = {}
        """What `stale_blocks` found out, by position in time and overview block."""

    @property
    def has_block_versions(self) -> bool:
        """Whether smalti made this repository: others have no versions per block."""
        return not self.zones or "block_version" in self.group(self.zones[0].name)

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels that hold any arrays."""
        if not self._overviews:
            return (1,)
        with reading(self.location, "overviews"):
            found = {int(name) for name in self.group("overviews").group_keys()}
        return (1, *(level for level in LEVELS if level in found))

    @property
    def years(self) -> tuple[int, ...]:
        """The time axis of the first zone, which `layer` holds the others to; what a first zone will have if none."""
        if self._years is None:
            if self.zones:
                self._years = decoded_years(self.location, self.array(self.zones[0].name, "time"))
            else:
                own = self.attributes.get(WINDOW)
                self._years = years_of(None if own is None else Window.parse(own)) if self.is_ours else ()
        return self._years

    @property
    def is_ours(self) -> bool:
        """Whether smalti made the repository, so that blocks can be written."""
        return self.attributes.get(LAYOUT) == 1

    def time(self, window: Window) -> int:
        """Position of a window on the time axis.

        Raises:
            NotFound: This repository cannot hold that window.
        """
        own = self.attributes.get(WINDOW)
        if own is not None:
            if str(window) == own:
                return 0
        elif window.is_year and window.start.year in self.years:
            return self.years.index(window.start.year)
        raise NotFound(f"{self.location} holds no window {window}.", field="window")

    def window(self, time: int) -> Window:
        """The window at a position of the time axis."""
        own = self.attributes.get(WINDOW)
        return Window.parse(own) if own is not None else Window.year(self.years[time])

    def group(self, path: str) -> zarr.Group:
        """A group that must be there.

        Raises:
            Corrupt: It is not, or its metadata cannot be read.
        """
        with reading(self.location, f"group {path}"):
            found = self.root[path]
        if not isinstance(found, zarr.Group):
            raise Corrupt(f"{self.location}: {path} is no group.")
        return found

    def array(self, group: str, name: str) -> Array:
        """An array that must be there.

        Raises:
            Corrupt: It is not, or its metadata cannot be read.
        """
        with reading(self.location, f"array {group}/{name}"):
            found = self.root[f"{group}/{name}"]
        if not isinstance(found, zarr.Array):
            raise Corrupt(f"{self.location}: {group}/{name} is no array.")
        return found

    def layer(self, zone: Zone, level: int = 1) -> Layer:
        """The arrays of one zone at one level.

        Raises:
            NotFound: No such zone or level.
            Corrupt: An array is missing or contradicts the grid, or the zone has another time axis than the first.
        """
        key = (zone, level)
        if key not in self._layers:
            self._layers[key] = self._open_layer(zone, level)
        return self._layers[key]

    def _open_layer(self, zone: Zone, level: int) -> Layer:
        if zone not in self.zones:
            raise NotFound(f"{self.location} has no zone {zone.name}.", field="zone")
        self.require_same_years(zone)
        path = self.path(zone, level)
        if level != 1 and (level not in self.levels or path not in self.root):
            raise NotFound(f"{self.location} has no overview at level {level} in zone {zone.name}.", field="level")
        group = self.group(path)
        codes, scales = self.array(path, "embeddings"), self.array(path, "scales")
        grid = grid_of(self.location, path, dict(group.attrs), zone, level)
        if codes.shape != (*scales.shape, codes.shape[-1]) or scales.shape[1:] != (grid.height, grid.width):
            raise Corrupt(
                f"{self.location}: {path}: embeddings {codes.shape}, scales {scales.shape} and the grid "
                f"{grid.height} x {grid.width} contradict each other."
            )
        names = set(group.array_keys())
        has_counts = names.issuperset(COUNT_NAMES)
        return Layer(
            self.location,
            grid,
            codes,
            scales,
            self.array(path, "status") if "status" in names else None,
            tuple(self.array(path, name) for name in COUNT_NAMES) if has_counts else (),
            nan_status=NOT_EMBEDDED,
            kept=self._kept,
        )

    def _standing(self, time: int, blocks: Iterable[Block]) -> Mapping[Block, str]:
        """What squares of blocks are kept under: their versions, or this snapshot's id in repositories of others."""
        return self.versions(time, blocks) if self.has_block_versions else dict.fromkeys(blocks, self.id)

    def has_counts(self, zone: Zone, level: int) -> bool:
        """Whether observation counts are kept at a level; overviews made by older versions have none."""
        path = self.path(zone, level)
        return path in self.root and bool(self.layer(zone, level).counts)

    @cached_property
    def counted(self) -> tuple[int, ...]:
        """Levels at which every zone that has them keeps observation counts."""
        return tuple(
            level
            for level in self.levels
            if all(self.has_counts(zone, level) for zone in self.zones if self.path(zone, level) in self.root)
        )

    def require_same_years(self, zone: Zone) -> None:
        """Positions in time are those of the first zone; another axis would give another year's pixels.

        Raises:
            Corrupt: The zone has another time axis.
        """
        if zone != self.zones[0] and decoded_years(self.location, self.array(zone.name, "time")) != self.years:
            raise Corrupt(f"{self.location}: zones {self.zones[0].name} and {zone.name} have different time axes.")

    @staticmethod
    def path(zone: Zone, level: int) -> str:
        """Path of the group of a zone at a level."""
        return zone.name if level == 1 else overview_group(zone, level)

    def blocks(self, level: int) -> Mapping[int, frozenset[Block]]:
        """Blocks with a version, by position in time: the listing of the chunks of `block_version`."""
        if level not in self._blocks:
            found: dict[int, set[Block]] = defaultdict(set)
            for zone in self.zones:
                path = self.path(zone, level)
                if level == 1 or path in self.root:
                    for time, row, col in self.chunks(f"{path}/block_version"):
                        found[time].add(Block(zone.name, row, col, level))
            self._blocks[level] = {time: frozenset(blocks) for time, blocks in found.items()}
        return self._blocks[level]

    def above(self, time: int) -> frozenset[Block]:
        """Overview blocks that hold data or have any below them; a few more after blocks were emptied."""
        if time not in self._above:
            below, out = set(self.blocks(1).get(time, ())), set[Block]()
            for level in LEVELS:
                below = {block.parent() for block in below} | self.blocks(level).get(time, frozenset())
                out |= below
            self._above[time] = frozenset(out)
        return self._above[time]

    def succeed(self, previous: Snapshot, changed: Mapping[str, Iterable[Sequence[int]]]) -> None:
        """Take over what an older snapshot knows of blocks, but for the chunks that changed since.

        A commit to a repository of a million blocks must not make every reader list them all again.

        Args:
            previous: The older snapshot.
            changed: Chunk coordinates written in between, by array path.
        """
        touched = set()
        for path, chunks in changed.items():
            group, _, name = path.rpartition("/")
            if name in ("block_version", "block_children"):
                level = int(group.split("/")[1]) if "/" in group else 1
                # A chunk has one more coordinate where a block has several numbers.
                touched |= {(c[0], Block(group.rpartition("/")[2], c[1], c[2], level)) for c in chunks}
        # Threads that read the older one go on adding to what it knows, so it is copied before it is gone through.
        self._versions = {k: version for k, version in dict(previous._versions).items() if k not in touched}
        for level, listed in dict(previous._blocks).items():
            held = {time: set(blocks) for time, blocks in listed.items()}
            for time in {t for t, block in touched if block.level == level}:
                mine = {block for t, block in touched if t == time and block.level == level}
                now = {block for block, version in self.versions(time, mine).items() if version}
                held[time] = held.get(time, set()) - mine | now
            self._blocks[level] = {time: frozenset(blocks) for time, blocks in held.items() if blocks}
        over = {(time, above) for time, block in touched for above in _with_ancestors(block)}
        self.stale = {key: stale for key, stale in dict(previous.stale).items() if key not in over}
        for time, known in dict(previous._above).items():
            self._above[time] = known | {block for t, block in over if t == time}

    def chunks(self, path: str) -> list[tuple[int, ...]]:
        """Coordinates of the chunks of an array that were ever written."""

        async def gather() -> list[tuple[int, ...]]:
            return [c async for c in self.session.chunk_coordinates(f"/{path}", batch_size=10_000)]

        with reading(self.location, f"the chunk list of {path}"):
            return sync(gather())

    def versions(self, time: int, blocks: Iterable[Block]) -> dict[Block, str]:
        """The version of each block, 16 hex digits; "" where nothing was written."""
        wanted = list(blocks)
        missing = [block for block in wanted if (time, block) not in self._versions]
        stored = self.block_values("block_version", time, missing)
        for block in missing:
            number = int(stored.get(block, 0))
            self._versions[time, block] = f"{number:016x}" if number else ""
        return {block: self._versions[time, block] for block in wanted}

    def block_values(self, name: str, time: int, blocks: Iterable[Block]) -> dict[Block, Any]:
        """What a per-block array holds for each block: a number, or (k,) numbers; absent groups are left out."""
        groups: dict[tuple[str, int], list[Block]] = defaultdict(list)
        for block in blocks:
            groups[block.zone, block.level].append(block)
        out: dict[Block, Any] = {}
        for (zone, level), members in groups.items():
            path = self.path(Zone.parse(zone), level)
            if path in self.root:
                out |= self._block_values(path, name, time, members)
        return out

    def _block_values(self, path: str, name: str, time: int, blocks: list[Block]) -> dict[Block, Any]:
        array = self.array(path, name)
        rows, cols = [b.row for b in blocks], [b.col for b in blocks]
        top, bottom, left, right = min(rows), max(rows) + 1, min(cols), max(cols) + 1
        if top < 0 or left < 0 or bottom > array.shape[1] or right > array.shape[2]:
            raise InvalidInput(f"a block lies beyond the grid of {path}.", field="block")
        if (bottom - top) * (right - left) <= 4 * len(blocks):
            box = read_array(self.location, array, time, slice(top, bottom), slice(left, right))
            return {b: box[b.row - top, b.col - left] for b in blocks}
        return {b: read_array(self.location, array, time, b.row, b.col)[()] for b in blocks}


def _with_ancestors(block: Block) -> Iterator[Block]:
    """The overview blocks above a block, and itself where it is one."""
    if block.level > 1:
        yield block
    while block.level < LEVELS[-1]:
        yield (block := block.parent())


def grid_of(location: str, path: str, attributes: Mapping[str, Any], zone: Zone, level: int = 1) -> ZoneGrid:
    """The grid that a zone group's attributes describe.

    Raises:
        Corrupt: They are missing or describe no north-up grid of 10 m times the level.
    """
    try:
        a, b, x0, d, e, y0 = (float(v) for v in attributes["spatial:transform"])
        height, width = (int(v) for v in attributes["spatial:shape"])
        epsg = int(str(attributes["proj:code"]).removeprefix("EPSG:"))
    except (KeyError, ValueError, TypeError) as error:
        raise Corrupt(
            f"{location}: group {path} does not say where it lies: spatial:transform, spatial:shape or proj:code "
            "is missing or malformed."
        ) from error
    if b or d or a != 10.0 * level or e != -a or epsg not in (32600 + zone.number, 32700 + zone.number):
        raise Corrupt(f"{location}: group {path} is no north-up grid of {10 * level} m in UTM zone {zone.number}.")
    return ZoneGrid(zone, x0, y0, width, height, level, epsg)


def decoded_years(location: str, array: Array) -> tuple[int, ...]:
    """Years on a time axis, stored as years or as a count of days, seconds or nanoseconds since a date.

    Raises:
        Corrupt: It is neither.
    """
    values = np.asarray(read_array(location, array, slice(0, array.shape[0])))
    units = re.fullmatch(r"(days|seconds|nanoseconds) since (\d{4}-\d\d-\d\d).*", str(array.attrs.get("units", "")))
    if units and values.dtype.kind in "iu":
        step = {"days": "D", "seconds": "s", "nanoseconds": "ns"}[units[1]]
        values = np.datetime64(units[2]) + values.astype(f"timedelta64[{step}]")
    if values.dtype.kind == "M":
        values = values.astype("datetime64[Y]").astype(np.int64) + 1970
    if values.dtype.kind not in "iu" or ((values < 1900) | (values > 2200)).any():
        raise Corrupt(f"{location}: array {array.path} does not hold years.")
    return tuple(cast(list[int], values.astype(np.int64).tolist()))
