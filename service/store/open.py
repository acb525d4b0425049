"""Opening whatever is there: the layout is recognised, never asked for."""

from __future__ import annotations

import os
from pathlib import Path

from service.bucket import is_remote
from service.errors import InvalidInput, NotFound
from service.store.archive import ArchiveStore
from service.store.chunks import ChunkCache
from service.store.contract import Store
from service.store.faults import reading
from service.store.geoemb import GeoembStore
from service.store.place import Opened, Place
from service.store.records import Records
from service.store.repository import Repository, is_repository
from service.store.writable import WritableArchive
from service.store.years import YearsStore, years_at
from service.values import ModelIdentity


def open_store(
    location: str | Path,
    *,
    identity: ModelIdentity | None = None,
    anonymous: bool = False,
    chunks: ChunkCache | None = None,
    records: Records | None = None,
) -> Store:
    """Open a store of any readable layout; one that smalti made comes back as a WritableStore.

    Args:
        location: Local path, `s3://bucket/prefix` or, of Zarr stores, `https://...`; never what a client sent.
        identity: The model that made the vectors; needed where the store does not say.
        anonymous: Whether to ask S3 unsigned; nothing can be written then.
        chunks: Where decoded squares of its arrays are kept in memory; nowhere if absent.
        records: Where what is fetched over a network stays; in memory for a moment if absent.

    Raises:
        NotFound: Nothing is there.
        InvalidInput: What is there is no store, or no identity is known.
        IdentityMismatch: The store names another model.
        Corrupt: Metadata is missing or contradicts itself.
        Unavailable: The transport failed.
    """
    text = str(location)
    where = text.rstrip("/") if is_remote(text) else str(Path(text.removeprefix("file://")).absolute())
    with reading(where, "its metadata"):
        if where.endswith(".icechunk") or (not is_remote(where) and is_repository(Path(where))):
            store = ArchiveStore(Repository.open(where, anonymous=anonymous, records=records), identity, chunks)
            writable = store.is_ours and (not anonymous if is_remote(where) else os.access(where, os.W_OK))
            return WritableArchive(store.repository, identity, chunks) if writable else store
        if not is_remote(where) and not Path(where).exists():
            raise NotFound(f"there is no store at {where}.", field="location")
        return _published(Place(where, anonymous, records or Records()), identity, chunks)


def _published(place: Place, identity: ModelIdentity | None, chunks: ChunkCache | None) -> Store:
    """A Zarr store that others published; which layout it has, its root attributes say."""
    opened: Opened | None = None
    if is_remote(place.location) or _may_be_store(Path(place.location)):
        try:
            opened = place.open()
        except NotFound:  # a folder of a web server or a bucket may hold one store a year
            if not (years := years_at(place)):
                raise
            return YearsStore(place, years, identity, chunks)
    names = [str(name) for name in opened.attributes] if opened else []
    if opened and any(name.startswith("geoemb:") for name in names):
        return GeoembStore(place, identity, chunks, opened)
    if opened and "tessera:year" in names:
        return YearsStore(place, {int(opened.attributes["tessera:year"]): ""}, identity, chunks)
    if opened is None and (years := years_at(place)):
        return YearsStore(place, years, identity, chunks)
    raise InvalidInput(
        f"{place.location} is no store of embeddings that smalti knows.",
        field="location",
        remedy="It reads geoemb: and tessera: Zarr v3 stores and Icechunk repositories; `smalti ingest` takes tiles "
        "and GeoTIFFs.",
    )


def _may_be_store(folder: Path) -> bool:
    """Whether a folder is a Zarr store, or what is left of one."""
    return (folder / "zarr.json").exists() or any(folder.glob("utm[0-9][0-9]"))
