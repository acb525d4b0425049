"""From an item of a catalogue to a scene: what is looked at, what is taken, and what is not believed.

An item that breaks the rules of STAC, or leads where nothing may be read, ends the search: whoever wrote it is not to
be relied upon. One that only lacks something is left out, and named in the log.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urljoin

from service.errors import BadSource, InvalidInput, LimitExceeded, SmaltiError
from service.polygons import Polygon
from service.scenes.access import Access
from service.scenes.budget import SMALLER
from service.scenes.value import ASSETS, Mode, Orbit, Scene, Sensor, is_utm
from service.values import Area, Window

log = logging.getLogger("smalti.scenes")

TYPICAL: Final[Mapping[tuple[str, Sensor], int]] = {
    ("mpc", "s2"): 700_000_000, ("aws", "s2"): 700_000_000, ("mpc", "s1"): 1_200_000_000, ("aws", "s1"): 20_000_000,
}  # fmt: skip
"""Bytes of all assets of a scene, where the catalogue does not tell: round numbers."""
_MAX_CLOUD: Final = 100.0
"""Percent of an item's clouds from which on it holds nothing: the published search asks for less."""
_VERSION: Final = ("s2:processing_baseline", "created", "updated")
_LONG: Final = 400
"""Characters of an id."""
_ORBITS: Final[Mapping[str, Orbit]] = {"ascending": "ascending", "descending": "descending"}


@dataclass(frozen=True)
class Endpoint:
    """Where a catalogue is asked for the scenes of one sensor, and how it names things."""

    url: str
    """Of a STAC API, or of the root file of a static catalogue."""
    collection: str
    mode: Mode
    sensor: Sensor


@dataclass(frozen=True)
class Reader:
    """Makes scenes of items."""

    access: Access
    endpoint: Endpoint
    window: Window
    area: Area
    _trusted: set[str] = field(default_factory=set, compare=False)

    def scenes(self, items: Iterable[tuple[Any, str]]) -> tuple[Scene, ...]:
        """The scenes of the window and the area, in their order.

        Args:
            items: Each with the address that it was read from.

        Raises:
            BadSource: An item is none, claims a CRS that no scene has, or two that differ share an id.
            InvalidInput: An item leads where nothing may be read.
            LimitExceeded: There are too many.
        """
        found: dict[str, tuple[dt.datetime, Scene]] = {}
        most = self.access.limits.items
        for count, (item, base) in enumerate(items, 1):
            if count > most:
                raise LimitExceeded(f"{self.endpoint.url} has more than {most:,} scenes here.", remedy=SMALLER)
            one = self._scene(item, base)
            if one is None:
                continue
            known = found.setdefault(one[1].id, one)
            if known is not one and (known[0], known[1], known[1].assets) != (one[0], one[1], one[1].assets):
                raise BadSource(f"{self.endpoint.url} has two different items {one[1]}.")
        ordered = sorted(found.values(), key=lambda one: (one[0], one[1].id), reverse=True)
        return tuple(replace(scene, order=order) for order, (_, scene) in enumerate(ordered))

    def _scene(self, item: Any, base: str) -> tuple[dt.datetime, Scene] | None:
        """When an item was taken, and its scene; None where it is of no use."""
        name, properties, held = self._form(item)
        collection = str(item.get("collection") or self.endpoint.collection)
        moment = _moment(properties.get("datetime"), f"item {name} of {self.endpoint.url}")
        date = dt.date.fromisoformat(properties["datetime"][:10])
        what = f"{collection}/{name}"
        cloud = properties.get("eo:cloud_cover")
        if collection != self.endpoint.collection or date not in self.window:
            return None
        if self.endpoint.sensor == "s2" and isinstance(cloud, int | float) and cloud >= _MAX_CLOUD:
            return None
        footprint = _footprint(item)
        if footprint is not None and not overlaps(footprint.bounds, self.area):
            return None
        assets = self._assets(held, base, what)
        if not assets:
            return None
        orbit = _ORBITS.get(str(properties.get("sat:orbit_state")).lower())
        scene = Scene(
            id=name,
            collection=collection,
            sensor=self.endpoint.sensor,
            date=date,
            orbit=orbit if self.endpoint.sensor == "s1" else None,
            assets={band: href for band, (href, _) in assets.items()},
            epsg=_epsg(properties, what),
            footprint=footprint,
            order=0,
            version="/".join(str(properties[key])[:80] for key in _VERSION if key in properties),
            size=self._size([size for _, size in assets.values()]),
        )
        return moment, scene

    def _form(self, item: Any) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
        """Id, properties and assets of what must be an item."""
        if not isinstance(item, Mapping) or item.get("type") != "Feature":
            raise BadSource(f"{self.endpoint.url} answers something that is no item.")
        name, properties, assets = (item.get(key) for key in ("id", "properties", "assets"))
        if not isinstance(name, str) or not 0 < len(name) <= _LONG or not name.isprintable():
            raise BadSource(f"{self.endpoint.url} has an item without an id that could be told.")
        if not isinstance(properties, Mapping) or not isinstance(assets, Mapping):
            raise BadSource(f"item {name} of {self.endpoint.url} has no properties, or no assets.")
        return name, properties, assets

    def _assets(self, held: Mapping[str, Any], base: str, what: str) -> dict[str, tuple[str, Any]]:
        """(address, size if told) of each asset that is read; none where Sentinel-2 lacks one, or Sentinel-1 both."""
        sensor, found = self.endpoint.sensor, {}
        for band, wanted in self.endpoint.mode.assets[sensor].items():
            asset = _asset(held, wanted)
            if asset is None:
                continue
            href = asset.get("href")
            if not isinstance(href, str):
                raise BadSource(f"asset {band} of {what} has no address.")
            found[band] = urljoin(base, href), asset.get("file:size")
            self._trust(found[band][0], f"asset {band} of {what}")
        missing = [band for band in ASSETS[sensor] if band not in found]
        if missing and (sensor == "s2" or not found):
            log.warning("%s is left out: it has no %s", what, ", ".join(missing))
            return {}
        return found

    def _trust(self, href: str, what: str) -> None:
        """Refuse an address before any job is planned on it. Looked at once for each host and folder."""
        place = (
            href.rpartition("/")[0] if "://" not in href or href[:5] == "file:" else "/".join(href.split("/", 3)[:3])
        )
        if place not in self._trusted:
            if self.access.local(href, what) is None:
                self.access.hosts.checked(href, what)
            self._trusted.add(place)

    def _size(self, told: list[Any]) -> int:
        """Bytes of all assets; what a catalogue tells of one that no such file may have is not believed."""
        most = self.access.limits.file_bytes
        known = [size for size in told if isinstance(size, int) and 0 < size <= most]
        return sum(known) if len(known) == len(told) else TYPICAL[self.endpoint.mode.name, self.endpoint.sensor]


