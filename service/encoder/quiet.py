"""Keeps the engines to themselves. To be imported before them.

Both report to their makers unless told otherwise, and leave a file with a mark of this machine: ONNX Runtime `.ses` in
TMPDIR, OpenVINO `intel/` in the home of the user.
"""

from __future__ import annotations

import os
import sys

os.putenv("ORT_DISABLE_TELEMETRY", "1")  # its own switch; read when its library is loaded
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO does without
