"""Indexes in use: opened once, opened again when a build has put another in their place."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import numpy as np

from indexing.fleet.share import ALL, Share
from indexing.index.ann import Quantiser
from indexing.index.manifest import IndexManifest, Stamp, current, load, stamp_of
from indexing.index.mirror import Mirror
from indexing.index.proposals import Proposal, propose
from indexing.index.segment import Segment, open_quantiser
from indexing.index.tuning import Tuning, default_of
from indexing.pixels import Pixels, Snapshot
from service.errors import Conflict, Corrupt, IdentityMismatch, Unavailable
from service.grid import Block
from service.queries import norms_of
from service.store.contract import Store
from service.values import BoolArray, Float32Array, Int64Array, UInt8Array, Window

log = logging.getLogger("smalti")

Fresh = tuple[BoolArray, ...]
"""For each segment (slots,) bool: which of its blocks the store still holds as they were read."""


@dataclass(frozen=True, eq=False)
class OpenedIndex:
    """An index generation in use. Safe to search from many threads."""

    generation: Path
    manifest: IndexManifest
    quantiser: Quantiser
    segments: tuple[Segment, ...]
    """All there are; some of them may lie on other machines only: see `held`."""
    _standing: list[tuple[Snapshot, Fresh, list[Block]]] = field(default_factory=list)
    """What was found of the snapshot asked about last, if any was."""

    @classmethod
    def of(
        cls,
        generation: Path,
        store: Store,
        dataset: str,
        window: Window,
        level: int = 1,
        *,
        share: Share = ALL,
        known: OpenedIndex | None = None,
    ) -> Self:
        """Open a generation.

        Args:
            generation: Its folder.
            store: Of the vectors it was made from.
            dataset: The dataset's id.
            window: Of the index.
            level: Of the index.
            share: Which segments lie on this machine.
            known: Another generation of the index: what both share is not opened again.

        Raises:
            Corrupt: A file of it is missing or damaged. Names it.
            IdentityMismatch, Conflict: It was made from something else than asked for. Names both.
        """
        manifest, home = load(generation), generation.parent
        manifest.require_serves(store, dataset, window, level)
        bits, here = manifest.parameters.bits, manifest.held_by(share)
        if known is not None and known.manifest.quantiser == manifest.quantiser:
            quantiser, open_already = known.quantiser, {each.name: each for each in known.segments if each.rows}
        else:
            quantiser, open_already = open_quantiser(home / manifest.quantiser.name, manifest.quantiser)[0], {}
        segments = []
        for number, record in enumerate(manifest.segments):
            if record.name in open_already:
                segments.append(replace(open_already[record.name], number=number, record=record))
            else:
                segments.append(Segment.open(home, number, record, quantiser, bits, here=record.name in here))
        return cls(generation, manifest, quantiser, tuple(segments))

    @cached_property
    def held(self) -> tuple[int, ...]:
        """Numbers of the segments that lie on this machine."""
        return tuple(each.number for each in self.segments if each.lists is not None)

    @cached_property
    def _slots(self) -> dict[Block, tuple[int, int]]:
        return {
            block: (segment.number, slot)
            for segment in self.segments
            for slot, (block, version) in enumerate(segment.record.blocks)
            if version
        }

    def propose(
        self,
        directions: Float32Array,
        count: int,
        probes: int,
        allowed: Sequence[UInt8Array | None] | None = None,
        segments: Sequence[int] | None = None,
    ) -> list[Proposal]:
        """The `count` candidates estimated nearest to each direction: see `proposals.propose`.

        Args:
            directions: (q, d) float32 of length 1.
            count: 1 or more.
            probes: How many of the lists to look into.
            allowed: For each segment of the index a bit for each position, lowest first: only these can be proposed.
            segments: Numbers of those to search; all where absent.

        Raises:
            Unavailable: One of them is not on this machine. Names it.
        """
        chosen = range(len(self.segments)) if segments is None else segments
        return propose(
            self.quantiser, [self.segments[n] for n in chosen], directions, count, probes,
            None if allowed is None else [allowed[n] for n in chosen],
        )  # fmt: skip

    def ids(self, proposal: Proposal) -> Int64Array:
        """(n,) pixel ids of candidates."""
        out = np.empty(len(proposal.position), np.int64)
        for segment, mine in self._by_segment(proposal):
            out[mine] = segment.ids(proposal.position[mine])
        return out

    def rows(self, proposal: Proposal, *, scales: bool = False) -> tuple[Int64Array, Pixels]:
        """(n,) ids of candidates, and (n,) pixels in their order.

        Args:
            proposal: The candidates.
            scales: Whether their scales are asked for: one more place on disk for each.

        Raises:
            Unavailable: One is of a segment that is not on this machine. Names it.
        """
        count = len(proposal.position)
        ids, codes = np.empty(count, np.int64), np.empty((count, self.manifest.parameters.dims), np.int8)
        lengths = np.empty(count, np.float32) if scales else None
        for segment, mine in self._by_segment(proposal):
            if segment.rows is None:
                raise Unavailable(f"shard {segment.name} is not on this machine.")
            positions = proposal.position[mine]
            ids[mine] = segment.ids(positions)
            codes[mine] = segment.rows.at(positions)
            if lengths is not None:
                lengths[mine] = segment.rows.scales_at(positions)
        return ids, Pixels(codes, norms_of(codes), None, lengths)  # none is proposed that has no length

    def _by_segment(self, proposal: Proposal) -> Iterator[tuple[Segment, BoolArray | slice]]:
        """Each segment that candidates lie in, and which do."""
        if len(self.segments) == 1:
            yield self.segments[0], slice(None)
            return
        for number in np.unique(proposal.segment).tolist():
            yield self.segments[number], proposal.segment == number

    def block(self, block: Block) -> Pixels | None:
        """(256, 256) pixels of a block as they were indexed, mapped; None where it is not held here.

        Whether the store still holds the same, the caller knows: see `fresh`.
        """
        number, slot = self._slots.get(block, (-1, 0))
        rows = self.segments[number].rows if number >= 0 else None
        return None if rows is None else rows.block(slot)

    def fresh(self, at: Snapshot) -> Fresh:
        """For each segment (slots,) bool: whether the store still holds the block as it was read."""
        return self._stands(at)[1]

    def changed(self, at: Snapshot) -> list[Block]:
        """Blocks of the store that the index does not hold as they are, in the store's order."""
        return self._stands(at)[2]

    def _stands(self, at: Snapshot) -> tuple[Snapshot, Fresh, list[Block]]:
        known = self._standing[-1] if self._standing else None
        if known is None or known[0] is not at:
            fresh = tuple(
                np.array([bool(v) and at.versions.get(block) == v for block, v in each.record.blocks], bool)
                for each in self.segments
            )
            same = {
                block
                for each, usable in zip(self.segments, fresh, strict=True)
                for (block, _), yes in zip(each.record.blocks, usable.tolist(), strict=True)
                if yes
            }
            known = at, fresh, [block for block in at.versions if block not in same]
            self._standing[:] = [known]
        return known

    def setting(self, k: int, recall: float | None = None, *, mixed: bool = False) -> Tuning | None:
        """How hard to look for the k best.

        Args:
            k: 1 or more.
            recall: The share of them that must have been found when it was measured; as built where absent.
            mixed: Whether the query is mixed of several examples.

        Returns:
            The cheapest setting that does; None where none that was measured does.
        """
        if recall is None:
            return default_of(self.manifest.tunings, mixed=True) if mixed else self.manifest.tuning
        deep = [(each, each.measured(min(k, 100), mixed=mixed) or 0.0) for each in self.manifest.tunings]
        return next((each for each, found in deep if found >= recall), None)


