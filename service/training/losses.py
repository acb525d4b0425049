"""Barlow Twins with the mix term, as TESSERA v1 trains with; quantisation in training; effective rank."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def barlow_twins(z1: Tensor, z2: Tensor, off_diagonal: float = 5e-3) -> Tensor:
    """sum_i (C_ii - 1)^2 + off_diagonal * sum_{i != j} C_ij^2 (Zbontar et al. 2021).

    C = z1^T z2 / B of standardised columns (the divisor is that of the TESSERA training code).
    """
    a, b = standardised(z1), standardised(z2)
    diagonal = (a * b).mean(dim=0)
    return (diagonal - 1).square().sum() + off_diagonal * (_squares(a, b) - diagonal.square().sum())


def mix(z1: Tensor, z2: Tensor, zm: Tensor, alpha: Tensor, order: Tensor, weight: float = 5e-3) -> Tensor:
    """Hold the correlations of mixed inputs against mixed correlations.

    With G_a = alpha C(z1, z1) + (1 - alpha) C(z2[order], z1) and G_b = alpha C(z1, z2) + (1 - alpha) C(z2[order], z2):
    weight * (sum (C(zm, z1) - G_a)^2 + sum (C(zm, z2) - G_b)^2) (TESSERA training code; Mix-BT, Bandara et al. 2023).
    C is linear in its first standardised argument, so each difference is one correlation.

    Args:
        z1: (B, P) projections of the first views.
        z2: (B, P) of the second views.
        zm: (B, P) of alpha * first + (1 - alpha) * second[order], mixed as inputs.
        alpha: Scalar in [0, 1].
        order: (B,) permutation.
        weight: On the whole.
    """
    a, b = standardised(z1), standardised(z2)
    off = standardised(zm) - alpha * a - (1 - alpha) * b[order]
    return weight * (_squares(off, a) + _squares(off, b))


def masked_mse(predicted: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Mean squared error over what is known; all of one shape."""
    return ((predicted - target).square() * known).sum() / known.sum().clamp(min=1)


@torch.no_grad()
def rank_me(z: Tensor) -> float:
    """Effective rank of (B, P) as a share of P: exp of the entropy of singular values (Garrido et al. 2023)."""
    s = torch.linalg.svdvals(z.float())
    p = s / s.sum() + 1e-7
    return float(torch.exp(-(p * p.log()).sum()) / min(z.shape))


@torch.no_grad()
def rank_entropy(z: Tensor) -> float:
    """Entropy of the singular values of (B, P) over that of equal ones: what TESSERA's training logs call RankMe."""
    s = torch.linalg.svdvals(z.float())
    p = s / (s.sum() + 1e-7)
    return float(-(p * (p + 1e-7).log()).sum() / math.log(len(s)))


def fake_quantised(x: Tensor) -> Tensor:
    """Values as int8 with one scale for the whole tensor would keep them; the gradient passes unchanged.

    s = max(max|x| / 127, 1e-8), q = clip(round_half_even(x / s), -128, 127) (TESSERA v1.0 QAT).
    """
    scale = (x.detach().abs().max() / 127).clamp(min=1e-8)
    kept = (x.detach() / scale).round().clamp(-128, 127) * scale
    return x + (kept - x).detach()


def unexplained(predicted: Tensor, target: Tensor, variance: float) -> Tensor:
    """Mean squared error of (B, d) over the variance of the target: 1 for its mean, 0 for itself."""
    return (predicted - target).square().mean() / variance


def standardised(z: Tensor) -> Tensor:
    """(B, P) columns of mean 0 and (Bessel) deviation 1."""
    return (z - z.mean(dim=0)) / z.std(dim=0).clamp(min=1e-9)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the squares of a^T b / B, by way of the (B, B) Gram matrices, which are smaller than (P, P)."""
    return ((a @ a.T) * (b @ b.T)).sum() / a.shape[0] ** 2
