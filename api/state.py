"""What a running server holds: datasets, models, shelves. Made once by `create_app`, read by every route."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast

from anyio import CapacityLimiter
from fastapi import Request

from api.catalogue import Catalogue, Dataset
from api.fleet import fleet_of
from api.jobs import Jobs
from api.kept import Kept
from api.lookout import Lookout
from api.missing import Hope, blocks_per_hour
from api.reach import access_of
from api.settings import Settings
from api.tally import Tally, tally
from api.turns import Turns
from api.watch import Watch
from indexing.fleet.answering import best_for, candidates_for
from indexing.fleet.shards import IndexName
from indexing.fleet.share import Share
from indexing.index.build import Progress, Run, build_index
from indexing.index.manifest import IndexManifest
from indexing.index.mirror import Mirror, build_published
from indexing.index.opened import OpenedIndex
from indexing.pixels import BlockCache
from indexing.search import Searcher
from service.bucket import open_bucket
from service.encoder import Encoder
from service.errors import InvalidInput, NotFound, SmaltiError, Unavailable
from service.extent import Extent, extent_of
from service.grid import Zone
from service.origins import require_suited, source_in, sources_of
from service.registry import DEFAULT, SHIPPED, Registry
from service.reports import Reports
from service.scenes.access import Access
from service.shelf import Shelf
from service.sources import Source
from service.values import Area, Window

TALLY_S: Final = 10.0
PLANNED_AT_ONCE: Final = 8
"""Areas that are planned, which asks catalogues; more wait, and take no thread from tiles."""
LISTENED_AT_ONCE: Final = 4
"""Looks at the jobs database for streams of events; likewise."""
ASKED_AT_ONCE: Final = 16
"""Questions of other servers of the fleet that are worked on; more wait."""


class State:
    """Everything routes share. Values it hands out are safe to use from many threads."""

    def __init__(self, settings: Settings, watch: Watch | None = None) -> None:
        self.settings = settings
        self.watch = watch or Watch()
        self.storage = open_bucket(settings.storage or settings.home, anonymous=settings.anonymous)
        self.datasets = Catalogue(settings, self.watch, self.storage)
        self.queries = self.shelf("query", "queries")
        self.sources = self.shelf("source", "sources")
        self._bases: dict[str, Shelf] = {}

        self.registry = Registry((SHIPPED, settings.home / "models"))
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self._encoders: dict[str, Encoder] = {}
        self._searchers: dict[tuple[str, str], Searcher] = {}
        self._blocks = BlockCache()
        self.fleet = fleet_of(settings.fleet)
        self._share = Share.parse(settings.fleet.shards)
        self.asked = CapacityLimiter(ASKED_AT_ONCE)
        self._tally: tuple[float, Tally | SmaltiError] | None = None
        self.scrapes = CapacityLimiter(1)
        self.planning, self.listening = CapacityLimiter(PLANNED_AT_ONCE), CapacityLimiter(LISTENED_AT_ONCE)
        self.tiles = Kept(settings.caches.tile_bytes)
        self.turns = Turns(settings.limits, self.watch.metrics.refused)
        self.lookout = Lookout(lambda: self.jobs.running(), self._hope)
        self._extents: dict[str, tuple[object, Extent | None]] = {}

    def extent(self, dataset: Dataset) -> Extent | None:
        """The box of what is embedded; found anew only when a revision has changed."""
        stores = (dataset.store, *dataset.others)
        revisions = tuple(store.revision() for store in stores)
        known = self._extents.get(dataset.id)
        if known is None or known[0] != revisions:
            known = self._extents[dataset.id] = (revisions, extent_of(stores))
        return known[1]

    def encoder(self, model: str) -> Encoder:
        """The opened encoder of a model; opening loads the weights, once, and keeps nobody else's model waiting.

        A few stay open. One that was asked for less lately ends when nobody uses it any more.

        Raises:
            NotFound: No such model.
            Unavailable: The model file or the device is not there.
        """
        registered = self.registry.get(model)
        key = str(registered.manifest.identity)
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                encoder = self._encoders.get(key)
            if encoder is None:
                encoder = Encoder.open(
                    registered,
                    self.settings.device,
                    threads=self.settings.encoder_threads or None,
                    precision=self.settings.precision,
                )
        dropped = self._keep(key, encoder)
        del dropped  # outside of any lock: whoever lets go of an encoder last waits for its threads to end
        return encoder

    def _keep(self, key: str, encoder: Encoder) -> list[Encoder]:
        """Those that have to go, now that this one was asked for."""
        with self._lock:
            self._encoders.pop(key, None)
            self._encoders[key] = encoder
            oldest = list(self._encoders)[: -self.settings.encoders_open]
            return [self._encoders.pop(other) for other in oldest]

    def require_device(self) -> None:
        """Make sure that the device and the precision that were asked for are here, so that nothing starts without.

        Raises:
            Unavailable: They are not.
        """
        device, precision = self.settings.device, self.settings.precision
        if (device, precision) == ("auto", "fp32"):
            return  # a processor is always there
        missing = []
        for name in ("cuda", "openvino") if device == "auto" else (device,):
            # Every GPU has both precisions, but not every model both files: there the device alone is tried.
            tried = precision if name in ("cpu", "openvino") else "fp32"
            try:
                Encoder.open(self.registry.get(DEFAULT), name, threads=1, precision=tried).close()
                return
            except Unavailable as error:
                missing.append(error)
        if len(missing) == 1:
            raise missing[0]
        told = " ".join(error.message for error in missing)
        raise Unavailable(f"nothing here has {precision}: {told}", field="precision", remedy="Use fp32.")

    def searcher(self, dataset: Dataset) -> Searcher:
        """What searches one dataset."""
        with self._lock:
            key = dataset.id, dataset.store.location  # two may name one place, each with an index of its own
            known = self._searchers.get(key)
            if known is None:
                folder = self._mirror(dataset.id) or self.indexes(dataset.id)
                known = Searcher(
                    dataset.store, dataset.id, folder, cache=self._blocks, share=self._share, fleet=self.fleet
                )
                self._searchers[key] = known
            return known

    def encoders(self) -> dict[str, Encoder]:
        """The encoders that are open, by identity; the one asked for last comes last."""
        with self._lock:
            return dict(self._encoders)

    def searchers(self) -> dict[str, list[Searcher]]:
        """What has searched so far, by dataset."""
        with self._lock:
            known = dict(self._searchers)
        found: dict[str, list[Searcher]] = {}
        for dataset in self.datasets.all():
            stores = (dataset.store, *dataset.others)
            keys = [(dataset.id, store.location) for store in stores]
            found[dataset.id] = [known[key] for key in keys if key in known]
        return found

    def tally(self) -> Tally:
        """The jobs in numbers, a few seconds old at most: Prometheus may ask often, and from many places.

        Raises:
            Unavailable: The jobs database cannot be reached, or could not be a few seconds ago: each try takes long.
        """
        known = self._tally
        if known is None or time.monotonic() - known[0] > TALLY_S:
            found = self._counted()
            known = self._tally = time.monotonic(), found  # only now: finding out may take longer than it is kept
        if isinstance(known[1], SmaltiError):
            raise known[1].with_traceback(None)
        return known[1]

    def _counted(self) -> Tally | SmaltiError:
        try:
            return tally(self.jobs)
        except SmaltiError as error:
            return error

    def bases(self, dataset_id: str) -> Shelf:
        """The PCA bases of one dataset."""
        with self._lock:
            if dataset_id not in self._bases:
                self._bases[dataset_id] = self.shelf("basis", "bases", dataset_id)
            return self._bases[dataset_id]

    def shelf(self, noun: str, *names: str) -> Shelf:
        """A shelf in the storage."""
        return Shelf(self.storage.at("shelf", *names), noun)

    def reports(self, dataset_id: str) -> Reports:
        """What the blocks of one dataset were made from."""
        return Reports(self.storage.at("shelf", "reports", dataset_id))

    @cached_property
    def access(self) -> Access:
        """What reaches catalogues and scenes; connects when first asked."""
        return access_of(self.settings.scenes, self.datasets.near)

    @cached_property
    def jobs(self) -> Jobs:
        """Areas that are being embedded, as their database tells; connects when first asked."""
        return Jobs(self.settings)

    def _hope(self, dataset_id: str, window: str) -> Hope:
        document = self.source(dataset_id) if self.datasets[dataset_id].store.writable else None
        if document is None:
            return Hope()
        reach = tuple(source.placement for source in self.sources_of(dataset_id, Window.parse(window)))
        return Hope(reach, blocks_per_hour(document))

    def source(self, dataset_id: str) -> dict[str, Any] | None:
        """The document that says where a dataset's time series come from; None where nothing does.

        What people wrote into `smalti.toml` counts before what a command left.
        """
        document = self.datasets.source(dataset_id)
        if document is None:
            with suppress(NotFound):
                document = self.sources.get(dataset_id)[1]
        if document is not None:
            self.datasets.hide(document, dataset_id)
        return document

    def sources_of(self, dataset_id: str, window: Window, area: Area | None = None) -> tuple[Source, ...]:
        """Where a dataset's time series come from: one for each zone, or of those that an area touches.

        Raises:
            InvalidInput: Nothing says where from, or the model was trained on other scenes.
            Corrupt: This version does not know such a source.
            Unavailable: Whoever holds the scenes cannot be asked now.
        """
        return sources_of(self._document(dataset_id), window, self.access, area)

    def source_in(self, dataset_id: str, window: Window, zone: Zone) -> Source:
        """The same in one zone; raises what `sources_of` does, InvalidInput also where it does not reach there."""
        return source_in(self._document(dataset_id), window, self.access, zone)

    def _document(self, dataset_id: str) -> dict[str, Any]:
        document = self.source(dataset_id)
        if document is None:
            raise InvalidInput(
                f"dataset {dataset_id!r} has no source to take time series from.",
                field="dataset",
                remedy="Upload them to POST /embed.",
            )
        with suppress(NotFound):  # a model that is not here embeds nothing either
            require_suited(document, self.registry.get(str(self.datasets[dataset_id].store.identity)).manifest)
        return document

    def indexes(self, dataset_id: str) -> Path:
        """The folder of one dataset's search indexes: where they lie, or copies of what lies in a bucket."""
        if not self.storage.remote:
            return Path(self.storage.location) / "index" / dataset_id
        place = sha256(self.storage.location.encode()).hexdigest()[:12]
        share = "" if self._share.is_all else f".{self._share.part}-of-{self._share.of}"
        return self.settings.home / "copies" / f"{place}{share}" / dataset_id

    def build_folder(self, dataset_id: str) -> Path:
        """The folder that one dataset's indexes are built in."""
        return self.settings.home / "build" / dataset_id if self.storage.remote else self.indexes(dataset_id)

    def _mirror(self, dataset_id: str) -> Mirror | None:
        published = self.storage.at("index", dataset_id)
        return Mirror(self.indexes(dataset_id), published, self._share) if self.storage.remote else None

    def build_index(
        self,
        dataset: Dataset,
        window: Window,
        *,
        level: int = 1,
        seed: int = 0,
        rebuild: bool = False,
        on_progress: Progress | None = None,
        run: Run = map,
    ) -> IndexManifest:
        """Index a window of a dataset, whose store must be the one that holds it, and let it serve everywhere.

        Args:
            dataset: The dataset.
            window: One of its windows.
            level: Whose pixels.
            seed: What sampling and clustering start from.
            rebuild: Whether to make everything anew.
            on_progress: Told how far it is.
            run: Has the segments made, in `build_folder`.

        Raises:
            NotFound, Conflict, Corrupt, ReadOnly, Unavailable: As `build_published` does; what served goes on.
        """
        how: dict[str, Any] = {
            "level": level, "seed": seed, "rebuild": rebuild, "on_progress": on_progress, "run": run
        }  # fmt: skip
        folder = self.build_folder(dataset.id)
        if not self.storage.remote:
            return build_index(dataset.store, dataset.id, window, folder, **how)
        bucket = self.storage.at("index", dataset.id)
        return build_published(dataset.store, dataset.id, window, folder, bucket, **how)

    def candidates(self, message: bytes) -> bytes:
        """What another server of the fleet is answered: see `candidates_for`."""
        return candidates_for(message, self._index)

    def best(self, message: bytes) -> bytes:
        """What another server of the fleet is answered: see `best_for`."""
        return best_for(message, self._index)

    def _index(self, name: IndexName) -> OpenedIndex | None:
        return self.searcher(self.datasets[name.dataset].at(name.window)).index(name.window, name.level)

    def fetch_index(self, dataset_id: str, window: Window) -> None:
        """Have the newest index of a window here, where indexes are copied.

        Raises:
            Unavailable, Corrupt: It could not be fetched.
        """
        mirror = self._mirror(dataset_id)
        if mirror:
            mirror.fetch(window)


def get_state(request: Request) -> State:
    """The state of the app that answers `request`."""
    return cast(State, request.app.state.smalti)
