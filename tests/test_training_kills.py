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

STEPS = 300
SCRIPT = """
import sys
from pathlib import Path
from service.training.train import run
from service.training.networks import StudentConfig
tiny = StudentConfig(repr_dim=32, latent_dim=2, num_layers=1, nhead=2, dim_feedforward=16)
run(sys.argv[2], Path(sys.argv[1]), seed=5, student=tiny, steps=300, batch=32, pixels=2000, projector=64,
    save_every=25, log_every=5, probe_every=50, device="cpu")
"""


def begun(folder: Path, preset: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), preset], start_new_session=True)


def kill_at(process: subprocess.Popen[bytes], folder: Path, step: int, later: float) -> None:
    """Kill -9 a while after a step was logged; the while is shorter than what writing a checkpoint or a line takes."""
    while not any(row["step"] >= step for row in read_curves(folder / "curves.jsonl")):
        assert process.poll() is None, "it ended before it was to be killed"
        time.sleep(0.01)
    time.sleep(later)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("preset", ["smoke", "cpu"])  # pixels in memory, pixels on disk
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path, preset: str) -> None:
    whole, killed, luck = tmp_path / "whole", tmp_path / "killed", random.Random(7)
    began = time.monotonic()
    assert begun(whole, preset).wait() == 0
    starting = time.monotonic() - began - read_curves(whole / "curves.jsonl")[-1]["seconds"]
    process = begun(killed, preset)
    time.sleep(luck.uniform(0.4, 0.9) * starting)  # while it imports, simulates or shuffles
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for step in sorted(luck.sample(range(1, STEPS - 60), 4)):
        kill_at(begun(killed, preset), killed, step, luck.uniform(0, 0.1))
    assert begun(killed, preset).wait() == 0
    assert curve(killed) == curve(whole)
    assert weights(killed) == weights(whole)
    assert (killed / "model" / "model.onnx").read_bytes() == (whole / "model" / "model.onnx").read_bytes()
    assert (killed / RECIPE).read_bytes() == (whole / RECIPE).read_bytes()
    assert torch.load(killed / RESUME, weights_only=True)["step"] == STEPS - 1
