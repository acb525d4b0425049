"""The published networks, with the published parameter names, so that published weights load strictly.

One addition: each observation may carry log(multiplicity). An observation that the published sampling repeats m
times has the same state in every layer m times over, so one copy with log(m) added to its attention logits, and to
its pooling logit, gives the same vector. A recurrent pooling walks the repetitions themselves, in the published order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.errors import Corrupt, InvalidInput
from service.families import family as published_family
from service.training.networks.backbone import Backbone
from service.training.networks.layers import LayerShape, Stack
from service.training.networks.pooling import CellPool, GruPool, Pool

CHANNELS: Final = {"s2": 10, "s1": 2}
"""Numbers of an observation, by sensor."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network; names are those of the published checkpoints."""

    repr_dim: int = 128
    latent_dim: int = 64
    num_layers: int = 4
    nhead: int = 4
    dim_feedforward: int = 1024

    @property
    def width(self) -> int:
        """Channels d of a token: 4 * latent_dim."""
        return 4 * self.latent_dim

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Take what concerns the architecture from a checkpoint's `args` or `arch`."""
        return cls(**{name: args[name] for name in asdict(cls()) if name in args})


@dataclass(frozen=True)
class StudentConfig(Sizes):
    """Sizes of a v2 student; defaults are those of the published code."""

    enable_qk_norm: bool = False


@dataclass(frozen=True)
class TeacherConfig(Sizes):
    """Sizes of the v2 teacher; defaults are those of the published code."""

    repr_dim: int = 1024
    latent_dim: int = 1024
    dim_feedforward: int = 16384
    final_layernorm: bool = True


class Network(nn.Module):
    """Two backbones, fused, reduced, finished."""

    s2_backbone: Backbone
    s1_backbone: Backbone
    dim_reducer: Any

    def __init__(self, config: Sizes, shape: LayerShape, pool: type[Pool] = Pool, *, bare: bool = False) -> None:
        super().__init__()
        self.config = config
        for sensor, channels in CHANNELS.items():
            backbone = Backbone(channels, shape, config.num_layers, pool, bare=bare)
            self.add_module(f"{sensor}_backbone", backbone)

    def fuse(self, s2: Tensor, s1: Tensor) -> Tensor:
        """(B, d) of each sensor -> (B, 2 d)."""
        return torch.cat((s2, s1), dim=-1)

    def finish(self, x: Tensor) -> Tensor:
        """(B, repr_dim) -> (B, repr_dim)."""
        return x

    def forward(
        self,
        s2: Tensor,
        s2_doy: Tensor,
        s1: Tensor,
        s1_doy: Tensor,
        s2_logm: Tensor | None = None,
        s1_logm: Tensor | None = None,
        s2_order: Tensor | None = None,
        s2_steps: Tensor | None = None,
        s1_order: Tensor | None = None,
        s1_steps: Tensor | None = None,
    ) -> Tensor:
        """Embed.

        Args:
            s2: (B, T2, 10) standardised bands.
            s2_doy: (B, T2) day of the year; 0 for a missing sensor.
            s1: (B, T1, 2) standardised VV, VH.
            s1_doy: (B, T1).
            s2_logm: (B, T2) log(multiplicity), -1e9 for padding; absent: every observation counts once.
            s1_logm: (B, T1) likewise.
            s2_order: (B, P2) the published sequence as indices into T2, for networks of v1.x; absent: as they stand.
            s2_steps: (B, P2) 0, or -1e9 after the end of the sequence.
            s1_order: (B, P1) likewise.
            s1_steps: (B, P1).

        Returns:
            (B, repr_dim) float32.
        """
        optical = self.s2_backbone(s2, s2_doy, s2_logm, s2_order, s2_steps)
        radar = self.s1_backbone(s1, s1_doy, s1_logm, s1_order, s1_steps)
        return self.finish(self.dim_reducer(self.fuse(optical, radar)))


class V10(Network):
    """TESSERA v1.0: recurrent pooling and one linear map; `early` with torch's own GRU."""

    def __init__(self, config: Sizes, *, early: bool = False) -> None:
        d = config.width
        super().__init__(config, LayerShape(d, config.nhead, config.dim_feedforward), GruPool if early else CellPool)
        self.dim_reducer = nn.Sequential(nn.Linear(2 * d, config.repr_dim))


