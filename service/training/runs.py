"""The folder of a training run: recipe, curves, checkpoints. Whatever is killed, it can be gone on from.

- `recipe.json`: what the run is made with.
- `curves.jsonl`: an object for every logged step.
- `checkpoint.pt`: the network alone, in the published form of its family, as `smalti models import` takes it.
- `resume.pt`: everything that the next step depends on.
Each is replaced as a whole; of the curves, a resumed run cuts off what came after its checkpoint.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

import torch

from service import VERSION
from service.errors import Conflict, Corrupt, NotFound, Unavailable
from service.locks import hold, let_go
from service.training.networks import Network, Student
from service.training.recipes import Recipe

RECIPE: Final = "recipe.json"
CURVES: Final = "curves.jsonl"
STUDENT: Final = "checkpoint.pt"
RESUME: Final = "resume.pt"


@dataclass(frozen=True)
class Run:
    """A run and where it lies.

    What a run is: its recipe, its seed and its pixels. Go on from a checkpoint only if all of them are the same.
    """

    folder: Path
    recipe: Recipe
    seed: int
    source: Mapping[str, Any]
    """What its pixels were made of; see service.training.shards."""

    @property
    def body(self) -> dict[str, Any]:
        """What makes the run, as plain values."""
        return {"recipe": self.recipe.to_dict(), "seed": self.seed, "source": json.loads(json.dumps(dict(self.source)))}

    def begin(self, device: torch.device, *, resume: bool) -> dict[str, Any] | None:
        """Claim the folder. Returns the state of the last checkpoint, or None where the run is to begin.

        Args:
            device: Noted beside the recipe; a run may go on on another.
            resume: There must be a checkpoint.

        Raises:
            Conflict: The folder holds a run of something else.
            NotFound: There is nothing to go on from, though that was asked for.
            Corrupt: The checkpoint cannot be read.
            Unavailable: There is no room.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            require_checkpoint(self.folder)
        state = self._state()
        about = {"device": device.type, "torch": torch.__version__, "machine": platform.machine(), "smalti": VERSION}
        replace(self.folder / RECIPE, json.dumps({**self.body, "made_with": about}, indent=1) + "\n")
        self._cut(state["step"] if state else -1)
        return state

    def _state(self) -> dict[str, Any] | None:
        path = self.folder / RESUME
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            theirs = json.loads(state["body"])
        except Exception as error:  # torch has no list of what a damaged file raises
            raise Corrupt(f"{path} cannot be read: {error}", remedy="Delete it to begin anew.") from None
        differs = list(_differences(self.body, theirs))
        if differs:
            raise Conflict(
                f"{self.folder} holds a run of another recipe ({'; '.join(differs[:4])}).",
                field="out",
                remedy="Choose another folder, or delete that one.",
            )
        return state

    def _cut(self, step: int) -> None:
        """Keep of the curves what was logged up to a step."""
        path = self.folder / CURVES
        kept = [json.dumps(row) for row in read_curves(path) if row["step"] <= step] if step >= 0 else []
        replace(path, "".join(f"{line}\n" for line in kept))

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one object to the curves."""
        with _told(self.folder / CURVES), (self.folder / CURVES).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save(self, student: Network, step: int, state: Mapping[str, Any]) -> None:
        """Write both checkpoints, the one to go on from last.

        Raises:
            Unavailable: There is no room; what lay there before still does.
        """
        weights = {name: value.detach().cpu() for name, value in student.state_dict().items()}
        payload: dict[str, Any] = {"model_state_dict": weights}
        if isinstance(student, Student):
            args = {**asdict(student.config), "matryoshka_dims": list(self.recipe.depths)}
            payload = {"model": weights, "args": args}
        _save({**payload, "step": step, "seed": self.seed}, self.folder / STUDENT)
        _save({"body": json.dumps(self.body), "step": step, **state}, self.folder / RESUME)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder, made if need be, for this process; the system lets go of it whatever ends the process.

    Raises:
        Conflict: Another process trains in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = hold(folder)
    except BlockingIOError:
        raise Conflict(f"another process trains in {folder}.", field="out", remedy="Wait, or end it.") from None
    try:
        yield
    finally:
        let_go(handle)


def require_checkpoint(folder: Path) -> None:
    """Make sure that there is one to go on from.

    Raises:
        NotFound: There is none.
    """
    if not (folder / RESUME).exists():
        raise NotFound(f"{folder} holds no checkpoint to go on from.", field="resume")


def read_curves(path: Path) -> list[dict[str, Any]]:
    """The logged steps, in order; a line that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which then takes the place of the one at `path`; or nothing is left of it.

    Raises:
        Unavailable: There is no room.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with _told(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise no_room(path, error) from error


def no_room(path: Path, error: Exception) -> Unavailable:
    """What to say where a file cannot be written."""
    remedy = "Make room on that disk and ask for the same again: it goes on from its last checkpoint."
    return Unavailable(f"{path} cannot be written: {error}.", field="out", remedy=remedy)


def replace(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole(path) as file:
        file.write(text.encode())


def _save(payload: dict[str, Any], path: Path) -> None:
    with whole(path) as file:
        try:
            torch.save(payload, file)
        except RuntimeError as error:  # torch keeps the reason to itself
            raise no_room(path, OSError("it ends too early")) from error


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], at: str = "") -> Any:
    """Where two nested objects differ: `name theirs, not ours`."""
    for name in sorted({*ours, *theirs}):
        a, b = ours.get(name), theirs.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{at}{name}.")
        elif a != b:
            yield f"{at}{name} {b}, not {a}"
