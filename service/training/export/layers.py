"""The parts of the networks as ONNX operators, by the published names of their parameters.

The day-of-year encoding becomes a table of 367 rows with the second embedding bias folded in, biases of keys and of
the pooling score are dropped (a softmax does not see them) and 1/sqrt(head width) is folded into the query weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from service.training.export.graph import Graph
from service.training.networks import DAYS, Cell, CellPool, QKNormLayer, RecurrentPool, doy_encoding


def backbone(g: Graph, net: Any, sensor: str) -> str:
    """(B, T, b), (B, T), (B, T) -> (B, d)."""
    first, second = net.embedding[0], net.embedding[2]
    table = doy_encoding(torch.arange(DAYS), net.width) + second.bias
    x = g.linear(g.add("Relu", g.linear(sensor, first.weight, first.bias)), second.weight, None)
    x = g.plus(x, g.add("Gather", g.weight(table), f"{sensor}_doy", axis=0))
    logm = g.add("Unsqueeze", f"{sensor}_logm", g.weight([1, 2], np.int64))
    for layer in net.layers:
        x = transformer_layer(g, layer, x, logm)
    if isinstance(net.attn_pool, RecurrentPool):
        return _walked_pool(g, net.attn_pool, x, sensor)
    return _pool(g, net.attn_pool.query.weight, x, x, f"{sensor}_logm")


def transformer_layer(g: Graph, layer: Any, x: str, logm: str | None) -> str:
    """(B, T, d), (B, 1, 1, T) -> (B, T, d); `logm` absent: every token counts once."""
    seen = g.norm(x, layer.norm1.weight, layer.norm1.bias) if layer.norm_first else x
    x = g.plus(x, _attention(g, layer, seen, logm))
    if layer.norm_first:
        return g.plus(x, _feed_forward(g, layer, g.norm(x, layer.norm2.weight, layer.norm2.bias)))
    x = g.norm(x, layer.norm1.weight, layer.norm1.bias)
    return g.norm(g.plus(x, _feed_forward(g, layer, x)), layer.norm2.weight, layer.norm2.bias)


def _feed_forward(g: Graph, layer: Any, x: str) -> str:
    hidden = g.add("Relu", g.linear(x, layer.linear1.weight, layer.linear1.bias))
    return g.linear(hidden, layer.linear2.weight, layer.linear2.bias)


def _attention(g: Graph, layer: Any, x: str, logm: str | None) -> str:
    """(B, T, d) -> (B, T, d), with the output projection.

    MatMul, Add, Softmax, MatMul stand side by side: engines that have one kernel for the four find them.
    """
    normed = isinstance(layer, QKNormLayer)
    heads, q, k, v, out = _projections(layer)
    width = out.weight.shape[0]
    split = (0, 0, heads, width // heads)
    scale = (width // heads) ** -0.5
    if normed:
        query = g.rms_norm(g.shape(g.linear(x, *q), *split), layer.q_norm.weight * scale)
        key = g.rms_norm(g.shape(g.linear(x, *k), *split), layer.k_norm.weight)
    else:
        query = g.shape(g.linear(x, q[0] * scale, q[1] * scale), *split)
    query = g.add("Transpose", query, perm=[0, 2, 1, 3])
    key = g.add("Transpose", key if normed else g.shape(g.linear(x, k[0], None), *split), perm=[0, 2, 3, 1])
    value = g.add("Transpose", g.shape(g.linear(x, *v), *split), perm=[0, 2, 1, 3])
    scores = g.full(g.product(query, key))
    weights = g.add("Softmax", scores if logm is None else g.add("Add", scores, logm), axis=-1)
    mixed = g.add("Transpose", g.product(weights, value), perm=[0, 2, 1, 3])
    return g.linear(g.shape(mixed, 0, 0, width), out.weight, out.bias)


def _projections(layer: Any) -> tuple[int, Any, Any, Any, Any]:
    """How many heads; weights and biases of query, key and value; the output layer."""
    if isinstance(layer, QKNormLayer):
        q, k, v = ((p.weight, p.bias) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
        return layer.heads, q, k, v, layer.out_proj
    attn = layer.self_attn
    q, k, v = zip(attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3), strict=True)
    return attn.heads, q, k, v, attn.out_proj


def _pool(g: Graph, query: Tensor, scored: str, x: str, bias: str) -> str:
    """(B, T, d) scored, (B, T, d), (B, T) -> (B, d): the mean of x, weighted by softmax(scored query + bias)."""
    score = g.add("Transpose", g.full(g.linear(scored, query, None)), perm=[0, 2, 1])
    added = g.add("Unsqueeze", bias, g.weight([1], np.int64))
    pooled = g.product(g.add("Softmax", g.add("Add", score, added), axis=-1), x)
    return g.add("Squeeze", pooled, g.weight([1], np.int64))


def _walked_pool(g: Graph, pool: Any, x: str, sensor: str) -> str:
    """Pooling of v1.x: a GRU walks the published sequence, as positions among the unique observations.

    (B, T, d), (B, P), (B, P) -> (B, d).
    """
    order = g.add("Unsqueeze", f"{sensor}_order", g.weight([2], np.int64))
    x = g.add("GatherND", x, order, batch_dims=1)
    walked = g.add("Transpose", x, perm=[1, 0, 2])
    if not isinstance(pool, CellPool):
        context = _gru(g, walked, *_torch_gates(pool.temporal_context), linear_before_reset=1)
    elif g.half:
        context = _scanned(g, walked, pool.temporal_context.gru_cell)
    else:
        context = _gru(g, walked, *_own_gates(pool.temporal_context.gru_cell), linear_before_reset=0)
    context = g.add("Transpose", context, perm=[1, 0, 2])
    if isinstance(pool, CellPool):
        context = g.norm(context, pool.layer_norm.weight, pool.layer_norm.bias)
    return _pool(g, pool.query.weight, context, x, f"{sensor}_steps")


def _gru(g: Graph, x: str, w: Tensor, r: Tensor, b: Tensor, linear_before_reset: int) -> str:
    """(P, B, d) -> (P, B, d), in float32 always; gates in ONNX's order: update, reset, hidden."""
    parts = (g.weight(part[None]) for part in (w, r, b))
    y = g.add("GRU", g.full(x), *parts, hidden_size=r.shape[1], linear_before_reset=linear_before_reset)
    return g.add("Squeeze", y, g.weight([1], np.int64))