def overlaps(box: tuple[float, float, float, float], area: Area) -> bool:
    """Whether a box of degrees and an area share anything; either may cross the antimeridian."""
    west, south, east, north = box
    spans = [(area.west, area.east)] if area.west < area.east else [(area.west, 180.0), (-180.0, area.east)]
    mine = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    return south <= area.north and north >= area.south and any(a <= d and c <= b for a, b in spans for c, d in mine)


def _asset(held: Mapping[str, Any], wanted: str) -> Mapping[str, Any] | None:
    """The asset of a key; or, of an ending, the one whose file ends so."""
    if not wanted.startswith("_"):
        found = held.get(wanted)
        return found if isinstance(found, Mapping) else None
    for asset in held.values():
        href = str(asset.get("href")) if isinstance(asset, Mapping) else ""
        if href.partition("?")[0].endswith(wanted) and not href.startswith("s3://"):
            return asset  # type: ignore[no-any-return]
    return None


def _moment(told: Any, what: str) -> dt.datetime:
    """When it was taken, UTC."""
    try:
        moment = dt.datetime.fromisoformat(told)
    except (TypeError, ValueError):
        raise BadSource(f"{what} has no datetime, but {told!r:.40}.") from None
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment


def _epsg(properties: Mapping[str, Any], what: str) -> int | None:
    """The CRS that an item claims; scenes of both sensors are in UTM."""
    code = properties.get("proj:code")
    told = code.removeprefix("EPSG:") if isinstance(code, str) else properties.get("proj:epsg")
    if told is None:
        return None
    epsg = int(told) if str(told).isascii() and str(told).isdigit() else 0
    if not is_utm(epsg):
        raise BadSource(f"{what} claims to be in {told!s:.40}, not in WGS 84 / UTM.")
    return epsg


def _footprint(item: Mapping[str, Any]) -> Polygon | None:
    """Where an item claims to have data: its geometry, else its box; None where neither can be followed."""
    geometry, box = item.get("geometry"), item.get("bbox")
    try:
        if isinstance(geometry, Mapping) and geometry.get("type") in ("Polygon", "MultiPolygon"):
            return Polygon.of_geojson(geometry, "geometry")
    except (SmaltiError, KeyError, TypeError, ValueError, IndexError):
        pass  # as many are at the antimeridian
    try:
        values = [float(value) for value in box or ()]
        west, south, east, north = values if len(values) == 4 else (*values[:2], *values[3:5])
    except (TypeError, ValueError):
        return None
    if not all(map(math.isfinite, (west, south, east, north))) or not west < east:
        return None
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    try:
        return Polygon.of_geojson({"type": "Polygon", "coordinates": [ring]}, "bbox")
    except (InvalidInput, ValueError):
        return None
