"""The transformer layer of every published network: norms before or after, queries and keys normalised or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norms = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class LayerShape:
    """What makes one kind of layer."""

    width: int
    heads: int
    feedforward: int
    norm_first: bool = False
    """x + f(norm(x)) as the teacher has it, instead of norm(x + f(x))."""
    qk_norm: bool = False
    """RMS-normalised queries and keys, and projections of their own instead of packed ones."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    logm: Tensor | None,
    norms: Norms | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention over (B, T, d), per head; `norms` are applied to q and k inside each head."""
    q, k, v = (t.view(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
    if norms:
        q, k = norms[0](q), norms[1](k)
    mask = None if logm is None else logm[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).transpose(1, 2).flatten(-2)


class SelfAttention(nn.Module):
    """Multi-head attention with packed projections, as torch's own, and log-multiplicities as a bias on keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, logm: Tensor | None, dropout: float = 0.0) -> Tensor:
        """(B, T, d), (B, T) -> (B, T, d); `dropout` of the attention weights."""
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self.out_proj(attend(q, k, v, self.heads, logm, dropout=dropout))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One transformer layer."""

    dropout = 0.0
    """Share that training leaves out, as torch's own encoder layer does: of attention weights, of what is fed forward,
    and of both sums."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        d = shape.width
        self.norm_first = shape.norm_first
        self._make_attention(shape)
        self.linear1 = nn.Linear(d, shape.feedforward)
        self.linear2 = nn.Linear(shape.feedforward, d)
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)

    def _make_attention(self, shape: LayerShape) -> None:
        self.self_attn = SelfAttention(shape.width, shape.heads)

    def attention(self, x: Tensor, logm: Tensor | None) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        return self.self_attn(x, logm, self.dropped)  # type: ignore[no-any-return]

    def feed(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        return self.linear2(self._less(F.relu(self.linear1(x))))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, logm: Tensor | None = None) -> Tensor:
        """(B, T, d), (B, T) -> (B, T, d)."""
        if self.norm_first:
            x = x + self._less(self.attention(self.norm1(x), logm))
            return x + self._less(self.feed(self.norm2(x)))
        x = self.norm1(x + self._less(self.attention(x, logm)))
        return self.norm2(x + self._less(self.feed(x)))  # type: ignore[no-any-return]

    @property
    def dropped(self) -> float:
        """The share that is left out now."""
        return self.dropout if self.training else 0.0

    def _less(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropped) if self.dropped else x


class QKNormLayer(Layer):
    """The variant with RMS-normalised queries and keys."""

    def _make_attention(self, shape: LayerShape) -> None:
        d, self.heads = shape.width, shape.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(d, d) for _ in range(4))
        self.q_norm, self.k_norm = nn.RMSNorm(d // shape.heads), nn.RMSNorm(d // shape.heads)

    def attention(self, x: Tensor, logm: Tensor | None) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(attend(q, k, v, self.heads, logm, (self.q_norm, self.k_norm), self.dropped))  # type: ignore[no-any-return]


def layers_of(shape: LayerShape, count: int) -> nn.ModuleList:
    """`count` layers in a row."""
    kind = QKNormLayer if shape.qk_norm else Layer
    return nn.ModuleList(kind(shape) for _ in range(count))


class Stack(nn.Module):
    """Layers under the name that most published state dicts use."""

    def __init__(self, shape: LayerShape, count: int) -> None:
        super().__init__()
        self.layers = layers_of(shape, count)

    def forward(self, x: Tensor, logm: Tensor | None = None) -> Tensor:
        """(B, T, d), (B, T) -> (B, T, d)."""
        for layer in self.layers:
            x = layer(x, logm)
        return x
