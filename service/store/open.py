"""Opening whatever is there: the layout is recognised, never asked for."""

from __future__ import annotations

import os
from pathlib import Path

from service.bucket import is_remote
from service.errors import InvalidInput, NotFound
from service.store.archive import ArchiveStore
from service.store.chunks import ChunkCache
from service.store.contract import Store
from service.store.geoemb import GeoembStore, is_geoemb
from service.store.place import Place
from service.store.records import Records
from service.store.repository import Repository, is_repository
from service.store.writable import WritableArchive
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
    if where.endswith(".icechunk") or (not is_remote(where) and is_repository(Path(where))):
        store = ArchiveStore(Repository.open(where, anonymous=anonymous), identity, chunks)
        writable = store.is_ours and (not anonymous if is_remote(where) else os.access(where, os.W_OK))
        return WritableArchive(store.repository, identity, chunks) if writable else store
    if not is_remote(where) and not Path(where).exists():
        raise NotFound(f"there is no store at {where}.", field="location")
    if is_geoemb(where):
        return GeoembStore(Place(where, anonymous, records or Records()), identity, chunks)
    raise InvalidInput(
        f"{where} is no store of embeddings that smalti knows.",
        field="location",
        remedy="It reads geoemb: Zarr v3 stores and Icechunk repositories; `smalti ingest` takes tiles and GeoTIFFs.",
    )
