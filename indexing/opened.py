"""Indexes in use: opened once, opened again when a build has put another in their place."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from indexing.ann import AnnIndex
from indexing.ids import first_id
from indexing.manifest import REBUILD, IndexManifest, current, load
from indexing.mirror import Mirror
from indexing.pixels import Snapshot
from service.errors import Corrupt
from service.grid import Block
from service.store.contract import Store
from service.values import BoolArray, Int64Array, Window


@dataclass(frozen=True)
class OpenedIndex:
    """An index generation in use."""

    generation: Path
    manifest: IndexManifest
    ann: AnnIndex
    first_ids: Int64Array
    """(blocks,) id of the first pixel of each block."""

    @classmethod
    def of(cls, generation: Path, store: Store, dataset: str, window: Window) -> Self:
        """Open a generation.

        Raises:
            Corrupt: A file of it is missing or damaged. Names it.
            IdentityMismatch, Conflict: It was made from something else than asked for. Names both.
        """
        manifest = load(generation)
        manifest.require_serves(store, dataset, window)
        ann = AnnIndex([record.check(generation) for record in manifest.files], store.dims)
        if ann.count != manifest.count:
            raise Corrupt(f"{generation} holds {ann.count:,} pixels, not {manifest.count:,}.", remedy=REBUILD)
        return cls(generation, manifest, ann, np.array([first_id(block) for block, _ in manifest.blocks], np.int64))

    def fresh(self, at: Snapshot) -> BoolArray:
        """For each block of the index: whether the store still holds it as it was read."""
        return np.array([bool(v) and at.versions.get(block) == v for block, v in self.manifest.blocks], bool)

    def changed(self, at: Snapshot, fresh: BoolArray) -> list[Block]:
        """Blocks of the store that the index does not hold as they are."""
        held = {block for (block, _), same in zip(self.manifest.blocks, fresh, strict=True) if same}
        return [block for block in at.versions if block not in held]


class Serving:
    """The indexes of one dataset. Safe to use from many threads.

    Args:
        store: The store they were made from.
        dataset: The dataset's id.
        folder: Where they lie, which need not be there; or the copies of what is published elsewhere.
    """

    def __init__(self, store: Store, dataset: str, folder: Path | Mirror) -> None:
        self._store = store
        self._dataset = dataset
        self._mirror = folder if isinstance(folder, Mirror) else None
        self._folder = folder.folder if isinstance(folder, Mirror) else folder
        self._opened: dict[Window, OpenedIndex] = {}
        self._lock = threading.Lock()

    def index(self, window: Window) -> OpenedIndex | None:
        """The index that serves now; opened again when another generation took over.

        Raises:
            Corrupt, IdentityMismatch, Conflict: As `OpenedIndex.of` does.
        """
        if self._mirror:
            self._mirror.look(window)
        with self._lock:
            generation = current(self._folder, window)
            known = self._opened.get(window)
            if known and known.generation == generation:
                return known
            if generation is None:
                self._opened.pop(window, None)
                return None
            try:
                opened = OpenedIndex.of(generation, self._store, self._dataset, window)
            except Corrupt:
                newer = current(self._folder, window)  # a rebuild may have cleared away what we were told to open
                if newer is None or newer == generation:
                    if self._mirror:
                        self._mirror.drop(generation)
                    raise
                opened = OpenedIndex.of(newer, self._store, self._dataset, window)
            self._opened[window] = opened
            return opened
