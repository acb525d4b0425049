"""The TESSERA v2 student network, with the published parameter names, so that published weights load strictly.

One addition: each observation may carry log(multiplicity). An observation that the published sampling repeats m
times has the same state in every layer m times over, so one copy with log(m) added to its attention logits, and to
its pooling logit, gives the same vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.errors import Corrupt

DAYS: Final = 367
"""Rows of a day-of-year table: day 0 stands for a missing sensor."""


@dataclass(frozen=True)
class StudentConfig:
    """Sizes of a student; names and defaults are those of the published checkpoints' `args`."""

    repr_dim: int = 128
    latent_dim: int = 64
    num_layers: int = 4
    nhead: int = 4
    dim_feedforward: int = 1024
    enable_qk_norm: bool = False

    @property
    def width(self) -> int:
        """Channels d of a token: 4 * latent_dim."""
        return 4 * self.latent_dim

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> StudentConfig:
        """Take what concerns the architecture from a checkpoint's `args`."""
        return cls(**{name: args[name] for name in asdict(cls()) if name in args})


def doy_encoding(doy: Tensor, width: int) -> Tensor:
    """Sine and cosine of the day of the year, not scaled to a year.

    PE[2k] = sin(doy w_k), PE[2k+1] = cos(doy w_k), w_k = exp(-2k ln(10000) / width), float32 (TESSERA code, all
    versions).

    Args:
        doy: (...) days 0..366.
        width: Even number of channels.

    Returns:
        (..., width) float32.
    """
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=doy.device)
    angles = doy.float()[..., None] * torch.exp(steps * (-math.log(10000.0) / width))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


class SelfAttention(nn.Module):
    """Multi-head attention with packed projections, as torch's own, and log-multiplicities as a bias on keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, logm: Tensor | None) -> Tensor:
        """(B, T, d), (B, T) -> (B, T, d)."""
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self.out_proj(attend(q, k, v, self.heads, logm))  # type: ignore[no-any-return]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, logm: Tensor | None, norms: Any = None) -> Tensor:
    """Scaled dot-product attention over (B, T, d), per head; `norms` are applied to q and k inside each head."""
    q, k, v = (t.view(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
    if norms:
        q, k = norms[0](q), norms[1](k)
    mask = None if logm is None else logm[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)


class Layer(nn.Module):
    """Post-norm transformer layer."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        d = config.width
        self.self_attn = SelfAttention(d, config.nhead)
        self.linear1 = nn.Linear(d, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, d)
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)

    def attention(self, x: Tensor, logm: Tensor | None) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        return self.self_attn(x, logm)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, logm: Tensor | None) -> Tensor:
        """(B, T, d), (B, T) -> (B, T, d)."""
        x = self.norm1(x + self.attention(x, logm))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))  # type: ignore[no-any-return]


class QKNormLayer(Layer):
    """The variant with RMS-normalised queries and keys."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        d = config.width
        del self.self_attn
        self.heads = config.nhead
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(d, d) for _ in range(4))
        self.q_norm, self.k_norm = nn.RMSNorm(d // config.nhead), nn.RMSNorm(d // config.nhead)

    def attention(self, x: Tensor, logm: Tensor | None) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(attend(q, k, v, self.heads, logm, (self.q_norm, self.k_norm)))  # type: ignore[no-any-return]


class Stack(nn.Module):
    """Layers under the name that the published state dicts use."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))


class Pool(nn.Module):
    """Attention over time with one learned query."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1)

    def forward(self, x: Tensor, logm: Tensor | None) -> Tensor:
        """(B, T, d), (B, T) -> (B, d)."""
        score = self.query(x).squeeze(-1)
        weights = (score if logm is None else score + logm).softmax(dim=1)
        return torch.einsum("bt,btd->bd", weights, x)


class Backbone(nn.Module):
    """One sensor's series to one vector."""

    def __init__(self, channels: int, config: StudentConfig) -> None:
        super().__init__()
        d = config.width
        self.width = d
        self.embedding: Any = nn.Sequential(nn.Linear(channels, d), nn.ReLU(), nn.Linear(d, d))
        if config.enable_qk_norm:
            self.transformer_encoder: Any = nn.ModuleList(QKNormLayer(config) for _ in range(config.num_layers))
        else:
            self.transformer_encoder = Stack(config)
        self.attn_pool = Pool(d)

    @property
    def layers(self) -> Any:
        """The transformer layers, in order."""
        return getattr(self.transformer_encoder, "layers", self.transformer_encoder)

    def forward(self, bands: Tensor, doy: Tensor, logm: Tensor | None = None) -> Tensor:
        """(B, T, channels) standardised, (B, T) days, (B, T) log-multiplicities -> (B, d)."""
        x = self.embedding(bands) + doy_encoding(doy, self.width)
        for layer in self.layers:
            x = layer(x, logm)
        return self.attn_pool(x, logm)  # type: ignore[no-any-return]


class Student(nn.Module):
    """The v2 student: two backbones, concatenated, reduced, normalised."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.s2_backbone = Backbone(10, config)
        self.s1_backbone = Backbone(2, config)
        self.dim_reducer: Any = nn.Sequential(
            nn.Linear(2 * d, 4 * d), nn.LayerNorm(4 * d), nn.ReLU(), nn.Dropout(0.0), nn.Linear(4 * d, config.repr_dim)
        )

    def forward(
        self,
        s2: Tensor,
        s2_doy: Tensor,
        s1: Tensor,
        s1_doy: Tensor,
        s2_logm: Tensor | None = None,
        s1_logm: Tensor | None = None,
    ) -> Tensor:
        """Embed.

        Args:
            s2: (B, T2, 10) standardised bands.
            s2_doy: (B, T2) day of the year; 0 for a missing sensor.
            s1: (B, T1, 2) standardised VV, VH.
            s1_doy: (B, T1).
            s2_logm: (B, T2) log(multiplicity), -1e9 for padding; absent: every observation counts once.
            s1_logm: (B, T1) likewise.

        Returns:
            (B, repr_dim) float32 of mean 0 and variance 1 a row.
        """
        fused = torch.cat((self.s2_backbone(s2, s2_doy, s2_logm), self.s1_backbone(s1, s1_doy, s1_logm)), dim=-1)
        return F.layer_norm(self.dim_reducer(fused), (self.config.repr_dim,))


def load_student(payload: Mapping[str, Any]) -> Student:
    """A student from a checkpoint's payload: `model` (state dict) and `args`.

    Raises:
        Corrupt: A parameter is missing, left over or of another shape.
    """
    student = Student(StudentConfig.from_args(payload["args"]))
    try:
        student.load_state_dict(payload["model"], strict=True)
    except RuntimeError as error:
        raise Corrupt(f"the checkpoint does not fit its own sizes: {error}") from None
    return student.eval()