def _torch_gates(gru: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Torch's gates stand in the order reset, update, hidden."""

    def turned(t: Tensor) -> Tensor:
        r, z, n = t.chunk(3)
        return torch.cat((z, r, n))

    biases = torch.cat((turned(gru.bias_ih_l0), turned(gru.bias_hh_l0)))
    return turned(gru.weight_ih_l0), turned(gru.weight_hh_l0), biases


def _own_gates(cell: Cell) -> tuple[Tensor, Tensor, Tensor]:
    """The published cell takes the new value by z, ONNX's keeps the old one by z: sigmoid(-a) = 1 - sigmoid(a)."""
    gates = len(cell.bias) // 3
    sign = torch.ones(3 * gates)
    sign[:gates] = -1
    r, z, h = cell.bias.chunk(3)
    w, state = cell.stacked("i", "zrh") * sign[:, None], cell.stacked("h", "zrh") * sign[:, None]
    return w, state, torch.cat((torch.cat((z, r, h)) * sign, torch.zeros_like(sign)))


def _scanned(g: Graph, x: str, cell: Cell) -> str:
    """The published cell step by step: cuDNN has no GRU that resets before the product, so CUDA would leave the GPU.

    (P, B, d) -> (P, B, d). The state is float32, products are float16.
    """
    given = g.full(g.linear(x, cell.stacked("i", "rzh"), cell.bias))
    start = g.add("Mul", g.full(g.add("Gather", x, g.weight(0, np.int64), axis=0)), g.weight(np.float32(0)))
    outputs = [f"scan{len(g.nodes)}_{what}" for what in ("last", "all")]
    body = _step(len(cell.bias) // 3, cell.stacked("h", "rz"), cell.stacked("h", "h"))
    g.nodes.append(helper.make_node("Scan", [start, given], outputs, body=body, num_scan_inputs=1))
    return outputs[1]


def _step(width: int, gates: Tensor, hidden: Tensor) -> Any:
    """One step: (B, d) state and (B, 3d) from the input -> state, state."""
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    node = helper.make_node
    nodes = [
        node("Cast", ["h"], ["h16"], to=half),
        node("MatMul", ["h16", "gates"], ["rz16"]),
        node("Cast", ["rz16"], ["rz_h"], to=full),
        node("Split", ["x", "sides"], ["x_rz", "x_g"], axis=-1),
        node("Add", ["x_rz", "rz_h"], ["rz_sum"]),
        node("Sigmoid", ["rz_sum"], ["rz"]),
        node("Split", ["rz"], ["r", "z"], axis=-1),
        node("Mul", ["r", "h"], ["rh"]),
        node("Cast", ["rh"], ["rh16"], to=half),
        node("MatMul", ["rh16", "hidden"], ["g16"]),
        node("Cast", ["g16"], ["g_h"], to=full),
        node("Add", ["x_g", "g_h"], ["g_sum"]),
        node("Tanh", ["g_sum"], ["g"]),
        node("Sub", ["g", "h"], ["towards"]),
        node("Mul", ["z", "towards"], ["move"]),
        node("Add", ["h", "move"], ["next"]),
        node("Identity", ["next"], ["out"]),
    ]
    weights = [
        numpy_helper.from_array(np.ascontiguousarray(t.detach().numpy().T, np.float16), name)
        for name, t in (("gates", gates), ("hidden", hidden))
    ]
    weights.append(numpy_helper.from_array(np.array([2 * width, width], np.int64), "sides"))

    def value(name: str, channels: int) -> Any:
        return helper.make_tensor_value_info(name, full, ["batch", channels])

    inputs, outputs = [value("h", width), value("x", 3 * width)], [value("next", width), value("out", width)]
    return helper.make_graph(nodes, "step", inputs, outputs, weights)
