"""Exported graphs: every network, in every engine here, in full and half precision, beside torch and golden numbers."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

torch = pytest.importorskip("torch")

from service.encoder import Encoder  # noqa: E402
from service.errors import Corrupt, Unavailable  # noqa: E402
from service.families import FAMILIES, family  # noqa: E402
from service.parity import HALF_FILE, Plan  # noqa: E402
from service.quant import quantise  # noqa: E402
from service.registry import SHIPPED, RegisteredModel, read_model, register, sha256_of  # noqa: E402
from service.training.checkpoints import read_checkpoint  # noqa: E402
from service.training.export import export, rounded, to_onnx, write_onnx  # noqa: E402
from service.training.golden import GOLDEN, feeds, forward  # noqa: E402
from service.training.networks import Student, StudentConfig, build  # noqa: E402
from service.training.reference import reference_vectors  # noqa: E402
from service.training.verify import realistic, verify  # noqa: E402
from service.values import ModelIdentity  # noqa: E402
from tests.checkpoints import FORMS, save  # noqa: E402
from tests.pixels import random_dpixels  # noqa: E402

ENGINES = ("cpu", "openvino")
ME = ModelIdentity("me", "1")


def opened(model: RegisteredModel, engine: str) -> Encoder:
    if engine == "openvino":
        pytest.importorskip("openvino")
    return Encoder.open(model, engine, threads=1)


def walk(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Feeds with repetitions, padding and, for v1.x, an order that is not that of the observations."""
    rng = np.random.default_rng(seed)
    out = {}
    for sensor, channels, times, steps in (("s2", 10, 12, 16), ("s1", 2, 9, 24)):
        logm = np.log(rng.integers(1, 4, (3, times))).astype(np.float32)
        logm[0, -3:] = -1e9
        out |= {
            sensor: rng.normal(size=(3, times, channels)).astype(np.float32),
            f"{sensor}_doy": rng.integers(0, 367, (3, times)),
            f"{sensor}_logm": logm,
        }
        if family(name).sampling != "v2":
            ends = np.zeros((3, steps), np.float32)
            ends[1, 10:] = -1e9
            out |= {f"{sensor}_order": rng.integers(0, times - 3, (3, steps)), f"{sensor}_steps": ends}
    return out


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow if c.case.startswith("v1") else ()) for c in GOLDEN],
    ids=lambda case: case.case,
)
def test_golden_numbers_in_every_engine(case, tmp_path):
    made = export(case.network(), tmp_path, ME, family=case.family)
    for engine in ENGINES:
        with closing(opened(made, engine)) as encoder:
            vectors = encoder.run(feeds(case))
        assert vectors.shape == (2, min(case.native_dims, family(case.family).dims))
        assert case.error(vectors) <= 1, engine


@pytest.mark.slow
def test_golden_numbers_of_v11_to_the_last_in_every_engine(tmp_path):
    """Models store 128 of 192 numbers: the last of the golden ones show in a graph that gives all."""
    case = next(one for one in GOLDEN if one.family == "tessera-v1.1-aws")
    network = case.network()
    stored = export(network, tmp_path / "stored", ME, family=case.family)
    path = tmp_path / "stored" / "all.onnx"
    write_onnx(network, path)
    whole = RegisteredModel(replace(stored.manifest, file=path.name, sha256=sha256_of(path), dims=192), path)
    for engine in ENGINES:
        with closing(opened(whole, engine)) as encoder:
            vectors = np.asarray(encoder.run(feeds(case)))
        assert vectors.shape == (2, 192)
        assert case.error(vectors) <= 1, engine
        with closing(opened(stored, engine)) as encoder:
            codes, scales = quantise(np.asarray(encoder.run(feeds(case))), "v1")
        assert codes[0, :6].tolist() == [-18, -88, -125, -117, -66, 9]
        assert scales[0] == pytest.approx(0.036252, abs=5e-7)


def networks():
    for name, sizes in FORMS.items():
        yield pytest.param(name, sizes, id=name)
    yield pytest.param("tessera-v2", FORMS["tessera-v2"] | {"enable_qk_norm": True}, id="tessera-v2 with QK-norm")
    yield pytest.param("tessera-v2-teacher", FORMS["tessera-v2-teacher"] | {"final_layernorm": False}, id="unnormed")


def lively(name, sizes):
    """A network whose gates, norms and attention all matter."""
    torch.manual_seed(5)
    net = build(name, sizes)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * (0.2 if p.ndim == 1 else 0.05))
    return net


