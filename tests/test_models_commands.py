"""`smalti models`: published checkpoints in, proven encoders out, and the table of parity over HTTP."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from api.cli import main  # noqa: E402
from api.settings import Settings  # noqa: E402
from service.dpixels import from_arrays  # noqa: E402
from service.encoder import Encoder  # noqa: E402
from service.errors import Unavailable  # noqa: E402
from service.families import FAMILIES, family  # noqa: E402
from service.quant import quantise  # noqa: E402
from service.registry import MANIFEST, SHIPPED, Registry, sha256_of  # noqa: E402
from service.simulate import Landscape  # noqa: E402
from service.training import hub as hub_module  # noqa: E402
from service.training.checkpoints import read_checkpoint  # noqa: E402
from service.training.reference import reference_vectors  # noqa: E402
from tests.checkpoints import save, tensors  # noqa: E402
from tests.conftest import client_of, free_port  # noqa: E402
from tests.hub import COMMIT, Hub, serving  # noqa: E402
from tests.test_cli import run  # noqa: E402

QUICK = ("--engine", "cpu", "--precision", "fp32", "--pixels", "4")


@pytest.fixture
def smalti(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process: (exit code, stdout, stderr)."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("SMALTI_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["smalti", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    call.home = home  # type: ignore[attr-defined]
    return call


@pytest.fixture(autouse=True)
def no_goldens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden networks of v1.x are large, and have tests of their own."""
    from service.training import golden

    monkeypatch.setattr(golden, "GOLDEN", tuple(one for one in golden.GOLDEN if one.native_dims < 128))


def series(pixels: int = 6) -> dict[str, Any]:
    """Both orbits; the second pixel has no Sentinel-2, the third no Sentinel-1, the fourth nothing."""
    arrays = dict(Landscape(3, 1, pixels).dpixels(2023))
    arrays["masks"] = arrays["masks"].copy()
    arrays["masks"][:, :, [1, 3]] = 0
    for orbit in ("sar_ascending", "sar_descending"):
        arrays[orbit] = arrays[orbit].copy()
        arrays[orbit][:, :, [2, 3]] = 0
    return arrays


QUICKLY = {"tessera-v1.1-aws", "tessera-v2"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICKLY else pytest.mark.slow) for name in FAMILIES]
)
def test_each_family_comes_in_and_embeds_over_http(name: str, smalti: Any, tmp_path: Path) -> None:
    state = tensors(name)
    heads = {"projector.net.0.weight": torch.zeros(2, 2)} if "v1" in name else {}
    path = save(tmp_path / "file.pt", name, state | heads)
    code, out, err = smalti("models", "import", path, "--family", name, "--as", "mine@3/x", *QUICK, "--json")
    assert code == 0, err
    about = json.loads(out)
    assert about["model"] == "mine@3/x"
    assert about["tensors"] == len(state)
    assert about["dropped"] == ({"projector": 1} if heads else {})
    assert about["checkpoint_sha256"] == sha256_of(path)
    assert {row["against"] for row in about["parity"]} >= {"torch"}
    manifest = Registry((smalti.home / "models",)).get("mine").manifest
    assert (manifest.family, manifest.sampling, manifest.statistics) == (
        name,
        family(name).sampling,
        family(name).statistics,
    )
    arrays = series()
    d = from_arrays(arrays)
    checkpoint = read_checkpoint(path, name)
    want = reference_vectors(checkpoint.network, d, manifest.statistics, sampling=manifest.sampling)[:, : manifest.dims]
    with client_of(Settings(home=smalti.home, device="cpu")) as client:
        (listed,) = [m for m in client.get("/models").json()["models"] if m["name"] == "mine"]
        assert [row["ok"] for row in listed["parity"]] == [True] * len(about["parity"])
        body = io.BytesIO()
        np.savez(body, **arrays)
        answer = client.post(
            "/embed",
            params={"model": "mine", "window": "2023", "quantize": "true"},
            content=body.getvalue(),
            headers={"content-type": "application/x-npz", "accept": "application/json"},
        )
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    made = np.isfinite(want).all(axis=1)
    assert [r["status"] == "valid" for r in results] == list(made)
    assert list(made) == [True, True, True, False, True, True]
    codes, scales = quantise(want[made], manifest.quantiser)
    found = [r for r in results if r["status"] == "valid"]
    np.testing.assert_allclose([r["scale"] for r in found], scales, rtol=1e-5)
    levels = np.abs(np.array([r["codes"] for r in found]) - codes)
    assert levels.max() <= 1
    assert (levels > 0).mean() <= 0.005


