"""What POST /embed takes: forms, parameters, and how a body becomes d-pixels without being held whole."""

from __future__ import annotations

from typing import IO, Final, Literal

from anyio.to_thread import run_sync
from fastapi import Request
from pydantic import Field

from api.schemas import EmbedChoices
from api.settings import Limits
from service.dpixels import Declared, Upload, UploadLimits, read_npz, scratch
from service.errors import InvalidInput, LimitExceeded
from service.tables import read_table

BodyForm = Literal["json", "npz", "arrow", "parquet"]
JSON: Final = "application/json"
NPZ: Final = "application/x-npz"
ARROW: Final = "application/vnd.apache.arrow.stream"
PARQUET: Final = "application/vnd.apache.parquet"
FORMS: Final[dict[str, BodyForm]] = {
    JSON: "json",
    NPZ: "npz",
    ARROW: "arrow",
    PARQUET: "parquet",
    "application/vnd.apache.arrow.file": "arrow",
    "application/x-parquet": "parquet",
    "application/zip": "npz",
    "application/octet-stream": "npz",
}
"""Media types that are understood; the last four are other names of the first."""
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
REQUEST_BODY: Final = {
    "required": True,
    "description": "Told apart by Content-Type; not packed by Content-Encoding. Other names are understood too: "
    "application/zip and application/octet-stream for NPZ, application/x-parquet for Parquet, and "
    "application/vnd.apache.arrow.file: an Arrow body is a stream or a file, either way.",
    "content": {
        JSON: {"schema": {"$ref": "#/components/schemas/EmbedBody"}},
        **dict.fromkeys((NPZ, ARROW, PARQUET), _BINARY),
    },
}
"""What OpenAPI says of the body."""


class EmbedParams(EmbedChoices):
    """What a file cannot say itself. A JSON body says all of it, and takes none of these."""

    window: str | None = Field(
        None, max_length=40, description="2024 or 2024-05-01..2024-09-30; needed for tables, and to store"
    )
    s2_unit: str | None = Field(
        None, max_length=20, description="dn or reflectance; not for d-pixel folders, whose values are stored integers"
    )
    s1_unit: str | None = Field(None, max_length=20, description="db, power or scaled; likewise")
    epsg: int | None = Field(None, description="CRS of the arrays, 326zz or 327zz; needed to store a raster")
    left: float | None = Field(None, allow_inf_nan=False, description="easting of the upper-left corner, metres")
    top: float | None = Field(None, allow_inf_nan=False, description="northing of the upper-left corner, metres")


def form_of(request: Request) -> BodyForm:
    """The form that a request's Content-Type names.

    Raises:
        InvalidInput: None, or another; or the body is packed; or a JSON body comes with parameters.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = FORMS.get(media)
    if form is None:
        remedy = f"Send {JSON}, {NPZ}, {ARROW} or {PARQUET}."
        raise InvalidInput(f"{media[:60]!r} is not understood.", field="Content-Type", remedy=remedy)
    packed = request.headers.get("content-encoding", "identity").strip().lower()
    if packed != "identity":
        remedy = "Send the body as it is; NPZ, Arrow and Parquet pack their numbers themselves."
        raise InvalidInput(f"{packed[:20]!r} is not unpacked.", field="Content-Encoding", remedy=remedy)
    if form == "json":
        for name in request.query_params:
            raise InvalidInput("belongs into the JSON body.", field=f"query.{name}", remedy="Move it there.")
    return form


async def spooled(request: Request, most: int) -> IO[bytes]:
    """The body in a file that lies in memory while it is small; refused as soon as it is too large.

    Raises:
        LimitExceeded: It is.
        Unavailable: The disk is full.
    """
    spool, size = scratch.spool(), 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                said = f"the body is over {most:,} bytes."
                raise LimitExceeded(said, field="body", remedy="Send fewer pixels at once.")
            with scratch.on_disk():
                await run_sync(spool.write, chunk)
        with scratch.on_disk():
            await run_sync(spool.seek, 0)
    except BaseException:  # also when the client goes away
        spool.close()
        raise
    return spool


def read_upload(file: IO[bytes], form: BodyForm, limits: Limits, declared: Declared) -> Upload:
    """The d-pixels of a file that was uploaded. See `read_file`."""
    most = UploadLimits(limits.upload_pixels, limits.unpacked_bytes, rows=limits.table_rows)
    return read_file(file, form, most, declared)


def read_file(file: IO[bytes], form: BodyForm, most: UploadLimits, declared: Declared) -> Upload:
    """The d-pixels of a file.

    Raises:
        InvalidInput, LimitExceeded, Unavailable: As `read_npz` and `read_table` do.
    """
    if form == "npz":
        return read_npz(file, most, declared)
    return read_table(file, "arrow" if form == "arrow" else "parquet", most, declared)
