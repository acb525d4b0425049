"""A half-precision graph as a processor must be told it, so that it loses what a GPU loses.

ONNX Runtime has no float16 arithmetic on most processors: it widens what goes into a product, and drops the casts
between one product and the next, so that nothing is rounded and nothing overflows on the way. Here every result of
float16 goes through casts of its own, which are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnx
from onnx import TensorProto, helper

_MOVES: Final = frozenset({"Cast", "Concat", "Gather", "GatherND", "Relu", "Reshape", "Squeeze", "Transpose"})
"""Operators that round nothing."""


def rounded(half: Path) -> bytes:
    """The graph of a half-precision file, each result rounded to float16; weights beside it are left where they are."""
    model = onnx.shape_inference.infer_shapes(onnx.load(half, load_external_data=False), strict_mode=True)
    _round(model.graph)
    return bytes(model.SerializeToString())


def _round(graph: Any) -> None:
    kinds = {weight.name: weight.data_type for weight in graph.initializer}
    kinds |= {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    halves = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT16}
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _round(attribute.g)
        nodes += _between(node, halves) if node.op_type not in _MOVES and node.output[0] in halves else [node]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _between(node: Any, halves: set[str]) -> list[Any]:
    """The operator in float32, between casts."""
    (output,), nodes = node.output, []
    for i, name in enumerate(node.input):
        if name in halves:
            node.input[i] = f"{output}_full{i}"
            nodes.append(helper.make_node("Cast", [name], [node.input[i]], to=TensorProto.FLOAT))
    node.output[0] = f"{output}_full"
    return [*nodes, node, helper.make_node("Cast", [node.output[0]], [output], to=TensorProto.FLOAT16)]
