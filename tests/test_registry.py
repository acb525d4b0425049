"""Models on disk: manifests checked, files vouched for, the newest of a name."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from service.parity import PARITY, ParityRow
from service.registry import MANIFEST, SHIPPED, ModelManifest, Registry, read_model, register, sha256_of
from service.unfinished import PREFIX, making
from service.values import ModelIdentity


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(SHIPPED / "smalti-mini", tmp_path / "models" / "smalti-mini")
    return tmp_path / "models"


def rewrite(folder, name, **changes):
    manifest = json.loads((folder / "smalti-mini" / MANIFEST).read_text()) | changes
    target = folder / name
    if not target.exists():
        shutil.copytree(folder / "smalti-mini", target)
    (target / MANIFEST).write_text(json.dumps(manifest))


def test_the_shipped_model_is_whole():
    model = Registry((SHIPPED,)).get("smalti-mini")
    model.verify()
    assert str(model.manifest.identity) == "smalti-mini@0.1.0/default"
    assert model.manifest.dims == 128
    assert model.path.stat().st_size < 5_000_000
    assert "not TESSERA" in (model.path.parent / "README.md").read_text()


def test_manifests_round_trip():
    manifest = read_model(SHIPPED / "smalti-mini").manifest
    assert ModelManifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sha256", "zz"),
        ("bands", ["B04"] * 10),
        ("sampling", "v3"),
        ("quantiser", "v3"),
        ("dims", 0),
        ("depths", [64, 16]),
        ("depths", [16, 256]),
        ("max_observations", 300),
        ("file", "../model.onnx"),
        ("doy", "learned"),
    ],
)
def test_manifests_are_checked(field, value):
    body = json.loads((SHIPPED / "smalti-mini" / MANIFEST).read_text()) | {field: value}
    with pytest.raises(InvalidInput):
        ModelManifest.from_json(json.dumps(body))


@pytest.mark.parametrize(
    "more",
    [
        {"half_file": "half.onnx"},
        {"half_sha256": "0" * 64},
        {"data_file": "../model.data", "data_sha256": "0" * 64},
        {"half_file": "half.bin", "half_sha256": "0" * 64},
        {"checkpoint_sha256": "none"},
    ],
)
def test_every_further_file_is_named_and_vouched_for(more):
    body = json.loads((SHIPPED / "smalti-mini" / MANIFEST).read_text()) | more
    with pytest.raises(InvalidInput):
        ModelManifest.from_json(json.dumps(body))


def test_a_table_of_parity_is_read_beside_the_manifest_or_kept_in_the_last_folder(folder, tmp_path):
    row = ParityRow("cpu", "fp32", "torch", 3, 1e-6, 1e-7, 0.0, 0.0, 0.0, True, "2026-01-01", {"torch": "2"})
    registry = Registry((folder, tmp_path / "home"))
    registry.keep_parity(registry.get("smalti-mini"), [row])
    assert registry.get("smalti-mini").parity == (row,)
    assert not (folder / "smalti-mini" / PARITY).exists()
    register(tmp_path / "home", folder / "smalti-mini")
    own = Registry((tmp_path / "home",))
    own.keep_parity(own.get("smalti-mini"), [row, row])
    assert read_model(own.get("smalti-mini").path.parent).parity == (row, row)
    (own.get("smalti-mini").path.parent / PARITY).write_text("[1]")
    assert read_model(own.get("smalti-mini").path.parent).parity == ()  # and the model is still there


def test_statistics_are_checked():
    manifest = read_model(SHIPPED / "smalti-mini").manifest
    with pytest.raises(InvalidInput, match="s1_asc_std"):
        replace(manifest.statistics, s1_asc_std=(1.0, 0.0))
    with pytest.raises(InvalidInput, match="s2_mean"):
        replace(manifest.statistics, s2_mean=(1.0,))


def test_by_name_the_newest_by_identity_exactly_that(folder):
    rewrite(folder, "a", identity="smalti-mini@0.10.0/default")
    rewrite(folder, "b", identity="smalti-mini@0.9.0/default")
    registry = Registry((folder,))
    assert [str(m.manifest.identity) for m in registry.list()] == [
        "smalti-mini@0.1.0/default",
        "smalti-mini@0.10.0/default",
        "smalti-mini@0.9.0/default",
    ]
    assert registry.get("smalti-mini").manifest.identity.version == "0.10.0"
    assert registry.get("smalti-mini@0.9.0").manifest.identity.version == "0.9.0"
    with pytest.raises(NotFound, match=r"smalti-mini@0\.9\.0"):
        registry.get("tessera")
    with pytest.raises(NotFound):
        Registry((folder / "nowhere",)).get("smalti-mini")


def test_a_broken_manifest_spoils_only_itself(folder):
    rewrite(folder, "other@1", identity="other@1/default", dims="many")
    registry = Registry((folder,))
    assert len(registry.list()) == 1
    assert "other@1" in str(registry.problems()[0])
    with pytest.raises(Corrupt, match="other@1"):
        registry.get("other")


def test_two_that_register_the_same_at_once_both_have_it(folder, tmp_path, monkeypatch):
    home, rename = tmp_path / "home", Path.rename

    def late(self, target):
        monkeypatch.setattr(Path, "rename", rename)
        register(home, folder / "smalti-mini")  # by somebody else, just before
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    register(home, folder / "smalti-mini").verify()
    assert [path.name for path in home.iterdir()] == ["smalti-mini@0.1.0~default"]


def test_of_two_that_differ_the_second_is_told_in_what(folder, tmp_path):
    register(tmp_path / "home", folder / "smalti-mini")
    half = {"half_file": "half.onnx", "half_sha256": sha256_of(folder / "smalti-mini" / "model.onnx")}
    for changes, told in (({"family": "tessera-v2-teacher"}, "family"), (half, "half_file, half_sha256")):
        rewrite(folder, told[:4], **changes)
        shutil.copy(folder / "smalti-mini" / "model.onnx", folder / told[:4] / "half.onnx")
        with pytest.raises(Conflict, match=f"differs in {told}") as refused:
            register(tmp_path / "home", folder / told[:4])
        assert "smalti-mini@0.1.0~default" in str(refused.value.remedy)
    rewrite(folder, "said", licence="MIT-0", origin="us")
    register(tmp_path / "home", folder / "said")


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_makes_is_not(tmp_path):
    for name in ("left", "young", "held"):
        (tmp_path / f"{PREFIX}{name}").mkdir()
        (tmp_path / f"{PREFIX}{name}" / "model.onnx").write_bytes(b"x")
    held = os.open(tmp_path / f"{PREFIX}held", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    for name in ("left", "held"):
        os.utime(tmp_path / f"{PREFIX}{name}", (1, 1))
    with making(tmp_path) as mine:
        assert {path.name for path in tmp_path.iterdir()} == {f"{PREFIX}young", f"{PREFIX}held", mine.name}
        os.utime(mine, (1, 1))
        with making(tmp_path):
            assert mine.is_dir()
    os.close(held)
    assert not mine.exists()
    with pytest.raises(Unavailable, match=r"disk of .* is full.*Make room"), making(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), making(tmp_path):
        raise PermissionError


def test_register_copies_whole_or_not_at_all(folder, tmp_path):
    home = tmp_path / "home"
    model = register(home, folder / "smalti-mini")
    model.verify()
    assert register(home, folder / "smalti-mini").path == model.path
    assert Registry((home,)).get("smalti-mini@0.1.0").path == model.path
    (folder / "smalti-mini" / "model.onnx").write_bytes(b"cut")
    with pytest.raises(Corrupt):
        register(tmp_path / "empty", folder / "smalti-mini")
    assert not (tmp_path / "empty").exists()
    import hashlib

    rewrite(folder, "smalti-mini", sha256=hashlib.sha256(b"cut").hexdigest())
    with pytest.raises(Conflict):
        register(home, folder / "smalti-mini")
    with pytest.raises(Unavailable):
        register(home, tmp_path)


def test_the_first_folder_wins(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "second")
    model = Registry((folder, tmp_path / "second")).get(str(ModelIdentity("smalti-mini", "0.1.0")))
    assert model.path.is_relative_to(folder)
