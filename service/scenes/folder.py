"""Local d-pixel folders as sources: what the published preprocessing wrote, whole or cut into patches.

A patch is a folder that holds the seven arrays and `roi.tiff`, whose georeference says where it lies; names of folders
mean nothing, as the published retiler pads arrays beyond what it writes in the name. Where `roi.tiff` is 0 there is
nothing. Where patches overlap the last by name counts, as when the published stitcher puts embeddings together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from service.dpixels import ARRAYS, DPixels, from_arrays
from service.dpixels.value import check_days
from service.errors import Corrupt, InvalidInput, NotFound
from service.grid import Block
from service.scenes.access import Access
from service.scenes.gdal import geotiff
from service.sources import Cost, Placement
from service.values import BoolArray, UInt8Array, Window

DPIXELS: Final = "dpixels"
"""Type of a document that describes a folder."""
ROI: Final = "roi.tiff"
_DAYS: Final = {"s2": "doys", "s1_asc": "sar_ascending_doy", "s1_desc": "sar_descending_doy"}


@dataclass(frozen=True)
class Patch:
    """One folder of arrays and where it lies."""

    folder: Path
    place: Placement

    def read(self, rows: slice, cols: slice, window: Window) -> tuple[DPixels, BoolArray]:
        """Its pixels, row by row, and (h, w) which of them are of the region.

        Args:
            rows: Counted from its corner.
            cols: Likewise.
            window: Days that its frames may have.

        Raises:
            InvalidInput: Arrays contradict each other, or have other days.
            Corrupt: A file cannot be read.
        """
        arrays = {name: self._array(name) for name in ARRAYS}
        for name in _DAYS.values():
            check_days(arrays[name], window, f"{self.folder.name}/{name}")
        for name, array in arrays.items():
            if array.ndim > 1 and array.shape[1:3] != (self.place.height, self.place.width):
                raise InvalidInput(f"{self.folder}: {name} covers {array.shape[1:3]} pixels, {ROI} others.")
        cut = {name: array[:, rows, cols] if array.ndim > 1 else array for name, array in arrays.items()}
        return from_arrays(cut), self._region(rows, cols) > 0

    def stamp(self) -> str:
        """Changes when its files do: their sizes and when they were written.

        Raises:
            Corrupt: One is not there.
        """
        try:
            stats = [(self.folder / name).stat() for name in (*(f"{name}.npy" for name in ARRAYS), ROI)]
        except OSError as error:
            raise Corrupt(f"{error.filename} cannot be read: {error.strerror}.") from None
        return ",".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)

    def _array(self, name: str) -> npt.NDArray[Any]:
        try:
            held: npt.NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Corrupt(f"{self.folder / name}.npy cannot be read: {error}.") from None
        return held

    def _region(self, rows: slice, cols: slice) -> UInt8Array:
        try:
            with geotiff(self.folder / ROI) as raster:
                return np.asarray(raster.read(1, window=RasterWindow.from_slices(rows, cols)))
        except RasterioError as error:
            raise Corrupt(f"{self.folder / ROI} cannot be read: {error}.") from None


@dataclass(frozen=True)
class Folder:
    """The patches of one zone. They hold days of a year and not which: whoever names the folder says its window."""

    patches: tuple[Patch, ...]
    """By name."""
    window: Window
    told: Mapping[str, Any] = field(compare=False)
    """The document that it was made from."""

    @cached_property
    def placement(self) -> Placement:
        """The rectangle around all patches."""
        places = [patch.place for patch in self.patches]
        row, col = min(p.row for p in places), min(p.col for p in places)
        height = max(p.rows.stop for p in places) - row
        return Placement(places[0].zone, row, col, height, max(p.cols.stop for p in places) - col)

    def digest_of(self, block: Block) -> str:
        """See Source."""
        stamps = [f"{patch.folder.name}={patch.stamp()}" for patch in self.patches if patch.place.touches(block)]
        return hashlib.sha256("|".join([DPIXELS, *stamps]).encode()).hexdigest()

    def read(self, rows: slice, cols: slice) -> DPixels:
        """See Source. A pixel has the frames of its own patch, on that patch's days."""
        shape = rows.stop - rows.start, cols.stop - cols.start
        order = np.arange(shape[0] * shape[1]).reshape(shape)
        parts = []
        for patch in self.patches:
            top, left = self.placement.row - patch.place.row, self.placement.col - patch.place.col
            down, across = _overlap(rows, top, patch.place.height), _overlap(cols, left, patch.place.width)
            if down.start < down.stop and across.start < across.stop:
                pixels, region = patch.read(_moved(down, top), _moved(across, left), self.window)
                cells = order[_moved(down, -rows.start), _moved(across, -cols.start)]
                parts.append((pixels, region.ravel(), cells.ravel()))
        return _together(parts, shape)

    def cost_of(self, blocks: Collection[Block]) -> Cost:  # noqa: ARG002  # it lies here
        """Nothing is fetched."""
        return Cost()

    def provenance(self, block: Block) -> Mapping[str, Any]:
        """See Source."""
        names = [patch.folder.name for patch in self.patches if patch.place.touches(block)]
        return {**self.told, "type": DPIXELS, "window": str(self.window), "patches": names}


