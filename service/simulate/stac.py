"""The catalogue of a simulated landscape's scenes: names, items and collections as the published modes have them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pystac
import shapely
from affine import Affine
from pystac.layout import BestPracticesLayoutStrategy
from pystac.stac_io import DefaultStacIO

from service.dpixels import BANDS
from service.errors import InvalidInput
from service.grid import PIXEL, archive_grid
from service.simulate.passes import Granule
from service.values import BoolArray, UInt8Array

EXTENSIONS: Final = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("projection/v2.0.0", "eo/v1.1.0", "sat/v1.0.0", "raster/v1.1.0")
)
BASELINES: Final = ((dt.date(2022, 1, 25), "03.01"), (dt.date(2023, 12, 13), "04.00"), (dt.date.max, "05.10"))
"""Last day of each processing baseline, roughly as it was."""
_EARTH_SEARCH: Final = {
    "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2", "B07": "rededge3", "B08": "nir",
    "B8A": "nir08", "B11": "swir16", "B12": "swir22", "SCL": "scl",
}  # fmt: skip
_BELTS: Final = "CDEFGHJKLMNPQRSTUVWXX"
_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ"


@dataclass(frozen=True)
class Style:
    """How the catalogues of a mode name things."""

    mode: str
    s2: str
    """Collection of Sentinel-2."""
    s1: str
    s1_nodata: float

    def collection(self, granule: Granule) -> str:
        """The collection a granule belongs to."""
        return self.s2 if granule.orbit is None else self.s1

    def item(self, granule: Granule) -> str:
        """The id of a granule's item."""
        tile, moment = tile_name(granule), moment_of(granule)
        craft, part = platform(granule), granule.part or 0
        compact, later = f"{moment:%Y%m%dT%H%M%S}", f"{moment + dt.timedelta(hours=6):%Y%m%dT%H%M%S}"
        if granule.orbit is None and self.mode == "mpc":
            return f"{craft}_MSIL2A_{compact}_R051_T{tile}_{later}"
        if granule.orbit is None:
            return f"{craft}_{tile}_{moment:%Y%m%d}_{part}_L2A"
        if self.mode == "mpc":
            return f"{craft}_IW_GRDH_1SDV_{compact}_{later}_T{tile}_rtc"
        track = 64 if granule.orbit == "ascending" else 139
        return f"OPERA_L2_RTC-S1_T{track:03d}-{tile}-IW{part + 1}_{compact}Z_{later}Z_{craft}_30_v1.0"

    def asset(self, granule: Granule, band: str) -> str:
        """The key of one band's asset."""
        if granule.orbit is None:
            return band if self.mode == "mpc" else _EARTH_SEARCH[band]
        return band.lower() if self.mode == "mpc" else f"{self.item(granule)}_{band}"

    def file(self, granule: Granule, band: str) -> str:
        """The name of one band's file."""
        own = self.mode == "aws" and granule.orbit is not None
        return f"{self.item(granule)}_{band}.tif" if own else f"{self.asset(granule, band)}.tif"

    def path(self, folder: Path, granule: Granule) -> Path:
        """Where a granule's item lies, beside its files."""
        name = self.item(granule)
        return folder / self.collection(granule) / name / f"{name}.json"

    def tags(self, granule: Granule) -> dict[str, str]:
        """The tags of its files: in `aws` they alone tell the orbit."""
        return {"ORBIT_PASS_DIRECTION": granule.orbit} if self.mode == "aws" and granule.orbit else {}


STYLES: Final[Mapping[str, Style]] = {
    "mpc": Style("mpc", "sentinel-2-l2a", "sentinel-1-rtc", -32768.0),
    "aws": Style("aws", "sentinel-2-l2a", "OPERA_L2_RTC-S1_V1_1", float("nan")),
}


def style_of(mode: str) -> Style:
    """The style of a mode.

    Raises:
        InvalidInput: There is none of that name.
    """
    if mode not in STYLES:
        raise InvalidInput(f"there is no mode {mode[:20]!r}.", field="mode", remedy=f"Use {' or '.join(STYLES)}.")
    return STYLES[mode]


@dataclass(frozen=True)
class Raster:
    """What a granule's files hold."""

    granule: Granule
    transform: Affine
    seen: BoolArray
    """(h, w) where there is data."""
    scl: UInt8Array | None
    """(h, w) scene classes of Sentinel-2."""


def tile_name(granule: Granule) -> str:
    """Zone, belt of latitude and two letters, as the tiles of the military grid are called; of our own tiles."""
    row, col = (np.array([(cells.start + cells.stop) / 2]) for cells in (granule.rows, granule.cols))
    _, lat = archive_grid(granule.zone).to_lonlat(row, col)
    down, across = (_LETTERS[n % len(_LETTERS)] for n in granule.tile)
    return f"{granule.zone.number:02d}{_BELTS[int((float(lat[0]) + 80) // 8)]}{across}{down}"


def platform(granule: Granule) -> str:
    """Which satellite: they take turns."""
    return f"S{2 if granule.orbit is None else 1}{'AB'[granule.number % 2]}"


def moment_of(granule: Granule) -> dt.datetime:
    """When it was seen, UTC, within its date: parts follow each other, tiles from north to south too."""
    hour = {None: 10, "ascending": 17, "descending": 5}[granule.orbit]
    seconds = 25 * (granule.part or 0) + 2 * (granule.tile[0] % 24)
    start = dt.datetime.combine(granule.date, dt.time(hour, 50), dt.UTC)
    return start + dt.timedelta(seconds=seconds)


