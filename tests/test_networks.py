"""Networks of every family: published names and sizes, golden numbers, and the short form against the literal one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from service.errors import InvalidInput  # noqa: E402
from service.families import FAMILIES, family  # noqa: E402
from service.quant import quantise  # noqa: E402
from service.sampling import Prepared, prepare  # noqa: E402
from service.training.golden import GOLDEN, RELATIVE, TOLERANCE, feeds, fill, forward, golden, inputs  # noqa: E402
from service.training.networks import Network, build, doy_encoding  # noqa: E402
from service.training.reference import reference_vectors  # noqa: E402
from tests.pixels import golden_pixels, random_dpixels  # noqa: E402

TINY = {"repr_dim": 24, "latent_dim": 4, "num_layers": 2, "nhead": 4, "dim_feedforward": 48}
SIZES = {  # parameters: of all, S2 backbone, S1 backbone, reducer; keys of the state dict
    "v1.0 early": (87_841_922, 43_857_409, 43_853_313, 131_200, 214),
    "v1.0 QAT": (45_828_226, 22_850_561, 22_846_465, 131_200, 132),
    "v1.1 aws": (57_708_738, 26_198_529, 26_192_385, 5_317_824, 136),
    "v2 small": (7_112_322, None, None, None, 114),
    "v2 small with QK-norm": (7_113_346, None, None, None, 162),
    "v2 teacher, shrunk": (64_690, None, None, None, 127),
}


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


def short_form(network: Network, name: str, dpixels) -> np.ndarray:
    """Vectors the way an engine makes them: each observation once, NaN where the model embeds nothing."""
    f = family(name)
    return run(network, prepare(dpixels, f.statistics, f.sampling))


def run(network: Network, ready: Prepared) -> np.ndarray:
    arrays = {}
    for sensor, held in (("s2", ready.s2), ("s1", ready.s1)):
        arrays |= {sensor: held.values, f"{sensor}_doy": held.doy, f"{sensor}_logm": held.logm}
        if held.order is not None:
            arrays |= {f"{sensor}_order": held.order, f"{sensor}_steps": held.steps}
    return np.where(ready.wanted[:, None], forward(network, arrays), np.nan)


def literal(network: Network, name: str, dpixels, **more) -> np.ndarray:
    f = family(name)
    return reference_vectors(network, dpixels, f.statistics, sampling=f.sampling, **more)


@pytest.fixture(scope="module")
def v11() -> Network:
    return golden("tessera-v1.1-aws")[0].network()


@pytest.fixture(scope="module")
def small() -> Network:
    return golden("tessera-v2")[0].network()


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request) -> tuple[str, Network]:
    torch.manual_seed(3)
    network = build(request.param, TINY)
    with torch.no_grad():  # scores far apart, so that pooling and its order matter
        for sensor in ("s2", "s1"):
            getattr(network, f"{sensor}_backbone").attn_pool.query.weight.mul_(20)
    return request.param, network


# --- golden numbers


def check_golden(case, network):
    if case.case in SIZES:
        whole, s2, s1, reducer, keys = SIZES[case.case]
        assert parameters(network) == whole
        assert len(network.state_dict()) == keys
        if s2:
            parts = network.s2_backbone, network.s1_backbone, network.dim_reducer
            assert tuple(map(parameters, parts)) == (s2, s1, reducer)
    vectors = forward(network, inputs(case.times))
    assert vectors.shape == (2, case.native_dims)
    assert case.error(vectors) <= 1
    assert case.error(forward(network, feeds(case))) <= 1
    assert case.error(vectors + np.float32(3e-4)) > 1  # it can fail


@pytest.mark.parametrize("case", [c for c in GOLDEN if "v1" not in c.case], ids=lambda c: c.case)
def test_golden_forward(case):
    check_golden(case, case.network())


@pytest.mark.slow
def test_golden_forward_of_v11(v11):
    """Both sources are one network; stored vectors are the first 128 of 192 numbers."""
    for name in ("tessera-v1.1-mpc", "tessera-v1.1-aws"):
        (case,) = golden(name)
        check_golden(case, v11)
        assert case.relative == RELATIVE
    vectors = forward(v11, inputs())[:, : family("tessera-v1.1-aws").dims]
    assert golden("tessera-v1.1-aws")[0].error(vectors) <= 1  # of what is stored, the first numbers
    codes, scales = quantise(vectors, "v1")
    assert codes[0, :6].tolist() == [-18, -88, -125, -117, -66, 9]
    assert scales[0] == pytest.approx(0.036252, abs=5e-7)


@pytest.mark.slow
def test_golden_forward_of_v10_qat():
    many, one = golden("tessera-v1.0-qat")
    network = many.network()
    check_golden(many, network)
    check_golden(one, network)


@pytest.mark.slow
def test_golden_forward_of_v10_early():
    (case,) = golden("tessera-v1.0-early")
    check_golden(case, case.network())


def test_golden_cases_cover_every_family():
    assert {case.family for case in GOLDEN} == set(FAMILIES)
    with pytest.raises(InvalidInput, match="no family"):
        golden("v1.1")
    with pytest.raises(InvalidInput, match="not the vectors"):
        GOLDEN[0].error(np.zeros((3, 128), np.float32))


def test_the_whole_teacher_without_its_weights():
    with torch.device("meta"):
        teacher = build("tessera-v2-teacher")
    assert parameters(teacher) == 2_064_266_242
    assert len(teacher.state_dict()) == 199
    assert parameters(teacher.s2_backbone) == 822_358_017
    assert parameters(teacher.s1_backbone) == 822_325_249
    assert parameters(teacher.fusion_transformer) == 268_529_664
    assert teacher.fusion_modality_embed.numel() == 8_192
    assert parameters(teacher.dim_reducer) == 151_045_120


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ({"latent_dim": 160, "dim_feedforward": 2560}, 43_831_170),
        ({"latent_dim": 16, "num_layers": 6, "dim_feedforward": 512}, 1_071_874),
        ({"latent_dim": 120, "num_layers": 2, "dim_feedforward": 3840}, 21_028_930),
    ],
)
def test_other_students_have_the_sizes_of_their_cards(sizes, count):
    with torch.device("meta"):
        assert parameters(build("tessera-v2", sizes)) == count


# --- published names

ATTENTION = {"in_proj_weight": (3, 1), "in_proj_bias": (3,), "out_proj.weight": (1, 1), "out_proj.bias": (1,)}


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_have_their_published_names_and_shapes(name):
    with torch.device("meta"):
        network = build(name)
    state = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    sizes, c = family(name).sizes, network.config
    d, hidden = c.width, c.dim_feedforward
    want = {}
    for backbone, bands in (("s2_backbone", 10), ("s1_backbone", 2)):
        want |= {f"{backbone}.embedding.0.weight": (d, bands), f"{backbone}.embedding.0.bias": (d,)}
        want |= {f"{backbone}.embedding.2.weight": (d, d), f"{backbone}.embedding.2.bias": (d,)}
        want |= {f"{backbone}.attn_pool.query.weight": (1, d), f"{backbone}.attn_pool.query.bias": (1,)}
        for i in range(c.num_layers):
            layer = f"{backbone}.transformer_encoder.layers.{i}."
            want |= layer_names(layer, d, hidden, c.nhead, separate="teacher" in name)
        want |= {f"{backbone}.attn_pool.{key}": shape for key, shape in pooling_names(name, d).items()}
    if "v1.0" in name:
        want |= {"dim_reducer.0.weight": (128, 8 * 128), "dim_reducer.0.bias": (128,)}
    else:
        want |= {"dim_reducer.0.weight": (4 * d, 2 * d), "dim_reducer.0.bias": (4 * d,)}
        want |= {"dim_reducer.1.weight": (4 * d,), "dim_reducer.1.bias": (4 * d,)}
        want |= {"dim_reducer.4.weight": (c.repr_dim, 4 * d), "dim_reducer.4.bias": (c.repr_dim,)}
    if "teacher" in name:
        want["fusion_modality_embed"] = (2, d)
        for i in range(2):
            want |= layer_names(f"fusion_transformer.layers.{i}.", d, 8192, c.nhead, separate=True)
    assert state == want
    assert c.repr_dim == sizes["repr_dim"] == family(name).native_dims


def layer_names(prefix, d, hidden, heads, separate):
    names = {"linear1.weight": (hidden, d), "linear1.bias": (hidden,), "linear2.weight": (d, hidden)}
    names |= {"linear2.bias": (d,)} | {f"norm{i}.{part}": (d,) for i in (1, 2) for part in ("weight", "bias")}
    if separate:
        for one in "qkv":
            names |= {f"{one}_proj.weight": (d, d), f"{one}_proj.bias": (d,)}
        names |= {"out_proj.weight": (d, d), "out_proj.bias": (d,)}
        names |= {"q_norm.weight": (d // heads,), "k_norm.weight": (d // heads,)}
    else:
        sides = {key: (shape[0] * d, *([d] * (len(shape) - 1))) for key, shape in ATTENTION.items()}
        names |= {f"self_attn.{key}": shape for key, shape in sides.items()}
    return {prefix + key: shape for key, shape in names.items()}


def pooling_names(name, d):
    if "v1" not in name:
        return {}
    if "early" in name:
        gru = {f"weight_{s}_l0": (3 * d, d) for s in ("ih", "hh")} | {f"bias_{s}_l0": (3 * d,) for s in ("ih", "hh")}
        return {f"temporal_context.{key}": shape for key, shape in gru.items()}
    cell = {f"W_{source}{gate}.weight": (d, d) for source in "ih" for gate in "rzh"} | {f"b_{g}": (d,) for g in "rzh"}
    norm = {"layer_norm.weight": (d,), "layer_norm.bias": (d,)}
    return {f"temporal_context.gru_cell.{key}": shape for key, shape in cell.items()} | norm


def test_students_with_qk_norm_number_their_layers_without_a_stack():
    state = build("tessera-v2", {"enable_qk_norm": True}).state_dict()
    assert state["s1_backbone.transformer_encoder.3.q_norm.weight"].shape == (64,)
    assert not [key for key in state if ".layers." in key or "in_proj" in key]


@pytest.mark.parametrize(
    "sizes", [{"nhead": 3}, {"nhead": 0}, {"latent_dim": 0}, {"latent_dim": "many"}, {"dim_feedforward": -4}]
)
def test_sizes_that_make_no_network(sizes):
    with pytest.raises(InvalidInput):
        build("tessera-v2", {"num_layers": 1} | sizes)


# --- pieces, against what they are said to be


def test_doy_encoding():
    want = {
        1: (0.84147, 0.54030, 0.82186, 0.56970, 1.0366e-4, 1.0),
        100: (-0.50637, 0.86232, 0.79755, -0.60326, 0.010366, 0.99995),
        365: (0.54405, 0.83906, 0.24071, 0.97060, 0.037828, 0.99928),
    }
    found = doy_encoding(torch.tensor(list(want)), 512)[:, [0, 1, 2, 3, 510, 511]]
    assert np.allclose(found, list(want.values()), rtol=1e-4, atol=1e-5)


def test_the_plain_layer_is_torchs_own():
    torch.manual_seed(0)
    ours = build("tessera-v1.0-qat", TINY).s2_backbone.layers[0]
    theirs = torch.nn.TransformerEncoderLayer(16, 4, 48, dropout=0.0, batch_first=True).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 7, 16)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_the_cell_is_the_onnx_gru_with_its_update_gate_turned():
    """What an exported graph relies on: reset before the product, W_iz, W_hz and b_z negated."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    torch.manual_seed(1)
    pool = build("tessera-v1.1-aws", TINY).s2_backbone.attn_pool
    cell, d = pool.temporal_context.gru_cell, 16
    with torch.no_grad():
        for gate in "rzh":
            getattr(cell, f"b_{gate}").normal_()
        w, r = (cell.stacked(source, "zrh").numpy().copy() for source in "ih")
        b = torch.cat([cell.b_z, cell.b_r, cell.b_h]).numpy().copy()
    for each in (w, r, b):
        each[:d] *= -1
    b = np.concatenate((b, b * 0))
    weights = [numpy_helper.from_array(a[None], name) for a, name in ((w, "w"), (r, "r"), (b, "b"))]
    node = helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=d, linear_before_reset=0)
    x = torch.randn(2, 9, d)
    ends = [helper.make_tensor_value_info(*e) for e in (("x", 1, [9, 2, d]), ("y", 1, [9, 1, 2, d]))]
    graph = helper.make_graph([node], "cell", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    y = ReferenceEvaluator(model).run(None, {"x": x.transpose(0, 1).numpy()})[0]
    with torch.no_grad():
        assert np.allclose(y[:, 0], pool.temporal_context(x).transpose(0, 1), atol=2e-6)


def test_recurrent_pooling_asks_for_an_order_where_observations_repeat():
    network = build("tessera-v1.1-aws", TINY)
    arrays = {name: torch.from_numpy(a) for name, a in inputs().items()}
    with pytest.raises(InvalidInput, match="order"):
        network(**arrays, s2_logm=torch.zeros(2, 12), s1_logm=torch.zeros(2, 9))


# --- end to end: from d-pixels to vectors


def test_golden_pixels_of_v2(small):
    want = [
        (-0.27214, 1.35729, -0.68016, -1.04084),
        (-0.3443, 1.36189, -0.62076, -1.09321),
        (-0.25238, 1.35374, -0.69863, -1.02670),
    ]
    vectors = short_form(small, "tessera-v2", golden_pixels())
    assert np.abs(vectors[:, :4] - want).max() < TOLERANCE
    assert np.abs(vectors - literal(small, "tessera-v2", golden_pixels())).max() < TOLERANCE
    codes, scales = quantise(vectors, "v2")
    assert codes[0, :6].tolist() == [-24, 119, -60, -91, 108, 17]
    assert scales[0] == pytest.approx(0.01141075, abs=1e-8)


@pytest.mark.slow
def test_v11_short_form_is_the_published_procedure(v11):
    """The published network: both orbits, each sensor alone, few, many, more than 256, and none of either."""
    n2, na, nd = ([31, 12, 0, 5, 1, 0, 290], [20, 0, 9, 0, 3, 0, 17], [13, 0, 0, 0, 1, 0, 3])
    d = random_dpixels(n2, na, nd, seed=9, t2=300, ta=40)
    ours, theirs = short_form(v11, "tessera-v1.1-aws", d), literal(v11, "tessera-v1.1-aws", d)
    assert np.isnan(theirs[5]).all()
    assert np.isnan(ours[5]).all()
    rows = np.arange(7) != 5
    assert np.abs(ours - theirs)[rows].max() <= 1e-5 * np.abs(theirs[rows]).max()
    codes = [quantise(v[rows, :128].astype(np.float32), "v1")[0].astype(int) for v in (ours, theirs)]
    assert np.abs(codes[0] - codes[1]).max() <= 1
    assert (codes[0] != codes[1]).mean() <= 0.005


COUNTS = st.tuples(st.integers(0, 70), st.integers(0, 45), st.integers(0, 45))


@given(st.lists(COUNTS, min_size=1, max_size=5), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_the_short_form_is_the_published_procedure(tiny, seen, seed):
    name, network = tiny
    d = random_dpixels(*zip(*seen, strict=True), seed=seed, t2=72, ta=45)
    ours, theirs = short_form(network, name, d), literal(network, name, d)
    assert (np.isnan(ours) == np.isnan(theirs)).all()
    embedded = ~np.isnan(theirs[:, 0])
    assert embedded.tolist() == [sum(one) > 0 for one in seen]
    assert np.abs(ours - theirs)[embedded].max(initial=0) < TOLERANCE


def test_the_right_rule_matters(tiny):
    """Neither multiplicities nor the order are decoration: without them vectors differ by far more than allowed."""
    name, network = tiny
    f = family(name)
    d = random_dpixels([11, 5, 13], [3, 6, 2], [2, 0, 9], seed=1)
    right = literal(network, name, d)
    wrong = {"v2": "v1.1", "v1.1": "v2", "v1.0": "v2", "v1.0-early": "v2"}[f.sampling]
    assert np.abs(reference_vectors(network, d, f.statistics, sampling=wrong) - right).max() > 1e-3
    ready = prepare(d, f.statistics, f.sampling)
    assert np.abs(run(network, ready) - right).max() < TOLERANCE
    if f.sampling == "v1.1":  # the same observations as often as before, repeated ones next to each other
        parts = [replace(one, order=np.where(one.steps == 0, sorted_steps(one), 0)) for one in (ready.s2, ready.s1)]
        assert np.abs(run(network, replace(ready, s2=parts[0], s1=parts[1])) - right).max() > 5 * TOLERANCE
    if f.sampling != "v2":
        return
    once = [replace(one, logm=np.where(one.logm >= 0, np.float32(0), one.logm)) for one in (ready.s2, ready.s1)]
    assert np.abs(run(network, replace(ready, s2=once[0], s1=once[1])) - right).max() > 1e-3


def sorted_steps(held):
    """Steps in order of the observations, those after the end last."""
    return np.sort(np.where(held.steps == 0, held.order, np.iinfo(np.int64).max), axis=1)


def test_v10_vectors_repeat_and_are_like_any_other_draw():
    """Ours, drawn once and for all, lies among vectors of free draws: as close to them as they are to one another."""
    torch.manual_seed(3)
    network, name = build("tessera-v1.0-qat", TINY), "tessera-v1.0-qat"
    rng = np.random.default_rng(0)
    d = random_dpixels(rng.integers(20, 90, 40), rng.integers(10, 50, 40), rng.integers(10, 50, 40), t2=90, ta=50)
    ours = short_form(network, name, d)
    assert (ours == short_form(network, name, d)).all()
    free = np.stack([literal(network, name, d, rng=np.random.default_rng(i)) for i in range(12)])
    centre = free.mean(axis=0)
    spread = np.linalg.norm(free - centre, axis=2).mean()
    assert np.linalg.norm(ours - centre, axis=1).mean() == pytest.approx(spread, rel=0.25)


def test_golden_weights_are_the_formula():
    network = fill(build("tessera-v1.1-aws", TINY))
    state = network.state_dict()
    names = sorted(state)
    i = names.index("dim_reducer.1.weight")
    assert state[names[i]].numpy() == pytest.approx(1 + 0.05 * np.sin(0.37 * np.arange(64) + i), abs=1e-7)
    i = names.index("s1_backbone.attn_pool.layer_norm.bias")
    assert state[names[i]].numpy() == pytest.approx(0.05 * np.sin(0.37 * np.arange(16) + i), abs=1e-7)
