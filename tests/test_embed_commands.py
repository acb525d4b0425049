"""`smalti embed` on every form of file, and vectors of every depth of a model, by command and over HTTP."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from api.cli import app
from api.settings import Settings
from service.errors import InvalidInput, NotFound, Unavailable
from service.quant import quantise
from tests.conftest import client_of
from tests.uploads import ARROW, NPZ, PARQUET, UNITS, arrow, body, folder, npz, parquet, pixels, table

HELD = folder(5)
SAID = ("--window", "2024", "--s2-unit", "dn", "--s1-unit", "scaled")
FORMS = ((npz(pixels(HELD)), NPZ), (parquet(table(HELD)), PARQUET), (arrow(table(HELD)), ARROW))


def smalti(home: Path, *arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"SMALTI_HOME": str(home)})


def embedded(home: Path, name: str, content: bytes, *options: object) -> dict[str, Any]:
    """What `smalti embed` writes of a file; nothing else stays beside it."""
    (home / name).write_bytes(content)
    before = {path.name for path in home.iterdir()}
    done = smalti(home, "embed", home / name, "--out", home / "out.npz", "--engine", "cpu", *options)
    assert done.exit_code == 0, (done.output, done.exception)
    assert {path.name for path in home.iterdir()} == before | {"out.npz"}
    with np.load(home / "out.npz") as arrays:
        return dict(arrays)


def test_a_file_of_any_form_gives_the_same_codes(tmp_path: Path) -> None:
    want = embedded(tmp_path, "folder.npz", npz(HELD))
    assert want["codes"].shape == (1, 5, 128)
    assert want["codes"].dtype == np.int8
    long = table(HELD)
    for name, content in (
        ("fields.parquet", parquet(long)), ("fields.arrow", arrow(long)), ("fields.feather", arrow(long, file=True)),
        ("pixels.npz", npz(pixels(HELD) | {"pixel": np.array([f"p{n}" for n in range(5)])})),
    ):  # fmt: skip
        got = embedded(tmp_path, name, content, *SAID)
        assert got.pop("pixel").tolist() == [f"p{n}" for n in range(5)]
        assert set(got) == set(want)
        assert all(np.array_equal(got[key], want[key][0]) for key in want), name


def test_wrong_files_leave_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    for name, content, options, kind in (
        ("a.csv", b"", (), InvalidInput), ("a.parquet", b"PAR1", SAID, InvalidInput),
        ("b.parquet", parquet(table(HELD)), (), InvalidInput), ("a.npz", npz(HELD), ("--dims", 64), InvalidInput),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        done = smalti(tmp_path, "embed", tmp_path / name, "--out", out, "--engine", "cpu", *options)
        assert isinstance(done.exception, kind), (name, done.output)
    done = smalti(tmp_path, "embed", tmp_path / "a.npz", "--out", tmp_path / "none" / "out.npz", "--engine", "cpu")
    assert isinstance(done.exception, NotFound)
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".csv", ".parquet", ".npz"}
    assert not out.exists()


def test_a_disk_that_fills_up_leaves_no_half_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, **_: Any) -> None:
        file.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "in.npz").write_bytes(npz(HELD))
    monkeypatch.setattr(np, "savez", full)
    done = smalti(tmp_path, "embed", tmp_path / "in.npz", "--out", tmp_path / "out.npz", "--engine", "cpu")
    assert isinstance(done.exception, Unavailable)
    assert "no room on disk" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a tiny v2 student whose vectors can be read to 16, 32, 64 or 128 numbers."""
    pytest.importorskip("torch")
    from tests.checkpoints import save

    home = tmp_path_factory.mktemp("home")
    path = save(home / "file.pt", "tessera-v2")
    quick = ("--engine", "cpu", "--precision", "fp32", "--no-half", "--pixels", "2")
    done = smalti(home, "models", "import", path, "--family", "tessera-v2", "--as", "nested@1", *quick)
    assert done.exit_code == 0, (done.output, done.exception)
    return home


def test_prefixes_are_cut_before_they_are_quantised(nested: Path) -> None:
    client = client_of(Settings(home=nested, device="cpu"))
    assert client.get("/models/nested").json()["depths"] == [16, 32, 64, 128]
    asked = {"model": "nested", **UNITS}

    def post(content: bytes, headers: dict[str, str], **params: Any) -> Any:
        return client.post("/embed", params={**asked, **params}, content=content, headers=headers)

    whole = np.load(io.BytesIO(post(npz(pixels(HELD)), NPZ, answer="npy").content))
    for dims in (16, 32, 64, 128):
        want = np.ascontiguousarray(whole[:, :dims])
        codes, scales = quantise(want, "v2")
        for content, headers in FORMS:
            floats = np.load(io.BytesIO(post(content, headers, dims=dims, answer="npy").content))
            assert np.array_equal(floats, want)
            arrays = np.load(io.BytesIO(post(content, headers, dims=dims, answer="npz").content))
            assert np.array_equal(arrays["codes"], codes)
            assert np.array_equal(arrays["scales"], scales)
            rows = pa.ipc.open_stream(post(content, headers, dims=dims, answer="arrow").content).read_all()
            assert rows["codes"].to_pylist() == codes.tolist()
        said = client.post("/embed", json=body(HELD, model="nested", dims=dims)).json()["results"]
        assert np.array_equal(np.array([one["vector"] for one in said], np.float32), want)
    made = embedded(nested, "fields.parquet", parquet(table(HELD)), *SAID, "--model", "nested", "--dims", 32)
    assert np.array_equal(made["codes"], quantise(np.ascontiguousarray(whole[:, :32]), "v2")[0])


@pytest.mark.parametrize("dims", [1, 17, 127, 129, 0, 5000])
def test_what_is_no_depth_is_refused(nested: Path, dims: int) -> None:
    client: TestClient = client_of(Settings(home=nested, device="cpu"))
    answer = client.post("/embed", params={"model": "nested", "dims": dims}, content=npz(HELD), headers=NPZ)
    assert (answer.status_code, answer.json()["kind"]) == (422, "invalid-input")
    assert answer.json()["field"] in ("dims", "query.dims")
    if 0 < dims < 5000:
        assert "16, 32, 64, 128" in answer.json()["detail"] + answer.json().get("remedy", "")
    answer = client.post("/embed", json=body(HELD, model="nested", dims=dims))
    assert (answer.status_code, answer.json()["field"]) == (422, "dims")
