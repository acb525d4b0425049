"""A student as an ONNX graph, written operator by operator: batch and lengths stay free, nothing is traced.

The day-of-year encoding becomes a table of 367 rows with the second embedding bias folded in, biases of keys and of
the pooling score are dropped (a softmax does not see them) and 1/sqrt(head width) is folded into the query weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from service.dpixels import BANDS
from service.errors import InvalidInput
from service.families import FAMILIES, Statistics
from service.registry import MANIFEST, ModelManifest, RegisteredModel, read_model
from service.training.networks import DAYS, Backbone, Student, doy_encoding
from service.values import ModelIdentity

OPSET: Final = 17
IR: Final = 9
EPSILON: Final = 1e-5
PUBLISHED_V2: Final = FAMILIES["tessera-v2"].statistics
"""Statistics that the published v2 students are standardised with."""


class _Graph:
    """Nodes and weights in the making; each method adds one operator and returns the name of what it makes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, values: Any, kind: type = np.float32) -> str:
        array = values.detach().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array, kind), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.split(kind, 1, *inputs, **attributes)[0]

    def split(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def linear(self, x: str, weight: torch.Tensor, bias: torch.Tensor | None) -> str:
        product = self.add("MatMul", x, self.weight(weight.T))
        return product if bias is None else self.add("Add", product, self.weight(bias))

    def norm(self, x: str, gain: torch.Tensor, bias: torch.Tensor) -> str:
        return self.add("LayerNormalization", x, self.weight(gain), self.weight(bias), axis=-1, epsilon=EPSILON)

    def shape(self, x: str, *sides: int) -> str:
        return self.add("Reshape", x, self.weight(sides, np.int64))


def _attention(g: _Graph, layer: Any, x: str, logm: str, width: int) -> str:
    """(B, T, d) -> (B, T, d) before the output projection's residual."""
    attn, heads = layer.self_attn, layer.self_attn.heads
    wq, wk, wv = attn.in_proj_weight.chunk(3)
    bq, _, bv = attn.in_proj_bias.chunk(3)
    scale = (width // heads) ** -0.5
    split = (0, 0, heads, width // heads)
    q = g.add("Transpose", g.shape(g.linear(x, wq * scale, bq * scale), *split), perm=[0, 2, 1, 3])
    k = g.add("Transpose", g.shape(g.linear(x, wk, None), *split), perm=[0, 2, 3, 1])
    v = g.add("Transpose", g.shape(g.linear(x, wv, bv), *split), perm=[0, 2, 1, 3])
    weights = g.add("Softmax", g.add("Add", g.add("MatMul", q, k), logm), axis=-1)
    mixed = g.add("Transpose", g.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    return g.linear(g.shape(mixed, 0, 0, width), attn.out_proj.weight, attn.out_proj.bias)


def _backbone(g: _Graph, net: Backbone, sensor: str) -> str:
    """(B, T, b), (B, T), (B, T) -> (B, d)."""
    first, second = net.embedding[0], net.embedding[2]
    table = doy_encoding(torch.arange(DAYS), net.width) + second.bias
    x = g.linear(g.add("Relu", g.linear(sensor, first.weight, first.bias)), second.weight, None)
    x = g.add("Add", x, g.add("Gather", g.weight(table), f"{sensor}_doy", axis=0))
    logm = g.add("Unsqueeze", f"{sensor}_logm", g.weight([1, 2], np.int64))
    for layer in net.layers:
        x = g.norm(g.add("Add", x, _attention(g, layer, x, logm, net.width)), layer.norm1.weight, layer.norm1.bias)
        hidden = g.add("Relu", g.linear(x, layer.linear1.weight, layer.linear1.bias))
        out = g.linear(hidden, layer.linear2.weight, layer.linear2.bias)
        x = g.norm(g.add("Add", x, out), layer.norm2.weight, layer.norm2.bias)
    score = g.add("Transpose", g.linear(x, net.attn_pool.query.weight, None), perm=[0, 2, 1])
    bias = g.add("Unsqueeze", f"{sensor}_logm", g.weight([1], np.int64))
    pooled = g.add("MatMul", g.add("Softmax", g.add("Add", score, bias), axis=-1), x)
    return g.add("Squeeze", pooled, g.weight([1], np.int64))


def to_onnx(student: Student) -> bytes:
    """The ONNX file of a student.

    Inputs `s2` (B, T2, 10) float32 standardised, `s2_doy` (B, T2) int64, `s2_logm` (B, T2) float32 log-multiplicity
    (-1e9 for padding), and `s1`, `s1_doy`, `s1_logm` likewise with 2 channels. Output `vectors` (B, D) float32.

    Raises:
        InvalidInput: The student is of the QK-norm variant.
    """
    if student.config.enable_qk_norm:
        raise InvalidInput("students with QK-norm cannot be exported yet.", field="enable_qk_norm")
    g = _Graph()
    with torch.no_grad():
        fused = g.add("Concat", *(_backbone(g, getattr(student, f"{s}_backbone"), s) for s in ("s2", "s1")), axis=1)
        one, norm, _, _, two = student.dim_reducer
        x = g.add("Relu", g.norm(g.linear(fused, one.weight, one.bias), norm.weight, norm.bias))
        x = g.linear(x, two.weight, two.bias)
        ones = torch.ones(student.config.repr_dim)
        g.nodes.append(
            helper.make_node(
                "LayerNormalization", [x, g.weight(ones), g.weight(ones * 0)], ["vectors"], axis=-1, epsilon=EPSILON
            )
        )
    inputs = []
    for sensor, channels in (("s2", 10), ("s1", 2)):
        sides = ["batch", f"{sensor}_time"]
        inputs += [
            helper.make_tensor_value_info(sensor, TensorProto.FLOAT, [*sides, channels]),
            helper.make_tensor_value_info(f"{sensor}_doy", TensorProto.INT64, sides),
            helper.make_tensor_value_info(f"{sensor}_logm", TensorProto.FLOAT, sides),
        ]
    output = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["batch", student.config.repr_dim])
    graph = helper.make_graph(g.nodes, "student", inputs, [output], g.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def export(
    student: Student,
    folder: Path,
    identity: ModelIdentity,
    *,
    statistics: Statistics = PUBLISHED_V2,
    licence: str = "MIT",
    origin: str = "",
    title: str = "",
    depths: tuple[int, ...] = (),
    training: Mapping[str, Any] | None = None,
) -> RegisteredModel:
    """Write `model.onnx` and `manifest.json` into a folder and return the model.

    Args:
        student: In evaluation mode.
        folder: Made if need be.
        identity: What the model is called.
        statistics: What its inputs were standardised with.
        licence: SPDX name.
        origin: Who made it, and from what.
        title: One line for people.
        depths: Prefix lengths it was trained for.
        training: Summary for the manifest.
    """
    body = to_onnx(student)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = ModelManifest(
        identity=identity,
        family="tessera-v2",
        sha256=hashlib.sha256(body).hexdigest(),
        statistics=statistics,
        dims=student.config.repr_dim,
        licence=licence,
        origin=origin,
        title=title,
        depths=depths,
        bands=BANDS,
        training=training or {},
    )
    (folder / manifest.file).write_bytes(body)
    (folder / MANIFEST).write_text(manifest.to_json())
    return read_model(folder)
