"""Views. One idea: a view takes vectors in the native grid and returns one to four bands; everything else is shared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, Protocol, cast

import numpy as np

from service.colour.basis import Basis
from service.colour.project import project
from service.colour.ramp import STEPS, grey_ramp, palette_of
from service.errors import InvalidInput
from service.values import Float32Array, Float64Array, ModelIdentity, UInt8Array, Vectors, Window, checked_id

Kind = Literal["pca", "bands", "similarity", "change", "vector"]
DEFAULT_BANDS: Final = "0,1,2"
_FORMS: Final = "pca, pca:{basis}, bands:0,1,2, similarity:{query}, similarity:{lon},{lat}, change:{window} or vector"
_BANDS: Final = re.compile(r"\d{1,4}(,\d{1,4}){0,2}", re.ASCII)
_PLACE: Final = re.compile(r"(-?\d{1,3}(?:\.\d{0,20})?),(-?\d{1,2}(?:\.\d{0,20})?)", re.ASCII)


@dataclass(frozen=True)
class ViewSpec:
    """A view as it is asked for: a kind, and the name of what it needs."""

    kind: Kind
    argument: str
    """pca: a basis; bands: indices as `0,1,2`; similarity: a query or `lon,lat`; change: a window; vector: empty."""

    @property
    def bands(self) -> tuple[int, ...]:
        """The dimensions that a `bands` view shows."""
        return tuple(int(part) for part in self.argument.split(","))

    @property
    def place(self) -> tuple[float, float] | None:
        """(lon, lat) of the place whose vector a `similarity` view compares with; None where it names a query."""
        place = _PLACE.fullmatch(self.argument)
        return (float(place[1]), float(place[2])) if place else None


def parse_view(text: str) -> ViewSpec:
    """Read `?view=`.

    Raises:
        InvalidInput: It is none of the views there are.
    """
    kind, colon, argument = text.partition(":")
    if kind == "pca":
        return ViewSpec("pca", checked_id(argument, "view") if colon else "default")
    if kind == "bands" and _BANDS.fullmatch(argument if colon else DEFAULT_BANDS):
        return ViewSpec("bands", argument if colon else DEFAULT_BANDS)
    if kind == "similarity" and argument:
        return _similarity(argument)
    if kind == "change" and argument:
        return ViewSpec("change", str(_window(argument)))
    if text == "vector":
        return ViewSpec("vector", "")
    raise InvalidInput(f"{text[:80]!r} is not a view.", field="view", remedy=f"Ask for {_FORMS}.")


def _similarity(argument: str) -> ViewSpec:
    spec = ViewSpec("similarity", argument)
    if "," not in argument:
        return ViewSpec("similarity", checked_id(argument, "view"))
    if spec.place is None or abs(spec.place[0]) > 180 or abs(spec.place[1]) > 90:
        raise InvalidInput(f"{argument[:80]!r} is no place.", field="view", remedy="Write similarity:2.25,54.69.")
    return spec


def _window(argument: str) -> Window:
    try:
        return Window.parse(argument)
    except InvalidInput as error:
        raise InvalidInput(error.message, field="view", remedy=error.remedy) from None


class View(Protocol):
    """From vectors to bands, and to a picture of them."""

    @property
    def key(self) -> str:
        """A stable text: two views of one key give the same bytes."""

    @property
    def band_names(self) -> tuple[str, ...]:
        """One name a band."""

    @property
    def legend(self) -> Mapping[str, Any]:
        """What the colours mean, as JSON."""

    def check(self, identity: ModelIdentity, dims: int) -> None:
        """Refuse vectors this view was not made for.

        Raises:
            IdentityMismatch: Another model made them.
            InvalidInput: They have another number of dimensions.
        """

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., n) float32 bands of (...,) pixels; NaN where status is not VALID."""

    @property
    def palette(self) -> UInt8Array | None:
        """(256, 4) red, green, blue, alpha of the indices that `picture` gives; None where it gives colours."""

    def picture(self, vectors: Vectors) -> UInt8Array:
        """(..., 3) uint8 red, green, blue; anything where status is not VALID, alpha is the status' business.

        A view with a palette gives (..., 1) uint8 indices into it: 0 where nothing is shown, because there is no
        vector or the view hides it, else 1 to 255 along its colours.
        """


