"""Which datasets there are: what people wrote into `smalti.toml`, and the repositories in the storage."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from api.entries import Entry, found, written
from api.glance import Glance
from api.places import hidden, hidden_folders, renamed
from api.settings import Settings
from api.sides import Sides
from api.watch import Watch
from service.bucket import Bucket, is_remote, require_conditional_puts
from service.embed import require_writable
from service.errors import Corrupt, InvalidInput, NotFound, SmaltiError
from service.store import create_store, open_store, repository_name
from service.store.chunks import chunk_cache
from service.store.contract import Store, WritableStore
from service.store.records import Records
from service.store.side import SideStore
from service.values import ModelIdentity, Window, checked_id

log = logging.getLogger("smalti.catalogue")

LOOK_AGAIN_S: Final = 1.0
"""How often, in seconds, requests make the server look for new revisions and new repositories."""
OLD_S: Final = 10.0
"""Seconds after which what is known of places beyond a network is too old to be told: nobody asked."""
PATIENCE_S: Final = 1.0
"""How long after its beginning a look beyond a network is waited for then."""


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


@dataclass(frozen=True)
class DatasetWindow:
    """A dataset, and one of the windows it holds."""

    dataset: Dataset
    """Its `store` is the one that holds `window`."""
    window: Window


class Catalogue(Mapping[str, Dataset]):
    """Datasets by id: `smalti.toml`, and every `*.icechunk` under `datasets` in the storage.

    Looks at most once a second for new revisions and repositories. While something serves, requests do not wait for a
    look over a network; only the first after a long silence does, a moment. What cannot be opened is kept aside with
    its error, so that one broken store, or a mistake in `smalti.toml`, does not take the others down. A storage that
    cannot be reached loses nothing that is open.
    """

    def __init__(self, settings: Settings, watch: Watch, storage: Bucket) -> None:
        self._settings = settings
        self._storage = storage
        self._listed: list[Entry] = []
        self._lost: SmaltiError | None = None
        self._watch = watch
        self.chunks = chunk_cache(settings.caches.chunk_bytes)
        """Decoded squares of the arrays of all stores that are open."""
        self.near = Records(settings.home / "near", settings.caches.disk_bytes)
        """What was fetched over a network."""
        self._lock = threading.Lock()
        self._open: dict[str, Dataset] = {}
        self._broken: dict[str, SmaltiError] = {}
        self._written: list[Entry] = []
        self._opened: dict[str, Store] = {}
        self._stores: dict[str, Store] = {}
        self._sides = Sides(storage, self.chunks, self.near)
        self._hidden = hidden_folders(settings.scenes.folders)
        self._looked_at = float("-inf")
        self._glance = Glance(self._visit_if_due, self._lock)

    def __getitem__(self, key: str) -> Dataset:
        self._look()
        found, broken = self._open.get(key), self._broken
        if found is not None:
            return found
        if key in broken:
            raise broken[key]
        if self._lost:
            raise self._lost
        raise NotFound(f"no dataset {key!r}.", field="dataset", remedy="GET /datasets lists them.")

    def __iter__(self) -> Iterator[str]:
        self._look()
        return iter(sorted(self._open))

    def __len__(self) -> int:
        self._look()
        return len(self._open)

    def all(self) -> list[Dataset]:
        """Every dataset that can be served, by id: as they stand now, whatever changes meanwhile."""
        self._look()
        held = self._open
        return [held[key] for key in sorted(held)]

    def named(self, text: str) -> str:
        """A message as whoever may read is told it: datasets and sources by name, not by where they lie."""
        return renamed(text, self._places())

    def _places(self) -> Iterator[tuple[str, str]]:
        """(where something lies, what it is called), as it was at the last look."""
        for entry in self._written + self._listed:
            yield entry.location, entry.name
            opened = self._opened.get(entry.location)
            if isinstance(opened, SideStore):
                yield opened.repository.location, f"the overviews of {entry.name}"
        yield from list(self._hidden.items())  # as it is now: others hide more meanwhile

    def hide(self, source: Mapping[str, Any], dataset: str) -> None:
        """Have `named` know the places of a dataset's source: before it is used, as errors then name them."""
        self._hidden.update(hidden(source, dataset))

    def require_storage(self) -> None:
        """Refuse to tell what there is where nothing could be seen.

        Raises:
            Unavailable: The storage cannot be reached, and nothing is open.
        """
        self._look()
        if self._lost and not self._open:
            raise self._lost

    def source(self, key: str) -> dict[str, Any] | None:
        """What `smalti.toml` says of where a dataset's time series come from; None where it says nothing."""
        self._look()
        found = next((entry.source for entry in self._written if entry.id == key), None)
        return dict(found) if found else None

    @property
    def broken(self) -> dict[str, SmaltiError]:
        """Repositories, by name, that cannot be opened, each with why; `smalti.toml` and the storage if they cannot."""
        self._look()
        return self._broken

    def _look(self) -> None:
        if self._looked_lately():
            return
        if self._open and (self._storage.remote or any(is_remote(entry.location) for entry in self._written)):
            self._glance.begin()
            if time.monotonic() - self._looked_at > OLD_S:
                self._glance.wait(PATIENCE_S)
        elif self._lock.acquire(blocking=not self._open):
            try:
                self._visit_if_due()
            finally:
                self._lock.release()

    def _looked_lately(self) -> bool:
        return time.monotonic() - self._looked_at < LOOK_AGAIN_S

    def _visit_if_due(self) -> None:
        if not self._looked_lately():  # those who waited for the lock have just been told
            self._visit()
            self._looked_at = time.monotonic()

    def look_now(self) -> None:
        """See what was just written, without waiting for the next look."""
        with self._lock:
            self._visit()

    def require_writable(self, dataset: str) -> WritableStore:
        """The main store of a dataset, if blocks can be written to it.

        Raises:
            NotFound: No such dataset.
            ReadOnly: It cannot be written to.
        """
        return require_writable(self[dataset].store, dataset)

    def writable(self, dataset: str, window: Window) -> WritableStore:
        """The store of a dataset that takes blocks of `window`; one of its own is made for what is no calendar year.

        Raises:
            NotFound: No such dataset.
            ReadOnly: It cannot be written to.
        """
        main = self.require_writable(dataset)
        if window.is_year:
            return main
        with self._lock:
            store = open_or_make(self._storage, dataset, main.identity, main.dims, window)
        return cast(WritableStore, self._watch.store(store, dataset))

    def overviewed(self, dataset: str, window: Window) -> WritableStore | SideStore:
        """The store that holds a window of a dataset, as one whose overviews can be built.

        Raises:
            NotFound: No such dataset or window.
            ReadOnly: The storage does not allow it.
            Unavailable: It cannot be reached.
        """
        store = self[dataset].at(window).store
        if not store.writable:
            entry = next(e for e in self._written + self._listed if self._stores.get(e.location) is store)
            self._sides.make(entry.name, store)
            self.look_now()
            store = self[dataset].at(window).store
        return cast(WritableStore | SideStore, store)

    def _visit(self) -> None:
        broken: dict[str, SmaltiError] = {}
        try:
            self._written = written(self._settings.catalogue)
        except InvalidInput as error:  # what was read last goes on being served
            broken[self._settings.catalogue.name] = Corrupt(error.message, field=error.field, remedy=error.remedy)
        try:
            self._listed, self._lost = found(self._storage), None
            self._sides.look()
        except SmaltiError as error:
            self._lost = broken["storage"] = error
        stores: dict[str, list[Store]] = {}
        named: dict[str, Entry] = {}
        for entry in sorted(self._written + self._listed, key=lambda entry: not entry.main):
            if entry.main and entry.id in named:
                twice = Corrupt(f"a second dataset is called {entry.id!r}.", field=entry.location)
                broken[entry.name] = self._told(twice, entry)
                continue
            try:
                stores.setdefault(entry.id, []).append(self._store(entry))
                named.setdefault(entry.id, entry)
            except SmaltiError as error:
                broken[entry.name] = self._told(error, entry)
        self._open = {
            key: Dataset(key, held[0], named[key].title, named[key].licence, tuple(held[1:]))
            for key, held in stores.items()
            if held and key not in broken
        }
        self._broken = broken | {f"overviews of {name}": error for name, error in self._sides.broken.items()}

    def _told(self, error: SmaltiError, entry: Entry) -> SmaltiError:
        """What whoever may read is told: the dataset by its name. Where it lies stands in the log, once."""
        if entry.name not in self._broken:
            log.warning("dataset %s cannot be opened: %s", entry.name, error)
        field, remedy = (text and self.named(text) for text in (error.field, error.remedy))
        return type(error)(self.named(error.message), field=field, remedy=remedy)

    def _store(self, entry: Entry) -> Store:
        store = self._stores.get(entry.location)
        lost = self._lost if entry in self._listed else None
        if store is None and lost:
            raise lost
        if store is None:
            self._opened[entry.location] = open_store(
                entry.location,
                identity=entry.identity,
                anonymous=entry.anonymous or self._settings.anonymous,
                chunks=self.chunks,
                records=self.near,
            )
        elif not lost:
            self._refresh(entry.location)
        return self._joined(entry)

    def _refresh(self, location: str) -> None:
        """Look at a store again; where only its overviews cannot be read any more, it is served without."""
        opened = self._opened[location]
        try:
            self._stores[location].refresh()
        except SmaltiError:
            if not isinstance(opened, SideStore):
                raise
            opened.base.refresh()
            self._opened[location] = opened.base
            del self._stores[location]

    def _joined(self, entry: Entry) -> Store:
        """The store of an entry with its overviews, if they lie beside it, and watched."""
        opened = self._opened[entry.location]
        joined = self._sides.joined(entry.name, opened)
        if joined is not opened or entry.location not in self._stores:
            self._opened[entry.location] = joined
            self._stores[entry.location] = self._watch.store(joined, entry.id)
        return self._stores[entry.location]


def open_or_make(storage: Bucket, dataset: str, identity: ModelIdentity, dims: int, window: Window) -> WritableStore:
    """The repository in the storage that holds `window` of a dataset of our own, made if it is not there.

    Raises:
        IdentityMismatch: It is there and holds vectors of another model.
        ReadOnly: It is there and was not made by smalti.
        Unavailable: The storage cannot be reached.
    """
    location = f"{storage.location}/datasets/{repository_name(checked_id(dataset, 'dataset'), window)}"
    try:
        held = open_store(location)
    except (NotFound, Corrupt):  # Corrupt: in a bucket also one that is just being made, or whose maker was killed
        if storage.remote:
            require_conditional_puts(storage)
        held = _made(location, identity, dims, window)
    store = require_writable(held, dataset)
    store.identity.require_same(identity, "what is to be stored")
    return store


def _made(location: str, identity: ModelIdentity, dims: int, window: Window) -> Store:
    try:
        create_store(location, identity, dims=dims, window=None if window.is_year else window)
    except SmaltiError as error:
        try:
            return open_store(location)  # somebody else made it first
        except NotFound:
            raise error from None
    return open_store(location)
