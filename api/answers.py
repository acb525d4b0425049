"""What POST /embed answers: the same vectors, status and counts as JSON, NPZ, NPY or Arrow, written piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
import orjson
from fastapi import Response
from fastapi.responses import StreamingResponse

from api.schemas import AnswerForm, Stored
from api.uploads import ARROW, JSON, NPZ, BodyForm
from service.dpixels import Upload, scratch
from service.encoder import Encoder, EncodeResult
from service.errors import InvalidInput
from service.tables import write_arrow
from service.values import STATUS_NAMES, VALID, Window

NPY: Final = "application/x-npy"
MEDIA: Final[dict[AnswerForm, str]] = {"json": JSON, "npz": NPZ, "npy": NPY, "arrow": ARROW}
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
USUAL: Final[dict[BodyForm, AnswerForm]] = {"json": "json", "npz": "npz", "arrow": "arrow", "parquet": "arrow"}
"""How each form of body is answered where nothing else is asked."""
PIXELS: Final = 4096
"""Pixels that are written together."""
PIECE: Final = 1_000_000
"""Bytes that are sent together."""


@dataclass(frozen=True)
class Embedded:
    """Everything an answer tells."""

    upload: Upload
    result: EncodeResult
    encoder: Encoder
    window: Window | None
    quantize: bool
    """Codes and a scale, instead of float32 numbers."""
    stored: Stored | None = None

    @property
    def provenance(self) -> dict[str, str]:
        """What it was made from and how, as texts."""
        told = {
            "model": str(self.encoder.identity),
            "window": str(self.window or ""),
            "outside-training": str(self.outside_training).lower(),
            "device": self.encoder.device,
            "precision": self.encoder.precision,
            "reordered": str(self.upload.reordered).lower(),
            "status": ", ".join(f"{STATUS_NAMES[code]}={count}" for code, count in self._tally()),
        }
        return told | ({"dataset": self.stored.dataset, "revision": self.stored.revision} if self.stored else {})

    @property
    def outside_training(self) -> bool:
        """Whether the window is none that encoders were trained on: not a calendar year."""
        return bool(self.window and not self.window.is_year)

    def _tally(self) -> Iterator[tuple[int, int]]:
        codes, counts = np.unique(self.result.vectors.status, return_counts=True)
        return zip(codes.tolist(), counts.tolist(), strict=True)


def chosen(asked: AnswerForm | None, accept: str | None, body: BodyForm) -> AnswerForm:
    """The form of an answer: as `answer` says, else the Accept header, else what is usual for the body.

    Raises:
        InvalidInput: The header names nothing that there is.
    """
    if asked or not accept:
        return asked or USUAL[body]
    wanted = sorted((_preference(part) for part in accept.split(",")), key=lambda one: -one[0])
    forms = {media: form for form, media in MEDIA.items()}
    for weight, media in wanted:
        if weight > 0 and media in ("*/*", "application/*"):
            return USUAL[body]
        if weight > 0 and media in forms:
            return forms[media]
    remedy = f"Accept {', '.join(MEDIA.values())}, or say answer=."
    raise InvalidInput(f"there is no answer as {accept[:60]!r}.", field="Accept", remedy=remedy)


def _preference(part: str) -> tuple[float, str]:
    media, _, parameters = part.strip().lower().partition(";")
    quality = parameters.replace(" ", "").partition("q=")[2].partition(";")[0]
    try:
        return float(quality or 1), media.strip()
    except ValueError:
        return 1.0, media.strip()


def quantized(asked: bool | None, form: AnswerForm, body: BodyForm) -> bool:
    """Whether an answer holds codes; where nothing is asked: those of files do, but for .npy.

    Raises:
        InvalidInput: Codes as .npy, which has no place for their scales.
    """
    if asked and form == "npy":
        said = "an .npy is one array of float32 vectors."
        raise InvalidInput(said, field="quantize", remedy="Ask for answer=npz or arrow.")
    return asked if asked is not None else body != "json" and form != "npy"


def respond(form: AnswerForm, told: Embedded) -> Response:
    """The answer in one of its forms.

    Raises:
        Unavailable: The disk is full.
    """
    file = scratch.spool()
    with scratch.on_disk():
        _WRITERS[form](file, told)
        size = file.tell()
        file.seek(0)
    headers = {f"X-Smalti-{name.title()}": value for name, value in told.provenance.items()}
    headers["Content-Length"] = str(size)
    return StreamingResponse(_pieces(file), media_type=MEDIA[form], headers=headers)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece


def _json(file: IO[bytes], told: Embedded) -> None:
    head: dict[str, Any] = {
        "model": str(told.encoder.identity),
        "window": str(told.window or ""),
        "outside_training": told.outside_training,
        "device": told.encoder.device,
        "precision": told.encoder.precision,
        "reordered": told.upload.reordered,
    }
    if told.stored:
        head["stored"] = told.stored.model_dump()
    file.write(orjson.dumps(head)[:-1] + b',"results":[')
    for start in range(0, len(told.result.vectors.status), PIXELS):
        rows = _rows(told, slice(start, start + PIXELS))
        file.write(b"," * (start > 0) + orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
    file.write(b"]}")


def _rows(told: Embedded, part: slice) -> list[dict[str, Any]]:
    vectors, counts, ids = told.result.vectors, told.result.counts, told.upload.ids
    numbers = np.ascontiguousarray(vectors.codes[part] if told.quantize else told.result.floats[part])
    held = zip(
        vectors.status[part].tolist(), numbers, vectors.scales[part].tolist(),
        counts.s2[part].tolist(), counts.s1_asc[part].tolist(), counts.s1_desc[part].tolist(), strict=True,
    )  # fmt: skip
    out = []
    for at, (status, row, scale, s2, asc, desc) in enumerate(held):
        one: dict[str, Any] = {"pixel": ids[part.start + at]} if ids else {}
        one["status"] = STATUS_NAMES[status]
        if status == VALID:
            one |= {"codes": row, "scale": scale} if told.quantize else {"vector": row}
        out.append({**one, "counts": {"s2": s2, "s1_asc": asc, "s1_desc": desc}})
    return out


def _npz(file: IO[bytes], told: Embedded) -> None:
    np.savez(file, allow_pickle=False, **arrays_of(told.result, told.upload, quantize=told.quantize))


def arrays_of(result: EncodeResult, upload: Upload, *, quantize: bool) -> dict[str, Any]:
    """Everything about the pixels of an upload as arrays, in the shape they came in."""
    vectors, counts, shape = result.vectors, result.counts, upload.dpixels.shape
    held: dict[str, Any] = {"codes": vectors.codes, "scales": vectors.scales}
    if not quantize:
        held = {"vectors": result.floats}
    held |= {"status": vectors.status, "s2": counts.s2, "s1_asc": counts.s1_asc, "s1_desc": counts.s1_desc}
    arrays = {name: array.reshape(*shape, *array.shape[1:]) for name, array in held.items()}
    return arrays | ({"pixel": np.array(upload.ids)} if upload.ids else {})


def _npy(file: IO[bytes], told: Embedded) -> None:
    floats = told.result.floats
    np.lib.format.write_array(file, floats.reshape(*told.upload.dpixels.shape, -1), allow_pickle=False)


def _arrow(file: IO[bytes], told: Embedded) -> None:
    write_arrow(file, told.result, told.upload.ids, told.provenance, quantize=told.quantize)


_WRITERS: Final[dict[AnswerForm, Callable[[IO[bytes], Embedded], None]]] = {
    "json": _json, "npz": _npz, "npy": _npy, "arrow": _arrow,
}  # fmt: skip
