"""Published checkpoints: read without running anything, accounted for to the last tensor, refused where in doubt."""

from __future__ import annotations

import argparse
import pickle
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from service.errors import Conflict, Corrupt, InvalidInput, NotFound  # noqa: E402
from service.families import FAMILIES, family  # noqa: E402
from service.registry import sha256_of  # noqa: E402
from service.training import checkpoints  # noqa: E402
from service.training.checkpoints import read_checkpoint  # noqa: E402
from service.training.golden import forward, golden, inputs  # noqa: E402
from service.training.networks import build  # noqa: E402
from tests.checkpoints import FORMS, TINY, payload, save, tensors  # noqa: E402


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_read_in_its_published_form(name, tmp_path):
    path = save(tmp_path / "file.pt", name)
    read = read_checkpoint(path, name)
    state = tensors(name)
    assert read.tensors == len(state)
    assert read.sizes == dict(family(name).sizes) | FORMS[name]
    assert read.dropped == {}
    assert read.sha256 == sha256_of(path)
    assert not read.network.training
    for key, tensor in read.network.state_dict().items():
        assert torch.equal(tensor, state[key]), key


@pytest.mark.parametrize("case", golden("tessera-v2"), ids=lambda case: case.case)
def test_sizes_come_from_tensors_where_the_payload_says_nothing(case, tmp_path):
    state = case.network().state_dict()
    torch.save({"model": state}, tmp_path / "file.pt")
    read = read_checkpoint(tmp_path / "file.pt", "tessera-v2")
    assert read.sizes["enable_qk_norm"] == bool(case.sizes)
    assert case.error(forward(read.network, inputs(case.times))) <= 1


def test_the_number_of_heads_shows_in_normalised_queries_and_comes_from_args_elsewhere(tmp_path):
    sizes = TINY | {"nhead": 2, "enable_qk_norm": True}
    torch.save({"model": build("tessera-v2", sizes).state_dict()}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt", "tessera-v2").sizes["nhead"] == 2
    sizes = TINY | {"nhead": 8}
    torch.save({"model": build("tessera-v2", sizes).state_dict(), "args": {"nhead": 8}}, tmp_path / "b.pt")
    assert read_checkpoint(tmp_path / "b.pt", "tessera-v2").sizes["nhead"] == 8


@pytest.mark.parametrize(
    ("said", "depths"), [("16,32", (16, 32)), ([32], (32,)), (64, (64,)), ("", ()), (None, (16, 32, 64, 128))]
)
def test_prefix_lengths_are_those_that_args_name(said, depths, tmp_path):
    body = payload("tessera-v2", tensors("tessera-v2"))
    if said is None:
        del body["args"]["matryoshka_dims"]
    else:
        body["args"]["matryoshka_dims"] = said
    torch.save(body, tmp_path / "file.pt")
    assert read_checkpoint(tmp_path / "file.pt", "tessera-v2").depths == depths


@pytest.mark.parametrize("said", ["16,many", "16,256", [0, 16], "-8"])
def test_prefix_lengths_that_are_none(said, tmp_path):
    body = payload("tessera-v2", tensors("tessera-v2"))
    body["args"]["matryoshka_dims"] = said
    torch.save(body, tmp_path / "file.pt")
    with pytest.raises(Corrupt, match="matryoshka_dims"):
        read_checkpoint(tmp_path / "file.pt", "tessera-v2")


def test_full_files_lose_their_heads_by_name_and_number(tmp_path):
    state = tensors("tessera-v1.1-aws")
    heads = {f"projector.net.{i}.weight": torch.zeros(2, 2) for i in range(3)}
    heads["segmented_matryoshka_projector.0.bias"] = torch.zeros(2)
    heads["projector.net.1.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    full = {f"_orig_mod.{key}": tensor for key, tensor in {**state, **heads}.items()}
    read = read_checkpoint(save(tmp_path / "full.pt", "tessera-v1.1-aws", full), "tessera-v1.1-aws")
    assert read.dropped == {"projector": 4, "segmented_matryoshka_projector": 1}
    assert read.tensors == len(state)
    inner = {key.replace("backbone.", "backbone._orig_mod."): tensor for key, tensor in state.items()}
    assert read_checkpoint(save(tmp_path / "q.pt", "tessera-v1.1-aws", inner), "tessera-v1.1-aws").tensors == len(state)


def without(state):
    del state["s1_backbone.embedding.2.bias"], state["dim_reducer.4.bias"]


def with_more(state):
    state["segmentation_head.weight"] = torch.zeros(2)


def misshapen(state):
    state["s1_backbone.embedding.0.weight"] = torch.zeros(len(state["s1_backbone.embedding.0.weight"]), 3)


def with_nan(state):
    state["dim_reducer.1.weight"][3] = float("nan")


def with_infinity(state):
    state["dim_reducer.1.bias"][0] = float("inf")


def of_whole_numbers(state):
    state["dim_reducer.1.bias"] = torch.zeros(128, dtype=torch.int64)


def of_eight_bits(state):
    state["dim_reducer.1.bias"] = state["dim_reducer.1.bias"].to(torch.float8_e4m3fn)


def sparse(state):
    state["dim_reducer.0.weight"] = state["dim_reducer.0.weight"].to_sparse()


def without_values(state):
    state["dim_reducer.0.weight"] = state["dim_reducer.0.weight"].to("meta")


def beyond_float32(state):
    state["dim_reducer.1.bias"] = torch.full(state["dim_reducer.1.bias"].shape, 1e300, dtype=torch.float64)


def claimed(state):
    for key in state:
        state[key] = torch.zeros(1).expand(state[key].shape)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without, r"2 of its tensors are missing: dim_reducer\.4\.bias, s1_backbone\.embedding\.2\.bias"),
        (with_more, r"1 of its tensors are left over: segmentation_head\.weight"),
        (misshapen, r"s1_backbone\.embedding\.0\.weight is \(\d+, 3\), not \(\d+, 2\)"),
        (with_nan, r"NaN or infinity: dim_reducer\.1\.weight"),
        (with_infinity, r"NaN or infinity: dim_reducer\.1\.bias"),
        (of_whole_numbers, r"dim_reducer\.1\.bias"),
        (of_eight_bits, r"not plain numbers with a fraction: dim_reducer\.1\.bias"),
        (sparse, r"not plain numbers with a fraction: dim_reducer\.0\.weight"),
        (without_values, r"not plain numbers with a fraction: dim_reducer\.0\.weight"),
        (beyond_float32, r"NaN or infinity: dim_reducer\.1\.bias"),
        (claimed, r"its tensors claim [\d,]+ bytes, and the file has [\d,]+"),
    ],
)
@pytest.mark.parametrize("name", ["tessera-v1.1-mpc", "tessera-v2", "tessera-v2-teacher"])
def test_every_tensor_is_accounted_for(name, spoil, says, tmp_path):
    state = tensors(name)
    spoil(state)
    with pytest.raises(Corrupt, match=says):
        read_checkpoint(save(tmp_path / "file.pt", name, state), name)


