"""Overviews of datasets that are only read: repositories of our own in the storage, joined to their stores."""

from __future__ import annotations

import logging

from service.bucket import Bucket, require_conditional_puts
from service.errors import SmaltiError
from service.store.chunks import ChunkCache
from service.store.contract import Store
from service.store.records import Records
from service.store.repository import Repository
from service.store.side import SideStore, side_repository

log = logging.getLogger("smalti.catalogue")

FOLDER = "overviews"


class Sides:
    """The repositories under `overviews` in the storage.

    Args:
        storage: Where.
        chunks: Where decoded squares are kept.
        records: Where what is fetched over a network stays.
    """

    def __init__(self, storage: Bucket, chunks: ChunkCache, records: Records) -> None:
        self._storage, self._chunks, self._records = storage, chunks, records
        self._names: frozenset[str] = frozenset()
        self.broken: dict[str, SmaltiError] = {}
        """Those that cannot be joined, by name; their datasets are served without."""

    def look(self) -> None:
        """See which there are.

        Raises:
            Unavailable: The storage cannot be reached.
        """
        self._names = frozenset(self._storage.folders(FOLDER))

    def joined(self, name: str, store: Store) -> Store:
        """A store with its overviews, if it is only read and there are any; else the store itself.

        Args:
            name: What it is called in the catalogue.
            store: As it was opened, or as it was joined before.
        """
        if store.writable or isinstance(store, SideStore):
            return store
        if f"{name}.icechunk" not in self._names:
            self.broken.pop(name, None)
            return store
        try:
            found = SideStore(store, Repository.open(self._location(name), records=self._records), self._chunks)
        except SmaltiError as error:
            if name not in self.broken:
                log.warning("the overviews of %s cannot be read: %s", name, error)
            self.broken[name] = type(error)(error.message.replace(self._location(name), name), remedy=error.remedy)
            return store
        self.broken.pop(name, None)
        return found

    def make(self, name: str, store: Store) -> None:
        """Make the repository for a store's overviews, empty, if it is not there.

        Raises:
            ReadOnly: The storage does not allow it.
            Unavailable: It cannot be reached.
        """
        if self._storage.remote:
            require_conditional_puts(self._storage)
        side_repository(self._location(name), store)

    def _location(self, name: str) -> str:
        return f"{self._storage.location}/{FOLDER}/{name}.icechunk"
