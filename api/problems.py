"""Errors as HTTP: one table from kind to status, one problem+json body (RFC 9457) for all of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from math import ceil
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from rio_tiler.errors import RioTilerError, TileOutsideBounds
from starlette.exceptions import HTTPException

from api import logs
from api.missing import told
from service.errors import SmaltiError, Unavailable

log = logging.getLogger("smalti")

STATUS: Final = {
    "internal": 500,
    "invalid-input": 422,
    "limit-exceeded": 413,
    "not-found": 404,
    "outside": 404,
    "identity-mismatch": 409,
    "read-only": 409,
    "conflict": 409,
    "corrupt": 500,
    "bad-source": 502,
    "unavailable": 503,
    "unauthorized": 401,
    "forbidden": 403,
}
RETRY_AFTER: Final = 5.0
"""Seconds a client should wait after a 503 where nobody knows better."""
LONGEST_WAIT: Final = 60
"""Most seconds that a client is told to wait: what is expected may be far off."""

_KIND_OF_STATUS: Final = {401: "unauthorized", 403: "forbidden", 404: "not-found", 413: "limit-exceeded"}


class Problem(BaseModel):
    """What every error answers."""

    type: str = Field("about:blank", description="always about:blank: match on `kind`")
    title: str = Field(description="the HTTP status in words")
    status: int
    kind: str = Field(description="stable code of this error", examples=["not-found"])
    detail: str = Field(description="what is wrong and, where known, what to do about it")
    field: str | None = Field(None, description="the input at fault")
    remedy: str | None = None
    request_id: str | None = Field(None, description="X-Request-Id of this answer: what the server's log knows it by")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these statuses, for OpenAPI."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {s: {"description": HTTPStatus(s).phrase, "content": content} for s in statuses}


def problem(
    status: int, kind: str, detail: str, field: str | None = None, remedy: str | None = None,
    retry_after: float | None = None,
) -> JSONResponse:  # fmt: skip
    """The one error answer; a 503 says when to come again."""
    body = Problem(
        title=HTTPStatus(status).phrase, status=status, kind=kind, detail=detail, field=field, remedy=remedy,
        request_id=logs.request_id(),
    )  # fmt: skip
    headers = {"Cache-Control": "no-store"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(min(max(ceil(retry_after or RETRY_AFTER), 1), LONGEST_WAIT))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "ApiKey"
    return JSONResponse(body.model_dump(exclude_none=True), status, headers, media_type="application/problem+json")


def from_error(error: SmaltiError, named: Callable[[str], str] = str) -> JSONResponse:
    """The answer for one of our own errors.

    Those that are our fault are logged as an error; what is a catalogue's, or may be there again later, as a warning.

    Args:
        error: What went wrong.
        named: Makes of a message what whoever may read is told; the log keeps the whole.
    """
    status = STATUS[error.kind]
    retry_after = error.retry_after if isinstance(error, Unavailable) else None
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        theirs = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)
        level = logging.WARNING if status in theirs else logging.ERROR
        log.log(level, "%s: %s", error.kind, error)
    field, remedy = (text and named(text) for text in (error.field, error.remedy))
    return problem(status, error.kind, named(error.message), field, remedy, retry_after)


def where(location: Sequence[object]) -> str:
    """`body.pixels[3].s2` from pydantic's ("body", "pixels", 3, "s2")."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def install(app: FastAPI) -> None:
    """Give every error that can leave `app` the one shape; what nobody foresaw is answered by `api/access.py`."""

    @app.exception_handler(SmaltiError)
    def _ours(request: Request, error: SmaltiError) -> JSONResponse:
        response = from_error(error, request.app.state.smalti.datasets.named)
        response.headers.update(getattr(request.state, "told", {}))
        return response

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        more = f" ({len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
        return problem(422, "invalid-input", f"{first['msg']}{more}.", where(first["loc"]))

    @app.exception_handler(HTTPException)
    def _http(_: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == HTTPStatus.BAD_REQUEST:  # the framework's word for a body that is no JSON
            return problem(422, "invalid-input", "cannot be read as JSON.", "body", "Send UTF-8 JSON.")
        kind = _KIND_OF_STATUS.get(error.status_code, "invalid-input" if error.status_code < 500 else "internal")
        response = problem(error.status_code, kind, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(TileOutsideBounds)
    def _outside(_: Request, error: TileOutsideBounds) -> JSONResponse:
        response = problem(404, "outside", str(error))
        response.headers.update(told("outside"))
        return response

    @app.exception_handler(RioTilerError)
    def _tiler(_: Request, error: RioTilerError) -> JSONResponse:
        return problem(422, "invalid-input", str(error))
