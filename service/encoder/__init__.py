"""D-pixels in, vectors out: the only door to onnxruntime and OpenVINO."""

from service.encoder.encode import Encoder, EncodeResult

__all__ = ["EncodeResult", "Encoder"]