@pytest.mark.parametrize(("name", "sizes"), list(networks()))
def test_graphs_compute_what_torch_does(name, sizes, tmp_path):
    net, arrays = lively(name, sizes), walk(name)
    want = forward(net, arrays)
    model = export(net, tmp_path, ME, family=name, half=True)
    want = want[:, : model.manifest.dims]
    for engine in ENGINES:
        with closing(opened(model, engine)) as encoder:
            assert np.abs(encoder.run(arrays) - want).max() < 1e-5, engine
    manifest = replace(model.manifest, file=model.manifest.half_file, sha256=model.manifest.half_sha256)
    with closing(opened(RegisteredModel(manifest, model.half_path), "cpu")) as encoder:
        off = np.abs(encoder.run(arrays) - want).max()
    step = np.abs(want).max(axis=1).min() / 127
    assert 1e-6 < off < 0.5 * step  # that it is off at all shows that it is another graph


@pytest.mark.parametrize("name", ["tessera-v1.1-aws", "tessera-v2-teacher"])
def test_half_graphs_keep_norms_softmax_and_days_in_full(name):
    model = onnx.load_from_string(to_onnx(build(name, FORMS[name]), half=True))
    kinds = {w.name: w.data_type for w in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    kinds |= {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.input)}
    full, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    wanted = {"Softmax": full, "LayerNormalization": full, "Gather": full, "ReduceMean": full, "MatMul": half}
    seen = set()
    for node in model.graph.node:
        if node.op_type in wanted and node.input[0] in kinds:
            seen.add(node.op_type)
            assert kinds[node.input[0]] == wanted[node.op_type] or node.output[0] == "", node
    assert seen >= {"Softmax", "LayerNormalization", "MatMul"}
    assert [kinds[i.name] for i in model.graph.input if i.name in ("s2", "s1_logm")] == [full, full]
    assert model.graph.output[0].type.tensor_type.elem_type == full


def test_v11_gives_the_stored_dimensions_only():
    model = onnx.load_from_string(to_onnx(build("tessera-v1.1-mpc", FORMS["tessera-v1.1-mpc"]), 128))
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 128
    assert max(w.dims[-1] for w in model.graph.initializer if len(w.dims) == 2 and w.dims[0] == 4 * 32) == 128


@pytest.mark.parametrize("name", ["tessera-v2-teacher", "tessera-v1.1-aws"])
def test_weights_beyond_the_limit_lie_beside(name, tmp_path):
    net, arrays = lively(name, FORMS[name]), walk(name)
    model = export(net, tmp_path / "src", ME, family=name, half=True, limit=10_000)
    manifest = model.manifest
    assert set(manifest.files) == {"model.onnx", "model.data", "half.onnx", "half.data"}
    assert model.path.stat().st_size < (tmp_path / "src" / "model.data").stat().st_size / 2
    kept = register(tmp_path / "models", tmp_path / "src")
    kept.verify()
    for engine in ENGINES:
        with closing(opened(kept, engine)) as encoder:
            assert np.abs(encoder.run(arrays) - forward(net, arrays)[:, : manifest.dims]).max() < 1e-5, engine
    data = kept.path.with_name("half.data")
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    with pytest.raises(Corrupt, match=r"half\.data"):
        kept.verify()
    data.unlink()
    with pytest.raises(Unavailable, match=r"half\.data"):
        Encoder.open(kept, "cpu")


@pytest.mark.parametrize("name", ["tessera-v1.0-early", "tessera-v1.1-aws", "tessera-v2", "tessera-v2-teacher"])
def test_half_precision_is_judged_by_what_float16_really_does(name, tmp_path):
    """On a processor ONNX Runtime keeps products wide: numpy, which rounds each one, is the judge."""
    net = lively(name, FORMS[name])
    model = export(net, tmp_path / "models" / "me", ME, family=name, half=True, limit=10_000)
    case = next(one for one in GOLDEN if one.family == name)
    want = forward(net, feeds(case))[:, : model.manifest.dims]
    path = model.path.with_name("rounded.onnx")
    path.write_bytes(rounded(model.half_path))
    exact = ReferenceEvaluator(str(model.half_path)).run(None, feeds(case))[0] - want
    off = run_plainly(path, case) - want
    assert 0.5 < np.abs(off).mean() / np.abs(exact).mean() < 2
    row = next(row for row in verify(model, Plan(["cpu"], ["fp16"], pixels=4), None) if row.engine == HALF_FILE)
    assert row.ok
    assert {f.name for f in tmp_path.rglob("*.onnx")} == {"model.onnx", "half.onnx", "rounded.onnx"}
    for key, parameter in net.named_parameters():  # norms take the size away again, if it is a number at all by then
        if "linear1.weight" in key:
            parameter.data *= 3e4 / parameter.abs().max()
    model = export(net, tmp_path / "models" / "me", ME, family=name, half=True)
    if name != "tessera-v2-teacher":  # whose sums go on in float32, and end beyond float16 all the same
        assert np.isfinite(run_plainly(model.half_path, case)).all()
    row = next(row for row in verify(model, Plan(["cpu"], ["fp16"], pixels=4), None) if row.engine == HALF_FILE)
    assert not row.ok


