"""Every published network in every float32 engine: golden numbers, and the whole way from d-pixels to codes."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from service.encoder import Encoder  # noqa: E402
from service.families import FAMILIES, family  # noqa: E402
from service.quant import quantise  # noqa: E402
from service.training.export import export  # noqa: E402
from service.training.golden import GOLDEN, TOLERANCE, Golden, feeds, golden  # noqa: E402
from service.training.networks import Network, build  # noqa: E402
from service.training.reference import reference_vectors  # noqa: E402
from service.values import NOT_EMBEDDED, VALID, ModelIdentity  # noqa: E402
from tests.pixels import golden_pixels, random_dpixels  # noqa: E402

ENGINES = ("cpu", "openvino")
TINY = {"repr_dim": 24, "latent_dim": 4, "num_layers": 2, "nhead": 4, "dim_feedforward": 48}
LARGE = ("tessera-v1.0-early", "tessera-v1.0-qat", "tessera-v1.1-mpc", "tessera-v1.1-aws")
QUICKLY = ("tessera-v1.1-aws", "tessera-v2")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return request.param


def opened(network: Network, name: str, folder, engine: str) -> Encoder:
    model = export(network, folder, ModelIdentity("under-test", "1"), family=name)
    return Encoder.open(model, engine=engine, threads=2)


def by_network() -> list[list[Golden]]:
    """Cases that one network answers: both sources of v1.1 do, and any number of dates."""
    groups: dict[tuple[object, ...], list[Golden]] = {}
    for case in GOLDEN:
        groups.setdefault((case.family.removesuffix("-mpc").removesuffix("-aws"), *case.sizes), []).append(case)
    return list(groups.values())


def check(network: Network, name: str, encoder: Encoder, dpixels) -> None:
    """Vectors and codes of an engine against the literal procedure in torch."""
    f = family(name)
    want = reference_vectors(network, dpixels, f.statistics, sampling=f.sampling)[:, : f.dims]
    result = encoder.encode(dpixels)
    good = np.isfinite(want[:, 0])
    assert (result.vectors.status == np.where(good, VALID, NOT_EMBEDDED)).all()
    off = np.abs(result.floats - want)[good].max()
    assert off < TOLERANCE or off <= 1e-5 * np.abs(want[good]).max()
    codes, scales = quantise(want[good], f.quantiser)
    levels = np.abs(result.vectors.codes[good].astype(int) - codes)
    assert levels.max() <= 1
    assert (levels > 0).mean() <= 0.005
    assert result.vectors.scales[good] == pytest.approx(scales, rel=1e-4)


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(cases, marks=[pytest.mark.slow] if cases[0].family in LARGE else [], id=cases[0].case)
        for cases in by_network()
    ],
)
def test_golden_numbers(cases: list[Golden], engine, tmp_path):
    with closing(opened(cases[0].network(), cases[0].family, tmp_path, engine)) as encoder:
        for case in cases:
            vectors = encoder.run(feeds(case))
            assert vectors.shape == (2, min(case.native_dims, family(case.family).dims))
            assert case.error(np.asarray(vectors)) <= 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICKLY else pytest.mark.slow)
        for name in FAMILIES
        if name != "tessera-v1.1-mpc"  # as aws
    ],
)
def test_from_pixels_to_codes(name, engine, tmp_path):
    """Both orbits, one of them, one sensor, neither; few, many and too many observations."""
    torch.manual_seed(3)
    network = build(name, TINY)
    with torch.no_grad():  # scores far apart, so that pooling and its order matter
        for backbone in (network.s2_backbone, network.s1_backbone):
            backbone.attn_pool.query.weight.mul_(20)
    rng = np.random.default_rng(5)
    n2 = [0, 7, 0, 1, 8, 9, 300, 257, *rng.integers(0, 60, 24)]
    na = [9, 0, 0, 1, 4, 0, 200, 3, *rng.integers(0, 60, 24)]
    nd = [2, 0, 0, 0, 4, 0, 190, 0, *rng.integers(0, 60, 24)]
    with closing(opened(network, name, tmp_path, engine)) as encoder:
        check(network, name, encoder, random_dpixels(n2, na, nd, t2=320, ta=210))


@pytest.mark.slow
def test_v11_at_its_own_size(engine, tmp_path):
    (case,) = golden("tessera-v1.1-aws")
    network = case.network()
    d = random_dpixels([31, 12, 0, 5, 1, 0, 290], [20, 0, 9, 0, 3, 0, 17], [13, 0, 0, 0, 1, 0, 3], t2=300, ta=40)
    with closing(opened(network, case.family, tmp_path, engine)) as encoder:
        check(network, case.family, encoder, d)


def test_golden_pixels_of_v2(engine, tmp_path):
    network = golden("tessera-v2")[0].network()
    with closing(opened(network, "tessera-v2", tmp_path, engine)) as encoder:
        check(network, "tessera-v2", encoder, golden_pixels())
        result = encoder.encode(golden_pixels())
    want = [
        (-0.27214, 1.35729, -0.68016, -1.04084),
        (-0.3443, 1.36189, -0.62076, -1.09321),
        (-0.25238, 1.35374, -0.69863, -1.02670),
    ]
    assert np.abs(result.floats[:, :4] - want).max() < TOLERANCE
    assert result.vectors.codes[0, :6].tolist() == [-24, 119, -60, -91, 108, 17]
    assert result.vectors.scales[0] == pytest.approx(0.01141075, abs=1e-8)
