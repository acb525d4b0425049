"""What a server holds: which encoders are open, and that it does not start without the device it was told to use."""

from __future__ import annotations

import gc
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_api import client_of

from api.settings import Settings
from api.state import State
from service.encoder import Encoder, ort, vino
from service.errors import Unavailable
from service.registry import SHIPPED
from tests.pixels import random_dpixels


def settings_of(home: Path, **more) -> Settings:
    return Settings(home=home, catalogue=home / "none.toml", **more)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two models beside the shipped one."""
    for name in ("one", "two"):
        folder = tmp_path / "models" / name
        shutil.copytree(SHIPPED / "smalti-mini", folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["identity"] = f"{name}@1/default"
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_of_many_encoders_few_stay_open(home: Path) -> None:
    state = State(settings_of(home, encoders_open=2, encoder_threads=1))
    mini, one = state.encoder("smalti-mini"), state.encoder("one")
    assert state.encoder("smalti-mini") is mini
    state.encoder("two")
    assert [name.split("@")[0] for name in state.encoders()] == ["smalti-mini", "two"]
    pixels = random_dpixels([3], [2], [0])
    assert one.encode(pixels).vectors.valid.all()  # who has it in hand goes on
    threads = one._lanes._threads
    assert all(thread.is_alive() for thread in threads)
    del one
    gc.collect()
    assert not any(thread.is_alive() for thread in threads)
    assert state.encoder("one").encode(pixels).vectors.valid.all()
    assert [name.split("@")[0] for name in state.encoders()] == ["two", "one"]


def test_many_who_ask_at_once_get_the_one_they_asked_for(home: Path) -> None:
    together = threading.Barrier(8)
    state = State(settings_of(home, encoders_open=1, encoder_threads=1))

    def ask(i: int) -> Encoder:
        together.wait(10)
        return state.encoder(("one", "two")[i % 2])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert {encoder.identity.name for encoder in found[::2]} == {"one"}
    assert {encoder.identity.name for encoder in found[1::2]} == {"two"}
    assert len(state.encoders()) == 1


def test_a_server_starts_only_with_the_device_it_was_told_to_use(tmp_path: Path) -> None:
    State(settings_of(tmp_path)).require_device()
    State(settings_of(tmp_path, device="cpu")).require_device()
    with pytest.raises(Unavailable, match="cpu engine has no fp16"):
        State(settings_of(tmp_path, device="cpu", precision="fp16")).require_device()
    if "CUDAExecutionProvider" not in ort.onnxruntime.get_available_providers():
        with pytest.raises(Unavailable, match="has no cuda"):
            State(settings_of(tmp_path, device="cuda")).require_device()
        if "FP16" not in vino.capabilities():
            with pytest.raises(Unavailable, match=r"nothing here has fp16: .*no cuda.*no fp16 arithmetic"):
                State(settings_of(tmp_path, precision="fp16")).require_device()


def test_a_gpu_in_fp16_is_ready_without_a_half_file_of_the_default(home: Path) -> None:
    parts = client_of(settings_of(home, device="cuda", precision="fp16")).get("/readyz").json()["parts"]
    assert parts["model smalti-mini@0.1.0/default"] == "ok, not run in fp16, for which it has no file"