def test_what_cannot_be_imported_leaves_nothing(smalti: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "student_small.pt", "tessera-v2")
    code, _, err = smalti("models", "import", path)
    assert (code, "--family tessera-v2" in err) == (2, True)
    code, _, err = smalti("models", "import", path, "--family", "tessera-v3")
    assert (code, "tessera-v1.0-early" in err) == (2, True)
    code, _, err = smalti("models", "import", path, "--family", "tessera-v1.1-aws")
    assert (code, "looks like tessera-v2" in err) == (2, True)
    code, _, err = smalti("models", "import", path, "--family", "tessera-v2", "--engine", "cuda")
    assert (code, "cuda" in err) == (1, True)
    state = tensors("tessera-v2")
    del state["dim_reducer.4.bias"]
    code, _, err = smalti("models", "import", save(path, "tessera-v2", state), "--family", "tessera-v2")
    assert (code, "missing: dim_reducer.4.bias" in err) == (1, True)
    code, _, err = smalti("models", "import", SHIPPED / "smalti-mini", "--family", "tessera-v2")
    assert (code, "Leave out" in err) == (2, True)
    models = smalti.home / "models"
    assert not models.exists() or list(models.iterdir()) == []


def test_a_graph_that_differs_is_not_registered(smalti: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.training import verify

    literal = verify.reference_vectors
    monkeypatch.setattr(verify, "reference_vectors", lambda *a, **k: literal(*a, **k) + np.float32(1e-3))
    path = save(tmp_path / "file.pt", "tessera-v2")
    code, _, err = smalti("models", "import", path, "--family", "tessera-v2", *QUICK)
    assert (code, "differs from torch by 1.0e-03" in err) == (1, True)
    assert list((smalti.home / "models").iterdir()) == []


def fragile(state: dict[str, Any]) -> None:
    """Numbers of the size of a few units, and a norm that takes their mean away: float16 has no digits left."""
    state["dim_reducer.0.bias"] += 20


def overflowing(state: dict[str, Any]) -> None:
    for key in state:
        if "linear1.weight" in key:
            state[key] *= 1e6


def beyond_half(state: dict[str, Any]) -> None:
    for key in state:
        if "linear1.weight" in key:
            state[key] *= 1e7


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (fragile, r"half.onnx on cpu fp16 is left out: it differs from torch by .* at most 0.5 steps are allowed"),
        (overflowing, r"half.onnx on cpu fp16: .* not finite .* half.onnx on cpu fp16 is left out: it differs"),
        (beyond_half, r"half.onnx is left out: a weight of 5e\+05 is beyond float16"),
    ],
)
def test_half_precision_that_loses_too_much_is_left_out_and_refused(
    spoil: Any, says: str, smalti: Any, tmp_path: Path
) -> None:
    state = tensors("tessera-v2")
    spoil(state)
    path = save(tmp_path / "file.pt", "tessera-v2", state)
    line = ("models", "import", path, "--family", "tessera-v2", "--as", "mine", "--engine", "cpu", "--pixels", "9")
    code, out, err = smalti(*line, "--json")
    assert (code, bool(re.search(says, err))) == (0, True), err
    model = Registry((smalti.home / "models",)).get("mine")
    assert set(model.manifest.files) == {"model.onnx"}
    assert {f.name for f in model.path.parent.iterdir()} == {"model.onnx", MANIFEST, "checkpoint.json", "parity.json"}
    failed = [row["engine"] for row in json.loads(out)["parity"] if not row["ok"]]
    assert failed == ([] if spoil is beyond_half else ["half.onnx on cpu"])
    Encoder.open(model, "cpu").close()
    for engine in ("openvino", "cuda", "auto"):
        with pytest.raises(Unavailable) as refused:
            Encoder.open(model, engine, precision="fp16")
        if failed:
            assert "mine@2.0/default in fp16 was off by" in str(refused.value)
    assert smalti("models", "export", "mine", "--out", tmp_path / "out")[0] == 0
    assert not (tmp_path / "out" / "half.onnx").exists()
    code, _, err = smalti(*line)
    assert code == 0, err  # the same once more


