"""Journey 3 over HTTP: an uploaded time series becomes an embedding, and a pixel on the map if it has a place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from os import SEEK_END
from typing import IO, Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from api.answers import chosen, quantized, respond
from api.embedded import ANSWERS, embedded
from api.problems import documented
from api.schemas import EmbedAnswer, EmbedBody, EmbedChoices, Stored
from api.security import require
from api.series import parsed, upload_of
from api.state import State, get_state
from api.turns import Turn
from api.uploads import REQUEST_BODY, BodyForm, EmbedParams, form_of, read_upload, spooled
from service.cells import Cells, cells_of_placement, cells_of_places
from service.dpixels import Declared, Upload
from service.embed import store_result
from service.encoder import Encoder, EncodeResult
from service.errors import InvalidInput
from service.families import FAMILIES
from service.sources import Placement
from service.values import Window

router = APIRouter(tags=["embed"])

Corner = tuple[int, tuple[float, ...]]


async def taken_in(state: Annotated[State, Depends(get_state)]) -> AsyncIterator[None]:
    """A place among the uploads, kept until the last byte of the answer is sent."""
    with state.turns.taken_in():
        yield


@router.post(
    "/embed",
    response_model=EmbedAnswer,
    responses={**documented(401, 403, 404, 409, 413, 422, 503), **ANSWERS},
    openapi_extra={"requestBody": REQUEST_BODY},
    dependencies=[Depends(require("embed")), Depends(taken_in)],
)
async def embed(
    request: Request, state: Annotated[State, Depends(get_state)], params: Annotated[EmbedParams, Query()]
) -> Response:
    """Embed time series: JSON, NPZ, or a long table as Arrow IPC or Parquet.

    An NPZ holds the arrays of a published d-pixel folder, `bands` (T,H,W,10), `masks`, `doys`, `sar_ascending`,
    `sar_ascending_doy`, `sar_descending` and `sar_descending_doy`; or, with the pixel first, `s2` (n,T,10), `s2_bands`,
    `s2_doy` (n,T) or (T,), `s2_valid` or `s2_scl`, `s1_ascending` (n,T,2), `s1_ascending_doy`, `s1_descending`,
    `s1_descending_doy`, and if wanted `pixel`, `lon` and `lat`. A table has a row an observation: `pixel`, `date`,
    `sensor` (s2, s1), `orbit` (ascending, descending), B02 ... B12, VV, VH, `mask` or `scl`; if wanted `lon`, `lat`.

    With `dataset` and places (`at`, `lon` and `lat`, or `epsg`, `left` and `top` of a raster) the result is stored, and
    the next tile and the next search show it. `answer` or the Accept header say what comes back: `.npy` holds float32
    vectors alone, NaN where there is none; every other form tells status and counts of each pixel.
    """
    form = form_of(request)
    limits = state.settings.limits
    file = await spooled(request, limits.json_bytes if form == "json" else limits.body_bytes)
    with file:
        size, accept = file.seek(0, SEEK_END), request.headers.get("accept")
        file.seek(0)
        return await state.turns.run(request, size, lambda turn: _embed(state, turn, file, form, params, accept))


def _embed(
    state: State, turn: Turn, file: IO[bytes], form: BodyForm, params: EmbedParams, accept: str | None
) -> Response:
    """Everything that takes time: read and check, encode, store, write the answer."""
    limits = state.settings.limits
    body, pixels = parsed(file.read(), limits.json_pixels) if form == "json" else (None, [])
    asked = body or params
    answer = chosen(asked.answer, accept, form)
    quantize = quantized(asked.quantize, answer, form)
    window = Window.parse(asked.window) if asked.window else None
    encoder = state.encoder(asked.model)
    _check_prepared(asked, encoder)
    corner = _corner(state, asked, params, encoder)
    if body and window:
        upload = upload_of(pixels, window)
    else:
        upload = read_upload(file, form, limits, Declared(window, params.s2_unit, params.s1_unit))
    cells = _cells(upload, corner, asked) if asked.dataset else {}
    result = _encoded(state, turn, encoder, upload, asked)
    stored = _stored(state, asked, encoder, upload, result, window, cells)
    return respond(answer, embedded(upload, result, encoder, window, stored, quantize=quantize))


def _encoded(state: State, turn: Turn, encoder: Encoder, upload: Upload, asked: EmbedChoices) -> EncodeResult:
    dpixels, patience = upload.dpixels, state.settings.limits.encoder_wait

    def call() -> EncodeResult:
        return encoder.encode(dpixels, min_s2=asked.min_s2, dims=asked.dims, patience=patience, given_up=turn.gone)

    return state.watch.encode(encoder, len(dpixels), turn, call)


def _check_prepared(asked: EmbedChoices, encoder: Encoder) -> None:
    """Refuse d-pixels that were made for the checkpoints of another family."""
    if asked.prepared_for is None:
        return
    wanted, runs = asked.prepared_for, encoder.manifest.family
    if wanted not in FAMILIES:
        remedy = f"Use one of {', '.join(FAMILIES)}."
        raise InvalidInput(f"{wanted!r} is no published family.", field="prepared_for", remedy=remedy)
    if wanted != runs:
        raise InvalidInput(
            f"the d-pixels are for {wanted}; {encoder.identity} is of {runs} and has other statistics.",
            field="prepared_for",
            remedy=f"Name a model of {wanted}: GET /models lists them.",
        )


def _corner(state: State, asked: EmbedBody | EmbedParams, params: EmbedParams, encoder: Encoder) -> Corner | None:
    """CRS and transform of a raster to be stored, all checked before any work; None for anything else."""
    if asked.dataset is None:
        return None
    if asked.window is None:
        raise InvalidInput("is needed to store.", field="window", remedy="Or leave out dataset.")
    if asked.dims is not None:
        raise InvalidInput("a stored vector is a whole one.", field="dims", remedy="Leave it out, or dataset.")
    state.datasets.require_writable(asked.dataset).identity.require_same(encoder.identity, "the encoder's output")
    if params.epsg is None or params.left is None or params.top is None:
        return None
    corner = params.epsg, (10.0, 0.0, params.left, 0.0, -10.0, params.top)
    Placement.of(*corner, 1, 1)
    return corner


def _cells(upload: Upload, corner: Corner | None, asked: EmbedChoices) -> Cells:
    """Where each pixel is to be stored: a raster by its corner, lone pixels by their places."""
    if len(upload.dpixels.shape) == 2:
        if corner is None:
            raise InvalidInput("storing a raster needs epsg, left and top.", field="dataset", remedy="Or leave it out.")
        height, width = upload.dpixels.shape
        return cells_of_placement(Placement.of(*corner, height, width))
    if corner is not None:
        raise InvalidInput("is of rasters; these pixels have places.", field="epsg", remedy="Leave out epsg.")
    in_json = isinstance(asked, EmbedBody)
    if upload.lonlat is None:
        field, remedy = ("pixels.at", "Give [lon, lat].") if in_json else ("lon", "Give lon and lat.")
        raise InvalidInput("a pixel to be stored needs its place.", field=field, remedy=remedy)
    return cells_of_places(upload.lonlat, *(() if in_json else ("lon",)))


def _stored(
    state: State, asked: EmbedChoices, encoder: Encoder, upload: Upload, result: EncodeResult,
    window: Window | None, cells: Cells,
) -> Stored | None:  # fmt: skip
    """Store what was asked to be, let every reader of this server see it, and say what it is."""
    if asked.dataset is None or window is None:
        return None
    store = state.datasets.writable(asked.dataset, window)
    origin = f"{encoder.identity}|{encoder.digest}|{encoder.precision}|{asked.min_s2}|{upload.digest}"
    made = {
        "window": str(window), "model": str(encoder.identity), "encoder": encoder.digest,
        "precision": encoder.precision, "min_s2": asked.min_s2, "source": {"type": "upload", "digest": upload.digest},
    }  # fmt: skip
    note = partial(state.reports(asked.dataset).put, made)
    blocks = store_result(cells, result, store, window, origin, note)
    state.datasets.look_now()
    return Stored(
        dataset=asked.dataset,
        revision=store.revision()[0],
        pixels=int(result.vectors.valid.sum()),
        blocks=[block.name for block in blocks],
    )
