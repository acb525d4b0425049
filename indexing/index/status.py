"""How indexes stand to the stores they were made from, told without opening or copying them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from indexing.index.manifest import IndexManifest, home_of
from indexing.index.mirror import published
from service.bucket import Bucket
from service.errors import Conflict, Corrupt, IdentityMismatch, NotFound
from service.store.contract import Store
from service.values import Window


@dataclass(frozen=True)
class IndexStatus:
    """An index as it lies in the storage, and what the store has become since."""

    generation: str
    manifest: IndexManifest
    behind: int
    """Blocks that came or changed since: scanned one by one at every search."""
    gone: int
    """Blocks it holds that the store does not have any more."""
    fault: str
    """Why it cannot serve; "" where it can."""


def status_of(store: Store, dataset: str, window: Window, bucket: Bucket, level: int = 1) -> IndexStatus | None:
    """How the index of a window stands; None where there is none.

    Args:
        store: The store that holds the window.
        dataset: The dataset's id.
        window: Which window.
        bucket: Where the dataset's indexes lie: a folder, or what replicas copy from.
        level: Whose pixels.

    Raises:
        Corrupt: What lies there is no index.
        Unavailable: It cannot be reached.
    """
    name = published(bucket, window, level)
    if name is None:
        return None
    home = home_of(Path(), window, level).name
    try:
        manifest = IndexManifest.from_json(bucket.get(f"{home}/{name}/manifest.json").decode())
    except (NotFound, UnicodeDecodeError) as error:
        raise Corrupt(f"{bucket.location}/{home}/{name} has no manifest: {error}.") from None
    fault = ""
    try:
        manifest.require_serves(store, dataset, window, level)
    except (Conflict, IdentityMismatch) as error:
        fault = error.message
    held = dict(manifest.blocks)
    now = store.versions(window, store.blocks(window, level=level))
    behind = sum(held.get(block) != version for block, version in now.items())
    return IndexStatus(name, manifest, behind, len(held.keys() - now.keys()), fault)
