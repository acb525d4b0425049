"""Scenes for tests: small terrains, and `with serving(folder) as address:` a server of them."""

from __future__ import annotations

from pathlib import Path

from api.scenery import beside as serving
from service.grid import Zone, archive_grid
from service.simulate import Landscape
from service.simulate.passes import Tiling
from service.simulate.scenes import publish
from service.simulate.terrain import Terrain
from service.sources import Placement
from service.values import Window

__all__ = ["SMALL", "publish_terrain", "serving", "terrain_at"]

SMALL = Tiling(side=48, overlap=12, split=3)
"""Several tiles, shared strips and split passes within a landscape of 64 pixels."""


def terrain_at(lon: float, lat: float, side: int = 64, zone: Zone | None = None, seed: int = 7) -> Terrain:
    """A landscape whose middle lies at a place, on the grid of that place's zone or another."""
    home = zone or Zone.of(lon, lat)
    row, col = archive_grid(home).cell(lon, lat)
    return Terrain.of(Landscape(seed, side, side), Placement(home, row - side // 2, col - side // 2, side, side))


def publish_terrain(terrain: Terrain, folder: Path, mode: str, days: Window, tiling: Tiling = SMALL) -> int:
    """`publish`, of a terrain."""
    return publish(terrain.landscape, terrain.placement, folder, mode, days, ground=terrain.ground, tiling=tiling)
