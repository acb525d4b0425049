"""What an index on disk says about itself, and which generation of it is current.

    <folder>/<window>/current       the name of a generation, replaced atomically; `<window>.x8` of overview level 8
    <folder>/<window>/g-<...>/      manifest.json; never changed once named
    <folder>/<window>/q-<...>/      a quantiser: the centres of the lists, and pixels held out to measure by
    <folder>/<window>/s-<...>/      a segment, or shard: the pixels of up to 128 blocks
    <folder>/<window>/.part-*/      what is being made, or what a killed build left behind

Quantisers and segments are named by what they were made from, never change, and are shared by successive generations:
growing an index copies nothing, and a build that was killed is gone on with. An index is derived data: whatever is
wrong with it, building it again is the cure.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from indexing.fleet.share import Share
from indexing.index.ann import KIND, VERSION, Parameters
from indexing.index.tuning import Tuning
from service.errors import Conflict, Corrupt, IdentityMismatch
from service.grid import Block
from service.store.contract import Store
from service.values import ModelIdentity, Window

FORMAT: Final = 3
REBUILD: Final = "Build it again with `smalti index build`."
ENGINE: Final = f"{KIND} faiss-{VERSION}"
_HASH_UP_TO: Final = 64_000_000
"""Files up to this size are hashed when opened (0.1 s at most); of larger ones only the size is compared, as nothing in
them can lead a search astray that is not looked at again."""
_DIGITS: Final = 20

Grids = Mapping[str, tuple[float, float, int]]
"""Zone name -> (easting and northing of the origin in metres, EPSG): what row and column are counted from."""


@dataclass(frozen=True)
class FileRecord:
    """One file of the index."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, sha256: str | None = None) -> Self:
        """Measure a file; its hash is taken as told where it is known."""
        return cls(path.name, path.stat().st_size, sha256 or _sha256(path))

    @property
    def key(self) -> str:
        """What it is called in a bucket: two machines may make the same thing of slightly different bytes."""
        return f"{self.name}.{self.sha256[:_DIGITS]}"

    def check(self, folder: Path, *, whole: bool = False) -> Path:
        """The path of the file, once it is known to be the one that was written; `whole` hashes it whatever its size.

        Raises:
            Corrupt: It is missing or was changed. Names it.
        """
        path = folder / self.name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise Corrupt(f"index file {path} cannot be read: {error.strerror}.", remedy=REBUILD) from None
        if size != self.bytes:  # reading on would end the process: a mapped file that is too short raises SIGBUS
            raise Corrupt(f"index file {path} has {size:,} bytes, not {self.bytes:,}.", remedy=REBUILD)
        if (whole or size <= _HASH_UP_TO) and _sha256(path) != self.sha256:
            raise Corrupt(f"index file {path} was changed since it was written.", remedy=REBUILD)
        return path


