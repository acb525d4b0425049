"""README and docs are true: each command in them is run, in order, against a server of the demo."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from api.entries import written
from api.missing import blocks_per_hour
from api.settings import Caches, Fleet, Limits, Scenes, Settings
from service import values
from service.origins import sources_of
from tests.conftest import ROOT, free_port, running
from tests.test_cli import commands

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LIVE = "http://127.0.0.1:8000"

ELSEWHERE = ("make ", "docker ", "kubectl ")
"""Held by other tests and by CI itself: what sets up, containers, clusters."""

SERVE = """
smalti() {
  if [ "$1" != serve ]; then command smalti "$@"; return; fi
  command smalti "$@" --port PORT & server=$!
  for _ in $(seq 100); do curl -sf http://127.0.0.1:PORT/livez >/dev/null && break; sleep 0.3; done
  curl -sf http://127.0.0.1:PORT/readyz; answered=$?
  kill $server; wait $server || true; return $answered
}
"""
"""`smalti serve` goes on for ever: here it must become ready, and then ends."""


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


def shell(page: Path) -> str:
    return "\n".join(text for kind, text in blocks(page) if kind == "sh").replace("\\\n", " ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_file_it_names_exists(page: Path) -> None:
    text, known = page.read_text(), {" ".join(path) for path in commands()}
    named = re.findall(r"(?:^|&& )smalti (.*?)(?=&&|#|$)", shell(page), re.MULTILINE)
    for words in named + re.findall(r"`smalti ([a-z][^`]*)`", text):
        assert any(f"{words.strip()} ".startswith(f"{name} ") for name in known), words
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", shell(page), re.MULTILINE)) <= targets
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for target in re.findall(r"(?:-f|-k) ((?:docker|k8s)/\S+)", shell(page)):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_is_checked(page: Path) -> None:
    kinds = set(re.findall(r"^```(\w+)$", page.read_text(), re.MULTILINE))
    assert kinds <= {"sh", "python", "toml", "html"}, kinds


def table(page: str) -> list[str]:
    rows = (ROOT / "docs" / page).read_text().splitlines()
    return [row for row in rows if re.match(r"\| `\w+` \| (`.*?`|[\d,]*) ?\| ", row)]


def test_the_tables_of_limits_and_settings_are_the_settings() -> None:
    limits = [f"| `{name}` | {field.default:,} | {field.description} |" for name, field in Limits.model_fields.items()]
    assert table("limits.md") == limits
    models = {"": Settings, "FLEET__": Fleet, "SCENES__": Scenes, "CACHES__": Caches}
    settings = [
        f"| `SMALTI_{prefix}{name.upper()}` | {default(field.default)} | {field.description} |"
        for prefix, model in models.items()
        for name, field in model.model_fields.items()
        if name not in ("limits", "caches", "fleet", "scenes")
    ]
    assert table("running.md") == settings


def default(value: object) -> str:
    if value in (None, "", (), {}):
        return ""
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{text.lower() if isinstance(value, bool) else text}`"


def numbers(page: str, heading: str) -> dict[str, list[str]]:
    """The tables under a heading: the cells of each row, by the first of them."""
    text = (ROOT / "docs" / page).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows}


def value(text: str) -> float:
    return float(text.replace(",", ""))


def test_the_sizing_of_a_country_and_of_the_planet_follows_from_what_goes_in() -> None:
    given, out = numbers("sizing.md", "What goes in"), numbers("sizing.md", "What comes out")
    s2, s1 = (value(given[f"{s}_dates"][0]) * value(given[f"{s}_bytes"][0]) for s in ("s2", "s1"))
    block = values.BLOCK**2
    expected: dict[str, Callable[[float], float]] = {
        "blocks": lambda pixels: pixels / block,
        "pixels, billion": lambda pixels: pixels / 1e9,
        "fetched, TB": lambda pixels: pixels * (s2 + s1) / 1e12,
        "stored, TB": lambda pixels: pixels * value(given["stored_bytes"][0]) / 1e12,
        "index, TB": lambda pixels: pixels * value(given["index_bytes"][0]) / 1e12,
        "commits": lambda pixels: pixels / block,
        "preprocessing, hours of a core": lambda pixels: pixels / block * value(given["read_s"][0]) / 3600,
        "commits one after the other, hours": lambda pixels: pixels / block * value(given["commit_s"][0]) / 3600,
    }
    speeds = {name: value(row[0]) for name, row in given.items() if name.endswith(("cores", "bfloat16"))}
    for at, place in ((-2, "country"), (-1, "planet")):
        pixels = value(given[f"{place}_km2"][0]) * 10_000
        due = {name: rule(pixels) for name, rule in expected.items()}
        due |= {name: pixels / speed / 3600 for name, speed in speeds.items()}
        for name, number in due.items():
            shown = out[name][at]
            assert f"{number:,.{len(shown.partition('.')[2])}f}" == shown, (place, name)
    speeds_told = numbers("models.md", "Prove it")["ONNX Runtime, pixels/s"]
    assert [row[0] for name, row in given.items() if name.endswith("two cores")] == speeds_told


def test_the_catalogue_examples_are_read(tmp_path: Path) -> None:
    found = {}
    for page in PAGES:
        for kind, text in blocks(page):
            if kind == "toml":
                (tmp_path / "smalti.toml").write_text(text)
                (entry,) = written(tmp_path / "smalti.toml")
                found[entry.id] = entry
    assert set(found) == {"cambridge", "summer"}
    document = dict(found["summer"].source or {})
    assert [source.placement.zone.name for source in sources_of(document, values.Window.year(2024))] == ["31N"]
    assert blocks_per_hour(document) == 16


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_commands_work(page: Path, demo_home: Settings, tmp_path: Path) -> None:
    steps = [(kind, text) for kind, text in blocks(page) if kind in ("sh", "python")]
    if not steps:
        pytest.skip("no commands on this page")
    home = tmp_path / "smalti-data"
    shutil.copytree(demo_home.home, home)
    with running(demo_home.model_copy(update={"home": home, "catalogue": tmp_path / "smalti.toml"})) as server:
        for kind, text in steps:
            step(kind, text.replace(LIVE, server), tmp_path)
    for name, begins in {"*.png": b"\x89PNG", "*.npy": b"\x93NUMPY", "*.npz": b"PK", "*.tif": b"II*"}.items():
        assert [made.name for made in tmp_path.glob(name) if not made.read_bytes().startswith(begins)] == []
    if page.name == "README.md":
        assert (tmp_path / "tile.png").exists()
        assert len(json.loads((tmp_path / "embedded.json").read_text())["results"]) == 48 * 48


def step(kind: str, text: str, folder: Path) -> None:
    if kind == "sh":
        lines = "\n".join(line for line in text.replace("\\\n", " ").splitlines() if not line.startswith(ELSEWHERE))
        lines = lines.replace(
            "../shared/data", os.environ.get("SMALTI_TEST_DATA", str(ROOT.parent / "shared" / "data"))
        )
        command = ["bash", "-euo", "pipefail", "-c", SERVE.replace("PORT", str(free_port())) + lines]
    else:
        command = [sys.executable, "-c", text]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert '"about:blank"' not in done.stdout, f"{text}\n{done.stdout}"
