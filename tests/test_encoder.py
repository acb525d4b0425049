"""The encoder: independence of pixels, statuses, depths, devices, damaged models."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_dpixels import arrays, real_pixel

from service.dpixels import BANDS, DPixels, from_arrays, from_json
from service.encoder import Encoder, engines, ort, parts, vino
from service.errors import Corrupt, InvalidInput, Unavailable
from service.quant import dequantise, quantise
from service.registry import SHIPPED, Registry
from service.sampling import prepare
from service.values import NOT_EMBEDDED, REJECTED, VALID, Window
from tests.pixels import random_dpixels


@pytest.fixture(scope="module")
def mini() -> Encoder:
    return Encoder.open(Registry((SHIPPED,)).get("smalti-mini"), engine="cpu", threads=1)


# --- encoding


def test_status_counts_and_shape(mini):
    d = random_dpixels([5, 0, 0, 20, 3], [4, 0, 6, 0, 0], [0, 0, 3, 0, 1])
    result = mini.encode(d, min_s2=4)
    assert result.vectors.status.tolist() == [VALID, NOT_EMBEDDED, REJECTED, VALID, REJECTED]
    assert result.counts.s2.tolist() == [5, 0, 0, 20, 3]
    assert result.counts.s1_asc.tolist() == [4, 0, 6, 0, 0]
    assert np.isnan(result.floats[[1, 2, 4]]).all()
    assert np.isfinite(result.floats[[0, 3]]).all()
    assert (result.vectors.codes[[1, 2, 4]] == 0).all()
    assert mini.encode(d).vectors.status.tolist() == [VALID, NOT_EMBEDDED, VALID, VALID, VALID]


def test_stored_vectors_are_the_floats_quantised(mini):
    result = mini.encode(random_dpixels([9, 30], [8, 0], [0, 12]))
    codes, scales = quantise(result.floats, "v2")
    assert (codes == result.vectors.codes).all()
    assert (scales == result.vectors.scales).all()
    assert np.allclose(result.floats.mean(axis=1), 0, atol=1e-5)
    assert np.allclose(result.floats.std(axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("engine", ["cpu", "openvino"])
def test_a_vector_depends_on_its_pixel_alone(mini, engine):
    mini = Encoder.open(mini.model, engine=engine, threads=2)
    rng = np.random.default_rng(4)
    n2, na, nd = (rng.integers(0, 70, 150) for _ in range(3))
    d = random_dpixels(n2, na, nd, t2=80, ta=75)
    whole = mini.encode(d).floats
    order = rng.permutation(150)
    names = ("s2", "s2_doy", "s2_valid", "s1_asc", "s1_asc_doy", "s1_desc", "s1_desc_doy")
    shuffled = DPixels(**{name: getattr(d, name)[order] for name in names}, shape=(150,))
    assert np.array_equal(mini.encode(shuffled).floats, whole[order], equal_nan=True)
    for i in (0, 77, 149):
        assert np.array_equal(mini.encode(d[i : i + 1]).floats[0], whole[i], equal_nan=True)


def test_what_is_not_valid_never_matters(mini):
    d = random_dpixels([9, 0], [8, 3], [2, 12], t2=20)
    noisy = np.where(d.s2_valid[..., None], d.s2, 54321).astype(np.uint16)
    days = np.where(d.s2_valid, d.s2_doy, 1)
    assert np.array_equal(mini.encode(replace(d, s2=noisy, s2_doy=days)).floats, mini.encode(d).floats)


def test_order_of_dates_does_not_matter(mini):
    d = random_dpixels([11], [10], [10])
    turned = replace(d, s2=d.s2[:, ::-1], s2_doy=d.s2_doy[:, ::-1], s2_valid=d.s2_valid[:, ::-1])
    # 11 observations make 16: which five count twice does depend on the order, so take a full bin as well.
    full = random_dpixels([24], [10], [10])
    reversed_ = replace(full, s2=full.s2[:, ::-1], s2_doy=full.s2_doy[:, ::-1], s2_valid=full.s2_valid[:, ::-1])
    assert np.allclose(mini.encode(full).floats, mini.encode(reversed_).floats, atol=2e-5)
    assert not np.allclose(mini.encode(d).floats, mini.encode(turned).floats, atol=2e-5)


def test_progress_reaches_the_end(mini):
    seen = []
    d = random_dpixels([9] * 20, [8] * 20, [0] * 20)
    in_fours = Encoder(mini.model, replace(mini.engine, chunk=4))
    small = in_fours.encode(d, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (20, 20)
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert np.array_equal(small.floats, mini.encode(d).floats)


def test_a_raster_and_a_list_give_the_same(mini):
    held = arrays(4, 5, 12, 6, 6)
    result = mini.encode(from_arrays(held))
    one = {k: v if v.ndim == 1 else v[:, 2:3, 3:4] for k, v in held.items()}
    assert np.array_equal(mini.encode(from_arrays(one)).floats[0], result.floats[13])


def test_no_pixels(mini):
    d = from_arrays(arrays())[0:0]
    assert mini.encode(d).floats.shape == (0, 128)


def test_depths_are_those_of_the_manifest(mini):
    with pytest.raises(InvalidInput, match="no depth"):
        mini.encode(random_dpixels([5], [5], [5]), dims=17)


def test_the_real_pixel_by_any_band_order(mini, real_data):
    theirs, doc = real_pixel(real_data)
    ours, _ = real_pixel(real_data, BANDS)
    a, b = (mini.encode(from_json([pixel], Window.year(2025))[0]) for pixel in (theirs, ours))
    assert np.array_equal(a.floats, b.floats)
    assert np.isfinite(a.floats).all()
    codes = np.array(doc["emb"], np.int8)
    scale = np.float32(doc["scale"])
    again, back = quantise(dequantise(codes[None], np.array([scale])), "v1")
    assert (again[0] == codes).all()
    assert back[0] == scale


# --- opening


def test_what_runs_is_what_was_asked_for(mini):
    assert (mini.device, mini.precision, mini.dims) == ("cpu", "fp32", 128)
    with pytest.raises(InvalidInput, match="no engine"):
        Encoder.open(mini.model, engine="tpu")
    with pytest.raises(InvalidInput, match="no precision"):
        Encoder.open(mini.model, precision="bf16")
    with pytest.raises(Unavailable, match="cpu engine has no fp16"):
        Encoder.open(mini.model, engine="cpu", precision="fp16")


@pytest.mark.parametrize("engine", ["cuda", "tensorrt"])
def test_a_device_that_is_not_there_is_named(mini, engine):
    if ort.PROVIDERS[engine] in ort.onnxruntime.get_available_providers():
        pytest.skip("this machine may have it")
    with pytest.raises(Unavailable, match=engine):
        Encoder.open(mini.model, engine=engine)


def test_two_builds_in_one_folder_are_refused(mini, monkeypatch):
    monkeypatch.setattr(engines, "builds", lambda: ["onnxruntime", "onnxruntime-gpu"])
    for engine in ("auto", "cpu", "cuda"):
        with pytest.raises(Unavailable, match="both installed"):
            Encoder.open(mini.model, engine=engine)
    assert Encoder.open(mini.model, engine="openvino").device == "openvino"  # needs neither


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("engine", ["cuda", "tensorrt"])
def test_a_build_with_cuda_on_a_machine_without_never_falls_back(mini, monkeypatch, engine):
    if "CUDAExecutionProvider" in ort.onnxruntime.get_available_providers():
        pytest.skip("this machine may have a GPU")
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: list(ort.PROVIDERS.values()))
    with pytest.raises(Unavailable, match="CPUExecutionProvider came"):
        Encoder.open(mini.model, engine=engine)
    chosen = Encoder.open(mini.model, engine="auto")
    assert chosen.device == "cpu"
    assert "CPUExecutionProvider came" in chosen.engine.why


def test_without_openvino_the_extra_is_named(mini, monkeypatch):
    real = importlib.import_module
    vino._core.cache_clear()

    def missing(name, *args):
        if name == "openvino":
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(vino.importlib, "import_module", missing)
    with pytest.raises(Unavailable, match=r"Install smalti\[openvino\]"):
        Encoder.open(mini.model, engine="openvino")
    assert Encoder.open(mini.model, engine="auto").device == "cpu"
    with pytest.raises(Unavailable, match=r"no engine here runs smalti-mini.*no fp16.*OpenVINO is not installed"):
        Encoder.open(mini.model, engine="auto", precision="fp16")
    monkeypatch.undo()
    assert Encoder.open(mini.model, engine="openvino").device == "openvino"


def test_auto_takes_the_first_that_has_the_precision(mini, monkeypatch):
    """Half precision on a processor that has it: the cpu engine is passed over, and that is said."""
    real = vino._compiled
    monkeypatch.setattr(vino, "capabilities", lambda: ("FP32", "FP16"))
    monkeypatch.setattr(
        vino, "_compiled", lambda core, path, hint, threads: Pretending(real(core, path, "f32", threads))
    )
    chosen = Encoder.open(mini.model, engine="auto", precision="fp16")
    assert (chosen.device, chosen.precision) == ("openvino", "fp16")
    assert "the cpu engine has no fp16" in chosen.engine.why


class Pretending:
    """A compiled graph that says it computes in float16."""

    def __init__(self, compiled):
        self._compiled = compiled

    def __getattr__(self, name):
        return getattr(self._compiled, name)

    def get_property(self, _):
        return vino._core()[1](np.float16)


def test_half_precision_is_refused_where_the_processor_has_none(mini, monkeypatch):
    monkeypatch.setattr(vino, "capabilities", lambda: ("FP32", "BF16", "INT8"))
    with pytest.raises(Unavailable, match="no fp16 arithmetic"):
        Encoder.open(mini.model, engine="openvino", precision="fp16")


def test_openvino_is_asked_what_it_took(mini, monkeypatch):
    """Asked for float16 on a processor without, it takes bfloat16 or float32 and says nothing."""
    if "FP16" in vino.capabilities():
        assert Encoder.open(mini.model, engine="openvino", precision="fp16").precision == "fp16"
        return
    monkeypatch.setattr(vino, "capabilities", lambda: ("FP32", "FP16"))
    with pytest.raises(Unavailable, match="fp16 was asked for, OpenVINO took"):
        Encoder.open(mini.model, engine="openvino", precision="fp16")


def test_half_precision_on_a_gpu_needs_the_half_file(mini, monkeypatch):
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: list(ort.PROVIDERS.values()))
    with pytest.raises(Unavailable, match="no half-precision file"):
        Encoder.open(mini.model, engine="cuda", precision="fp16")


def test_bound_memory_gives_what_a_plain_run_gives(mini):
    """The way onto a GPU, tried on this machine's own memory: places are used again for a shape seen before."""
    session = ort._session(mini.model, mini.model.path, "cpu", "fp32", 1)
    run = ort.bound(session, "cpu")
    d = random_dpixels([5, 30, 17, 9], [4, 20, 0, 9], [0, 9, 3, 9])
    ready = prepare(d, mini.manifest.statistics, "v2")
    few = parts.packed([(parts.Part(ready, np.ones(4, bool), np.empty((4, 128))), np.array([1]))], 2)
    assert np.array_equal(mini.run(few), mini.encode(d[[1, 1]]).floats)  # filled up to a batch
    for i in (0, 1, 0, 2, 3, 1):
        feeds = parts.packed([(parts.Part(ready, np.ones(4, bool), np.empty((4, 128))), np.array([i]))], 8)
        assert np.array_equal(run(feeds), mini.run(feeds))


