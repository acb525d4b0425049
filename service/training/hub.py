"""Published checkpoints by short names: where they are, and how they get here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from service.errors import Corrupt, NotFound, Unavailable
from service.registry import sha256_of
from service.values import ModelIdentity

ROOM: Final = 2.6
"""Disk that a checkpoint takes here, of its own size: itself, the graph, and the graph in half precision."""
MEMORY: Final = 2.0
"""Memory that checking it takes, of its own size: the network in torch and in an engine."""


@dataclass(frozen=True)
class Published:
    """A checkpoint on the model hub."""

    identity: ModelIdentity
    family: str
    repo: str
    file: str

    @property
    def address(self) -> str:
        """Where a person finds it."""
        return f"https://huggingface.co/{self.repo}/resolve/main/{self.file}"


def _named(name: str, version: str, family: str, repo: str, file: str) -> Published:
    return Published(ModelIdentity(name, version), family, f"geotessera/{repo}", file)


PUBLISHED: Final[Mapping[str, Published]] = MappingProxyType(
    {
        one.identity.name: one
        for one in (
            *(
                _named(
                    f"tessera-v2-{size}", "2.0", "tessera-v2", f"TESSERA-V-2.0-2B-{size[0].upper()}",
                    f"ckpt/student_{size}.pt",
                )
                for size in ("nano", "small", "medium", "large")
            ),
            _named(
                "tessera-v2-teacher", "2.0", "tessera-v2-teacher", "TESSERA-V-2.0-2B-Teacher",
                "ckpt/tessera_v2_2B_teacher.pt",
            ),
            *(
                _named(
                    f"tessera-v1.1-{source}", "1.1", f"tessera-v1.1-{source}", "TESSERA-V-1.1",
                    f"tessera_v1_1_{source}_encoder.pt",
                )
                for source in ("mpc", "aws")
            ),
            _named("tessera-v1.0-qat", "1.0", "tessera-v1.0-qat", "TESSERA-V-1.0", "tessera-v1.0-QAT-best.pt"),
        )
    }
)  # fmt: skip
"""By the name to pull; the model's name in the registry is the same. v1.0 early has no file on the hub."""


@dataclass(frozen=True)
class Fetched:
    """A checkpoint that was downloaded."""

    path: Path
    commit: str
    """Revision of the repository that it is of."""
    sha256: str


def published(name: str) -> Published:
    """The checkpoint of that name.

    Raises:
        NotFound: There is none; the remedy lists them.
    """
    if name not in PUBLISHED:
        raise NotFound(f"no published model {name[:80]!r}.", field="name", remedy=f"There are {', '.join(PUBLISHED)}.")
    return PUBLISHED[name]


def fetch(name: str, folder: Path, revision: str = "main") -> Fetched:
    """Download a checkpoint, going on where an earlier download stopped.

    Args:
        name: Of PUBLISHED.
        folder: Made if need be; the file lies in it as in the repository.
        revision: Branch, tag or commit of the repository.

    Raises:
        NotFound: No such name, repository, file or revision.
        Unavailable: The hub does not answer, the network is switched off by the environment (HF_HUB_OFFLINE), or disk
            or memory are too small.
        Corrupt: What came is not what the hub vouches for.
    """
    one = published(name)
    path = folder / one.file
    try:
        from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed.", remedy=by_hand(one)) from None
    network: Any = errors.HfHubHTTPError.__bases__[0]  # of the HTTP library, which goes by several names
    try:
        facts = get_hf_file_metadata(hf_hub_url(one.repo, one.file, revision=revision))
        commit, size, tag = facts.commit_hash or revision, facts.size or 0, facts.etag or ""
        if path.is_file() and sha256_of(path) == tag:
            return Fetched(path, commit, tag)
        require_room(folder, size, one)
        part = _downloaded(hf_hub_url(one.repo, one.file, revision=commit), path, size, tag)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        what = f"revision {revision} of {one.repo}" if isinstance(error, errors.RevisionNotFoundError) else one.address
        raise NotFound(f"the hub has no {what}.", field="name", remedy=by_hand(one)) from None
    except errors.OfflineModeIsEnabled:
        raise Unavailable("the network is switched off here (HF_HUB_OFFLINE).", remedy=by_hand(one)) from None
    except (errors.HfHubHTTPError, network, OSError) as error:
        why = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise Unavailable(f"{one.repo} could not be reached: {why}.", remedy=by_hand(one)) from None
    found = sha256_of(part)
    if len(tag) == 64 and found != tag:  # the hub's tag of a large file is its SHA-256
        part.unlink()
        raise Corrupt(
            f"{one.file} came with SHA-256 {found[:12]}..., the hub says {tag[:12]}...",
            remedy="It was deleted; pull it again.",
        )
    part.replace(path)
    for old in path.parent.glob(f".{path.name}.*.part"):  # of what the hub had before
        old.unlink()
    return Fetched(path, commit, found)


def _downloaded(address: str, path: Path, size: int, tag: str) -> Path:
    """A whole file beside `path`, begun where an earlier attempt at the same content ended.

    The hub's own library keeps nothing of a download that was broken off, so the file is ours and only the transfer,
    which tries again where a connection is lost, is the library's.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{tag[:16]}.part")
    if (done := part.stat().st_size if part.exists() else 0) < size or not size:
        with part.open("ab") as file:
            http_get(address, file, resume_size=done, headers=build_hf_headers(), expected_size=size or None)
    return part


def by_hand(one: Published) -> str:
    """What to do where there is no network."""
    file = Path(one.file).name
    return (
        f"Where there is a network, download {one.address} and bring the file here; "
        f"then `smalti models import {file} --family {one.family} --as {one.identity}`. "
        "What has been downloaded is kept: pulling again goes on from there."
    )


def require_room(folder: Path, size: int, one: Published) -> None:
    """Refuse before the first byte what the machine has no room for.

    Args:
        folder: Where it would lie.
        size: Bytes of the checkpoint.
        one: What it is.

    Raises:
        Unavailable: Disk or memory are too small.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free, memory = shutil.disk_usage(there).free, memory_of_machine()
    for what, has, wants in (("free disk", free, ROOM * size), ("memory", memory, MEMORY * size)):
        if has < wants:
            raise Unavailable(
                f"{one.identity.name} is {size / 1e9:.1f} GB and wants {wants / 1e9:.1f} GB of {what}; there are "
                f"{has / 1e9:.1f} GB.",
                remedy="Take a smaller model, such as tessera-v2-nano." if what == "memory" else "Make room.",
            )


def memory_of_machine() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
