"""What an index on disk says about itself, and which generation of it is current.

    <folder>/<window>/current            the name of a generation, replaced atomically
    <folder>/<window>/g-<...>/           manifest.json and the files of FAISS; never changed once named
    <folder>/<window>/.building-<...>/   a build under way, or what a killed one left behind

An index is derived data: whatever is wrong with it, building it again is the cure.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from indexing.ann import KIND, VERSION, Parameters
from service.errors import Conflict, Corrupt, IdentityMismatch
from service.grid import Block
from service.store.contract import Store
from service.values import ModelIdentity, Window

FORMAT: Final = 1
REBUILD: Final = "Build it again with `smalti index build`."
_HASH_UP_TO: Final = 512_000_000
"""Files up to this size are hashed when opened (a second at most); of larger ones only the size is compared."""

Grids = Mapping[str, tuple[float, float, int]]
"""Zone name -> (easting and northing of the origin in metres, EPSG): what row and column are counted from."""


@dataclass(frozen=True)
class FileRecord:
    """One file of the index."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Measure a file."""
        return cls(path.name, path.stat().st_size, _sha256(path))

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
class Tuning:
    """How hard to look, as measured when the index was built, for the 10 best pixels."""

    probes: int
    """Lists to look into."""
    candidates: int
    """Candidates to rank exactly."""
    recall: float
    """Share of the true 10 best that were found, over `queries` held-out pixels."""
    queries: int

    def scaled(self, k: int) -> tuple[int, int]:
        """(probes, candidates) for the k best: 10 k candidates at least, and more lists for more hits."""
        wider = 1 if k <= 10 else 2 if k <= 100 else 4
        return self.probes * wider, max(self.candidates, -(-self.candidates * k // 20))


@dataclass(frozen=True)
class IndexManifest:
    """Everything that decides whether an index may answer, and how."""

    dataset: str
    identity: ModelIdentity
    """The model that made every vector in it."""
    window: Window
    grids: Grids
    blocks: tuple[tuple[Block, str], ...]
    """Each block with the version that was read; position p in the index is pixel p % 65536 of block p // 65536.
    The version is "" where the block changed while it was read: it counts as not held."""
    parameters: Parameters
    count: int
    """Pixels held."""
    tuning: Tuning
    revision: str
    """The store's revision when it was built."""
    files: tuple[FileRecord, ...]
    engine: str = f"{KIND} faiss-{VERSION}"
    built: float = field(default=0.0, compare=False)
    """When, in seconds since 1970; 0 where not recorded."""

    def require_serves(self, store: Store, dataset: str, window: Window) -> None:
        """Refuse to answer for anything but what was indexed.

        Raises:
            IdentityMismatch: The store's vectors are another model's.
            Conflict: Another dataset, window, grid or number of dimensions. Each names both sides.
        """
        if self.identity != store.identity:
            raise IdentityMismatch(
                f"the index of dataset {dataset!r} was made from vectors of {self.identity}, the dataset holds "
                f"{store.identity}.", remedy=REBUILD,
            )  # fmt: skip
        held = {"dataset": self.dataset, "window": self.window, "dimensions": self.parameters.dims}
        asked = {"dataset": dataset, "window": window, "dimensions": store.dims}
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
            "blocks": [[b.zone, b.row, b.col, version] for b, version in self.blocks],
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
            document["blocks"] = tuple((Block(zone, row, col), v) for zone, row, col, v in document["blocks"])
            document["parameters"] = Parameters(**document["parameters"])
            document["tuning"] = Tuning(**document["tuning"])
            document["files"] = tuple(FileRecord(**record) for record in document["files"])
            return cls(**document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(f"is not an index manifest ({error!r}).", remedy=REBUILD) from None


def grids_of(store: Store) -> Grids:
    """What rows and columns are counted from in each zone of a store."""
    return {grid.zone.name: (grid.x0, grid.y0, grid.epsg) for grid in store.zones()}


def current(folder: Path, window: Window) -> Path | None:
    """The folder of the generation that serves now; None where none was ever built.

    Raises:
        Corrupt: The pointer names something that cannot be a generation.
    """
    pointer = folder / str(window) / "current"
    try:
        name = pointer.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Corrupt(f"{pointer} cannot be read: {error}.", remedy=REBUILD) from None
    if not name.startswith("g-") or "/" in name:
        raise Corrupt(f"{pointer} names no generation.", remedy=REBUILD)
    return pointer.parent / name


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