def test_tensorrt_is_told_every_length_at_once(mini):
    options = ort._options(mini.model, "tensorrt", "fp16")
    assert options["trt_profile_min_shapes"].split(",")[:2] == ["s1:256x1x2", "s1_doy:256x1"]
    assert "s2:256x256x10" in options["trt_profile_max_shapes"].split(",")
    assert ort._options(mini.model, "cuda", "fp32") == {"use_tf32": "0"}


def test_float32_engines_agree(mini):
    d = random_dpixels(*np.random.default_rng(5).integers(0, 60, (3, 40)))
    other = Encoder.open(mini.model, engine="openvino", threads=1)
    assert (other.device, other.precision) == ("openvino", "fp32")
    ours, theirs = mini.encode(d), other.encode(d)
    assert np.allclose(ours.floats, theirs.floats, atol=2e-5, equal_nan=True)
    assert abs(ours.vectors.codes.astype(int) - theirs.vectors.codes).max() <= 1
    assert (ours.vectors.codes != theirs.vectors.codes).mean() <= 0.005


def copy_of(mini, folder: Path):
    shutil.copytree(mini.model.path.parent, folder / "m")
    return folder / "m" / mini.model.path.name


def test_a_missing_or_damaged_model_is_named(mini, tmp_path):
    path = copy_of(mini, tmp_path)
    model = Registry((tmp_path,)).get("smalti-mini")
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(Corrupt, match=str(path)):
        Encoder.open(model)
    path.unlink()
    with pytest.raises(Unavailable, match=str(path)):
        Encoder.open(model)


