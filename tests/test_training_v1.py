"""The published recipe of TESSERA v1.0: its network, its views, its dropout; and what comes out of a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from service.dpixels import from_arrays  # noqa: E402
from service.encoder import Encoder  # noqa: E402
from service.errors import InvalidInput  # noqa: E402
from service.families import FAMILIES  # noqa: E402
from service.simulate import Landscape  # noqa: E402
from service.training import probe as probing  # noqa: E402
from service.training.checkpoints import read_checkpoint  # noqa: E402
from service.training.loop import objective_of  # noqa: E402
from service.training.objectives import vectors_of  # noqa: E402
from service.training.reference import reference_vectors  # noqa: E402
from service.training.runs import read_curves  # noqa: E402
from service.training.train import run  # noqa: E402
from service.training.views import View  # noqa: E402
from tests.test_training_runs import CPU, RECIPE, TINY, V1  # noqa: E402


def forty() -> View:
    """Three pixels, forty days of each sensor."""
    rng, days = torch.Generator().manual_seed(0), torch.arange(1, 41.0).expand(3, 40)
    s2, s1 = (torch.randn(3, 40, channels, generator=rng) for channels in (10, 2))
    return View(s2, days, s1, days)


@pytest.mark.parametrize(
    "changes",
    [
        {"views": "sparse"}, {"kind": "distil", "depths": (16,)}, {"min_s2": 0}, {"min_s1": 0}, {"student": TINY},
        {"student": replace(V1.student, nhead=2)},
    ],
)  # fmt: skip
def test_what_v1_cannot_do_is_refused(changes):
    with pytest.raises(InvalidInput, match=f"{next(iter(changes))}: .*cannot be trained with"):
        replace(V1, **changes)


def test_v1_trains_the_published_network_and_its_checkpoint_is_one(tmp_path):
    """From the pixels to the model and back by way of `smalti models import`: the same network, the same vectors."""
    small = {k: getattr(V1, k) for k in ("student", "batch", "pixels", "projector")}
    model = run("v1", tmp_path, seed=1, steps=30, base_rate=0.02, log_every=10, probe_every=0, **small)
    manifest, kind = model.manifest, FAMILIES["tessera-v1.0-qat"]
    assert (manifest.family, manifest.sampling, manifest.quantiser) == (kind.name, "v1.0", "v1")
    assert (manifest.statistics, manifest.dims, manifest.depths) == (kind.statistics, 32, ())
    assert manifest.training["dropout"] == 0.1
    assert manifest.training["parity"] < 2e-5
    rows = read_curves(tmp_path / "curves.jsonl")
    assert rows[-1]["twins"] < 0.7 * rows[0]["twins"]
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pt", kind.name)
    assert not checkpoint.dropped
    assert checkpoint.sizes["dim_feedforward"] == 16
    d = from_arrays(Landscape(3, 6, 6).dpixels(2023))
    theirs = reference_vectors(checkpoint.network, d, kind.statistics, sampling="v1.0")
    result = Encoder.open(model, engine="cpu").encode(d)
    assert np.isfinite(theirs).all()
    assert abs(result.floats - theirs).max() < 2e-5 * max(abs(theirs).max(), 1)


def test_v1_walks_its_views_in_order():
    module = objective_of(V1, 0).eval()
    view = forty()
    turned = replace(view, s2=view.s2.flip(1), s2_doy=view.s2_doy.flip(1))
    assert not torch.allclose(vectors_of(module.student, view), vectors_of(module.student, turned), atol=1e-4)
    v2 = objective_of(replace(RECIPE, views="drawn"), 0).eval()
    assert torch.allclose(vectors_of(v2.student, view), vectors_of(v2.student, turned), atol=1e-5)


def test_training_leaves_out_what_the_recipe_says_and_embedding_nothing():
    view = forty()
    for share in (0.0, 0.1):
        student = objective_of(replace(V1, dropout=share), 0).train().student
        one, two = (vectors_of(student, view) for _ in range(2))
        assert torch.equal(one, two) == (share == 0)
        whole = vectors_of(student.eval(), view)
        assert torch.equal(whole, vectors_of(student, view))
        assert torch.allclose(whole, one, atol=1e-6) == (share == 0)


def test_the_probe_asks_v1_by_its_own_rule():
    probe = probing.Probe(V1)
    assert probe._view.s2_logm is None
    assert probe._view.s2.shape[1:] == (40, 10)
    assert probe._view.s1.shape[1:] == (40, 2)
    seen = [len(set(row.tolist())) for row in probe._view.s2_doy]
    assert max(seen) <= probing.S2_SEEN  # of a cloudy year, some of them more than once
    assert (probe._view.s2_doy.diff(dim=1) >= 0).all()
    vectors = probe.vectors(objective_of(V1, 0).student, CPU)
    assert vectors.isfinite().all()
