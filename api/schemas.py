"""What goes over the wire in JSON, described where OpenAPI shows it. Values below this floor know none of it."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from service.registry import DEFAULT

MAX_DIMS: Final = 4096
MAX_RING: Final = 10_000
"""Positions of a ring, rings or polygons that are looked at at all; how many there may be their own reader says."""

LonText = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]
"""Degrees in a path or query, which are text."""
LatText = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
Lon = Annotated[LonText, Field(strict=True)]
"""Degrees in JSON, where `true` and `"7"` are no numbers."""
Lat = Annotated[LatText, Field(strict=True)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Point = Annotated[tuple[Lon, Lat], Field(description="[longitude, latitude] in degrees")]


Box = Annotated[list[float], Field(min_length=4, max_length=4)]
Place = Annotated[list[float], Field(min_length=2, max_length=2)]


class Strict(BaseModel):
    """A request body: unknown members are refused, so a typo is never silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _short(parts: object) -> object:
    """Refuse what is far too long before each of its members is looked at."""
    if isinstance(parts, list) and len(parts) > MAX_RING:
        raise ValueError(f"{len(parts):,} are too many")
    return parts


Short = BeforeValidator(_short)
Ring = Annotated[
    list[Annotated[list[Finite], Field(min_length=2, max_length=3)]],
    Field(min_length=4, description="[longitude, latitude] in degrees; the last position is the first"),
    Short,
]
Rings = Annotated[list[Ring], Field(min_length=1), Short]


class PolygonBody(Strict):
    """A GeoJSON polygon: its outline, then its holes."""

    type: Literal["Polygon"]
    coordinates: Rings


class MultiPolygonBody(Strict):
    """Several GeoJSON polygons."""

    type: Literal["MultiPolygon"]
    coordinates: Annotated[list[Rings], Field(min_length=1), Short]


Geometry = Annotated[PolygonBody | MultiPolygonBody, Field(discriminator="type")]


class DatasetInfo(BaseModel):
    """One dataset."""

    id: str
    title: str
    model: str = Field(description="name@version/variant of the one model that made every vector here")
    dims: int = Field(description="embedding dimensions")
    depths: list[int] = Field(description="prefix lengths that can be asked for with dims=")
    windows: list[str]
    bounds: Box | None = Field(description="[w,s,e,n] of what is embedded, w > e over the antimeridian; null: nothing")
    center: Place | None = Field(description="[lon,lat] of a valid pixel")
    minzoom: int
    maxzoom: int
    revision: str = Field(description="snapshot id; changes with every commit")
    revisions: dict[str, str] = Field(description="that of each window that has a repository of its own")
    revision_strong: bool = Field(description="false where the layout has no snapshots: then it is a hash of metadata")
    writable: bool
    views: list[str] = Field(description="what ?view= understands")
    bases: list[str] = Field(description="names of saved PCA bases, for view=pca:{basis}")
    licence: str
    attribution: str
    source: str | None = Field(
        description="what kind of source POST /areas takes its time series from; null: none, upload to POST /embed"
    )
    source_bounds: Box | None = Field(description="[w,s,e,n] of what the source covers, w > e over the antimeridian")


class DatasetList(BaseModel):
    """The catalogue."""

    datasets: list[DatasetInfo]
    broken: dict[str, str] = Field({}, description="datasets that cannot be opened or looked at, and why")


class Channel(BaseModel):
    """What one colour shows."""

    colour: Literal["red", "green", "blue"]
    name: str = Field(description="the band", examples=["pc1"])
    range: tuple[float, float] = Field(description="the values that are darkest and brightest")
    explained: float | None = Field(None, description="`pca`: share of the variance")


