"""Puts the server together: `create_app(settings)`."""

from __future__ import annotations

import os
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.gzip import GZipMiddleware

from api import heap, problems, telemetry
from api.access import ID_HEADER, Access
from api.onview import OnView
from api.routes import (
    areas,
    bases,
    blocks,
    datasets,
    embed,
    health,
    jobs,
    metrics,
    models,
    ogc,
    outlines,
    page,
    queries,
    search,
    shards,
    stac,
    tile,
    tiles,
    vectors,
)
from api.schemas import EmbedBody
from api.security import Gate
from api.settings import Settings
from api.state import State
from api.transport import PACKED, Origins, Transport
from api.watch import Watch
from service import VERSION

ROUTES: Final = (
    page,
    ogc,
    stac,
    health,
    metrics,
    datasets,
    vectors,
    tile,
    tiles,
    search,
    shards,
    queries,
    bases,
    embed,
    areas,
    jobs,
    blocks,
    outlines,
    models,
)
TOLD: Final = (
    "Dataset", "Model", "Window", "Revision", "Other-Window", "Other-Revision", "Overview", "Empty",
    "Metric", "Level", "Engine", "Query", "Recall", "Partial", "Missing",
)  # fmt: skip
"""Of the headers of answers, `X-Smalti-...`, those that pages of other origins may read."""
DESCRIPTION: Final = (
    "TESSERA satellite embeddings as map tiles, as a search for pixels like these ones, and made on demand. "
    "Errors are problem+json with a stable `kind`."
)


def settings_here() -> Settings:
    """The settings of this process's own environment: for those that were sent work with somebody else's."""
    return Settings()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application for one set of settings; from the environment where absent.

    Nothing is opened until the first request needs it, so a broken dataset shows in `/readyz`, not in a crash.
    """
    heap.steady(os.environ)
    settings = settings or Settings()
    spans = telemetry.spans(settings, os.environ)
    state = State(settings, Watch(spans))
    app = FastAPI(
        title="smalti",
        version=VERSION,
        description=DESCRIPTION,
        license_info={"name": "MIT", "identifier": "MIT"},
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        telemetry=spans.config(),
    )
    app.state.smalti, app.state.on_view = state, OnView(state)
    problems.install(app)
    for module in ROUTES:
        router: APIRouter = module.router
        # Inside the Gate: a limit of the whole app would answer before it, in plain text.
        limits = settings.limits
        app.include_router(
            router, max_body_size=limits.body_bytes if module in (embed, shards) else limits.question_bytes
        )
    page.mount(app)
    app.add_middleware(
        GZipMiddleware,
        minimum_size=1000,
        compresslevel=5,
        exclude_content_types=PACKED,
    )
    # A public map may be shown on any page: reading is allowed to all origins, writing to none.
    app.add_middleware(
        Origins,
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "HEAD"],
        expose_headers=["ETag", "Link", ID_HEADER, *(f"X-Smalti-{name}" for name in TOLD)],
    )
    app.add_middleware(Transport)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(Access, settings=settings, watch=state.watch)  # outermost: sees what the Gate refuses
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document, with the two schemas that routes name by reference only."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, license_info=app.license_info,
            routes=app.routes,
        )  # fmt: skip
        schemas = document["components"]["schemas"]
        for model in (EmbedBody, problems.Problem):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            schemas[model.__name__] = schema
        app.openapi_schema = document
    return app.openapi_schema