def test_a_payload_that_contradicts_its_tensors_is_refused(tmp_path):
    body = payload("tessera-v2", tensors("tessera-v2"))
    body["args"] |= {"num_layers": 6, "dim_feedforward": 64}
    torch.save(body, tmp_path / "file.pt")
    with pytest.raises(Corrupt, match="num_layers is 6, the tensors have 2; dim_feedforward is 64"):
        read_checkpoint(tmp_path / "file.pt", "tessera-v2")
    body = payload("tessera-v2", tensors("tessera-v2"))
    body["args"]["nhead"] = 5
    torch.save(body, tmp_path / "file.pt")
    with pytest.raises(Corrupt, match="5 heads do not divide"):
        read_checkpoint(tmp_path / "file.pt", "tessera-v2")
    for odd in ("4", [4], torch.ones(3), np.int64(4)):
        body["args"]["nhead"] = odd
        torch.save(body, tmp_path / "file.pt")
        with pytest.raises(Corrupt, match=r"nhead is .*, no whole number"):
            read_checkpoint(tmp_path / "file.pt", "tessera-v2")


@pytest.mark.parametrize("really", FAMILIES)
@pytest.mark.parametrize("stated", FAMILIES)
def test_another_family_is_named(really, stated, tmp_path):
    path = save(tmp_path / "file.pt", really)
    if really.rpartition("-")[0] == stated.rpartition("-")[0] == "tessera-v1.1" or really == stated:
        read_checkpoint(path, stated)
        return
    with pytest.raises(InvalidInput, match=f"looks like {really.removesuffix('-mpc').removesuffix('-aws')}") as refused:
        read_checkpoint(path, stated)
    assert refused.value.field == "family"
    assert really in str(refused.value.remedy)


