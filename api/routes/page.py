"""The map page: our own files, the map library and the world's land from `api/web/`; nothing from anywhere else.

The one exception is a base map that an operator sets: then the page may load pictures from that origin.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from api.accept import preferred
from api.routes.ogc import landing
from api.security import check_scope
from api.standards.links import JSON
from api.state import State, get_state

WEB: Final = Path(__file__).resolve().parents[1] / "web"

router = APIRouter(include_in_schema=False)


def policy(basemap: str = "") -> str:
    """The page's Content-Security-Policy; `basemap` is the address template of a base map elsewhere, if any."""
    parts = urlsplit(basemap)
    elsewhere = f" {parts.scheme}://{parts.netloc}" if basemap else ""
    return "; ".join((
        "default-src 'self'",
        f"img-src 'self' data: blob:{elsewhere}",
        f"connect-src 'self'{elsewhere}",  # the map library fetches tiles
        "worker-src 'self' blob:",
        "style-src 'self' 'unsafe-inline'",  # and places markers with inline styles
        "frame-ancestors 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    ))  # fmt: skip


@router.get("/", response_class=Response)
def page(
    request: Request,
    state: Annotated[State, Depends(get_state)],
    f: Annotated[Literal["html", "json"] | None, Query(description="form; by the Accept header where absent")] = None,
) -> Response:
    """The page; whoever asks for JSON gets the landing page of the OGC APIs."""
    accepted = preferred(request.headers.get("accept"), ["text/html", JSON])
    if f == "json" or (f is None and accepted == JSON):
        check_scope(request, "read")
        return landing(request)
    headers = {
        "Content-Security-Policy": policy(state.settings.basemap),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cache-Control": "no-cache",
        "Vary": "Accept",
    }
    return FileResponse(WEB / "index.html", headers=headers)


@router.get("/page.json")
def page_settings(state: Annotated[State, Depends(get_state)]) -> dict[str, Any]:
    """What the page needs to know of the settings."""
    settings = state.settings
    basemap = {"url": settings.basemap, "attribution": settings.basemap_attribution} if settings.basemap else None
    return {"basemap": basemap, "max_hits": settings.limits.hits, "json_pixels": settings.limits.json_pixels}


class Assets(StaticFiles):
    """Files of the page: kept by browsers, and asked for again each time, so that an update shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file; 304 where the browser's copy is still right."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def mount(app: FastAPI) -> None:
    """Serve the page's files under /web: only what the page needs, never the folder of sources."""
    for name in ("assets", "vendor"):
        app.mount(f"/web/{name}", Assets(directory=WEB / name, check_dir=False), name=name)