def test_an_import_is_proven_in_float32_and_keeps_no_half_that_nobody_ran(smalti: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "file.pt", "tessera-v2")
    line = ("models", "import", path, "--family", "tessera-v2", "--as", "mine", "--pixels", "4", "--engine", "cpu")
    code, _, err = smalti(*line, "--precision", "fp16")
    assert (code, "precision: a model is proven in fp32 at least. Add --precision fp32." in err) == (2, True)
    code, _, err = smalti(*line, "--precision", "fp32")
    assert (code, "half.onnx is left out: it is not to be compared" in err) == (0, True)
    code, _, err = smalti(*line)
    assert code == 1
    assert "another mine@2.0/default is registered; it differs in half_file, half_sha256." in err
    for option, value in (("--engine", "gpu"), ("--precision", "bf16")):
        code, _, err = smalti("models", "import", path, "--family", "tessera-v2", option, value)
        assert (code, f"{option[2:]}: '{value}' is none. Use cpu" in err.replace("fp32", "cpu")) == (2, True)


def test_the_same_weights_with_the_statistics_of_another_source_are_another_model(smalti: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "file.pt", "tessera-v1.1-aws")
    line = ("models", "import", path, "--as", "mine@1", *QUICK, "--family")
    assert smalti(*line, "tessera-v1.1-aws")[0] == 0
    code, _, err = smalti(*line, "tessera-v1.1-mpc")
    assert (code, "another mine@1/default is registered; it differs in family, statistics" in err) == (1, True)
    assert Registry((smalti.home / "models",)).get("mine").manifest.family == "tessera-v1.1-aws"


def test_names_follow_the_published_files(smalti: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "student_nano.pt", "tessera-v2")
    code, _, err = smalti("models", "import", path, "--family", "tessera-v2", *QUICK)
    assert (code, "tessera-v2-nano@2.0/default is at" in err, "0 dropped" in err) == (0, True, False)
    model = Registry((smalti.home / "models",)).get("tessera-v2-nano")
    assert (model.manifest.licence, model.manifest.depths) == ("CC0-1.0", (16, 32, 64, 128))
    other = save(tmp_path / "My run 3.pt", "tessera-v2", seed=1)
    code, _, err = smalti("models", "import", other, "--family", "tessera-v2", *QUICK, "--no-half")
    assert (code, "my-run-3@2.0/default is at" in err) == (0, True)
    unknown = Registry((smalti.home / "models",)).get("my-run-3").manifest
    assert (unknown.licence, unknown.half_file) == ("NOASSERTION", "")
    code, _, err = smalti("models", "import", other, "--family", "tessera-v2", "--as", "tessera-v2-nano", *QUICK)
    assert (code, "another tessera-v2-nano@2.0/default is registered" in err) == (1, True)
    code, _, err = smalti("models", "import", path, "--family", "tessera-v2", *QUICK)
    assert code == 0  # the same one twice is one


