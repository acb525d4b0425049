"""One sensor's series to one vector: embedding, day of the year, transformer, pooling over time."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor, nn

from service.training.networks.layers import LayerShape, Stack, layers_of
from service.training.networks.pooling import Pool

DAYS: Final = 367
"""Rows of a day-of-year table: day 0 stands for a missing sensor."""


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


class Backbone(nn.Module):
    """One sensor of any network.

    Args:
        channels: Numbers of an observation.
        shape: Of each layer.
        count: Layers.
        pool: Kind of pooling.
        bare: Layers are numbered right under `transformer_encoder`, as in students with QK-norm.
    """

    def __init__(
        self, channels: int, shape: LayerShape, count: int, pool: type[Pool] = Pool, *, bare: bool = False
    ) -> None:
        super().__init__()
        d = shape.width
        self.width = d
        self.embedding: Any = nn.Sequential(nn.Linear(channels, d), nn.ReLU(), nn.Linear(d, d))
        self.transformer_encoder: Any = layers_of(shape, count) if bare else Stack(shape, count)
        self.attn_pool = pool(d)

    @property
    def layers(self) -> Any:
        """The transformer layers, in order."""
        return getattr(self.transformer_encoder, "layers", self.transformer_encoder)

    def forward(
        self,
        bands: Tensor,
        doy: Tensor,
        logm: Tensor | None = None,
        order: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> Tensor:
        """(B, T, channels) standardised, (B, T) days, (B, T) log-multiplicities, (B, P) order and steps -> (B, d)."""
        x = self.embedding(bands) + doy_encoding(doy, self.width)
        for layer in self.layers:
            x = layer(x, logm)
        return self.attn_pool(x, logm, order, steps)  # type: ignore[no-any-return]
