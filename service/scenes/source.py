"""A catalogue of scenes as a source of time series: of one zone, block by block, each from the scenes that show it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
from cachetools import TTLCache

from service.dpixels import DPixels, from_arrays
from service.errors import InvalidInput
from service.grid import PIXEL, Block, Zone, archive_grid
from service.scenes.access import Access
from service.scenes.catalogue import find
from service.scenes.cells import SIDE, Cell
from service.scenes.files import opener
from service.scenes.hosts import Hosts
from service.scenes.items import Endpoint
from service.scenes.optical import MIN_COVERAGE
from service.scenes.stack import Stacker
from service.scenes.value import MODES, Mode, Scene, Sensor
from service.sources import Cost, Placement
from service.values import BLOCK, Area, BoolArray, Window

SCENES: Final = "scenes"
"""Type of a document that describes a catalogue."""
RULES: Final = 1
"""Counts up when the same scenes would give other d-pixels than before."""
AT_ONCE: Final = 8
"""Dates that one process reads at a time, whatever the number of blocks: mostly they wait for somebody else's disk."""
_TILE: Final = 512
"""Pixels along a side of a file's tiles, which are fetched whole: for estimates."""
FRESH_S: Final = 600.0
"""Seconds for which a catalogue's answer is not asked for again: a job of many blocks asks once."""
_ANSWERS: Final = 256
"""Answers that are kept: of some hundred scenes each."""
_ALONG: Final = 33
"""Points along each side of a box when it is projected."""

Find = Callable[[Sensor, Area], tuple[Scene, ...]]
"""Scenes of a sensor in the window that may show a box of degrees, in the order of the catalogue."""


@dataclass(frozen=True)
class Scenes:
    """What a catalogue has of one zone.

    The region of which the published pipeline asks a least coverage is the block. Blocks are read whole, so a pixel's
    series depends on its block and on nothing else that was asked for.
    """

    placement: Placement
    """Whole blocks."""
    window: Window
    mode: Mode
    told: Mapping[str, Any] = field(compare=False)
    """The document that it was made from."""
    find: Find = field(compare=False)
    access: Access = field(compare=False)
    _found: dict[Cell, tuple[tuple[Scene, ...], BoolArray]] = field(default_factory=dict, compare=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, compare=False, repr=False)

    def scenes_of(self, block: Block) -> tuple[Scene, ...]:
        """Those that may show a block, Sentinel-2 first, each sensor's in the order of the catalogue.

        Raises:
            InvalidInput, BadSource, LimitExceeded: The catalogue lies, or has too much.
            Unavailable: It cannot be asked now.
        """
        scenes, shown = self._cell(Cell.of(block))
        row, col = block.row % SIDE, block.col % SIDE
        return tuple(scene for scene, where in zip(scenes, shown, strict=True) if where[row, col])

    def digest_of(self, block: Block) -> str:
        """See Source: the scenes with their versions, and the rules by which they become d-pixels."""
        told = [f"{SCENES}/{RULES}", self.mode.name, str(self.window), MIN_COVERAGE]
        text = json.dumps([told, [(str(scene), scene.version) for scene in self.scenes_of(block)]])
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self, rows: slice, cols: slice) -> DPixels:
        """See Source. The scenes are those of which `digest_of` tells."""
        block = self._block_of(rows, cols)
        place = Placement(self.placement.zone, block.rows.start, block.cols.start, BLOCK, BLOCK)
        arrays = Stacker(place, self.mode, opener(self.access), pool()).arrays(self.scenes_of(block))
        top, left = self.placement.row - block.rows.start, self.placement.col - block.cols.start
        part = slice(rows.start + top, rows.stop + top), slice(cols.start + left, cols.stop + left)
        cut = {name: array[(slice(None), *part)] if array.ndim > 1 else array for name, array in arrays.items()}
        return from_arrays(cut)

    def cost_of(self, blocks: Collection[Block]) -> Cost:
        """See Source. A block takes the tiles of each file that it touches: 768 pixels squared, on the average."""
        taken: dict[Scene, float] = {}
        around = float((BLOCK + _TILE) * PIXEL) ** 2
        for block in blocks:
            for scene in self.scenes_of(block):
                covered = scene.footprint.square_metres if scene.footprint else 0.0
                taken[scene] = min(1.0, taken.get(scene, 0.0) + around / max(covered, around))
        return Cost(len(taken), round(sum(scene.size * share for scene, share in taken.items())))

    def provenance(self, block: Block) -> Mapping[str, Any]:
        """See Source."""
        scenes: dict[str, dict[str, str]] = {}
        for scene in self.scenes_of(block):
            scenes.setdefault(scene.collection, {})[scene.id] = scene.date.isoformat()
        return {
            **self.told,
            "type": SCENES,
            "mode": self.mode.name,
            "window": str(self.window),
            "scenes": scenes,
            "rules": RULES,
            "min_coverage": MIN_COVERAGE,
            "unclear_pixels": "of several scenes of a day, one by a hash of its id and the pixel's place",
        }

    def _block_of(self, rows: slice, cols: slice) -> Block:
        top, left = self.placement.row + rows.start, self.placement.col + cols.start
        bottom, right = self.placement.row + rows.stop, self.placement.col + cols.stop
        block = Block(self.placement.zone.name, top // BLOCK, left // BLOCK)
        if not (top < bottom <= block.rows.stop and left < right <= block.cols.stop):
            raise InvalidInput(f"rows {rows} and columns {cols} are not of one block.")
        return block

    def _cell(self, cell: Cell) -> tuple[tuple[Scene, ...], BoolArray]:
        """Kept, so that what is read is what the digest told of."""
        with self._lock:
            if cell not in self._found:
                scenes = (*self.find("s2", cell.area), *self.find("s1", cell.area))
                self._found[cell] = scenes, cell.shown_by(scenes)
            return self._found[cell]


@lru_cache(maxsize=1)
def pool() -> Executor:
    """Where this process reads dates. Threads stay, and with them their connections."""
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="scenes")


