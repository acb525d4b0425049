"""What the tests of docker/ and k8s/ share: is this really how smalti is told things?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from unittest.mock import patch

from pydantic import BaseModel
from typer.testing import CliRunner

from api.cli import app
from api.settings import Settings
from service import VERSION
from tests.conftest import ROOT

DIGEST: Final = "0" * 64


def names_of(model: type[BaseModel] = Settings, prefix: str = "SMALTI_") -> set[str]:
    """Every variable that sets something, nested ones too."""
    found = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        found |= names_of(kind, f"{prefix}{name.upper()}__") if nested else {f"{prefix}{name.upper()}"}
    return found


def settings_from(environment: Mapping[str, str]) -> Settings:
    """The settings that exactly these variables make; fails on one that sets nothing, or on a value refused."""
    ours = {name: value for name, value in environment.items() if name.startswith("SMALTI_")}
    assert ours.keys() <= names_of(), f"no such setting: {sorted(ours.keys() - names_of())}"
    with patch.dict("os.environ", ours, clear=True):
        return Settings()


def check_command(words: list[str], home: Path) -> None:
    """`smalti WORDS` names a command and options that exist."""
    assert words, "nothing to run"
    answer = CliRunner().invoke(app, [*words, "--help"], env={"SMALTI_HOME": str(home)})
    assert answer.exit_code == 0, (words, answer.output)


def check_image(image: str, ours: set[str]) -> None:
    """Pinned; where it is ours, to this version and one of the Dockerfile's targets."""
    name, _, tag = image.rpartition(":")
    assert name, f"{image} has no tag"
    assert re.search(r"\d+\.\d+", tag), f"{image} floats"
    if name == "smalti":
        assert tag in {f"{VERSION}-{target}" for target in ours}, f"{image} is not this version"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), continued lines joined, comments left out."""
    text = (ROOT / "docker" / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (word, re.sub(r"\s+", " ", rest))
        for word, _, rest in (line.partition(" ") for line in text.splitlines())
        if word
    ]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's stages by name, each with what it inherits from an earlier one first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = [*found.get(base, []), (word, rest)]
        elif found:
            found[name].append((word, rest))
    return found


def image_environment(target: str = "cpu") -> dict[str, str]:
    """What ENV gives to a container of that target."""
    words = " ".join(rest for word, rest in stages()[target] if word == "ENV").split()
    return dict(word.split("=", 1) for word in words)
