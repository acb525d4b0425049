"""What training asks of a network: two views of a pixel must agree, or a frozen teacher must be readable from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from service.training.losses import barlow_twins, fake_quantised, masked_mse, mix, unexplained
from service.training.networks import Layer, Network, build
from service.training.recipes import Recipe
from service.training.teacher import Taught
from service.training.views import MONTHS, Batch, View

TARGETS = MONTHS * 12
"""Numbers in a pixel's monthly means: ten bands and two polarisations a month."""


class Objective(Protocol):
    """A network with what only training needs."""

    student: Network

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The loss by the name `loss`, its parts by theirs; and (B, d) vectors of the first view."""


def projector(width: int, size: int, hidden: int) -> nn.Sequential:
    """`hidden` times Linear, BatchNorm and ReLU, then a Linear; all `size` wide."""
    layers: list[nn.Module] = []
    for i in range(hidden):
        layers += [nn.Linear(size if i else width, size), nn.BatchNorm1d(size), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(size if hidden else width, size))


class Twins(nn.Module):
    """Barlow Twins with the mix term; beside it, if asked, a linear reading of the pixel's monthly means."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        width = recipe.student.repr_dim
        self.recipe = recipe
        self.student = network_of(recipe)
        self.projector = projector(width, recipe.projector, recipe.hidden)
        if recipe.monthly:
            self.reading = nn.Linear(width, TARGETS)

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """See Objective."""
        recipe = self.recipe
        two, alpha, order = cast(View, batch.two), cast(Tensor, batch.alpha), cast(Tensor, batch.order)
        vectors = [self._vectors(view) for view in (batch.one, two, batch.one.mixed(two, alpha, order))]
        z1, z2, zm = (self.projector(v).float() for v in vectors)
        with torch.autocast(z1.device.type, enabled=False):
            parts = {
                "twins": barlow_twins(z1, z2, recipe.off_diagonal),
                "mix": mix(z1, z2, zm, alpha, order, recipe.mix * recipe.off_diagonal),
            }
            loss = recipe.twins * (parts["twins"] + parts["mix"]) / (recipe.projector if recipe.by_width else 1)
        if recipe.monthly:
            target, known = cast(Tensor, batch.target), cast(Tensor, batch.known)
            read = [masked_mse(self.reading(v), target, known) for v in vectors[:2]]
            parts["monthly"] = torch.stack(read).mean()
            loss = loss + recipe.monthly * parts["monthly"]
        return {"loss": loss, **parts}, vectors[0]

    def _vectors(self, view: View) -> Tensor:
        vectors = vectors_of(self.student, view)
        return fake_quantised(vectors) if self.recipe.qat else vectors


class Distilled(nn.Module):
    """One linear head for each prefix of the vector gives the whole vector of the teacher (TESSERA v2).

    The form of the loss is not published; ours is the mean over the prefixes of the variance that a head leaves
    unexplained.

    Args:
        recipe: `depths` are the prefixes.
        taught: The teacher's mean, which the heads begin at, and its variance.
    """

    def __init__(self, recipe: Recipe, taught: Taught) -> None:
        super().__init__()
        self.recipe, self.variance = recipe, taught.variance
        self.student = network_of(recipe)
        self.heads = nn.ModuleList(nn.Linear(depth, len(taught.mean)) for depth in recipe.depths)
        with torch.no_grad():
            for head in self.heads:
                cast(nn.Linear, head).bias.copy_(torch.tensor(taught.mean))

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """See Objective."""
        vectors = vectors_of(self.student, batch.one)
        if self.recipe.qat:
            vectors = fake_quantised(vectors)
        target = cast(Tensor, batch.target)
        told = target.isfinite().all(dim=1)  # the rest the teacher does not embed
        parts = {
            f"prefix_{depth}": unexplained(head(vectors[told, :depth]).float(), target[told], self.variance)
            for depth, head in zip(self.recipe.depths, self.heads, strict=True)
        }
        return {"loss": torch.stack(list(parts.values())).mean(), **parts}, vectors


def network_of(recipe: Recipe) -> Network:
    """The network to train, with fresh weights."""
    network = build(recipe.family, asdict(recipe.student))
    for module in network.modules():
        if isinstance(module, Layer):
            module.dropout = recipe.dropout
    return network


def vectors_of(student: Network, view: View) -> Tensor:
    """(B, d) float32, whatever the network computed in: steps of int8 are finer than bf16 tells apart."""
    vectors: Tensor = student(view.s2, view.s2_doy, view.s1, view.s1_doy, view.s2_logm, view.s1_logm)
    return vectors.float()
