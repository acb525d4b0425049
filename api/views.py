"""From what a request says of colours to the view it means: names become values here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Query

from api.catalogue import DatasetWindow
from api.likeness.examples import query_at
from api.state import State
from service.colour import (
    BandsView,
    Basis,
    ChangeView,
    ObservationsView,
    PcaView,
    Scale,
    SimilarityView,
    Tone,
    VectorView,
    View,
    ViewSpec,
)
from service.colour.observations import MOST, TOPS
from service.colour.ramp import COLORMAPS
from service.errors import InvalidInput, NotFound
from service.footprint import Side
from service.queries import Query as Likeness
from service.shelf import is_id
from service.values import Window

ViewText = Annotated[
    str | None,
    Query(
        max_length=120,
        description="`pca`, `pca:{basis}`, `bands:0,1,2`, `similarity:{query}`, `similarity:{lon},{lat}` (likeness "
        "with the pixel there, in this window), `change:{window}` (1 - cosine with the same pixel in another window), "
        "`observations:s2`, `observations:s1_asc`, `observations:s1_desc` or `vector`. "
        "Without it pictures show `pca`; point, statistics, .npy and .tif give the dequantised vector.",
    ),
]
_SCALED: Final = "`similarity`, `change` and `observations`"
Threshold = Annotated[
    float | None, Query(ge=-1, le=MOST, description=f"{_SCALED}: what is shown in the first colour; 0 where absent")
]
Top = Annotated[
    float | None,
    Query(
        ge=-1,
        le=MOST,
        description=f"{_SCALED}: what is shown in the last colour; 1 where absent, of observations "
        f"{TOPS['s2']:g} (Sentinel-2) or {TOPS['s1_asc']:g}",
    ),
]
Clip = Annotated[
    bool | None,
    Query(description=f"{_SCALED}: leave out, in pictures, what lies below `threshold`; false where absent"),
]
Stretch = Annotated[
    list[str] | None,
    Query(
        max_length=3,
        description="`pca` and `bands`: `low,high`, the values shown darkest and brightest; once for all bands, or "
        "once for each in turn. Where absent, the 2nd and 98th percentile of the basis' sample.",
        examples=[["-2,3"]],
    ),
]
Gamma = Annotated[
    float | None,
    Query(
        ge=0.1,
        le=10,
        description="all pictures: what is shown at the share t between dark and bright is shown at t ^ (1 / gamma); "
        "1 where absent, above it brighter",
    ),
]
ColorMap = Annotated[
    str | None,
    Query(
        max_length=40,
        description=f"pictures of one number: {', '.join(f'`{name}`' for name in COLORMAPS)}, or one of them with `_r` "
        "to turn it round. Where absent, the view's own.",
    ),
]


@dataclass(frozen=True)
class Style:
    """What a request says of colours; None where it says nothing."""

    threshold: float | None = None
    top: float | None = None
    clip: bool | None = None
    stretch: tuple[tuple[float, float], ...] | None = None
    gamma: float | None = None
    colormap: str | None = None

    def require_of(self, kind: str) -> None:
        """Refuse what a kind of view has no use for.

        Raises:
            InvalidInput: Something is said that would do nothing.
        """
        for name, value in vars(self).items():
            if value is not None and name not in USES[kind]:
                used = ", ".join(USES[kind]) or "none of these"
                raise InvalidInput(f"{kind} has no {name}.", field=name, remedy=f"Of how it looks it takes {used}.")

    @property
    def tone(self) -> Tone:
        """For bands that are stretched."""
        return Tone(self.stretch or (), self.gamma or 1.0)

    def scale(self, top: float = 1.0) -> Scale:
        """For one number from a threshold to a top, which is `top` where the request names none."""
        end = top if self.top is None else self.top
        return Scale(self.threshold or 0.0, bool(self.clip), end, self.gamma or 1.0, self.colormap or "")


_SCALE: Final = ("threshold", "top", "clip", "gamma", "colormap")
USES: Final[Mapping[str, tuple[str, ...]]] = {
    "pca": ("stretch", "gamma"),
    "bands": ("stretch", "gamma", "colormap"),
    "similarity": _SCALE,
    "change": _SCALE,
    "observations": _SCALE,
    "vector": (),
}


def style(
    threshold: Threshold = None,
    top: Top = None,
    clip: Clip = None,
    stretch: Stretch = None,
    gamma: Gamma = None,
    colormap: ColorMap = None,
) -> Style:
    """How a request wants numbers coloured.

    Raises:
        InvalidInput: `stretch` is not pairs of numbers.
    """
    spans = tuple(map(_span, stretch)) if stretch else None
    return Style(threshold, top, clip, spans, gamma, colormap)


def _span(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise InvalidInput(
            f"{text[:40]!r} is not two numbers.", field="stretch", remedy="Write stretch=low,high, as stretch=-2,3."
        ) from None
    return low, high


def resolve_view(state: State, at: DatasetWindow, spec: ViewSpec, dims: int | None, style: Style) -> View:
    """The view that a spec names, with what it needs taken from the shelves and the dataset.

    Args:
        state: Where the shelves are.
        at: The dataset and window shown.
        spec: The view.
        dims: Prefix length asked for.
        style: How it is to look.

    Raises:
        NotFound: No such basis or query, or no vector at the place to compare with.
        InvalidInput: The view has no use for something that `style` says.
    """
    style.require_of(spec.kind)
    full = at.dataset.store.dims
    if spec.kind == "similarity":
        if spec.place is not None:
            return SimilarityView(query_at(at, *spec.place, dims or full), style.scale())
        return SimilarityView(state.queries.value(spec.argument, Likeness.from_document), style.scale())
    if spec.kind == "change":
        return ChangeView(at.window, Window.parse(spec.argument), style.scale())
    if spec.sensor is not None:
        return ObservationsView(spec.sensor, style.scale(TOPS[spec.sensor]))
    if spec.kind == "vector":
        return VectorView(dims or full)
    if spec.kind == "pca":
        return PcaView(basis_of(state, at, spec.argument, dims), style.tone)
    return BandsView(spec.bands, basis_of(state, at, "default", None), style.tone, style.colormap or "")


def basis_of(state: State, at: DatasetWindow, name: str, dims: int | None) -> Basis:
    """The basis that a name or id means, which for a prefix length is another one of that name.

    Raises:
        NotFound: No such basis.
    """
    store, shelf = at.dataset.store, state.bases(at.dataset.id)
    prefix = dims is not None and dims != store.dims and dims in store.depths
    try:
        return shelf.value(prefix_name(name, dims) if prefix and not is_id(name) else name, Basis.from_document)
    except NotFound:
        if is_id(name):
            raise
        wanted = ({} if name == "default" else {"name": name}) | ({"dims": dims} if prefix else {})
        options = "".join(f" --{option} {value}" for option, value in wanted.items())
        body = json.dumps({"dataset": at.dataset.id, **wanted})
        raise NotFound(
            f"no basis named {name!r} was fitted" + (f" to the first {dims} dimensions." if prefix else "."),
            field="dims" if prefix else "basis",
            remedy=f"Fit one: POST /bases {body}, or `smalti pca fit {at.dataset.id}{options}` where the server runs.",
        ) from None


def prefix_name(name: str, dims: int | None) -> str:
    """The name that a basis of a prefix length has on the shelf."""
    return name if dims is None else f"{name}~{dims}"


def other_side(state: State, at: DatasetWindow, spec: ViewSpec) -> Side | None:
    """The window that a view of change compares with, in whichever repository of the dataset holds it.

    Raises:
        NotFound: The dataset does not hold it.
    """
    if spec.kind != "change":
        return None
    window = Window.parse(spec.argument)
    try:
        return Side(state.datasets[at.dataset.id].at(window).store, window)
    except NotFound as error:
        raise NotFound(error.message, field="view", remedy=error.remedy) from None
