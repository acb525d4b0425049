"""Nothing leaves this machine, and nothing is left on it: not by the engines either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

RUN = """
import sys
from service.encoder import Encoder
from service.registry import SHIPPED, Registry
from tests.pixels import golden_pixels
Encoder.open(Registry((SHIPPED,)).get("smalti-mini"), sys.argv[1]).encode(golden_pixels())
assert not sys.modules.get("openvino_telemetry")
"""


@pytest.mark.parametrize(("engine", "library"), [("cpu", "onnxruntime"), ("openvino", "openvino")])
def test_an_engine_leaves_no_mark_of_this_machine(engine: str, library: str, tmp_path: Path) -> None:
    pytest.importorskip(library)
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [sys.executable, "-c", RUN, engine], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
