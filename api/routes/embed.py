"""Journey 3 over HTTP: an uploaded time series becomes an embedding, and a pixel on the map if it has a place."""

from __future__ import annotations

import io
import tempfile
from typing import Annotated, Any, Final, Literal

import numpy as np
import orjson
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field, ValidationError

from api.problems import documented, where
from api.schemas import CountsInfo, EmbedAnswer, EmbedBody, EmbeddedPixel, Stored
from api.security import require
from api.state import State, get_state
from service.dpixels import PixelSeries, S1Series, S2Series, UploadLimits, from_arrays, from_json, load_npz
from service.embed import Cells, cells_of_places, store_raster, store_result
from service.encoder import Encoder, EncodeResult
from service.errors import InvalidInput, LimitExceeded
from service.grid import Block
from service.shelf import content_id
from service.sources import Placement, upload_digest
from service.store.contract import WritableStore
from service.values import STATUS_NAMES, VALID, Window

router = APIRouter(tags=["embed"])

JSON: Final = "application/json"
NPZ: Final = "application/x-npz"

REQUEST_BODY: Final = {
    "required": True,
    "content": {
        JSON: {"schema": {"$ref": "#/components/schemas/EmbedBody"}},
        NPZ: {"schema": {"type": "string", "format": "binary"}},
    },
}


class NpzParams(BaseModel):
    """What an NPZ body cannot say itself. All of it is part of a JSON body instead."""

    model_config = {"extra": "forbid"}

    model: str = Field("smalti-mini", max_length=200, description="a model of GET /models")
    window: str | None = Field(None, max_length=40, description="2024 or 2024-05-01..2024-09-30; needed to store")
    min_s2: int = Field(0, ge=0, le=366, description="least number of valid Sentinel-2 dates")
    dataset: str | None = Field(None, max_length=64, description="a writable dataset to store the result in")
    epsg: int | None = Field(None, description="CRS of the arrays, 326zz or 327zz; needed to store")
    left: float | None = Field(None, allow_inf_nan=False, description="easting of the upper-left corner, metres")
    top: float | None = Field(None, allow_inf_nan=False, description="northing of the upper-left corner, metres")
    answer: Literal["npz", "json"] = Field("npz", description="npz: codes, scales, status and counts")


