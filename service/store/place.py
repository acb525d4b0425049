"""A published Zarr store, opened once: the group that zarr reads, what says whether it changed, what lies in it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zarr
from zarr.core.sync import sync

from service.bucket import is_remote
from service.errors import Corrupt
from service.store.codecs import rust_codecs
from service.store.faults import Array, reading
from service.store.near import NearStore
from service.store.records import Record, Records, object_name
from service.store.transport import RemoteStore, Root

Coordinates = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where a store lies and how it is reached."""

    location: str
    """Absolute path or URL."""
    anonymous: bool = False
    """Whether requests to S3 are sent unsigned."""
    records: Records = field(default_factory=Records, compare=False)
    """Where what is fetched over a network stays."""

    def under(self, name: str) -> Place:
        """A store in the folder that this is."""
        return Place(f"{self.location}/{name}", self.anonymous, self.records)

    def is_there(self) -> bool:
        """Whether a web server or a bucket has a store there.

        Raises:
            Unavailable: The transport failed.
        """
        return sync(RemoteStore(self.location, self.anonymous).exists("zarr.json"))

    def open(self, changed: Mapping[str, str] | None = None) -> Opened:
        """Open the store.

        Args:
            changed: Objects that were found to be others than they were, from what was opened before.

        Raises:
            NotFound: Nothing is there.
            Corrupt: The root metadata is missing or damaged.
            Unavailable: The transport failed.
        """
        with reading(self.location, "root metadata (zarr.json)"):
            return _remote(self, changed or {}) if is_remote(self.location) else _local(self.location)


class Listing:
    """What a bucket says of the stored scales: what is near of a shard is good for as long as that stays the same.

    The codes beside them are written together with them. What has no scales beside it is good for as long as nothing
    changes at all.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[str, Coordinates], str] = {}
        self._whole = ""
        self._spot: Callable[[Coordinates], Coordinates] = lambda at: at

    def tell(
        self,
        found: Mapping[str, Mapping[Coordinates, str]],
        spot: Callable[[Coordinates], Coordinates],
        beside: bool,
    ) -> None:
        """Take note of what `Opened.objects` found.

        Args:
            found: Of the arrays `{group}/scales`.
            spot: From the coordinates of an object of any array to what it has in common with those beside it.
            beside: Whether the objects of codes and scales hold the same pixels, so that one lies beside the other.
        """
        self._whole = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:20] if found else ""
        if not beside:
            return
        self._spot = spot
        self._told = {
            (path.partition("/")[0], spot(at)): validator
            for path, held in found.items()
            for at, validator in held.items()
        }

    def of(self, key: str) -> str:
        """What was said of the scales beside an object, or of all; "" where nothing was."""
        path, _, at = key.partition("/c/")
        parts = at.split("/")
        if not all(part.isdigit() for part in parts):
            return ""
        return self._told.get((path.partition("/")[0], self._spot(tuple(map(int, parts)))), self._whole)


@dataclass(frozen=True, eq=False)
class Opened:
    """A store as it was when it was opened."""

    location: str
    root: zarr.Group
    names: tuple[str, ...]
    """Of the groups that the metadata lists."""
    generation: str
    """A hash of all that tells one state of the store from another."""
    remote: RemoteStore | None = None
    known: Root | None = None
    before: Mapping[str, str] = field(default_factory=dict)
    """What `open` was given."""
    listing: Listing = field(default_factory=Listing)

    @property
    def changed(self) -> dict[str, str]:
        """Objects that were found to be others than they were, since the store was opened first."""
        return {**self.before, **(self.remote.changed if self.remote else {})}

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the root."""
        return dict(self.root.attrs)

    @property
    def listed(self) -> bool:
        """Whether it can be asked which objects there are."""
        return self.root.store.supports_listing

    def unchanged(self) -> bool:
        """Whether it is beyond a network and still what it was, as far as one small request tells.

        Raises:
            Unavailable: The transport failed.
        """
        return self.remote is not None and not self.remote.changed and self.remote.root(self.known) is None

    def array(self, group: str, name: str) -> Array:
        """An array that must be there.

        Raises:
            Corrupt: It is not, or its metadata cannot be read.
        """
        path = f"{group}/{name}"
        with reading(self.location, f"array {path}"), rust_codecs():
            found = self.root.get(path)
        if found is None:
            raise Corrupt(f"{self.location}: array {path} is missing.")
        if not isinstance(found, zarr.Array):
            raise Corrupt(f"{self.location}: {path} is no array.")
        return found

    def objects(self, paths: Iterable[str]) -> dict[str, dict[Coordinates, str]]:
        """The stored objects of some arrays, by array: coordinates, and what says whether they changed.

        Only where `listed`. Raises as `array` does.
        """
        paths = list(paths)
        with reading(self.location, "the list of objects"):
            return dict(zip(paths, sync(self._all(paths)), strict=True))

    async def _all(self, paths: Iterable[str]) -> list[dict[Coordinates, str]]:
        return await asyncio.gather(*(self._objects(path) for path in paths))

    async def _objects(self, path: str) -> dict[Coordinates, str]:
        prefix = f"{path}/c/"
        if self.remote:
            found = {key: validator async for key, validator in self.remote.listing(prefix)}
        else:
            found = {key: "" async for key in self.root.store.list_prefix(prefix)}
        parts = {tuple(key.partition(prefix)[2].split("/")): validator for key, validator in found.items()}
        held = {at: validator for at, validator in parts.items() if all(s.isdigit() for s in at)}
        return {tuple(map(int, at)): validator for at, validator in sorted(held.items())}