def run_plainly(path, case):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, feeds(case))[0]


def test_a_weight_that_float16_cannot_hold_is_refused():
    net = build("tessera-v2", FORMS["tessera-v2"])
    net.dim_reducer[0].weight.data[0, 0] = 1e6
    with pytest.raises(Corrupt, match="beyond float16"):
        to_onnx(net, half=True)


def test_students_give_the_file_that_they_always_gave():
    shipped = onnx.load(read_model(SHIPPED / "smalti-mini").path)
    sizes = read_model(SHIPPED / "smalti-mini").manifest.training["student"]
    ours = onnx.load_from_string(to_onnx(Student(StudentConfig(**sizes)).eval()))
    for model in (shipped, ours):
        for weight in model.graph.initializer:
            if weight.data_type == onnx.TensorProto.FLOAT:
                weight.raw_data = b""
    assert ours.SerializeToString() == shipped.SerializeToString()


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "tessera-v1.1-mpc"])
def test_end_to_end_against_the_published_procedure(name, tmp_path):
    """Both orbits, pixels with one sensor, pixels with none; int8 codes equal but for ties."""
    net = lively(name, FORMS[name])
    model = export(net, tmp_path, ME, family=name)
    d = random_dpixels([40, 0, 23, 9, 0, 61, 3, 100], [30, 12, 0, 5, 0, 0, 1, 70], [28, 0, 0, 7, 0, 17, 60, 33])
    want = reference_vectors(net, d, model.manifest.statistics, sampling=model.manifest.sampling)
    want = want[:, : model.manifest.dims]
    made = np.isfinite(want).all(axis=1)
    assert list(made) == [True, True, True, True, False, True, True, True]
    codes, _ = quantise(want[made], model.manifest.quantiser)
    for engine in ENGINES:
        with closing(opened(model, engine)) as encoder:
            result = encoder.encode(d)
        assert list(np.isfinite(result.floats).all(axis=1)) == list(made), engine
        assert np.abs(result.floats[made] - want[made]).max() < 2e-5
        levels = np.abs(result.vectors.codes[made].astype(int) - codes)
        assert levels.max() <= 1
        assert (levels > 0).mean() <= 0.005


def test_verify_tells_a_faithful_model_from_another(tmp_path):
    net = lively("tessera-v2", FORMS["tessera-v2"])
    model = export(net, tmp_path / "a", ME, half=True)
    rows = verify(model, Plan(["cpu"], pixels=9), None)
    told = {(row.engine, row.precision, row.against): row for row in rows}
    assert all(row.ok for row in rows)
    assert told["cpu", "fp32", "cpu fp32"].max_abs == 0
    half = told[HALF_FILE, "fp16", "cpu fp32"]
    assert 0 < half.step_error_mean < half.step_error_max < 0.5
    assert sum(row.against.startswith("golden") for row in rows) == 2
    liar = export(lively("tessera-v2", FORMS["tessera-v2"] | {"nhead": 2}), tmp_path / "b", ME)
    checkpoint = read_checkpoint(save(tmp_path / "c.pt", "tessera-v2", net.state_dict()), "tessera-v2")
    (row, *_) = verify(liar, Plan(["cpu"], ["fp32"], pixels=9), checkpoint)
    assert row.against == "torch"
    assert not row.ok
    with pytest.raises(Unavailable, match="no cuda"):
        verify(model, Plan(["cuda"], pixels=4, strict=True))


def test_realistic_pixels_miss_a_sensor_now_and_then():
    d = realistic(30)
    assert len(d) == 30
    assert (d.s2_valid.sum(axis=1) == 0).sum() == 2
    assert (~(d.s1_asc.any(axis=(1, 2)) | d.s1_desc.any(axis=(1, 2)))).sum() == 2