class Serving:
    """The indexes of one dataset. Safe to use from many threads.

    Args:
        store: The store they were made from.
        dataset: The dataset's id.
        folder: Where they lie, which need not be there; or the copies of what is published elsewhere.
        share: Which segments of each are searched here, where they are no copies, of which all are.
    """

    def __init__(self, store: Store, dataset: str, folder: Path | Mirror, share: Share = ALL) -> None:
        self._store = store
        self._dataset = dataset
        self._mirror = folder if isinstance(folder, Mirror) else None
        self._folder = folder.folder if isinstance(folder, Mirror) else folder
        self._share = folder.share if isinstance(folder, Mirror) else share
        self._opened: dict[tuple[Window, int], OpenedIndex] = {}
        self._stamps: dict[tuple[Window, int], Stamp] = {}
        """Of the pointer when it was followed last."""
        self._lock = threading.Lock()

    def index(self, window: Window, level: int = 1) -> OpenedIndex | None:
        """The index that serves now; opened again when another generation took over.

        Where that cannot be used, the one before it goes on serving, and a warning says so.

        Raises:
            Corrupt, IdentityMismatch, Conflict: As `OpenedIndex.of` does, where there is none before it.
        """
        if self._mirror:
            self._mirror.look(window, level)
        with self._lock:
            known, stamp = self._opened.get((window, level)), stamp_of(self._folder, window, level)
            if known and stamp and self._stamps.get((window, level)) == stamp:
                return known
            self._stamps[window, level] = stamp
            generation = current(self._folder, window, level)
            if known and known.generation == generation:
                return known
            if generation is None:
                if not self._mirror:  # a copy that was dropped is fetched again; until then what is open serves
                    self._opened.pop((window, level), None)
                return self._opened.get((window, level))
            try:
                self._opened[window, level] = self._open(generation, window, level, known)
            except (Corrupt, IdentityMismatch, Conflict) as error:
                if known is None:
                    raise
                log.warning("the index of window %s goes on as it was: %s", window, error)
            return self._opened[window, level]

    def _open(self, generation: Path, window: Window, level: int, known: OpenedIndex | None) -> OpenedIndex:
        of = partial(OpenedIndex.of, share=self._share, known=known)
        try:
            return of(generation, self._store, self._dataset, window, level)
        except Corrupt:
            newer = current(self._folder, window, level)  # a build may have cleared away what we were told to open
            if newer is None or newer == generation:
                if self._mirror:
                    self._mirror.drop(generation)
                raise
            return of(newer, self._store, self._dataset, window, level)
