"""Networks as ONNX graphs, and graphs as models of the registry."""

from typing import Final

from service.families import FAMILIES, Statistics
from service.training.export.model import export
from service.training.export.write import LIMIT, to_onnx, write_onnx

PUBLISHED_V2: Final[Statistics] = FAMILIES["tessera-v2"].statistics
"""What published v2 students are standardised with."""

__all__ = ["LIMIT", "PUBLISHED_V2", "export", "to_onnx", "write_onnx"]
