"""What a group says of its axes: where its grid lies, and which years it has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from service.errors import Corrupt
from service.grid import WORLD_GRID, Zone, ZoneGrid
from service.store.faults import Array, read_array


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
    found = ZoneGrid(zone, x0, y0, width, height, level, epsg)
    if zone == Zone.WORLD:
        if found != WORLD_GRID.at_level(level) or (a, b, d, e) != (found.pixel, 0, 0, -found.pixel):
            raise Corrupt(f"{location}: group {path} is not the grid of the world at level {level}.")
    elif b or d or a != 10.0 * level or e != -a or epsg not in (32600 + zone.number, 32700 + zone.number):
        raise Corrupt(f"{location}: group {path} is no north-up grid of {10 * level} m in UTM zone {zone.number}.")
    return found


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
