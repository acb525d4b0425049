"""Networks as ONNX graphs, and graphs as models of the registry."""

from service.training.export.model import export
from service.training.export.rounding import rounded
from service.training.export.write import LIMIT, to_onnx, write_onnx

__all__ = ["LIMIT", "export", "rounded", "to_onnx", "write_onnx"]
