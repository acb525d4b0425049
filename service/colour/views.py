"""Views. One idea: a view takes vectors in the native grid and returns one to four bands; everything else is shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from service.colour.basis import Basis
from service.colour.project import project
from service.colour.ramp import GREY, hex_colours, palette
from service.colour.tone import PLAIN, Tone, indexed, stretched
from service.errors import InvalidInput
from service.values import Float32Array, Float64Array, ModelIdentity, UInt8Array, Vectors


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

    def colours(self, values: Float32Array) -> UInt8Array:
        """The same of (..., n) bands that are known already."""


@dataclass(frozen=True, eq=False)
class PcaView:
    """The three principal coordinates as red, green and blue, stretched as the basis says, or as asked."""

    basis: Basis
    tone: Tone = PLAIN

    @property
    def key(self) -> str:
        """`pca:`, the basis' id and the tone."""
        return f"pca:{self.basis.id}{self.tone.key}"

    @cached_property
    def ends(self) -> tuple[Float64Array, Float64Array]:
        """((3,), (3,)): what is shown as 0, and as 255."""
        return self.tone.ends(self.basis.low, self.basis.high)

    @property
    def band_names(self) -> tuple[str, ...]:
        """pc1, pc2, pc3."""
        return ("pc1", "pc2", "pc3")

    @property
    def legend(self) -> Mapping[str, Any]:
        """The basis, the share of the variance that each colour shows, and its stretch."""
        basis = self.basis
        spans = np.stack(self.ends, axis=1)
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
            **self.tone.legend(),
        }

    def check(self, identity: ModelIdentity, dims: int) -> None:
        """Only vectors of the basis' model, of the length it was fitted to."""
        _check_basis(self.basis, identity)
        if dims != self.basis.dims:
            raise InvalidInput(
                f"the basis was fitted to {self.basis.dims} dimensions, not {dims}.",
                field="dims",
                remedy=f"Ask for dims={self.basis.dims}, or leave dims out.",
            )
        _ = self.ends

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., 3) principal coordinates."""
        return project(vectors, self.basis.components, self.basis.mean)

    @property
    def palette(self) -> None:
        """None: three bands are colours."""

    def picture(self, vectors: Vectors) -> UInt8Array:
        """(..., 3): 2nd to 98th percentile from 0 to 255, unless asked otherwise."""
        return self.colours(self.values(vectors))

    def colours(self, values: Float32Array) -> UInt8Array:
        """The same of bands that are known already."""
        return stretched(values, *self.ends, self.tone.gamma)


@dataclass(frozen=True, eq=False)
class BandsView:
    """One to three dimensions as they are, stretched by their own percentiles in the basis' sample, or as asked."""

    bands: tuple[int, ...]
    basis: Basis
    tone: Tone = PLAIN
    colormap: str = ""
    """Of one band alone; grey where empty."""

    def __post_init__(self) -> None:
        if self.colormap and len(self.bands) > 1:
            raise InvalidInput(
                f"{len(self.bands)} bands are shown as red, green and blue.",
                field="colormap",
                remedy=f"Ask for one band, as bands:{self.bands[0]}.",
            )
        palette(self.colormap or GREY)

    @property
    def key(self) -> str:
        """The bands, the id of the basis whose percentiles stretch them, and what was asked otherwise."""
        asked = self.tone.key + (f":{self.colormap}" if self.colormap else "")
        return f"bands:{','.join(map(str, self.bands))}:{self.basis.id}{asked}"

    @property
    def band_names(self) -> tuple[str, ...]:
        """d0, d1, d2."""
        return tuple(f"d{band}" for band in self.bands)

    @property
    def legend(self) -> Mapping[str, Any]:
        """The bands and their stretch: red, green and blue, or eleven colours along the range of one."""
        spans = np.stack(self.ends, axis=1)
        one = len(self.bands) == 1
        asked = "from the least to the largest asked for" if self.tone.spans else "from the 2nd percentile to the 98th"
        told: dict[str, Any] = {"channels": _channels(self.band_names, spans)}
        if one:
            name = self.colormap or GREY
            told = {"range": spans[0].tolist(), "colours": hex_colours(name, self.tone.gamma), "colormap": name}
        return {
            "view": "bands",
            "title": f"Dimension {self.bands[0]}" if one else f"Dimensions {', '.join(map(str, self.bands))}",
            "text": f"{'One number' if one else 'Numbers'} of the vector as stored, {asked}.",
            "bands": list(self.bands),
            "stretch": spans.tolist(),
            **told,
            **self.tone.legend(),
        }

    @cached_property
    def ends(self) -> tuple[Float64Array, Float64Array]:
        """((n,), (n,)): what is shown darkest, and brightest."""
        chosen = list(self.bands)
        return self.tone.ends(self.basis.band_low[chosen], self.basis.band_high[chosen])

    def check(self, identity: ModelIdentity, dims: int) -> None:
        """Only vectors of the basis' model that have these dimensions."""
        _check_basis(self.basis, identity)
        if max(self.bands) >= min(dims, self.basis.dims):
            raise InvalidInput(f"dimension {max(self.bands)} is not among 0 to {dims - 1}.", field="view")
        _ = self.ends

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., n) dequantised values."""
        out = vectors.codes[..., list(self.bands)] * vectors.scales[..., None]
        out[~vectors.valid] = np.nan
        return np.asarray(out, np.float32)

    @property
    def palette(self) -> UInt8Array | None:
        """The colours of one band."""
        return palette(self.colormap or GREY, self.tone.gamma) if len(self.bands) == 1 else None

    def picture(self, vectors: Vectors) -> UInt8Array:
        """(..., 3): each band from 0 to 255; of two, blue stays dark. (..., 1) indices of one band."""
        return self.colours(self.values(vectors))

    def colours(self, values: Float32Array) -> UInt8Array:
        """The same of bands that are known already."""
        low, high = self.ends
        if len(self.bands) == 1:
            return indexed(values, float(low[0]), float(high[0]))
        shown = stretched(values, low, high, self.tone.gamma)
        if len(self.bands) == 2:
            return np.concatenate([shown, np.zeros_like(shown[..., :1])], axis=-1)
        return shown


def _channels(names: tuple[str, ...], spans: Float64Array) -> list[dict[str, Any]]:
    """What each colour shows: the name of a band, and the values that are darkest and brightest."""
    return [
        {"colour": colour, "name": name, "range": span}
        for colour, name, span in zip(("red", "green", "blue"), names, spans.tolist(), strict=False)
    ]


def _check_basis(basis: Basis, identity: ModelIdentity) -> None:
    identity.require_same(basis.identity, f"the basis {basis.id}")
