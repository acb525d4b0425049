"""The README is true: its commands exist, and its curl lines work against the running demo."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from api.settings import Settings
from tests.conftest import ROOT
from tests.test_cli import commands

README = (ROOT / "README.md").read_text()
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")


def test_every_command_it_names_exists() -> None:
    known = {" ".join(path) for path in commands()}
    named = re.findall(r"(?:^|&& )smalti (.*?)(?=&&|#|$)", SHELL, re.MULTILINE) + re.findall(
        r"`smalti ([^`]*)`", README
    )
    assert len(named) > 4
    for words in named:
        assert any(f"{words.strip()} ".startswith(f"{name} ") for name in known), words
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", SHELL, re.MULTILINE)) <= targets


def test_every_file_it_names_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_its_curl_lines_work(server: str, demo_home: Settings, tmp_path: Path) -> None:
    lines = re.findall(r"^curl .*", SHELL, re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        here = line.replace("http://127.0.0.1:8000", server).replace("smalti-data/", f"{demo_home.home}/")
        done = subprocess.run(here, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert '"kind"' not in done.stdout, (line, done.stdout)
    assert (tmp_path / "tile.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "embedded.json").read_text())["results"]) == 48 * 48
