"""Which picture a request means: boxes, sizes and CRS, made into a Target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import numpy as np
import pyproj
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform_bounds

from service.errors import InvalidInput, LimitExceeded
from service.grid import PIXEL, transformer
from service.projection import LONLAT, to_lonlat
from service.warp import Target, zone_at

WGS84: Final = CRS.from_epsg(4326)
MAX_SIDE: Final = 2048
"""Pixels along a side of a picture."""
WIDE: Final = 2e6
"""Metres. What a projection other than Mercator does to a larger box is not followed."""
MAX_VERTICES: Final = 10_000
MAX_LISTS: Final = 1_000
"""Lists and parts around the vertices of a geometry: polygons, rings, holes."""
MAX_DEPTH: Final = 8
"""A multipolygon's positions lie 4 deep, in a collection 6."""
Box = tuple[float, float, float, float]


def part_target(
    bbox: tuple[float, ...],
    bounds_crs: CRS,
    dst_crs: CRS | None = None,
    max_size: int | None = MAX_SIDE,
    width: int | None = None,
    height: int | None = None,
    field: str = "bbox",
) -> Target:
    """A box as a picture: in `dst_crs`, or in the UTM zone of its middle with the stored pixels as its own.

    Args:
        bbox: (left, bottom, right, top) in `bounds_crs`; in degrees, left > right crosses the antimeridian.
        bounds_crs: Its CRS.
        dst_crs: CRS of the picture.
        max_size: Longest side where neither width nor height is given; never more than the stored pixels. None: the
            stored pixels, however many.
        width: Columns; of width and height one is enough.
        height: Rows.
        field: Where it was asked for.

    Raises:
        InvalidInput: The box is none, or cannot be shown in that CRS.
        LimitExceeded: A side has over 2048 pixels.
    """
    left, bottom, right, top = map(float, bbox[:4])
    if bounds_crs.is_geographic and right < left:
        right += 360
    if not (np.isfinite([left, bottom, right, top]).all() and left < right and bottom < top):
        raise InvalidInput(f"{tuple(bbox)} is not a box.", field="bbox", remedy="Give left,bottom,right,top.")
    lon, lat = _lonlat((left + right) / 2, (bottom + top) / 2, bounds_crs)
    crs = dst_crs or _native(lon, lat, right - left, bounds_crs)
    box = (left, bottom, right, top)
    if crs != bounds_crs:
        box = _moved(bounds_crs, crs, box)
    if dst_crs is None and crs.is_projected:
        box = _snapped(box)
    pixel = native_pixel(crs_text(crs), lon, lat)
    target = Target(crs_text(crs), box, *_size(box, pixel, max_size, width, height))
    if bounds_crs.is_geographic and left < 180 < right:
        _require_joined(target, lat, field)
    return target


def crs_text(crs: CRS) -> str:
    """`EPSG:3857` where there is a code, else WKT: what pyproj and caches take, x before y, so CRS84 is 4326."""
    code = crs.to_epsg()
    if code is None and crs.to_authority() == ("OGC", "CRS84"):
        return LONLAT
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def parse_crs(text: str, field: str = "crs") -> CRS:
    """A CRS of maps by its code. Anything else is refused: GDAL would take files and addresses.

    Raises:
        InvalidInput: It is not a known code, or one of heights or of places in space.
    """
    code = text.strip("[]").upper()
    for prefix in ("HTTP://WWW.OPENGIS.NET/DEF/CRS/EPSG/0/", "HTTPS://WWW.OPENGIS.NET/DEF/CRS/EPSG/0/", "EPSG:"):
        if code.startswith(prefix) and code.removeprefix(prefix).isdigit() and len(code) < 64:
            try:
                found = CRS.from_epsg(int(code.removeprefix(prefix)))
            except CRSError:
                break
            if not _is_flat(int(code.removeprefix(prefix))):
                raise InvalidInput(f"{text[:60]!r} is no CRS of maps.", field=field, remedy="Write EPSG:3857.")
            return found
    if code in ("OGC:CRS84", "HTTP://WWW.OPENGIS.NET/DEF/CRS/OGC/1.3/CRS84"):
        return WGS84
    raise InvalidInput(f"{text[:60]!r} is not a known CRS.", field=field, remedy="Write EPSG:3857.")


@lru_cache(maxsize=256)
def _is_flat(epsg: int) -> bool:
    """Whether a CRS has two coordinates, degrees or metres: not heights, nor places in space."""
    crs = pyproj.CRS.from_epsg(epsg)
    return len(crs.axis_info) == 2 and (crs.is_geographic or crs.is_projected)