def scenes_of(
    document: Mapping[str, Any], window: Window, access: Access | None, area: Area | None
) -> tuple[Scenes, ...]:
    """The sources of a catalogue: one for each zone that an area touches.

    Args:
        document: `mode`; `s2` and `s1`, addresses of catalogues, if others than the published ones, None for a sensor
            that is not wanted; `collections`, what they call those of `s2` and `s1`, if otherwise; `bounds`, [west,
            south, east, north] beyond which nothing is embedded, if any.
        window: The days.
        access: What may be reached; nothing if absent.
        area: Where blocks will be asked for; everywhere if absent.

    Raises:
        InvalidInput: The document is not as it should be.
    """
    if document["mode"] not in MODES:
        raise InvalidInput(f"there is no mode {document['mode']!r:.20}.", remedy=f"Use {' or '.join(MODES)}.")
    mode = MODES[document["mode"]]
    access = access or Access(hosts=Hosts(()))
    ask = partial(_asked, document, mode, window, access)
    reach = Area(*document["bounds"]) if document.get("bounds") else _GLOBE
    zones = [Zone(number, south) for number in range(1, 61) for south in (False, True)]
    return tuple(
        Scenes(_placement(zone, boxes), window, mode, dict(document), ask, access)
        for zone in zones
        if (boxes := _within(zone, reach)) and (area is None or _within(zone, area))
    )


_GLOBE: Final = Area(-180.0, -90.0, 180.0, 90.0)
_Box = tuple[float, float, float, float]


def _within(zone: Zone, area: Area) -> tuple[_Box, ...]:
    """What an area has of a zone's six degrees; two boxes where it goes round the globe and has both ends of them."""
    west, south, east, north = zone.bounds
    spans = [(area.west, area.east)] if area.west < area.east else [(area.west, 180.0), (-180.0, area.east)]
    found = [(max(w, west), max(area.south, south), min(e, east), min(area.north, north)) for w, e in spans]
    return tuple(box for box in found if box[0] < box[2] and box[1] < box[3])


@lru_cache(maxsize=1024)
def _placement(zone: Zone, boxes: tuple[_Box, ...]) -> Placement:
    """The whole blocks that boxes of a zone touch. Kept: tiles ask for those of all zones."""
    grid, share = archive_grid(zone), np.linspace(0, 1, _ALONG)
    lon = np.concatenate([np.add.outer((e - w) * share, np.full(_ALONG, w)).ravel() for w, _, e, _ in boxes])
    lat = np.concatenate([np.add.outer(np.full(_ALONG, s), (n - s) * share).ravel() for _, s, _, n in boxes])
    rows, cols = (axis / BLOCK for axis in grid.from_lonlat(lon, lat))
    top, bottom = max(0, int(np.floor(rows.min()))), min(grid.height // BLOCK, int(np.ceil(rows.max())))
    left, right = max(0, int(np.floor(cols.min()))), min(grid.width // BLOCK, int(np.ceil(cols.max())))
    return Placement(zone, top * BLOCK, left * BLOCK, (bottom - top) * BLOCK, (right - left) * BLOCK)


_kept: Final[TTLCache[tuple[object, ...], tuple[Scene, ...]]] = TTLCache(_ANSWERS, FRESH_S)
_keeping: Final = threading.Lock()


def _asked(
    document: Mapping[str, Any], mode: Mode, window: Window, access: Access, sensor: Sensor, area: Area
) -> tuple[Scene, ...]:
    """What a catalogue answers, or answered just now."""
    url = document.get(sensor, mode.endpoints[sensor])
    if url is None:
        return ()
    collection = document.get("collections", {}).get(sensor, mode.collections[sensor])
    key = mode.name, sensor, url, collection, window, area
    with _keeping:
        known = _kept.get(key)
    if known is not None:
        return known
    scenes = find(Endpoint(url, collection, mode, sensor), window, area, access)
    with _keeping:
        _kept[key] = scenes
    return scenes