def dpixels_of(document: Mapping[str, Any], window: Window, access: Access | None = None) -> tuple[Folder, ...]:
    """The sources of a d-pixel folder: one for each zone that its patches lie in.

    Args:
        document: `folder`, of one patch or of folders of patches; `window`, the one that it shows.
        window: The one asked for.
        access: Which folders may be read; any if absent.

    Raises:
        NotFound: There is no patch, or it shows another window.
        InvalidInput: The folder may not be read, or a patch lies between the pixels of its zone's grid.
        Corrupt: A region cannot be read.
    """
    folder, shown = Path(document["folder"]), Window.parse(str(document["window"]))
    if access is not None:
        access.local(str(folder.absolute()), "the source")
    if shown != window:
        remedy = f"Ask for {shown}."
        raise NotFound(f"the d-pixels in {folder} show {shown}, not {window}.", field="window", remedy=remedy)
    found = sorted(folder.glob(f"**/{ROI}"))
    if not found:
        raise NotFound(f"no d-pixels in {folder}: a patch has the seven arrays and {ROI}.", field="source")
    patches = [Patch(path.parent, _place(path)) for path in found]
    zones = sorted({patch.place.zone for patch in patches})
    return tuple(Folder(tuple(p for p in patches if p.place.zone == zone), window, dict(document)) for zone in zones)


def _place(path: Path) -> Placement:
    try:
        stat = path.stat()
        return _placed(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except OSError as error:
        raise Corrupt(f"{path} cannot be read: {error.strerror}.") from None


@lru_cache(maxsize=65536)
def _placed(path: Path, _state: tuple[int, ...]) -> Placement:
    """Kept while the file stays as it is: a folder's thousand patches are asked where they lie for each block."""
    try:
        with geotiff(path) as raster:
            epsg = raster.crs.to_epsg() if raster.crs else None
            transform, height, width = tuple(raster.transform)[:6], raster.height, raster.width
    except RasterioError as error:
        raise Corrupt(f"{path} cannot be read: {error}.") from None
    if epsg is None:
        raise InvalidInput(f"{path} has no CRS.", field="source")
    return Placement.of(epsg, transform, height, width)


def _overlap(span: slice, offset: int, size: int) -> slice:
    """The part of a span, of the whole's counting, that lies in a patch `offset` further on."""
    return slice(max(span.start, -offset), min(span.stop, size - offset))


def _moved(span: slice, by: int) -> slice:
    return slice(span.start + by, span.stop + by)


def _together(parts: list[tuple[DPixels, BoolArray, npt.NDArray[np.int64]]], shape: tuple[int, int]) -> DPixels:
    """Pixels of several patches as one: later ones over earlier ones; padded with invalid frames on day 0."""
    count = shape[0] * shape[1]
    made: dict[str, npt.NDArray[Any]] = {"s2_valid": np.zeros((count, _most(parts, "s2")), bool)}
    for name, bands in (("s2", 10), ("s1_asc", 2), ("s1_desc", 2)):
        frames = _most(parts, name)
        kinds = [getattr(pixels, name).dtype for pixels, _, _ in parts] or [np.dtype(np.uint16)]
        made[name] = np.zeros((count, frames, bands), np.result_type(*kinds))
        made[f"{name}_doy"] = np.zeros((count, frames), np.int16)
    for pixels, region, cells in parts:
        for name, array in made.items():
            held = getattr(pixels, name)
            array[cells[region]] = 0
            array[cells[region], : held.shape[1]] = held[region]
    return DPixels(**made, shape=shape)


def _most(parts: list[tuple[DPixels, BoolArray, npt.NDArray[np.int64]]], name: str) -> int:
    return max((getattr(pixels, f"{name}_doy").shape[1] for pixels, _, _ in parts), default=0)