def native_pixel(crs: str, lon: float, lat: float) -> float:
    """Side of a stored 10 m pixel in units of a CRS, at a place: the root of its area.

    Raises:
        InvalidInput: The CRS has no answer there.
    """
    zone = zone_at(lon, lat)
    x, y = transformer(LONLAT, f"EPSG:{zone.epsg}").transform(lon, lat)
    half = PIXEL / 2
    xs, ys = np.array([x - half, x + half, x, x]), np.array([y, y, y - half, y + half])
    u, v = transformer(f"EPSG:{zone.epsg}", crs).transform(xs, ys)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite where the CRS has no answer
        area = abs((u[1] - u[0]) * (v[3] - v[2]) - (u[3] - u[2]) * (v[1] - v[0]))
    if not (np.isfinite(area) and area > 0):
        raise InvalidInput("this CRS does not reach there.", field="crs")
    return float(np.sqrt(area))


def lonlat_box(target: Target) -> Box:
    """(west, south, east, north) degrees that hold a picture; east is over 180 where it crosses the antimeridian.

    All the globe where an edge of it has no place there, or where it is wide and bent. Found along the edges, and a
    hair too large.
    """
    left, bottom, right, top = target.bounds
    straight = target.crs in (LONLAT, "EPSG:3857")
    if not straight and max(right - left, top - bottom) > WIDE:
        return -180.0, -90.0, 180.0, 90.0
    t = np.linspace(0, 1, 33)[:-1]
    x = np.concatenate([left + t * (right - left), right + 0 * t, right - t * (right - left), left + 0 * t])
    y = np.concatenate([top + 0 * t, top - t * (top - bottom), bottom + 0 * t, bottom + t * (top - bottom)])
    lon, lat = to_lonlat(target.crs, x, y)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return -180.0, -90.0, 180.0, 90.0
    ring = lon if straight else np.unwrap(np.append(lon, lon[0]), period=360)
    south, north = float(lat.min()), float(lat.max())
    hair = 0.0 if straight else 1e-2 * (north - south)
    if abs(ring[-1] - ring[0]) > 180:  # around a pole
        return (-180.0, south - hair, 180.0, 90.0) if lat.mean() > 0 else (-180.0, -90.0, 180.0, north + hair)
    west, east = float(ring.min()), float(ring.max())
    side = 0.0 if straight else 1e-2 * (east - west)
    return west - side, south - hair, east + side, north + hair


