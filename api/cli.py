"""`smalti`: everything a person or a script does without HTTP."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import socket
import sys
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Annotated, NoReturn, get_args

import typer
import uvicorn
import yaml
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.markup import escape

from api import demo as demo_
from api import heap, logs, scenery
from api.app import create_app
from api.commands import data, encoders, index, models, proofs, region, scenes, training, working
from api.settings import Scope, Settings
from api.state import State
from api.terminal import console
from service import VERSION
from service.errors import InvalidInput, SmaltiError, Unavailable
from service.gdal import closed

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="TESSERA embeddings as maps, as a search, and made on demand.",
)
app.add_typer(data.datasets_app, name="datasets")
app.add_typer(data.store_app, name="store")
app.add_typer(data.pca_app, name="pca")
app.add_typer(index.index_app, name="index")
app.add_typer(models.models_app, name="models")
app.add_typer(scenes.scenes_app, name="scenes")
for judge in (proofs.verify, proofs.bench, proofs.evaluate):
    models.models_app.command()(judge)
for command in (data.ingest, encoders.embed, training.train, working.worker):
    app.command()(command)
app.command("embed-region")(region.embed_region)


def main() -> None:
    """Run one command; errors are one line on stderr, and exit code 1 (2 where the input is at fault)."""
    try:
        app()
    except SmaltiError as error:
        _complain(error.kind, str(error), 2 if isinstance(error, InvalidInput) else 1)
    except OSError as error:
        _complain("system", f"{error.strerror}: {error.filename}" if error.filename else str(error), 1)


def _complain(kind: str, text: str, code: int) -> NoReturn:
    console.print(f"[bold red]error[/] ({kind}) {escape(text)}", soft_wrap=True)
    sys.exit(code)


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        # Beyond the names stand positions in a list, and what pydantic calls its attempts.
        name = "__".join(takewhile(lambda part: isinstance(part, str), first["loc"])).upper()  # type: ignore[arg-type]
        raise InvalidInput(first["msg"], field=name if name.startswith("AWS_") else f"SMALTI_{name}") from None
    except SettingsError as error:
        raise InvalidInput(str(error), field="SMALTI_ settings") from None


@app.callback()
def settled(ctx: typer.Context) -> None:
    """Read the settings once; every command finds them in its context."""
    heap.steady(os.environ)
    ctx.obj = State(_settings())


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(VERSION)


@app.command()
def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=1, max=65535)] = None,
    worker: Annotated[bool, typer.Option("--worker", help="Also keep a worker process for jobs beside it.")] = False,
) -> None:
    """Serve maps, search and encoders over HTTP."""
    ctx.obj.require_device()
    with working.beside() if worker else nullcontext():
        _serve(ctx.obj.settings, host, port)


def _require_free(host: str, port: int) -> None:
    """Say in words that somebody else listens there, before anything is started.

    Raises:
        Unavailable: Somebody does.
    """
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        remedy = "Stop what listens there, or choose another: --port."
        raise Unavailable(f"port {port} of {host} is taken.", field="port", remedy=remedy) from None


def _serve(settings: Settings, host: str | None = None, port: int | None = None) -> None:
    _require_free(host or settings.host, port or settings.port)
    logs.setup(settings)
    closed()
    # One process: its caches, its queue of uploads and its numbers are its own. More of them are replicas.
    # Forwarded addresses are not believed: they decide what "this machine" means.
    uvicorn.run(
        create_app(settings),
        host=host or settings.host,
        port=port or settings.port,
        proxy_headers=False,
        server_header=False,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )


@app.command()
def demo(
    ctx: typer.Context,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=1, max=65535)] = None,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve it once it is made.")] = True,
) -> None:
    """Make a simulated landscape, embed, colour and index it, and serve it. A second run starts at once."""
    state: State = ctx.obj
    settings = state.settings
    if serve:
        _require_free(settings.host, port or settings.port)
    dataset = demo_.prepare(state)
    demo_.publish(state)
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104  # what a browser can open
    base = f"http://{host}:{port or settings.port}"
    for line in demo_.greeting(state, dataset, base):
        typer.echo(line)
    sys.stdout.flush()
    if serve:
        with scenery.beside(demo_.scenes_of(state)) as address:
            # In the environment, because the worker beside this process reads its own settings.
            os.environ["SMALTI_SCENES__HOSTS"] = ",".join((*settings.scenes.hosts, address))
            with demo_.looking_at(state, address), working.beside():
                _serve(_settings(), port=port)


@app.command()
def key(
    scope: Annotated[
        str, typer.Option(help="What it may do, joined by +: read write embed admin.")
    ] = "read+write+embed",
) -> None:
    """Make an API key: prints the key once, and the line for SMALTI_API_KEYS."""
    unknown = set(scope.split("+")) - set(get_args(Scope))
    if unknown:
        raise InvalidInput(f"{sorted(unknown)} are not scopes.", field="scope", remedy="Use read write embed admin.")
    secret = secrets.token_urlsafe(32)
    typer.echo(f"key:            {secret}")
    typer.echo(f"SMALTI_API_KEYS={hashlib.sha256(secret.encode()).hexdigest()}:{scope}")


@app.command()
def openapi() -> None:
    """Print the OpenAPI document, as it stands in openapi.yaml."""
    # The document must not depend on who runs it.
    settings = Settings.model_construct(home=Path(os.devnull))
    typer.echo(yaml.safe_dump(create_app(settings).openapi(), sort_keys=False, width=110, allow_unicode=True), nl=False)


if __name__ == "__main__":
    main()