def item_of(style: Style, raster: Raster, sizes: Mapping[str, int]) -> pystac.Item:
    """The STAC item of a granule; its assets lie beside it.

    Args:
        style: How the catalogue names things.
        raster: What its files hold.
        sizes: Bytes of each band's file.
    """
    granule = raster.granule
    shape = _footprint(raster)
    item = pystac.Item(
        style.item(granule),
        shapely.geometry.mapping(shape),
        [round(v, 7) for v in shape.bounds],
        moment_of(granule),
        _properties(style, raster),
        stac_extensions=list(EXTENSIONS),
    )
    item.properties["created"] = item.properties["updated"] = f"{granule.date + dt.timedelta(1)}T00:00:00Z"
    for band, size in sizes.items():
        item.add_asset(style.asset(granule, band), _asset(style, raster, band, size))
    return item


def _properties(style: Style, raster: Raster) -> dict[str, Any]:
    granule, zone, tile = raster.granule, raster.granule.zone, tile_name(raster.granule)
    height, width = raster.seen.shape
    craft = platform(granule)
    long = f"sentinel-{craft[1:].lower()}"
    out: dict[str, Any] = {
        "platform": long if style.mode == "aws" else f"Sentinel-{craft[1:]}" if granule.orbit is None else long.upper(),
        "constellation": f"sentinel-{craft[1]}", "gsd": 10, "proj:code": f"EPSG:{zone.epsg}",
        "proj:shape": [height, width], "proj:transform": [*raster.transform[:6]],
    }  # fmt: skip
    if granule.orbit is not None:
        polarised = {"sar:polarizations": ["VV", "VH"], "sar:instrument_mode": "IW", "sar:frequency_band": "C"}
        return out | polarised | ({"sat:orbit_state": granule.orbit} if style.mode == "mpc" else {})
    scl = np.asarray(raster.scl)[raster.seen]
    return out | {
        "eo:cloud_cover": round(100 * float(np.isin(scl, (8, 9, 10)).mean()), 4),
        "s2:nodata_pixel_percentage": round(100 * float(1 - raster.seen.mean()), 4),
        "s2:processing_baseline": next(name for last, name in BASELINES if granule.date <= last),
        "s2:mgrs_tile": tile, "grid:code": f"MGRS-{tile}", "sat:orbit_state": "descending", "sat:relative_orbit": 51,
    } | ({"earthsearch:boa_offset_applied": True} if style.mode == "aws" else {})  # fmt: skip


def _asset(style: Style, raster: Raster, band: str, size: int) -> pystac.Asset:
    granule = raster.granule
    nodata: float | str = 0 if granule.orbit is None else style.s1_nodata
    held = "uint8" if band == "SCL" else "uint16" if granule.orbit is None else "float32"
    described = {"data_type": held, "nodata": "nan" if nodata != nodata else nodata, "spatial_resolution": int(PIXEL)}
    extra: dict[str, Any] = {"raster:bands": [described], "file:size": size}
    if band in BANDS:
        extra["eo:bands"] = [{"name": style.asset(granule, band) if style.mode == "aws" else band}]
    at = f"./{style.file(granule, band)}"
    return pystac.Asset(at, media_type=pystac.MediaType.COG, roles=["data"], extra_fields=extra)


def _footprint(raster: Raster) -> shapely.Polygon:
    """Where there is data, in degrees: the hull of it, followed closely enough for metres."""
    granule, seen = raster.granule, raster.seen
    rows = np.flatnonzero(seen.any(axis=1))
    first, last = seen[rows].argmax(axis=1), seen.shape[1] - seen[rows][:, ::-1].argmax(axis=1)
    corners = [np.column_stack([edge, rows + down]) for edge in (first, last) for down in (0, 1)]
    hull = shapely.convex_hull(shapely.multipoints(np.concatenate(corners)))
    hull = shapely.segmentize(hull, max(1.0, max(seen.shape) / 4))
    cols, lines = np.asarray(hull.exterior.coords).T
    lon, lat = archive_grid(granule.zone).to_lonlat(lines + granule.rows.start, cols + granule.cols.start)
    west, south, east, north = granule.zone.bounds
    lon = (lon - west + 90) % 360 - 90 + west  # the outer half of a pixel may lie beyond the antimeridian
    ring = np.column_stack([np.clip(lon, west, east), np.clip(lat, south, north)]).round(7)
    return shapely.geometry.polygon.orient(shapely.Polygon(ring))


class _Whole(DefaultStacIO):
    """Files appear whole: whoever is stopped half-way leaves none that nobody can read."""

    def write_text_to_href(self, href: str, txt: str) -> None:
        """Write a file beside its place, and move it there."""
        path = Path(href)
        beside = path.with_name(f".{path.name}.tmp")
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(txt)
        beside.replace(path)


WHOLE: Final = _Whole()


def write_catalogue(folder: Path, style: Style) -> None:
    """Write `catalog.json` and the collections over all items that lie in a folder, whoever wrote them."""
    catalogue = pystac.Catalog("smalti-simulated", "Scenes of a simulated landscape. No real place looks like this.")
    for name, title in ((style.s2, "Sentinel-2 Level-2A"), (style.s1, "Sentinel-1 RTC")):
        items = [pystac.Item.from_file(str(path)) for path in sorted((folder / name).glob("*/*.json"))]
        if not items:
            continue
        boxes, times = np.array([item.bbox for item in items]), sorted(item.datetime for item in items if item.datetime)
        box = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
        extent = pystac.Extent(pystac.SpatialExtent([box]), pystac.TemporalExtent([[times[0], times[-1]]]))
        collection = pystac.Collection(name, f"{title}, simulated.", extent, title=title, license="other")
        collection.add_items(items)
        catalogue.add_child(collection)
    catalogue.normalize_hrefs(str(folder), strategy=BestPracticesLayoutStrategy())
    catalogue.save(catalog_type=pystac.CatalogType.SELF_CONTAINED, stac_io=WHOLE)
