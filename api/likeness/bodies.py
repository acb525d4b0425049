"""What questions about likeness say over the wire: examples, which pixels may be hits, and how they are looked for."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import MAX_DIMS, Finite, Geometry, LatText, LonText, Point, Strict
from service.queries import MAX_EXAMPLES

MAX_POLYGONS: Final = 100
MAX_WINDOWS: Final = 32
"""Of one question: each is a search of its own."""
MAX_SPACING: Final = 1_000_000.0
MAX_COUNT: Final = 65_535
"""What a count of observations is stored in."""

Metric = Literal["cosine", "euclidean"]
PolygonUse = Literal["mean", "medoids", "all"]
HitForm = Literal["geojson", "csv", "arrow"]
TableForm = Literal["json", "csv", "arrow"]
Vector = Annotated[list[Finite], Field(min_length=1, max_length=MAX_DIMS)]
Bbox = tuple[Finite, Finite, Finite, Finite]
WindowText = Annotated[str, Field(max_length=40)]
SavedId = Annotated[str, Field(max_length=64)]

_METRIC: Final = (
    "`cosine`: how alike the directions of vectors are. `euclidean`: how near the dequantised vectors are, lengths "
    "included; answered by scanning every pixel that may be a hit. Absent: the saved query's own, else `cosine`"
)
_USE: Final = (
    "what each polygon gives. `mean`: one example, the mean of the unit vectors of the valid pixels whose centre lies "
    "in it. `medoids`: up to 8 of its pixels that stand for the others. `all`: each of its pixels; where that is more "
    "than the query has room for, a sample of them that is always the same"
)
_LEVEL: Final = (
    "how coarse the pixels are that are compared: 1 is 10 m, 8 is 80 m, 32 is 320 m. Pixels of a coarser level are the "
    "mean of the valid ones under them"
)
_SPACING: Final = (
    "metres at least between any two hits of a window, and from points that are left out: a hundred hits are then a "
    "hundred places"
)
_RECALL: Final = (
    "share of the true 10 best that the index shall have been measured to find; it then looks longer. Absent: as built"
)
_EXACT: Final = "compare every pixel that may be a hit, whatever the index says; refused where those are too many"
_REFINE: Final = "with `level` above 1: look among the 10 m pixels under the best coarse ones, and give those as hits"
_WINDOWS: Final = "the windows to search, instead of the one in the path, in which examples are looked up all the same"
_COUNTED: Final = "only pixels made from at least so many valid"


class Examples(Strict):
    """What to look for: at least one point, vector or polygon."""

    points: list[Point] = Field([], max_length=MAX_EXAMPLES, description="places that are like what is wanted")
    against: list[Point] = Field([], max_length=MAX_EXAMPLES, description="places that are not")
    vectors: list[Vector] = Field(
        [], max_length=MAX_EXAMPLES, description="vectors that are like what is wanted; `model` tells what made them"
    )
    against_vectors: list[Vector] = Field([], max_length=MAX_EXAMPLES, description="vectors that are not")
    model: str | None = Field(None, max_length=200, description="name@version/variant that made the vectors")
    polygons: list[Geometry] = Field(
        [],
        max_length=MAX_POLYGONS,
        description="areas that are like what is wanted; see `polygons_as`. At most 1,000 vertices each, and 4 million "
        "pixels together",
    )
    against_polygons: list[Geometry] = Field([], max_length=MAX_POLYGONS, description="areas that are not")
    polygons_as: PolygonUse = Field("mean", description=_USE)
    metric: Metric | None = Field(None, description=_METRIC)

    @property
    def any_place(self) -> bool:
        """Whether a dataset is needed to look something up."""
        return bool(self.points or self.against or self.polygons or self.against_polygons)

    @property
    def wanted(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self.points or self.vectors or self.polygons)


class Filters(Strict):
    """Which pixels may be hits."""

    windows: list[WindowText] = Field([], max_length=MAX_WINDOWS, description=_WINDOWS)
    level: int = Field(1, ge=1, le=32, description=_LEVEL)
    bbox: Bbox | None = Field(None, description="[w,s,e,n]: only pixels in this box; w > e crosses the antimeridian")
    within: Geometry | None = Field(
        None, description="only pixels whose centre lies in this polygon, of at most 1,000 positions; and in `bbox`"
    )
    mask: Geometry | None = Field(None, description="no pixel whose centre lies in this polygon")
    min_s2: int = Field(0, ge=0, le=MAX_COUNT, description=f"{_COUNTED} Sentinel-2 dates")
    min_s1_asc: int = Field(0, ge=0, le=MAX_COUNT, description=f"{_COUNTED} Sentinel-1 ascending dates")
    min_s1_desc: int = Field(0, ge=0, le=MAX_COUNT, description=f"{_COUNTED} Sentinel-1 descending dates")


K = Field(10, ge=1, description="how many pixels, of all windows together; the query's own count")
Spacing = Annotated[float, Field(ge=0, le=MAX_SPACING, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class SearchBody(Examples, Filters):
    """What to look for: examples, or a saved query."""

    query: SavedId | None = Field(None, description="id of a saved query, instead of examples")
    k: int = K
    spacing: Spacing = Field(0.0, description=_SPACING)
    recall: Share | None = Field(None, description=_RECALL)
    exact: bool = Field(False, description=_EXACT)
    refine: bool = Field(False, description=_REFINE)
    exclude_examples: bool = Field(
        False, description="leave out the pixels that `points` lie on and those in `polygons`"
    )


class SearchParams(BaseModel):
    """What to look for: a place, or a saved query."""

    model_config = ConfigDict(extra="forbid")

    lon: LonText | None = Field(None, description="longitude of the example, degrees")
    lat: LatText | None = Field(None, description="latitude of the example, degrees")
    query: SavedId | None = Field(None, description="id of a saved query, instead of lon and lat")
    k: int = K
    metric: Metric | None = Field(None, description=_METRIC)
    windows: str | None = Field(
        None, max_length=MAX_WINDOWS * 24, description=f"{_WINDOWS}; with commas", examples=["2023,2024"]
    )
    level: int = Field(1, ge=1, le=32, description=_LEVEL)
    bbox: str | None = Field(
        None, max_length=200, description="w,s,e,n: only pixels in this box", examples=["2.1,54.6,2.4,54.8"]
    )
    min_s2: int = Field(0, ge=0, le=MAX_COUNT, description=f"{_COUNTED} Sentinel-2 dates")
    min_s1_asc: int = Field(0, ge=0, le=MAX_COUNT, description=f"{_COUNTED} Sentinel-1 ascending dates")
    min_s1_desc: int = Field(0, ge=0, le=MAX_COUNT, description=f"{_COUNTED} Sentinel-1 descending dates")
    spacing: Spacing = Field(0.0, description=_SPACING)
    recall: Share | None = Field(None, description=_RECALL)
    exact: bool = Field(False, description=_EXACT)
    refine: bool = Field(False, description=_REFINE)
    f: HitForm | None = Field(None, description="form of the answer; absent: by Accept, else geojson")


class RangeBody(Examples, Filters):
    """How much is like some examples, or like a saved query: everything that is. Give `min_score` or `max_distance`."""

    query: SavedId | None = Field(None, description="id of a saved query, instead of examples")
    areas: list[Geometry] = Field(
        [],
        max_length=MAX_POLYGONS,
        description="polygons to count in, each on its own, of at most 1,000 vertices each; absent: everywhere",
    )
    min_score: Finite | None = Field(None, description="count pixels of this score and above")
    max_distance: Annotated[Finite, Field(ge=0)] | None = Field(
        None, description="count pixels up to this far: 1 - cosine, or the Euclidean distance from the query"
    )
    k: int = Field(0, ge=0, description="how many of the pixels that count to give as hits, best first")
