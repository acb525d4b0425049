"""The command line: what scripts rely on, and what a newcomer reads."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from api.cli import app, main
from api.settings import Settings
from tests.conftest import ROOT, free_port

SMALTI = str(Path(sys.executable).with_name("smalti"))


def run(home: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own: starting one takes seconds, `here` does the same in this one."""
    environment = {**os.environ, "SMALTI_HOME": str(home), **more}
    command = [SMALTI, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, check=False, timeout=240)


def here(home: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """A command in this process: an error that is not told in one line comes out of it as an exception."""
    command, code, out, complaint = ["smalti", *map(str, arguments)], 0, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(complaint):
        for name, value in {"SMALTI_HOME": str(home), **more}.items():
            patched.setenv(name, value)
        patched.setattr("sys.argv", command)
        patched.chdir(home)
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(command, code, out.getvalue(), complaint.getvalue())


def commands(group: Any = None, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    group = group or get_command(app)
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if hasattr(command, "commands") else [(*path, name)]
    return found


def test_every_command_and_option_says_what_it_is_for() -> None:
    listed = commands()
    assert ("index", "build") in listed
    for path in listed:
        command = get_command(app)
        for name in path:
            command = command.commands[name]  # type: ignore[attr-defined]
        assert len(command.help or "") > 15, path
        for parameter in command.params:
            assert getattr(parameter, "help", None) or parameter.name == "help", (path, parameter.name)


def test_the_help_of_every_command_can_be_shown(tmp_path: Path) -> None:
    """Brackets in a help text are markup to what draws it."""
    for path in commands():
        shown = CliRunner().invoke(app, [*path, "--help"], env={"SMALTI_HOME": str(tmp_path)})
        assert shown.exit_code == 0, (path, shown.exception)


def test_datasets_and_models_list_as_json(world: Settings) -> None:
    (dataset,) = json.loads(run(world.home, "datasets", "list", "--json").stdout)
    assert set(dataset) == {"id", "location", "model", "windows", "writable"}
    assert Path(dataset["location"]).is_absolute()
    assert dataset["windows"] == ["2023", "2024"]
    (model,) = json.loads(here(world.home, "models", "list", "--json").stdout)
    assert model["name"] == "smalti-mini"


@pytest.mark.parametrize("float32", [False, True])
def test_embed_writes_codes_or_vectors(world: Settings, tmp_path: Path, float32: bool) -> None:
    source, out = world.home / "examples" / "quarter.npz", tmp_path / "out.npz"
    options = ["--float32"] if float32 else []
    start = run if float32 else here
    done = start(world.home, "embed", source, "--model", "smalti-mini", "--out", out, "--engine", "cpu", *options)
    assert done.returncode == 0, done.stderr
    arrays = np.load(out)
    height, width = np.load(source)["bands"].shape[1:3]
    assert arrays["status"].shape == (height, width)
    if float32:
        assert arrays["vectors"].dtype == np.float32
        assert arrays["vectors"].shape == (height, width, 128)
    else:
        assert arrays["codes"].dtype == np.int8
        assert arrays["scales"].dtype == np.float32
        assert arrays["codes"].shape == (height, width, 128)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["index", "build", "none"], 1, "not-found"),
        (["pca", "fit", "demo", "--window", "soon"], 2, "Write 2024"),
        (["embed", "{example}", "--out", "x.npz", "--engine", "cuda"], 1, "cuda"),
        (["embed", "{example}", "--out", "x.npz", "--model", "none"], 1, "not-found"),
        (["ingest", ".", "--dataset", "../x", "--model", "a@1", "--window", "2024"], 2, "invalid-input"),
        (["key", "--scope", "root"], 2, "scopes"),
        (["worker", "--name", "rack/one"], 2, "no name for a worker"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(world: Settings, arguments: list[str], code: int, says: str) -> None:
    example = str(world.home / "examples" / "quarter.npz")
    done = here(world.home, *(a.format(example=example) for a in arguments))
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SMALTI_PORT", "many"),
        ("SMALTI_LOCAL_NETWORKS", "lan"),
        ("SMALTI_LIMITS__HITS", "x"),
        ("AWS_SKIP_SIGNATURE", "x"),
    ],
)
def test_wrong_settings_name_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["smalti", "version"])
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"{variable}: " in capsys.readouterr().err


def test_a_new_key_opens_what_its_line_says(tmp_path: Path) -> None:
    key, line = here(tmp_path, "key", "--scope", "embed").stdout.splitlines()
    settings = Settings(api_keys=line.partition("=")[2])
    assert settings.api_keys[0].matches(key.split()[-1])
    assert settings.api_keys[0].scopes == {"embed"}


def test_openapi_does_not_depend_on_who_runs_it(tmp_path: Path) -> None:
    text = here(tmp_path, "openapi", SMALTI_LIMITS__HITS="3", SMALTI_PORT="9999").stdout
    assert yaml.safe_load(text) == yaml.safe_load((ROOT / "openapi.yaml").read_text())


def test_a_taken_port_is_told_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = here(tmp_path, "serve", "--port", taken.getsockname()[1])
    assert said.returncode == 1
    assert "is taken" in said.stderr
    assert "--port" in said.stderr


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_nothing_starts_without_the_precision_it_was_told_to_use(command: str, tmp_path: Path) -> None:
    ended = here(tmp_path, command, SMALTI_DEVICE="cpu", SMALTI_PRECISION="fp16", SMALTI_PORT=str(free_port()))
    assert ended.returncode == 1
    assert "the cpu engine has no fp16" in ended.stderr
