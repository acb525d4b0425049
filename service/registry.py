"""Models on disk: a folder each, holding `manifest.json` and the ONNX file that it names and vouches for."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from service.dpixels import BANDS
from service.errors import Conflict, Corrupt, InvalidInput, NotFound, SmaltiError, Unavailable
from service.families import SAMPLINGS, Statistics
from service.parity import PARITY, ParityRow, joined, read_parity, write_parity
from service.quant import Variant
from service.unfinished import making
from service.values import ModelIdentity

SHIPPED: Final = Path(__file__).parent / "models"
"""The folder of models that come with smalti."""

DEFAULT: Final = "smalti-mini"
"""What runs where no model is named."""

MANIFEST: Final = "manifest.json"

ORIGIN: Final = "checkpoint.json"
"""Beside a manifest: where the checkpoint lies that the model was made from (`path`, `sha256`)."""

TOLD: Final = frozenset({"title", "licence", "origin", "training"})
"""Fields of a manifest that are for people: models that differ in nothing else are one."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelManifest:
    """Everything needed to run an encoder and to say what it is."""

    identity: ModelIdentity
    """Which model: no two files share one."""
    family: str
    """Whose input and sampling rules it follows, such as `tessera-v2`."""
    sha256: str
    """Of the ONNX file, 64 hex digits."""
    statistics: Statistics
    """Of the data it was trained on."""
    dims: int
    """Length of a vector."""
    licence: str
    """SPDX name."""
    origin: str
    """Who made it, and from what."""
    depths: tuple[int, ...] = ()
    """Prefix lengths that are vectors in their own right (Matryoshka), ascending; empty: only the whole is."""
    bands: tuple[str, ...] = BANDS
    """Order of the Sentinel-2 bands in the graph's input."""
    sampling: str = "v2"
    """Rule that turns n observations into a sequence."""
    quantiser: Variant = "v2"
    """Variant of service.quant that its vectors are stored with."""
    doy: str = "sin-cos-10000"
    """Rule of the day-of-year encoding inside the graph; day 0 stands for a missing sensor."""
    max_observations: int = 256
    """Longest sequence of one sensor."""
    file: str = "model.onnx"
    """Name of the ONNX file in the same folder."""
    title: str = ""
    """One line for people."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained: data, seeds, steps, scores."""
    data_file: str = ""
    """Weights that the ONNX file keeps beside it (one file holds 2 GB at most); empty: it holds them itself."""
    data_sha256: str = ""
    half_file: str = ""
    """The same graph with float16 weights and products, for engines that want it; empty: there is none."""
    half_sha256: str = ""
    half_data_file: str = ""
    """Weights beside the half file."""
    half_data_sha256: str = ""
    checkpoint_sha256: str = ""
    """Of the published checkpoint it was made from; empty: unknown."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "bands", tuple(self.bands))
        checks = {
            "sha256": _HASH.fullmatch(self.sha256),
            "bands": sorted(self.bands) == sorted(BANDS),
            "sampling": self.sampling in SAMPLINGS,
            "quantiser": self.quantiser in ("v1", "v2"),
            "doy": self.doy == "sin-cos-10000",
            "dims": 1 <= self.dims <= 4096,
            "depths": all(0 < a < b for a, b in zip((0, *self.depths), self.depths, strict=False) if a)
            and all(0 < depth <= self.dims for depth in self.depths),
            "max_observations": self.max_observations % 8 == 0 and 8 <= self.max_observations <= 256,
            "file": _plain(self.file, ".onnx"),
            "half_file": not self.half_file or _plain(self.half_file, ".onnx"),
            "data_file": not self.data_file or _plain(self.data_file, ".data"),
            "half_data_file": not self.half_data_file or _plain(self.half_data_file, ".data"),
            "checkpoint_sha256": not self.checkpoint_sha256 or _HASH.fullmatch(self.checkpoint_sha256),
        }
        for name in ("data", "half", "half_data"):
            named, vouched = getattr(self, f"{name}_file"), getattr(self, f"{name}_sha256")
            checks[f"{name}_sha256"] = bool(_HASH.fullmatch(vouched)) if named else not vouched
        for name, good in checks.items():
            if not good:
                raise InvalidInput(f"{getattr(self, name)!r} is not understood by this version.", field=name)

    @property
    def files(self) -> dict[str, str]:
        """Every file it vouches for, by name, with its SHA-256."""
        named = {
            self.file: self.sha256,
            self.data_file: self.data_sha256,
            self.half_file: self.half_sha256,
            self.half_data_file: self.half_data_sha256,
        }
        return {name: sha256 for name, sha256 in named.items() if name}

    def to_json(self) -> str:
        """The manifest as text, fields in order."""
        body = asdict(self) | {"identity": str(self.identity), "training": dict(self.training)}
        return json.dumps(body, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelManifest:
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: It is no manifest, or asks for something this version does not know.
        """
        try:
            body = json.loads(text)
            body["identity"] = ModelIdentity.parse(body["identity"])
            body["statistics"] = Statistics(**body["statistics"])
            return cls(**body)
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(f"is no model manifest: {error}", field=MANIFEST) from None