def test_verify_export_bench_and_list(smalti: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "file.pt", "tessera-v2")
    both = ("--engine", "cpu", "--pixels", "4")
    assert smalti("models", "import", path, "--family", "tessera-v2", "--as", "mine", *both)[0] == 0
    code, out, err = smalti("models", "verify", "mine", *both, "--json")
    assert (code, "cpu fp16 is left out" in err) == (0, True)
    rows = {(row["engine"], row["precision"]): row for row in json.loads(out)}
    assert rows["cpu", "fp32"]["against"] == "torch"
    assert 0 < rows["half.onnx on cpu", "fp16"]["step_error_max"] <= 0.5
    listed = {m["name"]: m for m in json.loads(smalti("models", "list", "--json")[1])}
    assert listed["mine"]["engines"] == ["cpu fp32"]
    assert len(listed["mine"]["parity"]) == len(rows)
    assert listed["smalti-mini"]["parity"] == []
    (measured,) = json.loads(smalti("models", "bench", "mine", *QUICK, "--repeat", "1", "--json")[1])
    assert measured["pixels_per_second"] > 0
    code, out, err = smalti("models", "export", "mine", "--out", tmp_path / "carried", "--json")
    assert code == 0, err
    carried, kept = (
        json.loads((f / MANIFEST).read_text()) for f in (tmp_path / "carried", Path(listed["mine"]["path"]).parent)
    )
    assert carried == kept
    assert smalti("models", "export", "mine", "--out", tmp_path / "carried")[0] == 1
    path.unlink()
    code, _, err = smalti("models", "export", "mine", "--out", tmp_path / "again")
    assert (code, "not at hand" in err) == (1, True)
    code, out, _ = smalti("models", "verify", "mine", *QUICK, "--json")
    assert [row["against"] for row in json.loads(out)] == ["cpu fp32"]
    (mine,) = [m for m in json.loads(smalti("models", "list", "--json")[1]) if m["name"] == "mine"]
    kept = {row["engine"]: row["against"] for row in mine["parity"]}  # what was not measured again is as it was
    assert kept == {"cpu": "cpu fp32", "half.onnx on cpu": "torch"}
    other = save(tmp_path / "other.pt", "tessera-v2", seed=1)
    code, _, err = smalti("models", "verify", "mine", "--checkpoint", other)
    assert (code, "is not what mine was made from" in err) == (2, True)


def test_a_table_of_the_shipped_model_is_kept_in_the_home(smalti: Any) -> None:
    before = sorted((SHIPPED / "smalti-mini").iterdir())
    assert smalti("models", "verify", "smalti-mini", *QUICK)[0] == 0
    assert sorted((SHIPPED / "smalti-mini").iterdir()) == before
    (mini,) = json.loads(smalti("models", "list", "--json")[1])
    assert mini["engines"] == ["cpu fp32"]


def test_what_fails_ends_with_an_exit_code(smalti: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "file.pt", "tessera-v2")
    assert smalti("models", "import", path, "--family", "tessera-v2", "--as", "mine", *QUICK)[0] == 0
    from service.training import verify

    literal = verify.reference_vectors
    monkeypatch.setattr(verify, "reference_vectors", lambda *a, **k: literal(*a, **k) * np.float32(1.01))
    code, _, err = smalti("models", "verify", "mine", *QUICK)
    assert (code, "not faithful" in err) == (1, True)
    (mine,) = [m for m in json.loads(smalti("models", "list", "--json")[1]) if m["name"] == "mine"]
    assert mine["engines"] == []


def nano(tmp_path: Path) -> bytes:
    """A published file with 24 MB beside the tensors that count: hubs hand out pieces of 10 MB."""
    torch.manual_seed(0)
    return save(tmp_path / "made.pt", "tessera-v2", optimizer=torch.randn(6_000_000)).read_bytes()


PATH = "geotessera/TESSERA-V-2.0-2B-N/resolve/{revision}/ckpt/student_nano.pt"


