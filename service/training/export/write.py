"""A whole network as an ONNX graph, written operator by operator: batch and lengths stay free, nothing is traced."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from service.training.export.graph import EPSILON, Graph, checked
from service.training.export.layers import backbone, transformer_layer
from service.training.networks import Network, RecurrentPool, Student, Teacher

LIMIT: Final = 1_800_000_000
"""Bytes of weights that one ONNX file is asked to hold; it could hold 2 GB."""


def to_onnx(network: Network, dims: int | None = None, *, half: bool = False) -> bytes:
    """The ONNX file of a network.

    Inputs `s2` (B, T2, 10) float32 standardised, `s2_doy` (B, T2) int64, `s2_logm` (B, T2) float32 log-multiplicity
    (-1e9 for padding), and `s1`, `s1_doy`, `s1_logm` likewise with 2 channels; v1.x also `s2_order` (B, P2) int64,
    `s2_steps` (B, P2) float32, `s1_order`, `s1_steps`. Output `vectors` (B, D) float32.

    Args:
        network: In evaluation mode.
        dims: How many numbers of the vector are wanted, from the first; absent: all.
        half: Products and their weights in float16.
    """
    return bytes(checked(_build(Graph(half), network, dims)).SerializeToString())


def write_onnx(
    network: Network, path: Path, dims: int | None = None, *, half: bool = False, limit: int = LIMIT
) -> Path | None:
    """Write the ONNX file of a network, and its weights beside it where there are too many for one file.

    Args:
        network: In evaluation mode.
        path: The file; its weights go to the same name with `.data`.
        dims: As `to_onnx`.
        half: As `to_onnx`.
        limit: Bytes of weights that the file itself may hold.

    Returns:
        The file of weights; None where there is none.
    """
    size = sum(p.numel() for p in network.parameters()) * (2 if half else 4)
    if size <= limit:
        path.write_bytes(to_onnx(network, dims, half=half))
        return None
    data = path.with_suffix(".data")
    with data.open("wb") as beside:
        model = _build(Graph(half, beside, data.name), network, dims)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))  # by path: the whole would not fit into one message
    return data


def _build(g: Graph, network: Network, dims: int | None) -> Any:
    """The graph, as onnx's own object."""
    dims = dims or network.config.repr_dim
    with torch.no_grad():
        s2, s1 = (backbone(g, getattr(network, f"{sensor}_backbone"), sensor) for sensor in ("s2", "s1"))
        _finished(g, network, _reduced(g, network, _fused(g, network, s2, s1), dims), dims)
    walked = isinstance(network.s2_backbone.attn_pool, RecurrentPool)
    output = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["batch", dims])
    return g.model("student" if isinstance(network, Student) else "encoder", _inputs(walked), [output])


def _fused(g: Graph, network: Network, s2: str, s1: str) -> str:
    """(B, d) of each sensor -> (B, 2 d)."""
    if not isinstance(network, Teacher):
        return g.add("Concat", g.full(s2), g.full(s1), axis=1)
    axis = g.weight([1], np.int64)
    tokens = g.add("Concat", *(g.add("Unsqueeze", g.full(x), axis) for x in (s2, s1)), axis=1)
    x = g.plus(tokens, g.weight(network.fusion_modality_embed))
    for layer in network.fusion_transformer.layers:
        x = transformer_layer(g, layer, x, None)
    return g.shape(x, 0, 2 * network.config.width)


def _reduced(g: Graph, network: Network, x: str, dims: int) -> str:
    """(B, 2 d) -> (B, dims): rows of the last Linear beyond `dims` are not there at all."""
    *hidden, last = (part for part in network.dim_reducer if not isinstance(part, torch.nn.Dropout | torch.nn.ReLU))
    if hidden:
        one, norm = hidden
        x = g.add("Relu", g.norm(g.linear(x, one.weight, one.bias), norm.weight, norm.bias))
    return g.linear(x, last.weight[:dims], last.bias[:dims])


def _finished(g: Graph, network: Network, x: str, dims: int) -> None:
    """The last operator, which gives `vectors`: a norm without weights, or none."""
    if isinstance(network, Student) or (isinstance(network, Teacher) and network.config.final_layernorm):
        ones = torch.ones(dims)
        weights = g.weight(ones), g.weight(ones * 0)
        g.end("LayerNormalization", g.full(x), *weights, axis=-1, epsilon=EPSILON)
    else:
        g.end("Identity", g.full(x))


def _inputs(walked: bool) -> list[Any]:
    inputs = []
    for sensor, channels in (("s2", 10), ("s1", 2)):
        sides = ["batch", f"{sensor}_time"]
        inputs += [
            helper.make_tensor_value_info(sensor, TensorProto.FLOAT, [*sides, channels]),
            helper.make_tensor_value_info(f"{sensor}_doy", TensorProto.INT64, sides),
            helper.make_tensor_value_info(f"{sensor}_logm", TensorProto.FLOAT, sides),
        ]
        if walked:
            sides = ["batch", f"{sensor}_walk"]
            inputs += [
                helper.make_tensor_value_info(f"{sensor}_order", TensorProto.INT64, sides),
                helper.make_tensor_value_info(f"{sensor}_steps", TensorProto.FLOAT, sides),
            ]
    return inputs
