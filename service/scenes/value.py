"""What a catalogue tells of a satellite scene, and the two published ways to find and read scenes.

The modes are those of the published pipeline: `mpc`, Planetary Computer for both sensors, and `aws`, Earth Search for
Sentinel-2 with OPERA's RTC-S1 bursts for Sentinel-1. They differ in what assets are called and in how values are
stored, hence in which models they suit; where the catalogue stands does not matter, so each works offline as well.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from service.dpixels import BANDS
from service.polygons import Polygon

Sensor = Literal["s2", "s1"]
Orbit = Literal["ascending", "descending"]
ModeName = Literal["mpc", "aws"]

SCL: Final = "SCL"
"""The asset of Sentinel-2's scene classes."""
S2_ASSETS: Final = (*BANDS, SCL)
S1_ASSETS: Final = ("VV", "VH")
ASSETS: Final[Mapping[Sensor, tuple[str, ...]]] = MappingProxyType({"s2": S2_ASSETS, "s1": S1_ASSETS})
"""What a scene's assets are called here, whatever a catalogue calls them; all that is ever read of one."""


def is_utm(epsg: int | None) -> bool:
    """Whether a code is one of WGS 84 / UTM: scenes of both sensors are in it."""
    return epsg is not None and epsg // 100 in (326, 327) and 1 <= epsg % 100 <= 60


@dataclass(frozen=True)
class Scene:
    """One item of a catalogue: a tile or a burst of one pass. What it says has the right form, and may be wrong."""

    id: str
    """The item's id; alone in its collection."""
    collection: str
    """The collection's id, as the catalogue calls it."""
    sensor: Sensor
    date: dt.date
    """UTC date: the first 10 characters of the item's datetime. What is mosaicked shares it."""
    orbit: Orbit | None
    """Of Sentinel-1; None where only the file tells (`aws`), and always None of Sentinel-2."""
    assets: Mapping[str, str] = field(compare=False)
    """Address of each asset, by the names in ASSETS: B04, ..., SCL or VV, VH. Sentinel-2 scenes have all eleven."""
    epsg: int | None
    """CRS that the item claims, WGS 84 / UTM; None where it claims none."""
    footprint: Polygon | None = field(compare=False)
    """Where it has data, as it claims; None where it claims none that could be followed: then it may be anywhere."""
    order: int = field(compare=False)
    """Its place among all of one answer: newest first, then by id backwards. The first with a valid pixel gives it.

    That is how both published catalogues answer, so it is the order of the published pipeline, whatever others do.
    In another answer, of a place nearby, the same scene has another place.
    """
    version: str
    """Changes when the item does: processing baseline and time of its last change, as far as the catalogue tells."""
    size: int
    """Bytes of all its assets: from the catalogue, or typical ones."""

    def __str__(self) -> str:
        return f"{self.collection}/{self.id}"


@dataclass(frozen=True)
class Mode:
    """One published way to find scenes and to read their values."""

    name: ModeName
    endpoints: Mapping[Sensor, str]
    """The public catalogues it was published with; a dataset's document may name others."""
    collections: Mapping[Sensor, str]
    """What they call the collection of each sensor."""
    assets: Mapping[Sensor, Mapping[str, str]]
    """Band to asset: its key in an item; one that begins with `_` is how the asset's file name ends."""
    offset_after: dt.date | None
    """Sentinel-2 scenes later than this day have 1000 added to every value; None: values come without it."""
    s1_resampling: Literal["nearest", "bilinear"]
    """How Sentinel-1 is warped. Sentinel-2 is bilinear, its classes nearest, in both modes."""
    s1_dtype: type[np.float32] | type[np.float64]
    """What Sentinel-1 is scaled in, before it is cut to int16."""


MPC: Final = Mode(
    name="mpc",
    endpoints=dict.fromkeys(("s2", "s1"), "https://planetarycomputer.microsoft.com/api/stac/v1"),
    collections={"s2": "sentinel-2-l2a", "s1": "sentinel-1-rtc"},
    assets={"s2": {name: name for name in S2_ASSETS}, "s1": {"VV": "vv", "VH": "vh"}},
    offset_after=dt.date(2022, 1, 25),
    s1_resampling="nearest",
    s1_dtype=np.float64,
)
AWS: Final = Mode(
    name="aws",
    endpoints={
        "s2": "https://earth-search.aws.element84.com/v1",
        "s1": "https://cmr.earthdata.nasa.gov/stac/ASF",
    },
    collections={"s2": "sentinel-2-l2a", "s1": "OPERA_L2_RTC-S1_V1_1"},
    assets={
        "s2": {
            "B04": "red", "B02": "blue", "B03": "green", "B08": "nir", "B8A": "nir08", "B05": "rededge1",
            "B06": "rededge2", "B07": "rededge3", "B11": "swir16", "B12": "swir22", "SCL": "scl",
        },
        "s1": {"VV": "_VV.tif", "VH": "_VH.tif"},
    },
    offset_after=None,
    s1_resampling="bilinear",
    s1_dtype=np.float32,
)  # fmt: skip
MODES: Final[Mapping[str, Mode]] = MappingProxyType({mode.name: mode for mode in (MPC, AWS)})