def test_a_file_that_is_no_encoder_is_named(mini, tmp_path):
    import hashlib

    path = copy_of(mini, tmp_path)
    path.write_bytes(b"not a graph")
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["sha256"] = hashlib.sha256(b"not a graph").hexdigest()
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Corrupt, match="cannot be opened"):
        Encoder.open(Registry((tmp_path,)).get("smalti-mini"))


# --- on a GPU, as far as that can be tried without


class Assigned:
    """A session that says where its operators are."""

    def __init__(self, **places):
        self._places = places

    def get_provider_graph_assignment_info(self):
        def part(place, kinds):
            nodes = [SimpleNamespace(op_type=kind) for kind in kinds]
            return SimpleNamespace(ep_name=ort.PROVIDERS[place], get_nodes=lambda: nodes)

        return [part(place, kinds) for place, kinds in self._places.items()]


def test_what_a_gpu_leaves_to_the_processor_is_said_or_refused():
    assert ort.left(Assigned(cuda=["MatMul", "Softmax"], cpu=["Gather", "Unsqueeze"]), "cuda") == ""
    assert "recurrent cell runs on the processor" in ort.left(Assigned(cuda=["MatMul"], cpu=["GRU"]), "cuda")
    with pytest.raises(Unavailable, match="cuda was asked for, but GRU, MatMul would run on the processor"):
        ort.left(Assigned(cuda=["Softmax"], cpu=["MatMul", "GRU"]), "cuda")


