"""What of where time series come from whoever may read is told: addresses of catalogues, for they are provenance.

Not told are places on this machine, and what an address carries as a key: they stay in what is stored, and in the log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

_NAMED: Final = ("folder", "s2", "s1")
"""Parts of a source's document that are places."""
_QUERY: Final = re.compile(r"(\bhttps?://[^\s?'\"]+)\?[^\s'\"]*")
"""An address with a query, which may hold a key."""


def public(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a source without what is not told.

    Args:
        document: As it stands on the shelf of sources, in `smalti.toml`, or in a block's report.
    """
    told = {name: _shown(value) if name in _NAMED else value for name, value in document.items()}
    return {name: value for name, value in told.items() if value is not None or document[name] is None}


def hidden(document: Mapping[str, Any], dataset: str) -> dict[str, str]:
    """By each place of a document that is not told, or not as it stands: what an error says instead.

    Args:
        document: See `public`.
        dataset: Whose source it is.
    """
    named = [place for name in _NAMED if isinstance(place := document.get(name), str)]
    places = {place: _shown(place) for place in named if place.startswith("/") or "://" in place}  # else it is none
    return {place: shown or f"the source of {dataset}" for place, shown in places.items() if place != shown}


def hidden_folders(folders: Iterable[Path]) -> dict[str, str]:
    """The same of folders that scenes may lie in: catalogues in them lead to files of which no document tells."""
    return {str(place): "scenes" for folder in folders for place in (folder.absolute(), folder.resolve())}


def renamed(text: str, names: Iterable[tuple[str, str]]) -> str:
    """A message with names instead of places, and with no query of an address.

    Args:
        text: The message.
        names: (place, name) of each.
    """
    known = {place.removeprefix("file://").rstrip("/"): name for place, name in names}
    for place in sorted(filter(None, known), key=len, reverse=True):  # one may begin like another
        text = known[place].join(re.split(rf"(?<![\w.-]){re.escape(place)}(?![\w-])", text))
    return _QUERY.sub(r"\1", text)


def _shown(place: object) -> str | None:
    """An address without password, query and fragment; None for what is none."""
    try:
        parts = urlsplit(str(place))
    except ValueError:
        return None
    if parts.scheme not in ("http", "https"):
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
