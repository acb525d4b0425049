"""One snapshot of an Icechunk repository: its zones, layers and block versions, found lazily and kept.

A snapshot never changes, so whatever was read of it once stays true. A store moves to a newer snapshot by
swapping the whole object.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import icechunk
import zarr
from zarr.core.sync import sync

from service.errors import Corrupt, NotFound
from service.globe import LEVELS, Grids
from service.grid import WORLD_GRID, WORLD_LEVELS, Block, Zone, ZoneGrid
from service.store.axes import decoded_years, grid_of
from service.store.blockwise import block_values
from service.store.chunks import ChunkCache, Kept
from service.store.faults import Array, reading
from service.store.layer import Layer, read_counts_window, read_window
from service.store.layout import COUNT_NAMES, LAYOUT, WINDOW, overview_group, years_of
from service.store.lineage import Lineage
from service.store.near import Near, zarr_store
from service.values import NOT_EMBEDDED, Counts, Vectors, Window

_ZONE = re.compile(r"\d\d[NS]")


class Snapshot:
    """What one session sees.

    Args:
        location: Of the repository, for messages.
        session: Read-only, or the writable one whose own changes shall be seen.
        chunks: Where decoded squares of arrays are kept, if the session is read-only.
        near: Where what is fetched over a network is kept, if the session is read-only.
    """

    def __init__(
        self,
        location: str,
        session: icechunk.Session,
        chunks: ChunkCache | None = None,
        near: Near | None = None,
    ) -> None:
        self.location = location
        self.session = session
        self.id = str(session.snapshot_id)
        with reading(location, "root metadata"):
            self.root = zarr.open_group(zarr_store(location, session, near), mode="r" if session.read_only else "r+")
            self.attributes: dict[str, Any] = dict(self.root.attrs)
        self.zones = tuple(sorted(Zone.parse(name) for name in self._names("") if _ZONE.fullmatch(name)))
        self._held: dict[int, frozenset[str]] = {}
        self._layers: dict[tuple[Zone, int], Layer] = {}
        self._arrays: dict[str, Mapping[str, Array]] = {}
        self._kept = Kept(chunks, self._standing) if chunks and session.read_only else None
        self._blocks: dict[int, dict[int, frozenset[Block]]] = {}
        self._versions: dict[tuple[int, Block], str] = {}
        self._years: tuple[int, ...] | None = None
        self._same_years: set[Zone] = set()
        self.lineage = Lineage(self)

    @cached_property
    def has_block_versions(self) -> bool:
        """Whether smalti made this repository: others have no versions per block."""
        return not self.zones or "block_version" in self.group(self.zones[0].name)

    @cached_property
    def grids(self) -> Grids:
        """The level-1 grid of each zone."""
        return {zone: self.layer(zone).grid for zone in self.zones}

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Levels that hold any arrays."""
        found = self._names("overviews")
        return (1, *(level for level in LEVELS if str(level) in found))

    def holds(self, zone: Zone, level: int) -> bool:
        """Whether there is a group of a zone at a level."""
        if level == 1:
            return zone in self.zones
        if level not in self._held:
            self._held[level] = self._names(f"overviews/{level}")
        return zone.name in self._held[level]

    def _names(self, path: str) -> frozenset[str]:
        """Names of what lies in a group."""

        async def gather() -> frozenset[str]:
            return frozenset([name async for name in self.root.store.list_dir(path)])

        with reading(self.location, f"the listing of /{path}"):
            return sync(gather())

    def wrote(self, time: int = 0, versions: Iterable[tuple[Block, int]] = ()) -> None:
        """Take note of what this snapshot's own session wrote: groups, and versions of blocks."""
        self.__dict__.pop("levels", None)
        self._held.clear()
        for block, version in versions:
            self._versions[time, block] = f"{version:016x}" if version else ""
            self._blocks.pop(block.level, None)

    def forget(self, zone: Zone, level: int) -> None:
        """Open the arrays of a zone at a level anew: this snapshot's own session added some."""
        self._layers.pop((zone, level), None)
        self._arrays.pop(self.path(zone, level), None)

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
            Corrupt: It is not, or metadata cannot be read.
        """
        found = self.arrays(group)
        if name not in found:
            raise Corrupt(f"{self.location}: {group} has no array {name}.")
        return found[name]

    def arrays(self, group: str) -> Mapping[str, Array]:
        """The arrays of a group by name, opened together and kept.

        Raises:
            Corrupt: It is no group, or metadata cannot be read.
        """
        if group not in self._arrays:
            with reading(self.location, f"the arrays of {group}"):
                self._arrays[group] = dict(self.group(group).arrays())
        return self._arrays[group]

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
        if zone not in self.zones and (zone != Zone.WORLD or level not in WORLD_LEVELS):
            raise NotFound(f"{self.location} has no zone {zone.name}.", field="zone")
        if zone != Zone.WORLD:
            self.require_same_years(zone)
        path = self.path(zone, level)
        if not self.holds(zone, level):
            raise NotFound(f"{self.location} has no overview at level {level} in zone {zone.name}.", field="level")
        arrays, codes, scales = self.arrays(path), self.array(path, "embeddings"), self.array(path, "scales")
        grid = grid_of(self.location, path, dict(self.group(path).attrs), zone, level)
        if codes.shape != (*scales.shape, codes.shape[-1]) or scales.shape[1:] != (grid.height, grid.width):
            raise Corrupt(
                f"{self.location}: {path}: embeddings {codes.shape}, scales {scales.shape} and the grid "
                f"{grid.height} x {grid.width} contradict each other."
            )
        counts = tuple(arrays[name] for name in COUNT_NAMES if name in arrays)
        return Layer(
            self.location,
            grid,
            codes,
            scales,
            arrays.get("status"),
            counts if len(counts) == len(COUNT_NAMES) else (),
            nan_status=NOT_EMBEDDED,
            kept=self._kept,
        )

    def _standing(self, time: int, blocks: Iterable[Block]) -> Mapping[Block, str]:
        """What squares of blocks are kept under: their versions, or this snapshot's id in repositories of others."""
        return self.versions(time, blocks) if self.has_block_versions else dict.fromkeys(blocks, self.id)

    def has_counts(self, zone: Zone, level: int) -> bool:
        """Whether observation counts are kept at a level; overviews made by older versions have none."""
        return self.holds(zone, level) and bool(self.layer(zone, level).counts)

    @cached_property
    def counted(self) -> tuple[int, ...]:
        """Levels at which every zone that has them keeps observation counts."""
        return tuple(
            level
            for level in self.levels
            if all(self.has_counts(zone, level) for zone in self.zones if self.holds(zone, level))
        )

    @cached_property
    def dims(self) -> int:
        """Embedding dimensions of a repository that smalti made."""
        return int(self.attributes["geoemb:dimensions"])

    def grid(self, zone: Zone, level: int) -> ZoneGrid:
        """The grid of a zone, or of the world, at a level, whether anything is stored of it or not."""
        return (WORLD_GRID if zone == Zone.WORLD else self.grids[zone]).at_level(level)

    def pixels(self, zone: Zone, time: int, rows: slice, cols: slice) -> tuple[Vectors, Counts]:
        """A rectangle of level 1."""
        layer = self.layer(zone)
        return read_window(layer, time, rows, cols), read_counts_window(layer, time, rows, cols)

    def require_same_years(self, zone: Zone) -> None:
        """Positions in time are those of the first zone; another axis would give another year's pixels.

        Raises:
            Corrupt: The zone has another time axis.
        """
        if zone in self._same_years:
            return
        if zone != self.zones[0] and decoded_years(self.location, self.array(zone.name, "time")) != self.years:
            raise Corrupt(f"{self.location}: zones {self.zones[0].name} and {zone.name} have different time axes.")
        self._same_years.add(zone)

    @staticmethod
    def path(zone: Zone, level: int) -> str:
        """Path of the group of a zone at a level."""
        return zone.name if level == 1 else overview_group(zone, level)

    def blocks(self, level: int) -> Mapping[int, frozenset[Block]]:
        """Blocks with a version, by position in time: the listing of the chunks of `block_version`."""
        if level not in self._blocks:
            found: dict[int, set[Block]] = defaultdict(set)
            for zone in (Zone.WORLD,) if level in WORLD_LEVELS else self.zones:
                if self.holds(zone, level):
                    for time, row, col in self.chunks(f"{self.path(zone, level)}/block_version"):
                        found[time].add(Block(zone.name, row, col, level))
            self._blocks[level] = {time: frozenset(blocks) for time, blocks in found.items()}
        return self._blocks[level]

    def listed(self, level: int, time: int) -> frozenset[Block]:
        """Blocks with a version at one position in time."""
        return self.blocks(level).get(time, frozenset())

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
        self.lineage.succeed(previous.lineage, touched)

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
        for (name_of_zone, level), members in groups.items():
            zone = Zone.parse(name_of_zone)
            if self.holds(zone, level):
                array = self.array(self.path(zone, level), name)
                out |= block_values(self.location, array, time, members)
        return out