def geometry_bounds(geometry: Mapping[str, Any]) -> Box:
    """(left, bottom, right, top) of a GeoJSON geometry.

    Raises:
        InvalidInput: It has no positions, or is made of anything but lists of numbers in lists.
        LimitExceeded: It has over 10,000 vertices, or lists.
    """
    xs, ys, _ = zip(*_vertices(geometry), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def unbroken(geometry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A geometry in degrees as one piece: cut at the antimeridian, its western parts go on beyond 180 degrees.

    RFC 7946 (3.1.9) wants it cut, and the box of both parts would reach round the globe. A geometry counts as cut where
    a gap between its parts is wider than what its box leaves free; it is left as it is otherwise.

    Raises:
        InvalidInput: As `geometry_bounds`.
        LimitExceeded: As `geometry_bounds`.
    """
    spans: dict[int, tuple[float, float]] = {}
    for x, _, part in _vertices(geometry):
        west, east = spans.get(part, (x, x))
        spans[part] = min(west, x), max(east, x)
    west, east = min(west for west, _ in spans.values()), max(east for _, east in spans.values())
    widest, cut, reached = 360 - (east - west), None, west
    for begins, ends in sorted(spans.values()):
        if begins - reached > widest:
            widest, cut = begins - reached, reached
        reached = max(reached, ends)
    return geometry if cut is None else _moved_on(geometry, cut)


def _moved_on(item: Any, cut: float) -> Any:
    """A geometry, or lists in one, with what lies up to a longitude a turn further east."""
    if isinstance(item, Mapping):
        inner = {name: item[name] for name in ("geometries", "coordinates") if item.get(name) is not None}
        return {**item, **{name: _moved_on(part, cut) for name, part in inner.items()}}
    if item and _is_number(item[0]):
        return [item[0] + 360 if item[0] <= cut else item[0], *item[1:]]
    return [_moved_on(part, cut) for part in item]


def _vertices(geometry: Mapping[str, Any]) -> list[tuple[float, float, int]]:
    found = list(islice(_positions(geometry), MAX_VERTICES + 1))
    if len(found) > MAX_VERTICES:
        raise _too_large()
    if not found:
        raise InvalidInput("has no positions.", field="geometry")
    return found


def _positions(geometry: Mapping[str, Any]) -> Iterator[tuple[float, float, int]]:
    """(x, y) of every vertex and a number of the list it stands in, which is a ring or line.

    Each part and list that is opened counts, so empty ones are bounded too.
    """
    nested: list[tuple[Any, int, int]] = [(geometry, 0, 0)]
    for number in range(MAX_VERTICES + MAX_LISTS):
        if not nested:
            return
        item, depth, within = nested.pop()
        if depth > MAX_DEPTH:
            raise InvalidInput(f"is nested more than {MAX_DEPTH} deep.", field="geometry")
        if isinstance(item, Mapping):
            inner = (item.get("geometries"), item.get("coordinates"))
            nested += [(part, depth + 1, number) for part in inner if part is not None]
        elif not isinstance(item, list | tuple):
            raise InvalidInput(f"{str(item)[:40]!r} is no list of positions.", field="geometry")
        elif item and _is_number(item[0]):
            yield (*_position(item), within)
        else:
            nested.extend((part, depth + 1, number) for part in item)
    raise _too_large()


def _too_large() -> LimitExceeded:
    return LimitExceeded(f"a geometry has at most {MAX_VERTICES:,} vertices in {MAX_LISTS:,} lists.", field="geometry")


def _position(item: Sequence[Any]) -> tuple[float, float]:
    if len(item) < 2 or not all(_is_number(value) and abs(value) < 1e12 for value in item[:2]):
        raise InvalidInput(f"{str(item)[:40]} is no position.", field="geometry")
    return float(item[0]), float(item[1])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _lonlat(x: float, y: float, crs: CRS) -> tuple[float, float]:
    lon, lat = transformer(crs_text(crs), LONLAT).transform(x, y)
    if not (np.isfinite([lon, lat]).all() and abs(lat) <= 90):
        raise InvalidInput("its middle is no place on Earth.", field="bbox")
    return float(lon), float(lat)


def _native(lon: float, lat: float, width: float, crs: CRS) -> CRS:
    """The UTM zone of a box' middle; degrees for boxes wider than a zone."""
    degrees = width if crs.is_geographic else width / (111_320 * max(0.05, np.cos(np.radians(lat))))
    return CRS.from_epsg(zone_at(lon, lat).epsg) if degrees <= 6 else WGS84


def _require_joined(target: Target, lat: float, field: str) -> None:
    """Refuse a CRS that has the two sides of the antimeridian at its two ends: of both a picture is one of the globe.

    Args:
        target: A picture of something on both sides.
        lat: A latitude of it.
        field: Where it was asked for.

    Raises:
        InvalidInput: It has.
    """
    left, _, right, _ = target.bounds
    x, _ = transformer(LONLAT, target.crs).transform([180 - 1e-6, 1e-6 - 180], [lat, lat])
    if not CRS.from_user_input(target.crs).is_geographic and abs(x[1] - x[0]) > (right - left) / 2:
        raise InvalidInput(
            "lies on both sides of the antimeridian, which are the two ends of this CRS.",
            field=field,
            remedy="Ask for each side, or leave out `dst_crs`.",
        )


def _moved(source: CRS, target: CRS, box: Box) -> Box:
    try:
        left, bottom, right, top = transform_bounds(source, target, *box, densify_pts=21)
    except CRSError as error:
        raise InvalidInput(f"this box cannot be shown in that CRS: {error}.", field="bbox") from None
    if right < left and target.is_geographic:
        right += 360
    if not (np.isfinite([left, bottom, right, top]).all() and left < right and bottom < top):
        raise InvalidInput("this box cannot be shown in that CRS.", field="bbox")
    return left, bottom, right, top


def _snapped(box: Box) -> Box:
    """A metric box grown to whole 10 m: the stored pixels' edges, for every grid whose origin is a multiple of 10."""
    left, bottom, right, top = np.array(box) / PIXEL
    hair = 1e-6
    return (
        float(np.floor(left + hair) * PIXEL), float(np.floor(bottom + hair) * PIXEL),
        float(np.ceil(right - hair) * PIXEL), float(np.ceil(top - hair) * PIXEL),
    )  # fmt: skip


def _size(box: Box, pixel: float, max_size: int | None, width: int | None, height: int | None) -> tuple[int, int]:
    """(width, height) of a picture: as asked, or of stored pixels, made smaller until it fits."""
    across, down = max((box[2] - box[0]) / pixel, 1e-9), max((box[3] - box[1]) / pixel, 1e-9)
    if width is None and height is None:
        shrink = min(1.0, max_size / max(across, down)) if max_size else 1.0
        size = max(1, round(across * shrink)), max(1, round(down * shrink))
    elif width is not None:
        size = width, height or max(1, round(min(width * down / across, 1e6)))
    else:
        rows = height or 1
        size = max(1, round(min(rows * across / down, 1e6))), rows
    if not (0 < size[0] <= MAX_SIDE and 0 < size[1] <= MAX_SIDE):
        raise LimitExceeded(
            f"{size[0]:,} x {size[1]:,} pixels: at most {MAX_SIDE} a side.",
            field="width",
            remedy="Ask for a smaller area, or for fewer pixels (max_size).",
        )
    return size
