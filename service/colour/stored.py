"""Whole vectors as bands, dequantised or as they are stored: numbers only, which have no picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.errors import InvalidInput
from service.values import Float32Array, ModelIdentity, UInt8Array, Vectors

SCALE: Final = "scale"
STATUS: Final = "status"


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
        """Never. Raises as `colours` does."""
        return self.colours(vectors.codes)

    def colours(self, values: npt.NDArray[Any]) -> UInt8Array:
        """Never.

        Raises:
            InvalidInput: Always: 128 numbers are no colour.
        """
        raise InvalidInput(
            f"{values.shape[-1]} dimensions are no picture.", field="view", remedy="Ask .npy or .tif, or another view."
        )


@dataclass(frozen=True)
class StoredView:
    """The int8 codes, their scale and the status of each pixel, as float32 bands, which hold all three exactly."""

    dims: int

    @property
    def key(self) -> str:
        """`stored:128`."""
        return f"stored:{self.dims}"

    @property
    def band_names(self) -> tuple[str, ...]:
        """d0 ... d127, scale, status."""
        return (*(f"d{i}" for i in range(self.dims)), SCALE, STATUS)

    @property
    def palette(self) -> None:
        """None: there are no colours."""

    @property
    def legend(self) -> Mapping[str, Any]:
        """What the numbers are."""
        return {
            "view": "vector",
            "title": "Stored vectors",
            "text": f"The {self.dims} int8 codes of each pixel, their scale and the pixel's status.",
            "dims": self.dims,
        }

    def check(self, identity: ModelIdentity, dims: int) -> None:  # noqa: ARG002
        """Any model's vectors."""
        if dims != self.dims:
            raise InvalidInput(f"asks for {self.dims} dimensions of {dims}.", field="dims")

    def values(self, vectors: Vectors) -> Float32Array:
        """(..., d + 2) float32: codes, scale, status; also where status is not VALID, with codes and scale 0."""
        out = np.empty((*vectors.status.shape, self.dims + 2), np.float32)
        out[..., :-2] = vectors.codes
        out[..., -2], out[..., -1] = vectors.scales, vectors.status
        return out

    def picture(self, vectors: Vectors) -> UInt8Array:
        """Never. Raises as `colours` does."""
        return self.colours(vectors.codes)

    def colours(self, values: npt.NDArray[Any]) -> UInt8Array:
        """Never.

        Raises:
            InvalidInput: Always.
        """
        raise InvalidInput(
            f"{values.shape[-1]} codes are no picture.", field="quantize", remedy="Ask for .npy or .tif."
        )