@pytest.mark.parametrize(
    ("file", "stated", "right"),
    [
        ("tessera_v1_1_mpc_encoder.pt", "aws", "mpc"),
        ("tessera_v1_1_aws_full.pt", "mpc", "aws"),
        ("best_model_fsdp_20260425_133615.pt", "aws", "mpc"),
        ("best_model_fsdp_20260425_202039.pt", "mpc", "aws"),
    ],
)
def test_the_name_of_one_release_with_the_statistics_of_the_other_is_refused(file, stated, right, tmp_path):
    path = save(tmp_path / file, f"tessera-v1.1-{right}")
    with pytest.raises(InvalidInput, match=f"State tessera-v1.1-{right}.*rename"):
        read_checkpoint(path, f"tessera-v1.1-{stated}")
    assert (
        read_checkpoint(path, f"tessera-v1.1-{right}").family.statistics == family(f"tessera-v1.1-{right}").statistics
    )


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_in_a_file_is_run(tmp_path):
    mark = tmp_path / "ran"
    path = tmp_path / "evil.pt"
    torch.save({"model": tensors("tessera-v2"), "args": Evil(mark)}, path)
    with pytest.raises(Corrupt, match=r"open.*was not read"):
        read_checkpoint(path, "tessera-v2")
    path.write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(Corrupt):
        read_checkpoint(path, "tessera-v2")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(mark)))
        archive.writestr("archive/version", "3")
    with pytest.raises(Corrupt):
        read_checkpoint(path, "tessera-v2")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark))).close()
    assert mark.exists()  # for whoever unpickles it, it is


def test_other_classes_are_named(tmp_path):
    from fractions import Fraction

    torch.save({"model": tensors("tessera-v2"), "args": Fraction(1, 3)}, tmp_path / "file.pt")
    with pytest.raises(Corrupt, match=r"fractions\.Fraction.*save its tensors and plain values alone"):
        read_checkpoint(tmp_path / "file.pt", "tessera-v2")


def test_what_training_leaves_beside_the_tensors_does_no_harm(tmp_path):
    """Options as argparse gives them are read; scores and places of other libraries are passed over."""
    body = payload("tessera-v2", tensors("tessera-v2"))
    args = argparse.Namespace(**body["args"] | {"nhead": 8, "matryoshka_dims": "32", "out": tmp_path})
    more = {"val_acc": np.float64(0.5), "losses": np.arange(3.0), "ema": tensors("tessera-v2"), "rng": (1, {2: None})}
    torch.save(body | {"args": args} | more, tmp_path / "file.pt")
    read = read_checkpoint(tmp_path / "file.pt", "tessera-v2")
    assert (read.sizes["nhead"], read.depths, read.tensors) == (8, (32,), len(body["model"]))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_wrappers_put_before_names_is_dropped(prefix, tmp_path):
    state = {f"{prefix}{key}": tensor for key, tensor in tensors("tessera-v2").items()}
    assert read_checkpoint(save(tmp_path / "file.pt", "tessera-v2", state), "tessera-v2").tensors == len(state)


@pytest.mark.parametrize("how", ["written to", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_read(how, tmp_path, monkeypatch):
    path = save(tmp_path / "file.pt", "tessera-v2")
    whole = path.read_bytes()

    def meddling(source):
        if how != "written to":
            path.unlink()
        if how != "removed":
            path.write_bytes(whole)
        return "0" * 64

    monkeypatch.setattr(checkpoints, "sha256_of", meddling)
    with pytest.raises(Conflict, match=r"file\.pt changed while it was being read"):
        read_checkpoint(path, "tessera-v2")


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(NotFound):
        read_checkpoint(tmp_path / "none.pt", "tessera-v2")
    with pytest.raises(InvalidInput, match="tessera-v2-teacher"):
        read_checkpoint(tmp_path / "none.pt", "tessera-v3")
    path = save(tmp_path / "cut.pt", "tessera-v2")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Corrupt, match="cut short"):
        read_checkpoint(path, "tessera-v2")
    for body, says in (
        ([1, 2], "holds a list"),
        ({"weights": {}}, "has no model; it has weights"),
        ({"model": {"a": 1}}, "no collection of named tensors"),
        ({"model": {"a": torch.zeros(1), "_orig_mod.a": torch.zeros(1)}}, "the same name"),
    ):
        torch.save(body, path)
        with pytest.raises(Corrupt, match=says):
            read_checkpoint(path, "tessera-v2")
    torch.save({"model": {"conv.weight": torch.zeros(1)}}, path)
    with pytest.raises(InvalidInput, match=r"no TESSERA encoder; it has conv\.weight"):
        read_checkpoint(path, "tessera-v2")


def test_weights_of_half_precision_are_widened(tmp_path):
    state = {key: tensor.to(torch.bfloat16) for key, tensor in tensors("tessera-v2").items()}
    read = read_checkpoint(save(tmp_path / "file.pt", "tessera-v2", state), "tessera-v2")
    for key, tensor in read.network.state_dict().items():
        assert tensor.dtype == torch.float32
        np.testing.assert_array_equal(tensor, state[key].float())