@dataclass(frozen=True, eq=False)
class PcaView:
    """The three principal coordinates as red, green and blue, stretched as the basis says."""

    basis: Basis

    @property
    def key(self) -> str:
        """`pca:` and the basis' id."""
        return f"pca:{self.basis.id}"

    @property
    def band_names(self) -> tuple[str, ...]:
        """pc1, pc2, pc3."""
        return ("pc1", "pc2", "pc3")

    @property
    def legend(self) -> Mapping[str, Any]:
        """The basis, the share of the variance that each colour shows, and its stretch."""
        basis = self.basis
        spans = np.stack([basis.low, basis.high], axis=1)
        channels = _channels(self.band_names, spans)
        for channel, share in zip(channels, basis.explained, strict=True):
            channel["explained"] = share
        return {
            "view": "pca",
            "title": "Principal components",
            "text": "Red, green and blue are the three directions along which vectors differ most, with "
            f"{sum(basis.explained):.0%} of their variance. Like colours mean like pixels; a colour has no name.",
            "basis": basis.id,
            "explained": list(basis.explained),
            "stretch": spans.tolist(),
            "channels": channels,
        }

    def check(self, identity: ModelIdentity, dims: int) -> None:
        """Only vectors of the basis' model, in full."""
        _check_basis(self.basis, identity)
        if dims != self.basis.dims:
            raise InvalidInput(f"the basis has {self.basis.dims} dimensions, not {dims}.", field="dims")

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., 3) principal coordinates."""
        return project(vectors, self.basis.components, self.basis.mean)

    @property
    def palette(self) -> None:
        """None: three bands are colours."""

    def picture(self, vectors: Vectors) -> UInt8Array:
        """(..., 3): 2nd to 98th percentile from 0 to 255."""
        return stretched(self.values(vectors), self.basis.low, self.basis.high)


@dataclass(frozen=True, eq=False)
class BandsView:
    """One to three dimensions as they are, stretched by their own percentiles in the basis' sample."""

    bands: tuple[int, ...]
    basis: Basis

    @property
    def key(self) -> str:
        """The bands, and the id of the basis whose percentiles stretch them."""
        return f"bands:{','.join(map(str, self.bands))}:{self.basis.id}"

    @property
    def band_names(self) -> tuple[str, ...]:
        """d0, d1, d2."""
        return tuple(f"d{band}" for band in self.bands)

    @property
    def legend(self) -> Mapping[str, Any]:
        """The bands and their stretch."""
        spans = np.stack(self._stretch, axis=1)
        one = len(self.bands) == 1
        return {
            "view": "bands",
            "title": f"Dimension {self.bands[0]}" if one else f"Dimensions {', '.join(map(str, self.bands))}",
            "text": f"{'One number' if one else 'Numbers'} of the vector as they are, from the 2nd percentile of a "
            "sample to the 98th.",
            "bands": list(self.bands),
            "stretch": spans.tolist(),
            "channels": _channels(self.band_names, spans),
        }

    @cached_property
    def _stretch(self) -> tuple[Float64Array, Float64Array]:
        chosen = list(self.bands)
        return self.basis.band_low[chosen], self.basis.band_high[chosen]

    def check(self, identity: ModelIdentity, dims: int) -> None:
        """Only vectors of the basis' model that have these dimensions."""
        _check_basis(self.basis, identity)
        if max(self.bands) >= min(dims, self.basis.dims):
            raise InvalidInput(f"dimension {max(self.bands)} is not among 0 to {dims - 1}.", field="view")

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., n) dequantised values."""
        out = vectors.codes[..., list(self.bands)] * vectors.scales[..., None]
        out[~vectors.valid] = np.nan
        return np.asarray(out, np.float32)

    @property
    def palette(self) -> UInt8Array | None:
        """Greys for one band."""
        return palette_of(grey_ramp()) if len(self.bands) == 1 else None

    def picture(self, vectors: Vectors) -> UInt8Array:
        """(..., 3): each band from 0 to 255; of two, blue stays dark. (..., 1) indices of one band."""
        values, (low, high) = self.values(vectors), self._stretch
        if len(self.bands) == 1:
            return indexed(values, float(low[0]), float(high[0]))
        shown = stretched(values, low, high)
        if len(self.bands) == 2:
            return np.concatenate([shown, np.zeros_like(shown[..., :1])], axis=-1)
        return shown


@dataclass(frozen=True)
class VectorView:
    """The dequantised vector itself. Numbers only: it has no picture."""

    dims: int

    @property
    def key(self) -> str:
        """`vector:128`."""
        return f"vector:{self.dims}"

    @property
    def band_names(self) -> tuple[str, ...]:
        """d0 ... d127."""
        return tuple(f"d{i}" for i in range(self.dims))

    @property
    def legend(self) -> Mapping[str, Any]:
        """What the numbers are; there are no colours."""
        return {
            "view": "vector",
            "title": "Vectors",
            "text": f"The {self.dims} dequantised numbers of each pixel. They have no colours.",
            "dims": self.dims,
        }

    def check(self, identity: ModelIdentity, dims: int) -> None:  # noqa: ARG002
        """Any model's vectors."""
        if dims != self.dims:
            raise InvalidInput(f"asks for {self.dims} dimensions of {dims}.", field="dims")

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., d) float32 vectors."""
        return vectors.dequantised()

    @property
    def palette(self) -> None:
        """None: there are no colours."""

    def picture(self, vectors: Vectors) -> UInt8Array:
        """Never.

        Raises:
            InvalidInput: Always: 128 numbers are no colour.
        """
        raise InvalidInput(
            f"{vectors.dims} dimensions are no picture.", field="view", remedy="Ask .npy or .tif, or another view."
        )


def stretched(values: Float32Array, low: Float64Array, high: Float64Array) -> UInt8Array:
    """(..., n) values from `low` to `high` as 0 to 255, clipped; NaN becomes 0."""
    span = np.where(high > low, high - low, 1.0)
    gain, shift = (255 / span).astype(np.float32), (low * 255 / span).astype(np.float32)
    shown = np.nan_to_num(values * gain - shift, nan=0.0)
    return cast(UInt8Array, np.rint(np.clip(shown, 0, 255)).astype(np.uint8))


def indexed(values: Float32Array, low: float, high: float) -> UInt8Array:
    """(...,) values from `low` to `high` as 1 to 255, clipped; NaN becomes 0."""
    gain = (STEPS - 1) / (high - low) if high > low else float(STEPS - 1)
    place = values * np.float32(gain) - np.float32(low * gain - 1)
    shown = np.rint(np.clip(place, 1, STEPS))
    return cast(UInt8Array, np.nan_to_num(shown, nan=0.0).astype(np.uint8))


def _channels(names: tuple[str, ...], spans: Float64Array) -> list[dict[str, Any]]:
    """What each colour shows: the name of a band, and the values that are darkest and brightest."""
    colours = ("red", "green", "blue") if len(names) > 1 else ("grey",)
    return [
        {"colour": colour, "name": name, "range": span}
        for colour, name, span in zip(colours, names, spans.tolist(), strict=False)
    ]


def _check_basis(basis: Basis, identity: ModelIdentity) -> None:
    identity.require_same(basis.identity, f"the basis {basis.id}")
