"""What the catalogue is made from: the tables that people wrote into `smalti.toml`, and repositories in the storage."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from service.bucket import Bucket
from service.errors import InvalidInput
from service.values import ModelIdentity, checked_id

EMBEDDING_LICENCE: Final = "Contains modified Copernicus Sentinel data"


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue: where a dataset lies and what is known of it beforehand."""

    id: str
    location: str
    title: str
    licence: str
    identity: ModelIdentity | None = None
    anonymous: bool = False
    """Whether its bucket is read without credentials."""
    source: Mapping[str, Any] | None = field(default=None, compare=False)
    """Where its time series come from; see `service/origins.py`."""
    main: bool = True
    """False for the repository of one window that is not a calendar year."""

    @property
    def name(self) -> str:
        """What it is called where it cannot be opened: its id, or its folder's name for a window of its own."""
        return self.id if self.main else Path(self.location).name.removesuffix(".icechunk")


def found(storage: Bucket) -> list[Entry]:
    """The repositories in the storage, openable or not: `<id>.icechunk`, `<id>@<start>_<end>.icechunk`.

    Raises:
        Unavailable: The storage cannot be reached.
    """
    listed = []
    for folder in storage.folders("datasets"):
        if folder.endswith(".icechunk"):
            name, at, _ = folder.removesuffix(".icechunk").partition("@")
            listed.append(Entry(name, f"{storage.location}/datasets/{folder}", name, EMBEDDING_LICENCE, main=not at))
    return listed


def written(path: Path) -> list[Entry]:
    """What people wrote into `smalti.toml`; nothing where there is none.

    Raises:
        InvalidInput: It cannot be read; names what is wrong.
    """
    if not path.exists():
        return []
    try:
        return [_entry(table, path.parent) for table in tomllib.loads(path.read_text())["datasets"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"cannot be read: {error}.", field=str(path), remedy="Write [[datasets]] tables with id and location."
        ) from None


def _entry(table: Mapping[str, object], folder: Path) -> Entry:
    texts = {name: table.get(name, "") for name in ("id", "location", "title", "licence", "model")}
    for name, text in texts.items():
        if not isinstance(text, str) or (name in ("id", "location") and not text):
            raise TypeError(f"{name} = {text!r} is not a text")
    held = {name: str(text) for name, text in texts.items()}
    location = held["location"] if "://" in held["location"] else str((folder / held["location"]).resolve())
    identity = ModelIdentity.parse(held["model"]) if held["model"] else None
    key = checked_id(held["id"], "datasets.id")
    anonymous = table.get("anonymous", False)
    if not isinstance(anonymous, bool):
        raise TypeError(f"anonymous = {anonymous!r} is neither true nor false")
    source = _source(table.get("source"), folder)
    return Entry(key, location, held["title"] or key, held["licence"] or EMBEDDING_LICENCE, identity, anonymous, source)


def _source(told: object, folder: Path) -> Mapping[str, Any] | None:
    if told is None:
        return None
    if not isinstance(told, dict) or not isinstance(told.get("type"), str):
        raise TypeError(f"source = {told!r} is not a table with a type")
    return {**told, "folder": str((folder / told["folder"]).resolve())} if "folder" in told else told
