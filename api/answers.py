"""One pixel after the other as JSON, NPZ, NPY or Arrow: which form an answer takes, and how it is written in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final, Protocol

import numpy as np
import orjson
from fastapi import Response
from fastapi.responses import StreamingResponse

from api.accept import weighed
from api.schemas import AnswerForm
from api.uploads import ARROW, JSON, NPZ, BodyForm
from service.dpixels import scratch
from service.errors import InvalidInput
from service.tables import PixelTable, write_arrow
from service.values import STATUS_NAMES, VALID, UInt8Array

NPY: Final = "application/x-npy"
MEDIA: Final[dict[AnswerForm, str]] = {"json": JSON, "npz": NPZ, "npy": NPY, "arrow": ARROW}
USUAL: Final[dict[BodyForm, AnswerForm]] = {"json": "json", "npz": "npz", "arrow": "arrow", "parquet": "arrow"}
"""How each form of body is answered where nothing else is asked."""
PIXELS: Final = 4096
"""Pixels that are written together."""
PIECE: Final = 1_000_000
"""Bytes that are sent together."""


class Told(Protocol):
    """An answer that has no form yet."""

    @property
    def provenance(self) -> Mapping[str, str]:
        """What it was made from and how: headers in every form, and Arrow's metadata."""

    def write(self, file: IO[bytes], form: AnswerForm) -> None:
        """Write it."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Vectors with their status and counts."""

    table: PixelTable
    """n pixels in the order asked."""
    shape: tuple[int, ...]
    """Of the arrays in NPY and NPZ, before their dimensions."""
    head: Mapping[str, Any]
    """What JSON says before the results."""
    provenance: Mapping[str, str]
    """As of every answer."""
    quantize: bool
    """Codes and a scale, instead of float32 numbers."""
    nulls: bool = False
    """Whether JSON says null where there is no vector; else it says nothing."""
    more: Sequence[Mapping[str, Any]] | None = None
    """What else JSON says of each."""

    def write(self, file: IO[bytes], form: AnswerForm) -> None:
        """Write it in one of the forms."""
        _WRITERS[form](file, self)

    def arrays(self) -> dict[str, Any]:
        """All there is to tell as arrays by name, in the shape they are asked for."""
        table = self.table
        held: dict[str, Any] = {"codes": table.vectors.codes, "scales": table.vectors.scales}
        if not self.quantize:
            held = {"vectors": table.floats}
        counts = table.counts
        held |= {"status": table.vectors.status, "s2": counts.s2, "s1_asc": counts.s1_asc, "s1_desc": counts.s1_desc}
        arrays = {name: array.reshape(*self.shape, *array.shape[1:]) for name, array in held.items()}
        return arrays | ({"pixel": np.array(table.ids)} if table.ids else {})


def chosen(asked: AnswerForm | None, accept: str | None, body: BodyForm) -> AnswerForm:
    """The form of an answer: as `answer` says, else the Accept header, else what is usual for the body.

    Raises:
        InvalidInput: The header names nothing that there is.
    """
    if asked or not accept:
        return asked or USUAL[body]
    forms = {media: form for form, media in MEDIA.items()}
    for media, weight in sorted(weighed(accept), key=lambda one: -one[1]):
        if weight > 0 and media in ("*/*", "application/*"):
            return USUAL[body]
        if weight > 0 and media in forms:
            return forms[media]
    remedy = f"Accept {', '.join(MEDIA.values())}, or say answer=."
    raise InvalidInput(f"there is no answer as {accept[:60]!r}.", field="Accept", remedy=remedy)


def quantized(asked: bool | None, form: AnswerForm, body: BodyForm) -> bool:
    """Whether an answer holds codes; where nothing is asked: those of files do, but for .npy.

    Raises:
        InvalidInput: Codes as .npy, which has no place for their scales.
    """
    if asked and form == "npy":
        said = "an .npy is one array of float32 vectors."
        raise InvalidInput(said, field="quantize", remedy="Ask for answer=npz or arrow.")
    return asked if asked is not None else body != "json" and form != "npy"


def tallied(status: UInt8Array) -> str:
    """How many pixels are of which status: `not-embedded=1, valid=3`."""
    codes, counts = np.unique(status, return_counts=True)
    found = zip(codes.tolist(), counts.tolist(), strict=True)
    return ", ".join(f"{STATUS_NAMES[code]}={count}" for code, count in found)


def respond(form: AnswerForm, told: Told) -> Response:
    """The answer in one of its forms.

    Raises:
        Unavailable: The disk is full.
    """
    file = scratch.spool()
    with scratch.on_disk():
        told.write(file, form)
        size = file.tell()
        file.seek(0)
    headers = {f"X-Smalti-{name.title()}": value for name, value in told.provenance.items()}
    headers["Content-Length"] = str(size)
    return StreamingResponse(_pieces(file), media_type=MEDIA[form], headers=headers)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece


def _json(file: IO[bytes], told: Pixels) -> None:
    file.write(orjson.dumps(dict(told.head))[:-1] + b',"results":[')
    for start in range(0, len(told.table.vectors.status), PIXELS):
        rows = _rows(told, slice(start, start + PIXELS))
        file.write(b"," * (start > 0) + orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
    file.write(b"]}")


def _rows(told: Pixels, part: slice) -> list[dict[str, Any]]:
    vectors, counts, ids = told.table.vectors, told.table.counts, told.table.ids
    numbers = np.ascontiguousarray(vectors.codes[part] if told.quantize else told.table.floats[part])
    held = zip(
        vectors.status[part].tolist(), numbers, vectors.scales[part].tolist(),
        counts.s2[part].tolist(), counts.s1_asc[part].tolist(), counts.s1_desc[part].tolist(), strict=True,
    )  # fmt: skip
    nothing = dict.fromkeys(("codes", "scale") if told.quantize else ("vector",)) if told.nulls else {}
    out = []
    for at, (status, row, scale, s2, asc, desc) in enumerate(held):
        one: dict[str, Any] = {"pixel": ids[part.start + at]} if ids else {}
        one |= {"status": STATUS_NAMES[status], **nothing}
        if status == VALID:
            one |= {"codes": row, "scale": scale} if told.quantize else {"vector": row}
        one |= told.more[part.start + at] if told.more else {}
        out.append({**one, "counts": {"s2": s2, "s1_asc": asc, "s1_desc": desc}})
    return out


def _npz(file: IO[bytes], told: Pixels) -> None:
    np.savez(file, allow_pickle=False, **told.arrays())


def _npy(file: IO[bytes], told: Pixels) -> None:
    np.lib.format.write_array(file, told.table.floats.reshape(*told.shape, -1), allow_pickle=False)


def _arrow(file: IO[bytes], told: Pixels) -> None:
    write_arrow(file, told.table, told.provenance, quantize=told.quantize)


_WRITERS: Final[dict[AnswerForm, Callable[[IO[bytes], Pixels], None]]] = {
    "json": _json, "npz": _npz, "npy": _npy, "arrow": _arrow,
}  # fmt: skip
