"""Small JSON documents: a validator made of what they say, so that asking again for the same costs no transfer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Request, Response

from api.stamp import holds
from api.standards.links import JSON
from api.state import get_state


def document(request: Request, body: Mapping[str, Any], media: str = JSON, *, vary: str = "") -> Response:
    """The answer that holds `body`; 304 where the client has it already.

    Args:
        request: What was asked.
        body: What is answered.
        media: Its media type.
        vary: Names of the request headers that the answer depends on.
    """
    content = orjson.dumps(body)
    settings = get_state(request).settings
    public = settings.public_read or not settings.api_keys
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "public, no-cache" if public else "private, no-cache"}
    headers |= {"Vary": vary} if vary else {}
    if holds(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media, headers=headers)