class V11(Network):
    """TESSERA v1.1: recurrent pooling and a reducer with a hidden layer, nothing behind it."""

    def __init__(self, config: Sizes) -> None:
        d = config.width
        super().__init__(config, LayerShape(d, config.nhead, config.dim_feedforward), CellPool)
        self.dim_reducer = reducer(d, config.repr_dim)


class Student(Network):
    """The v2 student: rows have mean 0 and variance 1."""

    config: StudentConfig

    def __init__(self, config: StudentConfig) -> None:
        qk_norm = config.enable_qk_norm
        shape = LayerShape(config.width, config.nhead, config.dim_feedforward, qk_norm=qk_norm)
        super().__init__(config, shape, bare=qk_norm)
        self.dim_reducer = reducer(config.width, config.repr_dim)

    def finish(self, x: Tensor) -> Tensor:
        """(B, repr_dim) -> (B, repr_dim) of mean 0 and variance 1 a row."""
        return F.layer_norm(x, (self.config.repr_dim,))


class Teacher(Network):
    """The v2 teacher: norms first, and the two sensors' vectors go through a small transformer of their own."""

    config: TeacherConfig

    def __init__(self, config: TeacherConfig) -> None:
        d = config.width
        shape = LayerShape(d, config.nhead, config.dim_feedforward, norm_first=True, qk_norm=True)
        super().__init__(config, shape)
        self.fusion_transformer = Stack(LayerShape(d, config.nhead, 2 * d, norm_first=True, qk_norm=True), 2)
        self.fusion_modality_embed = nn.Parameter(torch.zeros(2, d))
        self.dim_reducer = reducer(d, config.repr_dim)

    def fuse(self, s2: Tensor, s1: Tensor) -> Tensor:
        """(B, d) of each sensor -> (B, 2 d)."""
        tokens = torch.stack((s2, s1), dim=1) + self.fusion_modality_embed
        return self.fusion_transformer(tokens).flatten(1)  # type: ignore[no-any-return]

    def finish(self, x: Tensor) -> Tensor:
        """(B, repr_dim) -> (B, repr_dim), of mean 0 and variance 1 a row where the checkpoint says so."""
        return F.layer_norm(x, (self.config.repr_dim,)) if self.config.final_layernorm else x


def reducer(width: int, dims: int) -> nn.Sequential:
    """(B, 2 d) -> (B, dims) through 4 d; the dropout only holds its place among the published names."""
    hidden = 4 * width
    return nn.Sequential(
        nn.Linear(2 * width, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(0.0), nn.Linear(hidden, dims)
    )


def build(family: str, sizes: Mapping[str, Any] | None = None) -> Network:
    """A network of a published family, with fresh weights, in evaluation mode.

    Args:
        family: A name of service.families.
        sizes: Sizes by their published names, as a checkpoint's `args` or `arch` give them; what is absent is as
            the family has it.

    Raises:
        InvalidInput: No such family, or sizes that make no network.
    """
    args = dict(published_family(family).sizes) | dict(sizes or {})
    try:
        if min(args["latent_dim"], args["nhead"]) < 1 or 4 * args["latent_dim"] % args["nhead"]:
            raise InvalidInput(f"{args['nhead']} heads do not share {4 * args['latent_dim']} channels.", field="nhead")
        match family:
            case "tessera-v1.0-early" | "tessera-v1.0-qat":
                made: Network = V10(Sizes.from_args(args), early=family.endswith("early"))
            case "tessera-v1.1-mpc" | "tessera-v1.1-aws":
                made = V11(Sizes.from_args(args))
            case "tessera-v2":
                made = Student(StudentConfig.from_args(args))
            case _:
                made = Teacher(TeacherConfig.from_args(args))
    except (TypeError, RuntimeError) as error:  # a size that is no whole number, or negative
        raise InvalidInput(f"make no network: {error}", field="sizes") from None
    return made.eval()


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
