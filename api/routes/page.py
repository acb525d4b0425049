"""The map page: our own files and the map library from `api/web/`; nothing from anywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

WEB: Final = Path(__file__).resolve().parents[1] / "web"
POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "style-src 'self' 'unsafe-inline'",  # the map library places markers with inline styles
        "frame-ancestors 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)

router = APIRouter(include_in_schema=False)


@router.get("/")
def page() -> FileResponse:
    """The page."""
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return FileResponse(WEB / "index.html", headers=headers)


def mount(app: FastAPI) -> None:
    """Serve the page's files under /web: only what the page needs, never the folder of sources."""
    for name in ("assets", "vendor"):
        app.mount(f"/web/{name}", StaticFiles(directory=WEB / name, check_dir=False), name=name)