@pytest.mark.slow
def test_a_pull_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    with serving(Hub(PATH, nano(tmp_path), cut=15_000_000)) as hub:
        line = ("models", "pull", "tessera-v2-nano", "--revision", "v9", *QUICK)
        done = run(tmp_path, *line, HF_ENDPOINT=hub.url, COLUMNS="300")
        assert done.returncode == 1, done.stderr
        assert "could not be reached" in done.stderr
        assert "smalti models import student_nano.pt --family tessera-v2" in done.stderr
        assert not (tmp_path / "models").exists()
        hub.cut, hub.broken = 0, False
        (part,) = (tmp_path / "checkpoints").rglob(".student_nano.pt.*.part")
        part.with_name(".student_nano.pt.0123456789abcdef.part").write_bytes(b"of what the hub had before")
        done = run(tmp_path, *line, "--json", HF_ENDPOINT=hub.url)
        assert done.returncode == 0, done.stderr
    assert hub.ranges == ["", f"bytes={10 * 2**20}-"]
    assert set(hub.revisions) == {"v9", COMMIT}
    assert [f.name for f in (tmp_path / "checkpoints").rglob("*") if f.is_file()] == ["student_nano.pt"]
    about = json.loads(done.stdout)
    assert about["model"] == "tessera-v2-nano@2.0/default"
    assert about["checkpoint_sha256"] == hub.sha256
    manifest = Registry((tmp_path / "models",)).get("tessera-v2-nano").manifest
    assert manifest.licence == "CC0-1.0"
    assert COMMIT in manifest.origin


@pytest.mark.slow
def test_a_pull_that_is_not_what_the_hub_vouches_for_is_deleted(tmp_path: Path) -> None:
    with serving(Hub(PATH, save(tmp_path / "made.pt", "tessera-v2").read_bytes(), sha256="0" * 64)) as hub:
        done = run(tmp_path, "models", "pull", "tessera-v2-nano", *QUICK, HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    assert "the hub says 000000000000" in done.stderr.replace("\n", " ")
    assert not [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:{port}"}])
def test_without_a_network_it_says_what_to_do(how: dict[str, str], tmp_path: Path) -> None:
    done = run(
        tmp_path, "models", "pull", "tessera-v1.1-aws", **{k: v.format(port=free_port()) for k, v in how.items()}
    )
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert "huggingface.co/geotessera/TESSERA-V-1.1/resolve/main/tessera_v1_1_aws_encoder.pt" in said
    assert (
        "smalti models import tessera_v1_1_aws_encoder.pt --family tessera-v1.1-aws --as tessera-v1.1-aws@1.1" in said
    )
    assert "Traceback" not in said


def test_what_the_hub_has_not_and_names_that_nobody_knows(smalti: Any, tmp_path: Path) -> None:
    code, _, err = smalti("models", "pull", "tessera-v3")
    assert (code, "tessera-v2-teacher" in err) == (1, True)
    with serving(Hub(PATH, b"x")) as hub:
        done = run(tmp_path, "models", "pull", "tessera-v2-small", HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    assert "the hub has no" in done.stderr


def test_the_teacher_wants_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.errors import Unavailable

    one = hub_module.published("tessera-v2-teacher")
    hub_module.require_room(tmp_path, 1000, one)
    with pytest.raises(Unavailable, match="of free disk"):
        hub_module.require_room(tmp_path / "not" / "yet", 10**15, one)
    monkeypatch.setattr(hub_module, "memory_of_machine", lambda: 4 * 10**9)
    with pytest.raises(Unavailable, match=r"wants 6\.0 GB of memory; there are 4\.0 GB.*smaller model"):
        hub_module.require_room(tmp_path, 3 * 10**9, one)


def test_every_published_name_has_a_family() -> None:
    for name, one in hub_module.PUBLISHED.items():
        assert one.identity.name == name
        assert Path(one.file).name in family(one.family).published