@router.post(
    "/embed",
    response_model=EmbedAnswer,
    responses={**documented(401, 403, 404, 409, 413, 415, 422, 503), 200: {"content": {NPZ: {}}}},
    openapi_extra={"requestBody": REQUEST_BODY},
    dependencies=[Depends(require("embed"))],
)
async def embed(
    request: Request, state: Annotated[State, Depends(get_state)], params: Annotated[NpzParams, Query()]
) -> Response:
    """Embed time series. JSON, or NPZ in the published d-pixel folder layout.

    An NPZ holds `bands` (T,H,W,10), `masks`, `doys`, `sar_ascending`, `sar_ascending_doy`, `sar_descending` and
    `sar_descending_doy`. With `dataset` and a place (`at` of each pixel, or `epsg`, `left` and `top`) the result is
    stored, and the next tile and the next search show it.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    limits = state.settings.limits
    with state.queued():
        if kind == JSON:
            for name in request.query_params:
                raise InvalidInput("belongs into the JSON body.", field=f"query.{name}", remedy="Move it there.")
            upload = await _spool(request, limits.json_bytes)
            return await run_sync(_embed_json, state, upload)
        if kind in (NPZ, "application/zip", "application/octet-stream"):
            upload = await _spool(request, limits.body_bytes)
            return await run_sync(_embed_npz, state, upload, params)
    raise InvalidInput(f"{kind[:60]!r} is not understood.", field="Content-Type", remedy=f"Send {JSON} or {NPZ}.")


async def _spool(request: Request, most: int) -> Any:
    """The body in a file that lies in memory while it is small; refused as soon as it is too large."""
    spool = tempfile.SpooledTemporaryFile(max_size=8_000_000)  # noqa: SIM115  # handed on, closed when dropped
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise LimitExceeded(f"the body is over {most:,} bytes.", field="body", remedy="Send fewer pixels at once.")
        await run_sync(spool.write, chunk)
    spool.seek(0)
    return spool


def _parsed(raw: bytes) -> EmbedBody:
    try:
        return EmbedBody.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"{first['msg']}.", field=where(first["loc"])) from None


def _embed_json(state: State, upload: Any) -> Response:
    body = _parsed(upload.read())
    most = state.settings.limits.json_pixels
    if len(body.pixels) > most:
        raise LimitExceeded(f"{len(body.pixels):,} pixels.", field="pixels", remedy=f"Send at most {most:,}, or NPZ.")
    window = Window.parse(body.window)
    encoder = state.encoder(body.model)
    cells: Cells = {}
    if body.dataset:
        _require_writable(state, body.dataset, encoder)
        if any(pixel.at is None for pixel in body.pixels):
            raise InvalidInput("a pixel to be stored needs its place.", field="pixels.at", remedy="Give [lon, lat].")
        cells = cells_of_places(np.array([pixel.at for pixel in body.pixels], float))
    dpixels, reordered = from_json([_series(pixel) for pixel in body.pixels], window)
    stored = None
    with state.encoding():
        result = state.watch.encode(encoder, len(dpixels), lambda: encoder.encode(dpixels, min_s2=body.min_s2))
        if body.dataset:
            store = state.datasets.writable(body.dataset, window)
            origin = f"{encoder.identity}|{encoder.digest}|{content_id(body.model_dump(mode='json'))}"
            blocks = store_result(cells, result, store, window, origin)
            stored = _stored(state, body.dataset, store, result, blocks)
    return _json_answer(result, encoder, window, stored, reordered=reordered, quantize=body.quantize)


def _json_answer(
    result: EncodeResult,
    encoder: Encoder,
    window: Window | None,
    stored: Stored | None,
    *,
    reordered: bool = False,
    quantize: bool = True,
) -> Response:
    answer = EmbedAnswer.model_construct(
        model=str(encoder.identity),
        window=str(window or ""),
        outside_training=bool(window and not window.is_year),
        device=encoder.device,
        reordered=reordered,
        results=_pixels(result, quantize=quantize),
        stored=stored,
    )
    return Response(orjson.dumps(answer.model_dump(exclude_none=True)), media_type=JSON)


def _series(pixel: Any) -> PixelSeries:
    s2 = pixel.s2 and S2Series(**{name: getattr(pixel.s2, name) for name in type(pixel.s2).model_fields})
    s1 = tuple(S1Series(**{name: getattr(one, name) for name in type(one).model_fields}) for one in pixel.s1)
    return PixelSeries(s2, s1)


def _pixels(result: EncodeResult, *, quantize: bool) -> list[EmbeddedPixel]:
    vectors, counts = result.vectors, result.counts
    numbers = vectors.codes.tolist() if quantize else result.floats.tolist()
    rows = zip(
        vectors.status.tolist(), numbers, vectors.scales.tolist(),
        counts.s2.tolist(), counts.s1_asc.tolist(), counts.s1_desc.tolist(), strict=True,
    )  # fmt: skip
    out = []
    for status, row, scale, s2, asc, desc in rows:
        held = ({"codes": row, "scale": scale} if quantize else {"vector": row}) if status == VALID else {}
        count = CountsInfo.model_construct(s2=s2, s1_asc=asc, s1_desc=desc)
        out.append(EmbeddedPixel.model_construct(status=STATUS_NAMES[status], counts=count, **held))
    return out


def _embed_npz(state: State, upload: Any, params: NpzParams) -> Response:
    limits = state.settings.limits
    encoder = state.encoder(params.model)
    window = Window.parse(params.window) if params.window else None
    corner = _corner(state, params, encoder)
    stored = None
    with state.encoding():
        arrays = load_npz(upload, UploadLimits(limits.upload_pixels, limits.unpacked_bytes))
        height, width = arrays["bands"].shape[1:3]
        placement = Placement.of(*corner, height, width) if corner else None
        dpixels = from_arrays(arrays)
        result = state.watch.encode(encoder, len(dpixels), lambda: encoder.encode(dpixels, min_s2=params.min_s2))
        if placement and window and params.dataset:
            store = state.datasets.writable(params.dataset, window)
            origin = f"{encoder.identity}|{encoder.digest}|{params.min_s2}|{upload_digest(arrays)}"
            blocks = store_raster(placement, result, store, window, origin)
            stored = _stored(state, params.dataset, store, result, blocks)
    if params.answer == "json":
        return _json_answer(result, encoder, window, stored)
    return _npz_answer(result, (height, width), encoder, window, stored)


def _npz_answer(
    result: EncodeResult, shape: tuple[int, int], encoder: Encoder, window: Window | None, stored: Stored | None
) -> Response:
    out = io.BytesIO()
    np.savez(
        out,
        codes=result.vectors.codes.reshape(*shape, -1),
        scales=result.vectors.scales.reshape(shape),
        status=result.vectors.status.reshape(shape),
        s2=result.counts.s2.reshape(shape),
        s1_asc=result.counts.s1_asc.reshape(shape),
        s1_desc=result.counts.s1_desc.reshape(shape),
    )
    headers = {"X-Smalti-Model": str(encoder.identity), "X-Smalti-Window": str(window or "")}
    if stored:
        headers |= {"X-Smalti-Dataset": stored.dataset, "X-Smalti-Revision": stored.revision}
    return Response(out.getvalue(), media_type=NPZ, headers=headers)


def _stored(
    state: State, dataset: str, store: WritableStore, result: EncodeResult, blocks: tuple[Block, ...]
) -> Stored:
    """Let every reader of this server see what was written, and say what it is."""
    state.datasets.look_now()
    return Stored(
        dataset=dataset,
        revision=store.revision()[0],
        pixels=int(result.vectors.valid.sum()),
        blocks=[block.name for block in blocks],
    )


def _corner(state: State, params: NpzParams, encoder: Encoder) -> tuple[int, tuple[float, ...]] | None:
    """CRS and transform of what is to be stored, all checked before any work; None where nothing is stored."""
    if params.dataset is None:
        return None
    if params.window is None or params.epsg is None or params.left is None or params.top is None:
        raise InvalidInput("storing needs window, epsg, left and top.", field="dataset", remedy="Or leave out dataset.")
    _require_writable(state, params.dataset, encoder)
    corner = params.epsg, (10.0, 0.0, params.left, 0.0, -10.0, params.top)
    Placement.of(*corner, 1, 1)
    return corner


def _require_writable(state: State, dataset: str, encoder: Encoder) -> None:
    state.datasets.require_writable(dataset).identity.require_same(encoder.identity, "the encoder's output")
