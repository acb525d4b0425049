"""What requests name, made into values: one small function or class per concern. Nothing below knows an id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

import morecantile
from fastapi import Depends, Path, Query, Request
from morecantile.defaults import TileMatrixSets
from pydantic import Field
from titiler.core.dependencies import DefaultDependency
from titiler.core.resources.enums import MediaType
from titiler.core.utils import accept_media_type

from api.catalogue import DatasetWindow
from api.provenance import tags_of
from api.state import get_state
from api.views import Style, ViewText, other_side, resolve_view, style
from api.watch import Watch
from service.colour import ObservationsView, PcaView, StoredView, View, ViewSpec, parse_view
from service.deadline import Deadline
from service.errors import InvalidInput, LimitExceeded
from service.features import require_coarse
from service.frame import parse_crs
from service.plan import MAX_VALUES, Resampling, Source
from service.store.contract import Store
from service.tiles import DEFAULT_SIDE
from service.values import Window

DatasetId = Annotated[str, Path(description="id of a dataset, as GET /datasets lists it")]
WindowName = Annotated[str, Path(description="a year, or `2024-05-01..2024-09-30`")]
Quantize = Annotated[
    bool,
    Query(
        description="`.npy` and `.tif` of whole vectors: the stored int8 codes, float32 scale and status, bit by bit"
    ),
]
Resample = Annotated[
    Resampling,
    Query(
        description="`nearest`: the stored pixel that holds each pixel's centre; `bilinear`: the mean of the four "
        "around it that hold vectors, weighed by nearness. No data has the same edges in both."
    ),
]
Dims = Annotated[int | None, Query(ge=1, le=4096, description="prefix length to read, one of the dataset's `depths`")]


def dataset_window(request: Request, dataset: DatasetId, window: WindowName) -> DatasetWindow:
    """The dataset and window that a path names.

    Raises:
        NotFound: No such dataset, or it holds no such window.
        InvalidInput: `window` is not a window.
    """
    when = Window.parse(window)
    return DatasetWindow(get_state(request).datasets[dataset].at(when), when)


@dataclass(frozen=True)
class Layer(Source):
    """What a tile route shows: a source, and the name its dataset goes by."""

    dataset: str = ""
    watch: Watch | None = field(default=None, compare=False, repr=False)
    """Who measures its pictures."""
    tags: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """What files of numbers say of themselves."""


def layer(
    request: Request,
    at: Annotated[DatasetWindow, Depends(dataset_window)],
    look: Annotated[Style, Depends(style)],
    view: ViewText = None,
    dims: Dims = None,
    resampling: Resample = "nearest",
    quantize: Quantize = False,
) -> Layer:
    """The dataset, window and view that a request asks for.

    Raises:
        NotFound: No such dataset, window, basis or query, or no vector at the place to compare with.
        InvalidInput: No such view, or one that does not fit.
        IdentityMismatch: The basis, query or other window was made from another model's vectors.
    """
    state, store = get_state(request), at.dataset.store
    numbers = wants_numbers(request)
    spec = parse_view(view or ("vector" if numbers else "pca"))
    other = other_side(state, at, spec)
    if quantize:
        require_file(request, spec)
    shown = StoredView(dims or store.dims) if quantize else resolve_view(state, at, spec, dims, look)
    return Layer(
        store,
        at.window,
        shown,
        read_dims(store, shown, dims),
        not numbers,
        other=other,
        resampling=resampling,
        dataset=at.dataset.id,
        watch=state.watch,
        most=MAX_COUNTED if request.url.path.endswith("/statistics") else MAX_VALUES,
        native=numbers and "format" in request.path_params,
        deadline=Deadline.after(state.settings.limits.seconds),
        tags=tags_of(at, shown.key, revision="z" not in request.path_params) if numbers else {},
    )


def require_file(request: Request, spec: ViewSpec) -> None:
    """Refuse codes and scales where there is no file that could hold them.

    Raises:
        InvalidInput: The answer is a picture or JSON, or the view has other numbers than vectors.
    """
    alone = "lon" in request.path_params or request.url.path.endswith("/statistics")
    if alone or not wants_numbers(request) or spec.kind != "vector":
        raise InvalidInput(
            "is for whole vectors as .npy or .tif.",
            field="quantize",
            remedy="Leave it out, or `view`, or ask for .npy.",
        )


def read_dims(store: Store, view: View, dims: int | None) -> int:
    """The prefix to read where none is asked for: what the basis of a view was fitted to, else all there is.

    What shows no vectors reads the shortest, for their status alone.
    """
    if dims is not None:
        return dims
    if isinstance(view, ObservationsView):
        return store.depths[0]
    return view.basis.dims if isinstance(view, PcaView) else store.dims


_NUMBERS: Final = {"npy", "tif", "tiff"}
_MAP_TYPES: Final = (MediaType.png, MediaType.jpeg, MediaType.webp, MediaType.tif, MediaType.npy)


def wants_numbers(request: Request) -> bool:
    """Whether the answer is made of numbers rather than colours: by route and format."""
    route = request.url.path.rstrip("/")
    if route.endswith("/map"):  # OGC Maps: ?f=, or the Accept header
        accepted = accept_media_type(request.headers.get("accept", ""), list(_MAP_TYPES))
        return request.query_params.get("f", accepted.name if accepted else "png") in _NUMBERS
    if "lon" in request.path_params or route.endswith("/statistics"):
        return True
    return request.path_params.get("format") in _NUMBERS


_SCHEMES: Final = (
    "WebMercatorQuad", "WorldCRS84Quad", "WGS1984Quad", "WorldMercatorWGS84Quad",
    "EuropeanETRS89_LAEAQuad", "CanadianNAD83_LCC", "NZTM2000Quad", "UPSArcticWGS84Quad",
)  # fmt: skip
SUPPORTED_TMS: Final = TileMatrixSets({name: morecantile.tms.get(name) for name in _SCHEMES})
"""The tile matrix sets there are. Few, so that the WMTS document stays small: the world's three, Mercator's own, the
equal-area grid of European statistics, two national grids of countries wider than a UTM zone, and the Arctic, where
Mercator ends. No embeddings reach the Antarctic."""

REFUSED: Final = frozenset({
    "url", "expression", "algorithm", "algorithm_params", "colormap_name", "rescale", "color_formula",
    "bidx", "nodata", "unscale", "reproject", "padding", "return_mask", "assets", "zooms",
    "categorical", "c", "histogram_range",
})  # fmt: skip
"""Parameters other tile servers take and this one does not: refused, so that nobody believes they did something."""
_CRS_NAMES: Final = ("crs", "coord_crs", "dst_crs", "bbox-crs")
MAX_ZOOM: Final = 24
MAX_COVER_SCALE: Final = 10
MAX_COUNTED: Final = 9_000_000
"""Pixels times bands that statistics are made of: all are sorted, in some seconds."""


def bounded(request: Request) -> None:
    """Refuse what a tile route must not be asked: it runs before the route sees its parameters.

    Raises:
        InvalidInput: A parameter that does not exist here, or a CRS that is not a code.
        LimitExceeded: A number beyond what one request may ask for.
    """
    asked = request.query_params
    for name in sorted(REFUSED & set(asked)):
        raise InvalidInput("is not a parameter of this server.", field=name, remedy="Leave it out; see ?view=.")
    for name, here in (("buffer", "z" in request.path_params), ("resampling", "lon" not in request.path_params)):
        if name in asked and not here:
            raise InvalidInput("is not a parameter of this route.", field=name, remedy="Leave it out.")
    for name in _CRS_NAMES:
        for text in asked.getlist(name):
            parse_crs(text, name)
    for name, most in (("minzoom", MAX_ZOOM), ("maxzoom", MAX_ZOOM), ("cover_scale", MAX_COVER_SCALE)):
        for text in asked.getlist(name):
            if not (text.isascii() and text.isdigit() and int(text[:9]) <= most):
                raise LimitExceeded(f"{text[:20]!r} is not a whole number up to {most}.", field=name)
    if request.method == "POST" and request.url.path.endswith("/statistics"):
        _require_coarse(asked)
    if asked.get("f") == "html":
        raise InvalidInput("there are no HTML pages of these documents.", field="f", remedy="Ask for f=json.")


def _require_coarse(asked: Mapping[str, str]) -> None:
    """Refuse early what the sides that are named tell; one that is not is known when there is a picture."""
    sides = [int(text[:9]) for text in map(asked.get, ("max_size", "width", "height")) if text and text.isdecimal()]
    scale = asked.get("cover_scale", "")
    require_coarse(max(sides, default=DEFAULT_SIDE), int(scale[:9]) if scale.isdecimal() else MAX_COVER_SCALE)


@dataclass
class PictureSize(DefaultDependency):
    """How large a picture is; in stored pixels, up to 1024 (256 for whole vectors), where nothing is asked.

    Parts as `.npy` and `.tif` have every stored pixel, or are refused.
    """

    max_size: Annotated[int | None, Field(ge=1, le=2048, description="Longest side, in pixels.")] = None
    height: Annotated[int | None, Field(ge=1, le=2048, description="Height, in pixels.")] = None
    width: Annotated[int | None, Field(ge=1, le=2048, description="Width, in pixels.")] = None


@dataclass
class StatisticsOptions(DefaultDependency):
    """Which statistics."""

    percentiles: Annotated[
        list[Annotated[int, Field(ge=0, le=100)]] | None,
        Query(alias="p", max_length=10, description="Percentiles; 2 and 98 where absent."),
    ] = None

    def __post_init__(self) -> None:
        """Fill in the default."""
        self.percentiles = self.percentiles or [2, 98]


@dataclass
class HistogramOptions(DefaultDependency):
    """How the histogram is made."""

    bins: Annotated[int, Query(alias="histogram_bins", ge=1, le=256, description="Bins of equal width.")] = 10
