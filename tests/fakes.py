"""A whole Store in memory, for tests of what stands above the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from api.catalogue import Dataset
from service.errors import InvalidInput, NotFound
from service.grid import Block, Zone, ZoneGrid, archive_grid, blocks_of
from service.quant import quantise
from service.values import (
    OUTSIDE,
    VALID,
    Counts,
    Float32Array,
    Int8Array,
    Int64Array,
    ModelIdentity,
    UInt8Array,
    Vectors,
    Window,
)

IDENTITY = ModelIdentity("fake", "1", "test")


@dataclass
class Part:
    """One rectangle of pixels; its upper-left pixel is (row0, col0) of `grid` at level 1."""

    grid: ZoneGrid
    window: Window
    row0: int
    col0: int
    vectors: Vectors


class MemoryStore:
    """Rectangles of pixels in any zones and windows, with overviews made on reading.

    Args:
        codes: (H, W, D) int8.
        scales: (H, W) float32; a pixel is VALID where `status` says so, or where its scale is above 0.
        zone: A zone (on the archive's grid), or a grid.
        window: The window they belong to.
        row0: Row of the upper-left pixel.
        col0: Its column.
        status: (H, W) uint8.
        levels: Levels that can be read.
        depths: Prefix lengths that can be read; all dimensions where absent.
    """

    writable = False

    def __init__(
        self,
        codes: Int8Array,
        scales: Float32Array,
        zone: Zone | ZoneGrid,
        window: Window,
        row0: int,
        col0: int,
        *,
        status: UInt8Array | None = None,
        levels: tuple[int, ...] = (1,),
        depths: tuple[int, ...] = (),
        identity: ModelIdentity = IDENTITY,
    ) -> None:
        self.location = "/memory"
        self.identity = identity
        self.dims = codes.shape[-1]
        self.depths = depths or (self.dims,)
        self._levels = levels
        self.parts: list[Part] = []
        self.reads: list[tuple[str, int, slice, slice]] = []
        """Every call of `read`: zone, level, rows, cols."""
        self.add(codes, scales, zone, window, row0, col0, status=status)

    def add(
        self,
        codes: Int8Array,
        scales: Float32Array,
        zone: Zone | ZoneGrid,
        window: Window,
        row0: int,
        col0: int,
        *,
        status: UInt8Array | None = None,
    ) -> None:
        """Lay one more rectangle."""
        grid = zone if isinstance(zone, ZoneGrid) else archive_grid(zone)
        if status is None:
            status = np.where(scales > 0, VALID, 0).astype(np.uint8)
        self.parts.append(Part(grid, window, row0, col0, Vectors(codes, scales.astype(np.float32), status)))

    def windows(self) -> tuple[Window, ...]:
        return tuple(sorted({part.window for part in self.parts}))

    def revision(self) -> tuple[str, bool]:
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(f"{part.grid} {part.window} {part.row0} {part.col0}".encode())
            digest.update(_bytes(part.vectors))
        return digest.hexdigest()[:16], True

    def zones(self) -> tuple[ZoneGrid, ...]:
        return tuple({part.grid.zone: part.grid for part in self.parts}.values())

    def levels(self) -> tuple[int, ...]:
        return self._levels

    def read(
        self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1, dims: int | None = None
    ) -> Vectors:
        self.reads.append((zone.name, level, rows, cols))
        return self._read(zone, window, rows, cols, level, dims)

    def _read(
        self, zone: Zone, window: Window, rows: slice, cols: slice, level: int = 1, dims: int | None = None
    ) -> Vectors:
        if level not in self._levels or window not in self.windows() or zone not in [g.zone for g in self.zones()]:
            raise NotFound(f"no {zone.name} {window} at level {level}")
        if dims is not None and dims not in self.depths:
            raise InvalidInput(f"{dims} is none of {self.depths}", field="dims")
        if level > 1:
            wide = self._read(
                zone, window, slice(rows.start * level, rows.stop * level), slice(cols.start * level, cols.stop * level)
            )
            vectors = _reduced(wide, level)
        else:
            vectors = self._pixels(zone, window, rows, cols)
        return vectors if dims is None else Vectors(vectors.codes[..., :dims].copy(), vectors.scales, vectors.status)

    def _pixels(self, zone: Zone, window: Window, rows: slice, cols: slice) -> Vectors:
        grid = next(g for g in self.zones() if g.zone == zone)
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        out = Vectors.empty(shape, self.dims)
        y, x = np.arange(rows.start, rows.stop), np.arange(cols.start, cols.stop)
        beyond = ((y < 0) | (y >= grid.height))[:, None] | ((x < 0) | (x >= grid.width))[None, :]
        out.status[beyond] = OUTSIDE
        for part in self.parts:
            height, width = part.vectors.status.shape
            top, bottom = max(rows.start, part.row0), min(rows.stop, part.row0 + height)
            left, right = max(cols.start, part.col0), min(cols.stop, part.col0 + width)
            if part.grid.zone != zone or part.window != window or top >= bottom or left >= right:
                continue
            here = (slice(top - rows.start, bottom - rows.start), slice(left - cols.start, right - cols.start))
            there = (slice(top - part.row0, bottom - part.row0), slice(left - part.col0, right - part.col0))
            for name in ("codes", "scales", "status"):
                getattr(out, name)[here] = getattr(part.vectors, name)[there]
        return out

    def sample(
        self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array, *, dims: int | None = None
    ) -> Vectors:
        cells = [
            self._read(zone, window, slice(r, r + 1), slice(c, c + 1), dims=dims)
            for r, c in zip(rows.tolist(), cols.tolist(), strict=True)
        ]
        if not cells:
            return Vectors.empty((0,), dims or self.dims)
        return Vectors(
            np.concatenate([cell.codes[0] for cell in cells]),
            np.concatenate([cell.scales[0] for cell in cells]),
            np.concatenate([cell.status[0] for cell in cells]),
        )

    def counts(self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array) -> Counts:
        return Counts.zeros((len(rows),))

    def counts_window(self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1) -> Counts:
        return Counts.zeros((rows.stop - rows.start, cols.stop - cols.start))

    def counted(self) -> tuple[int, ...]:
        return ()

    def blocks(self, window: Window, *, level: int = 1) -> tuple[Block, ...]:
        found = set()
        for part in self.parts:
            height, width = (-(-size // level) for size in part.vectors.status.shape)
            row, col = part.row0 // level, part.col0 // level
            inside = blocks_of(part.grid.zone.name, slice(row, row + height), slice(col, col + width), level)
            if part.window == window:
                found |= {block for block in inside if self._block(block, window).status.any()}
        return tuple(sorted(found, key=lambda block: block.name))

    def versions(self, window: Window, blocks: Iterable[Block]) -> Mapping[Block, str]:
        answer = {}
        for block in blocks:
            vectors = self._block(block, window)
            held = bool(np.isin(vectors.status, (0, OUTSIDE), invert=True).any())
            answer[block] = hashlib.sha256(_bytes(vectors)).hexdigest()[:16] if held else ""
        return answer

    def _block(self, block: Block, window: Window) -> Vectors:
        return self._read(Zone.parse(block.zone), window, block.rows, block.cols, block.level)

    def stale(self, window: Window, blocks: Iterable[Block]) -> frozenset[Block]:
        return frozenset()

    def refresh(self) -> bool:
        return False


def _bytes(vectors: Vectors) -> bytes:
    return vectors.codes.tobytes() + vectors.scales.tobytes() + vectors.status.tobytes()


def _reduced(wide: Vectors, level: int) -> Vectors:
    """The mean of the valid vectors of each `level` x `level` cell, quantised again."""
    height, width = (size // level for size in wide.status.shape)
    cells = wide.dequantised().reshape(height, level, width, level, -1)
    valid = wide.valid.reshape(height, level, width, level)
    count = valid.sum(axis=(1, 3))
    mean = np.nansum(cells, axis=(1, 3)) / np.maximum(count, 1)[..., None]
    codes, scales = quantise(mean.astype(np.float32))
    held = count > 0
    return Vectors(codes * held[..., None], (scales * held).astype(np.float32), held.astype(np.uint8))


def alphaearth(folder: Path) -> tuple[Int8Array, Float32Array, Zone, Window, int, int]:
    """The real raster re-quantised per pixel: codes, scales, zone, window, row0, col0 on the archive's grid."""
    stored = np.load(folder / "alphaearth" / "aef_utm16n_10m_int8.npy").astype(np.float32)
    codes, scales = quantise(np.sign(stored) * (stored / np.float32(127.5)) ** 2)
    zone = Zone(16)
    grid = archive_grid(zone)
    row0, col0 = round((grid.y0 - 4_906_600.0) / 10), round((358_410.0 - grid.x0) / 10)
    return codes, scales, zone, Window.year(2024), row0, col0


class Datasets(dict[str, Dataset]):
    """Datasets as a catalogue gives them, none of which knows where time series come from."""

    def named(self, text: str) -> str:
        """None of them lies anywhere."""
        return text

    def source(self, dataset_id: str) -> None:
        """None."""