class Legend(BaseModel):
    """What the colours of a view mean. What a view has no use for is left out."""

    view: Literal["pca", "bands", "similarity", "change", "observations", "vector"]
    title: str
    text: str = Field(description="what is shown, in a sentence or two")
    channels: list[Channel] | None = Field(None, description="what red, green and blue show")
    range: tuple[float, float] | None = Field(None, description="of one number: first colour, last colour")
    colours: list[str] | None = Field(None, description="eleven, evenly along `range`", examples=[["#190c46"]])
    colormap: str | None = Field(None, description="name of the colour map they are from")
    gamma: float | None = Field(None, description="of the curve between dark and bright, where it is one")
    labels: tuple[str, str] | None = Field(None, description="what the ends of `range` mean, in words")
    unit: str | None = Field(None, description="what `range` counts", examples=["cosine", "valid dates"])
    clip: bool | None = Field(None, description="whether pixels below `range` are transparent")
    windows: tuple[str, str] | None = Field(None, description="`change`: the windows compared, earlier first")
    query: str | None = Field(None, description="`similarity`: id of the query")
    sensor: Literal["s2", "s1_asc", "s1_desc"] | None = Field(None, description="`observations`: what is counted")
    basis: str | None = Field(None, description="`pca`: id of the basis")
    explained: list[float] | None = Field(None, description="`pca`: share of the variance that each colour shows")
    stretch: list[tuple[float, float]] | None = Field(None, description="`range` of each channel")
    bands: list[int] | None = Field(None, description="`bands`: the dimensions shown")
    dims: int | None = Field(None, description="`vector`: how many numbers")


class CountsInfo(BaseModel):
    """How many valid observations a pixel was made from."""

    s2: int
    s1_asc: int
    s1_desc: int


class S2Body(Strict):
    """Sentinel-2 observations of one pixel."""

    bands: list[str] = Field(
        description="the band of each column: B02 B03 B04 B05 B06 B07 B08 B8A B11 B12, in any order"
    )
    dates: list[dt.date] = Field(max_length=1000, description="UTC date of each row")
    unit: Literal["dn", "reflectance"] = Field(description="dn: reflectance x 10000, offset removed")
    values: list[Annotated[list[Finite], Field(max_length=32)]] = Field(max_length=1000)
    mask: list[bool] | None = Field(None, max_length=1000, description="true where usable; or give scl")
    scl: list[int] | None = Field(
        None, max_length=1000, description="scene class of each row; 0 1 2 3 8 9 are not usable"
    )


class S1Body(Strict):
    """Sentinel-1 observations of one pixel in one orbit direction."""

    orbit: Literal["ascending", "descending"]
    dates: list[dt.date] = Field(max_length=1000)
    unit: Literal["db", "power", "scaled"] = Field(
        description="db: 10 log10 of power; scaled: as published, (2 dB + 50) x 200"
    )
    values: list[tuple[Finite, Finite]] = Field(max_length=1000, description="[VV, VH] a row")


class PixelBody(Strict):
    """One pixel's year. At least one sensor."""

    s2: S2Body | None = None
    s1: list[S1Body] = Field([], max_length=2)
    at: Point | None = Field(None, description="where it is; needed to store it")


AnswerForm = Literal["json", "npz", "npy", "arrow"]


class EmbedChoices(Strict):
    """What may be said of any upload."""

    model: str = Field(DEFAULT, max_length=200, description="a model of GET /models")
    min_s2: int = Field(0, ge=0, le=366, description="least number of valid Sentinel-2 dates; fewer: status rejected")
    dims: int | None = Field(
        None, ge=1, le=MAX_DIMS, description="length of the vectors: one of the model's `depths`, cut before quantising"
    )
    quantize: bool | None = Field(
        None,
        description="int8 codes and a scale, not float32 numbers; absent: if the body is a file, but for .npy",
    )
    prepared_for: str | None = Field(
        None,
        max_length=60,
        description="family the series were prepared for; other models refuse them",
    )
    dataset: str | None = Field(None, max_length=64, description="a writable dataset to store the result in")
    answer: AnswerForm | None = Field(
        None, description="form of the answer; absent: by Accept, else json for JSON, npz for NPZ, arrow for tables"
    )


class EmbedBody(EmbedChoices):
    """Time series to embed."""

    window: str = Field(max_length=40, description="2024 or 2024-05-01..2024-09-30; every date lies within")
    pixels: list[PixelBody] = Field(min_length=1, max_length=10_000)