@dataclass(frozen=True)
class QuantiserRecord:
    """The centres of the lists, shared by all segments."""

    name: str
    trained: int
    """Pixels that it was trained for."""
    parameters: Parameters
    files: tuple[FileRecord, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the centres and the graph over them."""
        return sum(record.bytes for record in self.files if record.name.endswith(".faiss"))

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read it back."""
        files = tuple(FileRecord(**record) for record in document["files"])
        return cls(document["name"], int(document["trained"]), Parameters(**document["parameters"]), files)


@dataclass(frozen=True)
class SegmentRecord:
    """One segment: a shard, by the name that answers use for it."""

    name: str
    zone: str
    blocks: tuple[tuple[Block, str], ...]
    """Each slot's block with the version that was read; "" where the slot counts for nothing any more: its block
    changed while it was read, or is held by another segment by now."""
    counts: tuple[int, ...]
    """Pixels of each slot that can be hits."""
    files: tuple[FileRecord, ...]

    @property
    def pixels(self) -> int:
        """Pixels that can be proposed."""
        return sum(count for (_, version), count in zip(self.blocks, self.counts, strict=True) if version)

    @property
    def bytes(self) -> int:
        """Bytes of the lists; what candidates are ranked by is not counted."""
        return sum(record.bytes for record in self.files if record.name.startswith("lists."))

    def document(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self) | {"blocks": [[b.zone, b.row, b.col, b.level, version] for b, version in self.blocks]}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read it back."""
        blocks = tuple((Block(str(z), int(r), int(c), int(n)), str(v)) for z, r, c, n, v in document["blocks"])
        files = tuple(FileRecord(**record) for record in document["files"])
        return cls(document["name"], document["zone"], blocks, tuple(map(int, document["counts"])), files)


@dataclass(frozen=True)
class IndexManifest:
    """Everything that decides whether an index may answer, and how."""

    dataset: str
    identity: ModelIdentity
    """The model that made every vector in it."""
    window: Window
    level: int
    """Whose pixels it holds: 1, or that of an overview."""
    grids: Grids
    quantiser: QuantiserRecord
    segments: tuple[SegmentRecord, ...]
    tunings: tuple[Tuning, ...]
    """What was measured, cheapest first; one at least."""
    tuning: Tuning
    """What is taken unless more is asked for."""
    revision: str
    """The store's revision when it was built."""
    engine: str = ENGINE
    built: float = field(default=0.0, compare=False)
    """When, in seconds since 1970; 0 where not recorded."""

    @property
    def parameters(self) -> Parameters:
        """How the lists are laid out."""
        return self.quantiser.parameters

    @cached_property
    def count(self) -> int:
        """Pixels held."""
        return sum(segment.pixels for segment in self.segments)

    @cached_property
    def blocks(self) -> tuple[tuple[Block, str], ...]:
        """Each block that is held, with its version."""
        return tuple((block, version) for segment in self.segments for block, version in segment.blocks if version)

    def held_by(self, share: Share) -> frozenset[str]:
        """Names of the segments that belong to a share of them."""
        return share.chosen({segment.name: len(segment.blocks) for segment in self.segments})

    @property
    def bytes(self) -> int:
        """Bytes of quantiser and lists."""
        return self.quantiser.bytes + sum(segment.bytes for segment in self.segments)

    def require_serves(self, store: Store, dataset: str, window: Window, level: int = 1) -> None:
        """Refuse to answer for anything but what was indexed.

        Raises:
            IdentityMismatch: The store's vectors are another model's.
            Conflict: Another dataset, window, level, grid or number of dimensions, or lists that another release
                packed. Each names both sides.
        """
        if self.identity != store.identity:
            raise IdentityMismatch(
                f"the index of dataset {dataset!r} was made from vectors of {self.identity}, the dataset holds "
                f"{store.identity}.", remedy=REBUILD,
            )  # fmt: skip
        held = {
            "dataset": self.dataset, "window": self.window, "level": self.level, "dimensions": self.parameters.dims,
            "lists packed by": self.engine,
        }  # fmt: skip
        asked = {
            "dataset": dataset, "window": window, "level": level, "dimensions": store.dims, "lists packed by": ENGINE
        }  # fmt: skip
        now = grids_of(store)
        for zone, grid in self.grids.items():
            held[f"grid of zone {zone}"], asked[f"grid of zone {zone}"] = tuple(grid), now.get(zone)
        for name, value in held.items():
            if value != asked[name]:
                raise Conflict(f"the index holds {name} {value}, asked is {asked[name]}.", remedy=REBUILD)

    def to_json(self) -> str:
        """As it is stored."""
        document = asdict(self) | {
            "format": FORMAT,
            "identity": str(self.identity),
            "window": str(self.window),
            "segments": [segment.document() for segment in self.segments],
        }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read it back.

        Raises:
            Corrupt: It is not a manifest, or of a format this release does not know.
        """
        try:
            document: dict[str, Any] = json.loads(text)
            known = document.pop("format")
            if known != FORMAT:
                raise Corrupt(f"has format {known}, this release reads {FORMAT}.", remedy=REBUILD)
            document["identity"] = ModelIdentity.parse(document["identity"])
            document["window"] = Window.parse(document["window"])
            document["grids"] = {zone: tuple(grid) for zone, grid in document["grids"].items()}
            document["quantiser"] = QuantiserRecord.from_document(document["quantiser"])
            document["segments"] = tuple(SegmentRecord.from_document(each) for each in document["segments"])
            document["tunings"] = tuple(Tuning(**each) for each in document["tunings"])
            document["tuning"] = Tuning(**document["tuning"])
            return cls(**document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(f"is not an index manifest ({error!r}).", remedy=REBUILD) from None


def grids_of(store: Store) -> Grids:
    """What rows and columns are counted from in each zone of a store."""
    return {grid.zone.name: (grid.x0, grid.y0, grid.epsg) for grid in store.zones()}


def home_of(folder: Path, window: Window, level: int = 1) -> Path:
    """The folder of the index of one window and level."""
    return folder / (str(window) if level == 1 else f"{window}.x{level}")


def name_of(kind: str, *parts: Any) -> str:
    """`s-` or `q-` and what something was made from, hashed: plain values only."""
    told = json.dumps([FORMAT, ENGINE, *parts], sort_keys=True)
    return f"{kind}-{hashlib.sha256(told.encode()).hexdigest()[:_DIGITS]}"


def current(folder: Path, window: Window, level: int = 1) -> Path | None:
    """The folder of the generation that serves now; None where none was ever built.

    Raises:
        Corrupt: The pointer names something that cannot be a generation.
    """
    pointer = home_of(folder, window, level) / "current"
    try:
        name = pointer.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Corrupt(f"{pointer} cannot be read: {error}.", remedy=REBUILD) from None
    if not name.startswith("g-") or "/" in name:
        raise Corrupt(f"{pointer} names no generation.", remedy=REBUILD)
    return pointer.parent / name


Stamp = tuple[int, int] | None
"""What tells one pointer from the next, which is another file; None where there is none."""


def stamp_of(folder: Path, window: Window, level: int = 1) -> Stamp:
    """Which pointer is there now: it takes a fraction of reading it, and every search asks."""
    try:
        found = (home_of(folder, window, level) / "current").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def load(generation: Path) -> IndexManifest:
    """The manifest of a generation.

    Raises:
        Corrupt: It is missing or damaged. Names the file.
    """
    path = generation / "manifest.json"
    try:
        return IndexManifest.from_json(path.read_text())
    except Corrupt as error:
        raise Corrupt(f"{path} {error.message}", remedy=error.remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Corrupt(f"{path} cannot be read: {error}.", remedy=REBUILD) from None


def write_durably(path: Path, text: str) -> None:
    """Write a file whole or not at all, and have it on disk before returning."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
