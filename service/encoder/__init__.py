"""D-pixels in, vectors out: the only door to onnxruntime and OpenVINO."""

import service.encoder.quiet  # noqa: F401  # before any engine
from service.encoder.encode import Encoder, EncodeResult

__all__ = ["EncodeResult", "Encoder"]
