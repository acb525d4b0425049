"""Which datasets there are: what people wrote into `smalti.toml`, and the repositories under SMALTI_HOME."""

from __future__ import annotations

import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from api.settings import Settings
from service.embed import require_writable
from service.errors import InvalidInput, NotFound, SmaltiError
from service.store import create_store, open_store, repository_name
from service.store.contract import Store, WritableStore
from service.values import ModelIdentity, Window, checked_id

LOOK_AGAIN_S: Final = 1.0
"""How often, in seconds, requests make the server look for new revisions and new repositories."""

EMBEDDING_LICENCE: Final = "Contains modified Copernicus Sentinel data"


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue: where a dataset lies and what is known of it beforehand."""

    id: str
    location: str
    title: str
    licence: str
    identity: ModelIdentity | None = None
    main: bool = True
    """False for the repository of one window that is not a calendar year."""


@dataclass(frozen=True)
class Dataset:
    """One dataset as it can be served. `store` is the one that holds the window asked for, once there is one."""

    id: str
    store: Store
    title: str
    licence: str
    others: tuple[Store, ...] = ()
    """Repositories of the same dataset for windows that are not calendar years, one each."""

    def windows(self) -> tuple[Window, ...]:
        """Every window that holds data, ascending."""
        return tuple(sorted(window for store in (self.store, *self.others) for window in store.windows()))

    def provenance(self, window: Window) -> dict[str, str]:
        """What every answer that holds or is made from vectors names."""
        return {
            "dataset": self.id,
            "model": str(self.store.identity),
            "window": str(window),
            "revision": self.store.revision()[0],
        }

    def at(self, window: Window) -> Dataset:
        """The same dataset with the store that holds `window` as its store.

        Raises:
            NotFound: None does; names what there is.
        """
        for store in (self.store, *self.others):
            if window in store.windows():
                return replace(self, store=store)
        names = ", ".join(map(str, self.windows())) or "none yet"
        raise NotFound(f"dataset {self.id!r} holds no window {window}.", field="window", remedy=f"It holds {names}.")


class Catalogue(Mapping[str, Dataset]):
    """Datasets by id: `smalti.toml`, and every `*.icechunk` under `<home>/datasets`.

    Looks at most once a second for new revisions and repositories; a dataset that cannot be opened is kept aside
    with its error, so that one broken store does not take the others down.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._open: dict[str, Dataset] = {}
        self._stores: dict[str, Store] = {}
        self._looked_at = float("-inf")
        self.broken: dict[str, SmaltiError] = {}

    def __getitem__(self, key: str) -> Dataset:
        self._look()
        if key in self.broken:
            raise self.broken[key]
        try:
            return self._open[key]
        except KeyError:
            raise NotFound(f"no dataset {key!r}.", field="dataset", remedy="GET /datasets lists them.") from None

    def __iter__(self) -> Iterator[str]:
        self._look()
        return iter(sorted(self._open))

    def __len__(self) -> int:
        self._look()
        return len(self._open)

    def _look(self) -> None:
        if time.monotonic() - self._looked_at < LOOK_AGAIN_S or not self._lock.acquire(blocking=not self._open):
            return
        try:
            self._visit(entries(self._settings))
            self._looked_at = time.monotonic()
        finally:
            self._lock.release()

    def look_now(self) -> None:
        """See what was just written, without waiting for the next look."""
        with self._lock:
            self._visit(entries(self._settings))

    def writable(self, dataset: str, window: Window) -> WritableStore:
        """The store of a dataset that takes blocks of `window`; one of its own is made for what is no calendar year.

        Raises:
            NotFound: No such dataset.
            ReadOnly: It cannot be written to.
        """
        main = self[dataset].store
        if window.is_year:
            return require_writable(main, dataset)
        require_writable(main, dataset)
        return open_or_make(self._settings.home, dataset, main.identity, main.dims, window)

    def _visit(self, found: list[Entry]) -> None:
        stores: dict[str, list[Store]] = {}
        broken: dict[str, SmaltiError] = {}
        for entry in sorted(found, key=lambda entry: not entry.main):
            try:
                store = self._store(entry)
                stores.setdefault(entry.id, []).append(store)
            except SmaltiError as error:
                broken[entry.id] = error
        named = {entry.id: entry for entry in reversed(found)}
        self._open = {
            key: Dataset(key, first, named[key].title, named[key].licence, tuple(rest))
            for key, (first, *rest) in stores.items()
        }
        self.broken = broken

    def _store(self, entry: Entry) -> Store:
        store = self._stores.get(entry.location)
        if store is None:
            store = self._stores[entry.location] = open_store(entry.location, identity=entry.identity)
        else:
            store.refresh()
        return store


def entries(settings: Settings) -> list[Entry]:
    """Every dataset the settings name, openable or not.

    Raises:
        InvalidInput: `smalti.toml` cannot be read, or names a dataset twice.
    """
    found = list(_written(settings.catalogue))
    for path in sorted((settings.home / "datasets").glob("*.icechunk")):
        name, at, _ = path.name.removesuffix(".icechunk").partition("@")
        found.append(Entry(name, str(path.resolve()), name, EMBEDDING_LICENCE, main=not at))
    ids = [entry.id for entry in found if entry.main]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise InvalidInput(f"more than one dataset is called {twice[0]!r}.", field=str(settings.catalogue))
    return found


def open_or_make(home: Path, dataset: str, identity: ModelIdentity, dims: int, window: Window) -> WritableStore:
    """The repository under `home` that holds `window` of a dataset of our own, made if it is not there.

    Raises:
        IdentityMismatch: It is there and holds vectors of another model.
        ReadOnly: It is there and was not made by smalti.
    """
    path = (home / "datasets" / repository_name(checked_id(dataset, "dataset"), window)).resolve()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        create_store(path, identity, dims=dims, window=None if window.is_year else window)
    store = require_writable(open_store(path), dataset)
    store.identity.require_same(identity, "what is to be stored")
    return store


def _written(path: Path) -> list[Entry]:
    if not path.exists():
        return []
    try:
        tables = tomllib.loads(path.read_text())["datasets"]
        return [
            Entry(
                checked_id(table["id"], "datasets.id"),
                str(table["location"])
                if "://" in table["location"]
                else str((path.parent / table["location"]).resolve()),
                table.get("title", table["id"]),
                table.get("licence", EMBEDDING_LICENCE),
                ModelIdentity.parse(table["model"]) if "model" in table else None,
            )
            for table in tables
        ]
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"cannot be read: {error!r}.", field=str(path), remedy="Write [[datasets]] tables with id and location."
        ) from None


def _located(location: str, folder: Path) -> str:
    return location if "://" in location else str((folder / location).resolve())