def test_what_runs_where_is_asked_of_onnxruntime_itself(mini):
    options = ort.onnxruntime.SessionOptions()
    ort._ready_gpu(options, 1)
    session = ort.onnxruntime.InferenceSession(str(mini.model.path), options, providers=["CPUExecutionProvider"])
    with pytest.raises(Unavailable, match="Gemm, LayerNormalization, MatMul, Softmax would run on the processor"):
        ort.left(session, "cuda")


def test_a_gpu_is_tried_before_it_serves(mini):
    engines.trial(mini.model, mini.engine)

    def broken(feeds):
        raise RuntimeError("no kernel image is available for execution on the device")

    with pytest.raises(Unavailable, match="cpu does not run here: no kernel image"):
        engines.trial(mini.model, replace(mini.engine, lane=lambda: broken))
    nothing = np.full((mini.engine.batch, 128), np.nan, np.float32)
    with pytest.raises(Unavailable, match="no vectors in fp32"):
        engines.trial(mini.model, replace(mini.engine, lane=lambda: lambda feeds: nothing))


def test_engines_of_tensorrt_are_kept_apart_by_weights(mini):
    other = replace(mini.model, manifest=replace(mini.manifest, sha256="0" * 64))
    one, two = (ort._options(model, "tensorrt", "fp32")["trt_engine_cache_path"] for model in (mini.model, other))
    assert one != two


# --- threads


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/1\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            64,
        ),
    ],
)
def test_threads_are_no_more_than_a_container_may_use(files, most, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(engines.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert engines.cores(tmp_path) == most


def test_the_whole_way_onto_a_gpu_with_the_processor_in_its_place(mini, monkeypatch):
    real = ort.bound
    monkeypatch.setattr(ort, "PROVIDERS", {"cpu": "NoneExecutionProvider", "cuda": "CPUExecutionProvider"})
    monkeypatch.setattr(ort, "_options", lambda *_: {})
    monkeypatch.setattr(ort, "bound", lambda session, device: real(session, {"cuda": "cpu"}[device]))
    chosen = Encoder.open(mini.model, engine="auto", threads=1)
    assert (chosen.device, chosen.engine.batch, chosen.engine.lanes) == ("cuda", 256, 2)
    d = random_dpixels([5, 6, 0, 30], [4, 4, 0, 20], [0, 1, 0, 9])
    assert np.allclose(chosen.encode(d).floats, mini.encode(d).floats, atol=2e-5, equal_nan=True)

    def no_kernel(session, device):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(ort, "bound", no_kernel)
    with pytest.raises(Unavailable, match="cuda does not run here: no kernel image"):
        Encoder.open(mini.model, engine="cuda", threads=1)
