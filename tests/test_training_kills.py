"""A training process killed at random points, over and over: curve and weights are those of one that nobody killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from service.training.runs import RECIPE, RESUME, read_curves  # noqa: E402
from tests.test_training_runs import curve, weights  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = """
import sys
from pathlib import Path
from service.training.train import run
from service.training.networks import StudentConfig
tiny = StudentConfig(repr_dim=32, latent_dim=2, num_layers=1, nhead=2, dim_feedforward=16)
run(sys.argv[2], Path(sys.argv[1]), seed=5, student=tiny, steps=400, batch=32, pixels=2000, projector=64,
    save_every=25, log_every=5, probe_every=50, device="cpu")
"""


def begun(folder: Path, preset: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), preset], start_new_session=True)


@pytest.mark.parametrize("preset", ["smoke", "cpu"])  # pixels in memory, pixels on disk
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path, preset: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    assert begun(whole, preset).wait() == 0
    took, kills, luck = time.monotonic() - began, 0, random.Random(7)
    training = read_curves(whole / "curves.jsonl")[-1]["seconds"]
    starting = max(took - training, 1)
    while True:
        process = begun(killed, preset)
        try:
            wait = luck.uniform(0.3, 1) * (starting if kills < 1 else starting + 0.45 * training)
            code = process.wait(wait)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            assert kills < 40, "a run that is killed gets on nevertheless"
    assert code == 0
    assert kills >= 3
    assert curve(killed) == curve(whole)
    assert weights(killed) == weights(whole)
    assert (killed / "model" / "model.onnx").read_bytes() == (whole / "model" / "model.onnx").read_bytes()
    assert (killed / RECIPE).read_bytes() == (whole / RECIPE).read_bytes()
    assert {p.name for p in killed.iterdir()} >= {p.name for p in whole.iterdir()}
    assert torch.load(killed / RESUME, weights_only=True)["step"] == 399