@dataclass(frozen=True)
class RegisteredModel:
    """A model that can be opened."""

    manifest: ModelManifest
    path: Path
    """The ONNX file."""
    parity: tuple[ParityRow, ...] = ()
    """How faithful it was found to be here; empty: nobody looked."""

    @property
    def half_path(self) -> Path | None:
        """The ONNX file with float16 inside; none where there is none."""
        return self.path.with_name(self.manifest.half_file) if self.manifest.half_file else None

    def require_files(self) -> None:
        """See that every file is there, without reading it.

        Raises:
            Unavailable: One is not.
            Corrupt: One is empty.
        """
        for name in self.manifest.files:
            _size(self.path.with_name(name))

    def verify(self) -> None:
        """Hold every file against its manifest.

        Raises:
            Unavailable: A file is not there.
            Corrupt: It is another file than the manifest vouches for.
        """
        for name, sha256 in self.manifest.files.items():
            _vouch(self.path.with_name(name), sha256)


class Registry:
    """The models in some folders; the first folder wins where two hold the same identity.

    Args:
        folders: Each holds a folder a model. Ones that do not exist are empty.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    def list(self) -> tuple[RegisteredModel, ...]:
        """Every model with a readable manifest, by identity."""
        found: dict[str, RegisteredModel] = {}
        for folder in self._folders():
            try:
                model = self._found_here(read_model(folder))
            except SmaltiError:
                continue
            found.setdefault(str(model.manifest.identity), model)
        return tuple(found[key] for key in sorted(found))

    def problems(self) -> tuple[SmaltiError, ...]:
        """What is wrong with the folders that `list` leaves out."""
        errors = []
        for folder in self._folders():
            try:
                read_model(folder)
            except SmaltiError as error:
                errors.append(error)
        return tuple(errors)

    def get(self, name: str) -> RegisteredModel:
        """The model of that identity, `name@version[/variant]`, or the newest version of that name.

        Raises:
            NotFound: There is none.
            Corrupt: The folder of that name cannot be read.
        """
        models = self.list()
        if "@" in name:
            wanted = ModelIdentity.parse(name)
            matches = [model for model in models if model.manifest.identity == wanted]
        else:
            matches = [model for model in models if model.manifest.identity.name == name]
        if matches:
            return max(matches, key=lambda model: _version_key(model.manifest.identity))
        for folder in self._folders():
            if folder.name.partition("@")[0] == name.partition("@")[0]:
                return read_model(folder)
        known = ", ".join(str(model.manifest.identity) for model in models) or "none"
        raise NotFound(f"no model {name[:80]!r}.", field="model", remedy=f"There are: {known}.")

    def keep_parity(self, model: RegisteredModel, rows: Sequence[ParityRow]) -> None:
        """Keep what was measured, and what was before of other engines and precisions.

        It lies beside the manifest, or, for a model that came with smalti, in the last folder.
        """
        own = model.path.is_relative_to(self.folders[-1])
        write_parity(model.path.parent if own else self._parity_of(model), joined(model.parity, rows))

    def _parity_of(self, model: RegisteredModel) -> Path:
        return self.folders[-1] / ".parity" / _folder_name(model.manifest.identity)

    def _found_here(self, model: RegisteredModel) -> RegisteredModel:
        return replace(model, parity=model.parity or read_parity(self._parity_of(model)))

    def _folders(self) -> Iterator[Path]:
        for folder in self.folders:
            if folder.is_dir():
                yield from sorted(path for path in folder.iterdir() if (path / MANIFEST).is_file())


def read_model(folder: Path) -> RegisteredModel:
    """The model in one folder; the ONNX file itself is looked at when it is opened.

    Raises:
        Unavailable: No manifest there.
        Corrupt: The manifest cannot be read.
    """
    remedy = "Delete the folder, and import or export the model again."
    try:
        manifest = ModelManifest.from_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise Unavailable(f"{folder} holds no {MANIFEST}.", remedy=remedy) from None
    except InvalidInput as error:
        raise Corrupt(f"{folder / MANIFEST}: {error}", remedy=remedy) from None
    return RegisteredModel(manifest, folder / manifest.file, read_parity(folder))


def register(folder: Path, src: Path, *, move: bool = False) -> RegisteredModel:
    """Bring the model in folder `src` into the registry folder `folder`, whole or not at all.

    Args:
        folder: Of the registry.
        src: A model's.
        move: Take its files instead of copying them.

    Raises:
        Unavailable, Corrupt: `src` holds no whole model.
        Conflict: Another model of that identity is there.
    """
    model = read_model(src)
    model.verify()
    target = folder / _folder_name(model.manifest.identity)
    if target.exists():
        return _same(target, model.manifest)
    with making(folder) as temporary:
        whole = temporary / "model"
        whole.mkdir()
        beside = (src / name for name in (PARITY, ORIGIN) if (src / name).is_file())
        for path in (*src.glob("*.md"), src / MANIFEST, *beside, *(src / name for name in model.manifest.files)):
            (shutil.move if move else shutil.copy2)(path, whole / path.name)
        try:
            whole.rename(target)
        except OSError:  # somebody else's import of it was faster
            if not target.exists():
                raise
            return _same(target, model.manifest)
    return read_model(target)


def _same(target: Path, manifest: ModelManifest) -> RegisteredModel:
    """The model that is there; Conflict if it is not the one that is to be, or lacks a file."""
    there = read_model(target)
    new, old = asdict(manifest), asdict(there.manifest)
    differ = [name for name in new if name not in TOLD and new[name] != old[name]]
    if any(new[name] or not name.startswith("half_") for name in differ):  # a half file may be there unasked
        raise Conflict(
            f"another {manifest.identity} is registered; it differs in {', '.join(differ)}.",
            remedy=f"Give it another name or version, or delete {target} first.",
        )
    return there


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    if not path.is_file():
        raise Unavailable(f"model file {path} is missing.", remedy="Fetch or import the model again.")
    if not (size := path.stat().st_size):
        raise Corrupt(f"model file {path} is empty.", remedy="Fetch or import the model again.")
    return size


def _vouch(path: Path, sha256: str) -> None:
    _size(path)
    if (found := sha256_of(path)) != sha256:
        raise Corrupt(
            f"model file {path} is not the one its manifest names (SHA-256 {found[:12]}... instead of "
            f"{sha256[:12]}...).",
            remedy="Fetch or import the model again.",
        )


def _plain(name: str, suffix: str) -> bool:
    return Path(name).name == name and name.endswith(suffix)


def _folder_name(identity: ModelIdentity) -> str:
    return f"{identity.name}@{identity.version}~{identity.variant}"


def _version_key(identity: ModelIdentity) -> tuple[tuple[int, ...], str]:
    return tuple(int(part) for part in re.findall(r"\d+", identity.version)), str(identity)