def _local(location: str) -> Opened:
    names = sorted(zarr.open_group(location, mode="r", zarr_format=3).group_keys())
    # What the consolidated metadata lists must be there: a store cut short is told from an empty one.
    root = zarr.open_group(location, mode="r", zarr_format=3, use_consolidated=False)
    digest = hashlib.sha256(_text(root))
    for path in sorted(Path(location).glob("utm*/**/*")):
        if path.is_file():
            stat = path.stat()
            digest.update(f"{path.relative_to(location)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return Opened(location, root, tuple(names), digest.hexdigest()[:20])


def _remote(place: Place, changed: Mapping[str, str]) -> Opened:
    remote = RemoteStore(place.location, place.anonymous)
    known = remote.root()
    if known is None:  # only a conditional question is answered so
        raise Corrupt(f"{place.location}: the root metadata (zarr.json) cannot be read.")
    changed = _changed(place, known, changed)
    digest = hashlib.sha256("\n".join((known.generation, *(f"{k} {v}" for k, v in sorted(changed.items())))).encode())
    generation = digest.hexdigest()[:20]
    listing = Listing()
    near = NearStore(remote, place.records, place.location, lambda key: f"{generation} {listing.of(key)}")
    remote.validators["zarr.json"] = known.validator
    near.keep("zarr.json", None, known.body)
    root = zarr.open_group(near, mode="r", zarr_format=3)
    if root.metadata.consolidated_metadata is None and not remote.listed:
        raise Corrupt(
            f"{place.location} has no consolidated metadata, and a web server cannot be asked what there is.",
            remedy="Consolidate it (zarr.consolidate_metadata), or serve it from a bucket.",
        )
    names = tuple(sorted(root.group_keys()))
    return Opened(place.location, root, names, generation, remote, known, changed, listing)


def _changed(place: Place, known: Root, found: Mapping[str, str]) -> dict[str, str]:
    """Objects that changed while the root metadata did not: found now, or before by whoever shares the records.

    A later process must not take for near what was kept beside them before they changed.
    """
    name = object_name(place.location, known.generation, "changed")
    held = place.records.get(name, "all")
    changed = {**(json.loads(held.body) if held else {}), **found}
    if changed:
        place.records.put(name, "all", Record(json.dumps(changed).encode()))
    return changed


def _text(root: zarr.Group) -> bytes:
    return json.dumps(root.metadata.to_dict(), sort_keys=True, default=str).encode()
