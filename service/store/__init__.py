"""The only door to zarr and icechunk: one Store contract, a reader per published layout, the writable layout."""

from service.store.contract import BlockData, Store, WritableStore
from service.store.open import open_store
from service.store.writable import create_store, repository_name

__all__ = ["BlockData", "Store", "WritableStore", "create_store", "open_store", "repository_name"]
