"""The only door to structlog: what a server says, one line a thing that happened, on stderr.

JSON where a machine reads it, text on a terminal. Whatever is logged while a request is answered, in whichever thread,
carries that request's id. Our own lines, uvicorn's and Python's warnings come in the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, TextIO

import orjson
import structlog
from structlog.contextvars import bound_contextvars, get_contextvars, merge_contextvars
from structlog.stdlib import ProcessorFormatter

from api.settings import Settings

ACCESS: Final = "smalti.access"
_access: Final = logging.getLogger(ACCESS)


def setup(settings: Settings, stream: TextIO | None = None) -> None:
    """Send everything that this process logs to stderr, in the form and from the level that the settings ask for.

    Args:
        settings: `log_format` and `log_level`.
        stream: Where to instead of stderr.
    """
    stream = stream or sys.stderr
    text = settings.log_format == "text" or (settings.log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(_for_people(stream) if text else _for_machines()))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    # On a terminal only what needs somebody; a service tells of every request.
    level = ("warning" if text else "info") if settings.log_level == "auto" else settings.log_level
    for name in ("smalti", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())


def request_id() -> str | None:
    """The id of the request that is being answered; None outside of one."""
    found: str | None = get_contextvars().get("request_id")
    return found


def about(request: str, trace: str | None = None) -> AbstractContextManager[None]:
    """What is logged within is about this request, and belongs to this trace if there is one."""
    return bound_contextvars(request_id=request, **({"trace_id": trace} if trace else {}))


def answered(fields: Mapping[str, object], *, quietly: bool) -> None:
    """One line for one request.

    Args:
        fields: What to say of it.
        quietly: At level debug: for probes, which come every few seconds and say nothing new.
    """
    level = logging.DEBUG if quietly else logging.INFO
    if _access.isEnabledFor(level):
        # Handed over as a record of its own: looking up who called, as Logger.info does, would cost as much again.
        record = logging.LogRecord(ACCESS, level, __file__, 0, "request", None, None)
        record.fields = fields
        _access.handle(record)


def _formatter(renderers: list[Any]) -> ProcessorFormatter:
    shared: list[Any] = [
        merge_contextvars,
        _with_fields,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper("iso", utc=True, key="time"),
    ]
    return ProcessorFormatter(
        foreign_pre_chain=shared, processors=[ProcessorFormatter.remove_processors_meta, *renderers]
    )


def _with_fields(_: object, __: str, event: dict[str, Any]) -> dict[str, Any]:
    return event | getattr(event["_record"], "fields", {})


def _for_machines() -> list[Any]:
    def dumps(event: Any, **options: Any) -> str:
        return orjson.dumps(event, default=options.get("default")).decode()

    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(dumps)]


def _for_people(stream: TextIO) -> list[Any]:
    # The plain traceback: the pretty one would print the values of variables, keys among them.
    return [
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
        )
    ]
