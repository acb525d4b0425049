"""What POST /embed answers, before it takes a form."""

from __future__ import annotations

from typing import Any, Final

from api.answers import MEDIA, Pixels, tallied
from api.schemas import AnswerForm, Stored
from api.uploads import JSON
from service.dpixels import Upload
from service.encoder import Encoder, EncodeResult
from service.tables import PixelTable
from service.values import Window

_BINARY: Final[dict[AnswerForm, str]] = {
    "npz": "codes int8 (..., d) and scales float32 (...), or vectors float32 (..., d); status uint8: 1 valid, 0 not "
    "embedded, 3 rejected; s2, s1_asc, s1_desc uint16; pixel, if the upload names pixels. (...) is (H, W) or (n)",
    "npy": "float32 (..., d), NaN where there is no vector",
    "arrow": "a stream: pixel, status, s2, s1_asc, s1_desc, and codes and scale, or vector; null where there is none; "
    "what the headers say as metadata of the schema",
}
_TOLD: Final = {
    "Model": "who made the vectors",
    "Window": "as it was said; empty: it was not",
    "Outside-Training": "true for windows that are not calendar years",
    "Device": "where it ran",
    "Precision": "fp32, or fp16 where it was asked for",
    "Reordered": "true if bands came in another order than the model's",
    "Status": "how many pixels are of which: `not-embedded=1, valid=3`",
    "Dataset": "where it was stored, if it was",
    "Revision": "of that dataset",
}
ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "One embedding a pixel, in the order sent",
        "headers": {
            f"X-Smalti-{name}": {"description": said, "schema": {"type": "string"}} for name, said in _TOLD.items()
        },
        "content": {JSON: {}}
        | {
            MEDIA[form]: {"schema": {"type": "string", "format": "binary", "description": said}}
            for form, said in _BINARY.items()
        },
    }
}
"""What OpenAPI says of it."""


def pixels_of(result: EncodeResult, upload: Upload) -> PixelTable:
    """What an encoder made of an upload."""
    return PixelTable(result.vectors, result.floats, result.counts, upload.ids)


def embedded(
    upload: Upload, result: EncodeResult, encoder: Encoder, window: Window | None, stored: Stored | None = None,
    *, quantize: bool,
) -> Pixels:  # fmt: skip
    """Everything an answer tells.

    Args:
        upload: What was sent.
        result: What became of it.
        encoder: What made it.
        window: As it was said.
        stored: Where it went, if anywhere.
        quantize: Codes and a scale, instead of float32 numbers.
    """
    outside = bool(window and not window.is_year)  # encoders were trained on calendar years
    head: dict[str, Any] = {
        "model": str(encoder.identity),
        "window": str(window or ""),
        "outside_training": outside,
        "device": encoder.device,
        "precision": encoder.precision,
        "reordered": upload.reordered,
    }
    provenance = {
        name.replace("_", "-"): str(said).lower() if isinstance(said, bool) else said for name, said in head.items()
    }
    provenance["status"] = tallied(result.vectors.status)
    if stored:
        head["stored"] = stored.model_dump()
        provenance |= {"dataset": stored.dataset, "revision": stored.revision}
    return Pixels(pixels_of(result, upload), upload.dpixels.shape, head, provenance, quantize)