class EmbeddedPixel(BaseModel):
    """One embedded pixel."""

    pixel: str | int | None = Field(None, description="its name, where the upload names pixels")
    status: str = Field(description="valid, not-embedded (no observation) or rejected (below min_s2)")
    vector: list[float] | None = Field(None, description="float32 numbers, unless quantize was asked")
    codes: list[int] | None = Field(None, description="int8 codes, if quantize was asked; vector = codes x scale")
    scale: float | None = None
    counts: CountsInfo


class Stored(BaseModel):
    """Where the result went."""

    dataset: str
    revision: str
    pixels: int
    blocks: list[str]


class EmbedAnswer(BaseModel):
    """Embeddings in the order sent."""

    model: str
    window: str = Field(description="as it was said; empty: it was not, which only an NPZ may do")
    outside_training: bool = Field(description="true for windows that are not calendar years; false if none was said")
    device: str
    precision: str = Field(description="arithmetic of the encoder: fp32, or fp16 where it was asked for")
    reordered: bool = Field(description="whether bands came in another order than the model's and were put right")
    results: list[EmbeddedPixel]
    stored: Stored | None = None


class ParityInfo(BaseModel):
    """One engine at one precision, as it was found here by `smalti models import` or `verify`."""

    engine: str = Field(description="cpu, openvino, cuda or tensorrt")
    precision: str = Field(description="fp32 or fp16")
    against: str = Field(description="torch (the checkpoint), cpu fp32, or golden (published numbers of the family)")
    pixels: int
    max_abs: float = Field(description="largest difference of any number")
    max_relative: float = Field(description="that, over the largest number")
    step_error_mean: float = Field(description="mean difference in steps of the stored int8")
    step_error_max: float
    codes_differ: float = Field(description="share of int8 codes that differ")
    ok: bool = Field(
        description="fp32: within 2e-5 or a relative 1e-5, codes off by at most 1 and 0.5 %; fp16: within half a step"
    )
    checked: str = Field(description="date")
    versions: dict[str, str] = Field(description="libraries that ran")


class ModelInfo(BaseModel):
    """One encoder."""

    name: str
    model: str
    family: str
    dims: int
    depths: list[int]
    bands: list[str]
    licence: str
    origin: str
    sha256: str
    device: str = Field(description="where it runs here; `not opened`: nobody has asked for it yet; else what is wrong")
    parity: list[ParityInfo] = Field(description="how faithful it was measured to be here; empty: nobody looked")


class ModelList(BaseModel):
    """Every encoder that can be run."""

    models: list[ModelInfo]


JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class Outcome(BaseModel):
    """What became of pixels."""

    valid: int = Field(description="got a vector")
    rejected: int = Field(description="fewer valid Sentinel-2 dates than min_s2: no vector")
    water: int = Field(description="water, by the model's own rule")
    empty: int = Field(description="nothing was observed")


class JobBlock(BaseModel):
    """One block of a job: 256 x 256 pixels, 2.56 km."""

    block: str = Field(examples=["31N/1279/114"])
    state: JobState
    pixels: int = Field(description="of the source in this block")
    pixels_done: int
    outcome: Outcome | None = Field(description="null until it is embedded, or where nobody noted what it came to")


class JobInfo(BaseModel):
    """An area being embedded, or that was."""

    id: str = Field(description="made from what was asked for: asking again for the same gives the same job")
    kind: Literal["area"]
    dataset: str
    window: str
    model: str
    min_s2: int
    state: JobState
    done: int = Field(description="blocks embedded, or found embedded already")
    total: int = Field(description="blocks")
    pixels_done: int
    pixels: int
    eta_s: float | None = Field(
        description="seconds until it is done, at the speed measured; null: ended, or no worker"
    )
    outcome: Outcome = Field(description="what became of the pixels of blocks that are done, as far as it was noted")
    error: str | None = Field(description="which blocks failed, and why; the others were embedded all the same")
    blocks: list[JobBlock] | None = Field(description="each block; null in lists")
    created: dt.datetime = Field(description="when it was last asked for")
    updated: dt.datetime


class JobList(BaseModel):
    """The newest jobs."""

    jobs: list[JobInfo]
    workers: list[str] = Field(description="workers seen lately, by name; none: jobs wait until one starts")
