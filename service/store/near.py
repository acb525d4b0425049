"""A store beyond a network whose second read of anything is local."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from icechunk import Session
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import WrapperStore

from service.bucket import is_remote
from service.store.patient import PatientStore
from service.store.records import Record, Records, object_name
from service.store.transport import RemoteStore

_ABSENT: Final = 60.0
"""Seconds for which an object that was not there is taken not to be."""


class NearStore(WrapperStore[Store]):
    """A read-only store whose records are kept; see `Records`.

    Args:
        store: What is beyond the network.
        records: Where what was fetched stays.
        location: Of the store.
        generation: Of a key: what it is read from. Under one generation an object is always the same.
        through: Keys that are not kept, being near already.
    """

    def __init__(
        self,
        store: Store,
        records: Records,
        location: str,
        generation: Callable[[str], str],
        through: Callable[[str], bool] = lambda key: False,  # noqa: ARG005 - a callable's parameter has a name
    ) -> None:
        super().__init__(store)
        self._records = records
        self._location = location
        self._generation = generation
        self._through = through
        self._remote = store if isinstance(store, RemoteStore) else None
        self._absent: dict[str, float] = {}
        self._under_way: dict[tuple[str, str], asyncio.Task[Record | None]] = {}

    def _with_store(self, store: Store) -> NearStore:
        return NearStore(store, self._records, self._location, self._generation, self._through)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """As zarr has it, from near where it was fetched before. Raises what the store beyond the network does."""
        if self._through(key):
            return await self._store.get(key, prototype, byte_range)
        found = self.held(key, byte_range) or await self.fetched(key, byte_range)
        return None if found is None else prototype.buffer.from_bytes(found.body)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """As zarr has it; see `get`."""
        return list(await asyncio.gather(*(self.get(key, prototype, span) for key, span in key_ranges)))

    def held(self, key: str, span: ByteRequest | None) -> Record | None:
        """What is kept of an object, or of a part; None where it has to be fetched."""
        name = self._name(key)
        found = self._records.get(name, _part(span))
        if found is None and span is not None:
            whole = self._records.get(name, "all")
            found = whole and Record(_cut(whole.body, span), whole.validator)
        if found is not None and self._remote is not None:
            if self._remote.validators.setdefault(key, found.validator) != found.validator:
                return None  # of the object as it was
            if span is None:
                self._remote.sizes[key] = len(found.body)
        return found

    async def fetched(self, key: str, span: ByteRequest | None) -> Record | None:
        """Fetch an object or a part and keep it; several who want the same at once fetch it once."""
        loop = asyncio.get_running_loop()
        if self._absent.get(key, 0.0) > loop.time():
            return None
        wanted = key, _part(span)
        task = self._under_way.get(wanted)
        if task is None or task.get_loop() is not loop:
            task = self._under_way[wanted] = loop.create_task(self._fetch(key, span))
            task.add_done_callback(lambda _: self._under_way.pop(wanted, None))
        return await asyncio.shield(task)

    async def _fetch(self, key: str, span: ByteRequest | None) -> Record | None:
        body = await self.far(key, span)
        if body is None:
            self._absent[key] = asyncio.get_running_loop().time() + _ABSENT
            return None
        return self.keep(key, span, body)

    async def far(self, key: str, span: ByteRequest | None) -> bytes | None:
        """An object or a part as it is beyond the network; what was kept of one that is another now is dropped."""
        try:
            buffer = await self._store.get(key, default_buffer_prototype(), span)
        except Exception:
            if self._remote is not None and key in self._remote.changed:
                self._records.forget(self._name(key))
            raise
        return None if buffer is None else buffer.to_bytes()

    def keep(self, key: str, span: ByteRequest | None, body: bytes) -> Record:
        """Keep what was fetched."""
        record = Record(body, self._remote.validators.get(key, "") if self._remote else "")
        self._records.put(self._name(key), _part(span), record)
        return record

    def size(self, key: str) -> int | None:
        """Bytes of an object, if anything of it was fetched."""
        return self._remote.sizes.get(key) if self._remote else None

    @property
    def room(self) -> int:
        """Bytes that may be fetched ahead: they must lie near until they are read."""
        return self._records.memory // 2

    def _name(self, key: str) -> str:
        return object_name(self._location, self._generation(key), key)


@dataclass(frozen=True)
class Near:
    """Where and under what the records of one state of a store are kept."""

    records: Records
    location: str
    generation: Callable[[str], str]
    """Of a key; see `NearStore`."""

    def of(self, store: Store, through: Callable[[str], bool] = lambda key: False) -> NearStore:  # noqa: ARG005 - as above
        """The store with its records kept."""
        return NearStore(store, self.records, self.location, self.generation, through)


def _part(span: ByteRequest | None) -> str:
    """The name of a record: which part of the object it is."""
    if span is None:
        return "all"
    if isinstance(span, RangeByteRequest):
        return f"{span.start}-{span.end}"
    return f"-{span.suffix}" if isinstance(span, SuffixByteRequest) else f"{span.offset}-"


def _cut(whole: bytes, span: ByteRequest) -> bytes:
    """A part of an object that is near as a whole."""
    if isinstance(span, RangeByteRequest):
        return whole[span.start : span.end]
    if isinstance(span, SuffixByteRequest):
        return whole[-span.suffix :] if span.suffix else b""
    return whole[span.offset :]


def zarr_store(location: str, session: Session, near: Near | None = None) -> Store:
    """What zarr reads and writes of a session; over a network, with an end to every wait, and what was read kept."""
    if not is_remote(location):
        return session.store
    patient = PatientStore(session.store)
    # Icechunk has the metadata at hand: it is part of the snapshot.
    return near.of(patient, through=lambda key: key.endswith("zarr.json")) if near and session.read_only else patient
