"""An ONNX graph in the making: nodes, and weights that go into the file or into another beside it.

In a graph of half precision, products and their weights are float16 and everything else is float32: a name knows its
own kind, and casts are put where kinds meet.
"""

from __future__ import annotations

from typing import Any, BinaryIO, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from service.errors import Corrupt

OPSET: Final = 17
IR: Final = 9
EPSILON: Final = 1e-5
RMS_EPSILON: Final = 1.1920929e-7
"""Machine epsilon of float32: what torch's RMSNorm adds where it is told nothing."""

_APART: Final = 1024
"""Bytes from which a weight goes into the file beside, where there is one."""
_PAGE: Final = 4096
"""Weights beside begin at multiples of this, so that they can be mapped into memory."""


class Graph:
    """Nodes and weights in the making; each method adds one operator and returns the name of what it makes.

    Args:
        half: Whether products are of float16.
        beside: Open file that large weights are written into; absent: the graph holds them.
        beside_name: How the graph calls that file.
    """

    def __init__(self, half: bool = False, beside: BinaryIO | None = None, beside_name: str = "") -> None:
        self.half = half
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._beside, self._beside_name = beside, beside_name
        self._halves: set[str] = set()
        self._casts: dict[tuple[str, bool], str] = {}

    def weight(self, values: Any, kind: type = np.float32) -> str:
        """A constant of any shape."""
        array = values.detach().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        name = f"w{len(self.weights)}"
        if kind is np.float16:
            if (largest := float(np.abs(array).max(initial=0))) > float(np.finfo(np.float16).max):
                raise Corrupt(f"a weight of {largest:.3g} is beyond float16.", remedy="Export without half precision.")
            self._halves.add(name)
        self.weights.append(self._stored(np.ascontiguousarray(array, kind).reshape(array.shape), name))
        return name

    def _stored(self, array: np.ndarray[Any, Any], name: str) -> Any:
        if self._beside is None or array.nbytes < _APART:
            return numpy_helper.from_array(array, name)
        self._beside.write(b"\0" * (-self._beside.tell() % _PAGE))
        offset = self._beside.tell()
        self._beside.write(array.data.cast("B"))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self._beside_name), ("offset", offset), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One operator with one output."""
        return self.split(kind, 1, *inputs, **attributes)[0]

    def split(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """One operator with several outputs."""
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        if kind in _KEEP and inputs[0] in self._halves:
            self._halves.update(names)
        return names

    def _cast(self, x: str, half: bool) -> str:
        if not self.half or (x in self._halves) == half:
            return x
        if (x, half) not in self._casts:
            made = self.add("Cast", x, to=TensorProto.FLOAT16 if half else TensorProto.FLOAT)
            self._casts[x, half] = made
            if half:
                self._halves.add(made)
        return self._casts[x, half]

    def halved(self, x: str) -> str:
        """`x` in the kind of products."""
        return self._cast(x, half=True)

    def full(self, x: str) -> str:
        """`x` in float32."""
        return self._cast(x, half=False)

    def product_weight(self, values: Any) -> str:
        """A constant in the kind of products."""
        return self.weight(values, np.float16 if self.half else np.float32)

    def product(self, x: str, y: str) -> str:
        """Matrix product, in the kind of products."""
        return self.add("MatMul", self.halved(x), self.halved(y))

    def linear(self, x: str, weight: torch.Tensor, bias: torch.Tensor | None) -> str:
        """Affine map: x W^T + b."""
        product = self.add("MatMul", self.halved(x), self.product_weight(weight.T))
        return product if bias is None else self.add("Add", product, self.product_weight(bias))

    def plus(self, x: str, y: str) -> str:
        """Sum in float32."""
        return self.add("Add", self.full(x), self.full(y))

    def norm(self, x: str, gain: torch.Tensor, bias: torch.Tensor) -> str:
        """LayerNorm over the last axis, in float32."""
        return self.add(
            "LayerNormalization", self.full(x), self.weight(gain), self.weight(bias), axis=-1, epsilon=EPSILON
        )

    def rms_norm(self, x: str, gain: torch.Tensor) -> str:
        """RMSNorm over the last axis, in float32."""
        x = self.full(x)
        mean = self.add("ReduceMean", self.add("Mul", x, x), axes=[-1], keepdims=1)
        root = self.add("Sqrt", self.add("Add", mean, self.weight(np.float32(RMS_EPSILON))))
        return self.add("Mul", self.add("Div", x, root), self.weight(gain))

    def shape(self, x: str, *sides: int) -> str:
        """Reshape; 0 keeps a side."""
        return self.add("Reshape", x, self.weight(sides, np.int64))

    def end(self, kind: str, *inputs: str, **attributes: Any) -> None:
        """The operator that gives the graph's output."""
        self.nodes.append(helper.make_node(kind, list(inputs), ["vectors"], **attributes))

    def model(self, name: str, inputs: list[Any], outputs: list[Any]) -> Any:
        """The whole, as onnx's own object."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


_KEEP: Final = frozenset({"MatMul", "Add", "Mul", "Relu", "Reshape", "Transpose", "Concat", "Squeeze", "GatherND"})
"""Operators that give what kind they take; Cast and norms are told apart where they are added."""


def checked(model: Any) -> Any:
    """`model`, once onnx has found nothing wrong with it.

    Raises:
        Corrupt: It has: a mistake of ours.
    """
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise Corrupt(f"the exported graph is no ONNX: {error}") from None
    return model
