"""Recipes: everything that decides what a training run gives, beside its seed and its data. And the ones we name.

What is published of TESSERA v1's recipe is followed number by number: network, views, Barlow Twins with the mix term,
the projector, AdamW in two groups, warm-up and cosine, clipping. What is not published (the schedule of v1.1 and v2,
the form of the distillation's loss) is our choice and marked so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, Final, Literal, get_args

from service.errors import Corrupt, InvalidInput, NotFound
from service.families import Family, family
from service.training.networks import Sizes, StudentConfig

Precision = Literal["fp32", "bf16", "fp16"]
Views = Literal["sparse", "drawn", "all"]
DEPTHS: Final = (16, 32, 64, 128)
"""Prefixes that the published v2 students are distilled for."""
FAMILIES: Final[Mapping[str, type[Sizes]]] = {"tessera-v2": StudentConfig, "tessera-v1.0-qat": Sizes}
"""What can be trained, and how its sizes are given."""


@dataclass(frozen=True)
class Recipe:
    """One way of training a network."""

    student: Sizes
    """Of the network."""
    steps: int
    family: str = "tessera-v2"
    """One of FAMILIES: which network it is, with its statistics, its sampling rule and its quantiser."""
    kind: Literal["twins", "distil"] = "twins"
    """Barlow Twins with the mix term, or a student after a frozen teacher."""
    batch: int = 256
    pixels: int = 49_152
    """Simulated pixels, where no folders are given."""
    pool: bool = False
    """Simulated pixels stay in memory, and one generator draws everything; else they are shuffled on disk."""
    views: Views = "drawn"
    """`drawn`: a fixed number of valid dates, drawn anew for each view, repeated where there are fewer (TESSERA v1).
    `sparse`: as many, without repetition, fewer where there are fewer. `all`: every valid date once."""
    s2_times: tuple[int, int] = (40, 40)
    """Least and most Sentinel-2 dates of a view; one number a batch."""
    s1_times: tuple[int, int] = (40, 40)
    min_s2: int = 20
    """Pixels with fewer valid Sentinel-2 dates are left out, unless they are kept in memory."""
    min_s1: int = 20
    """Likewise, both orbits of Sentinel-1 together."""
    spacing: int = 1
    """Only every so many-th row and column of folders is taken."""
    projector: int = 4096
    """Width of the projector that the loss looks through; dropped after training. 16,384 for the published v1.0."""
    hidden: int = 5
    """Hidden layers of the projector, each Linear, BatchNorm, ReLU; one Linear follows."""
    off_diagonal: float = 5e-3
    """Lambda: weight of what two different numbers of a vector have in common."""
    mix: float = 1.0
    """Weight of the mix term, times lambda."""
    twins: float = 1.0
    """Weight of Barlow Twins and mix together."""
    by_width: bool = False
    """Divide those two by the projector's width. It matters only to the clipping, and to what stands beside them."""
    monthly: float = 0.0
    """Weight of a linear reading of the pixel's smoothed monthly means (ours, for small sets of simulated pixels)."""
    base_rate: float = 0.002
    weight_decay: float = 1e-6
    warm_up: float = 0.1
    """Share of the steps."""
    plateau: float = 0.0
    """Share of the steps at the base rate, after the warm-up."""
    clip: float = 2.0
    """Largest global norm of a gradient."""
    precision: Precision = "fp32"
    """bf16 and fp16 are mixed: weights, sums of losses and their gradients' scale stay in float32."""
    dropout: float = 0.0
    """Share of each layer's numbers that training leaves out."""
    qat: bool = False
    """Vectors are rounded to int8 with one scale a batch, and gradients pass as if they were not."""
    depths: tuple[int, ...] = ()
    """Prefixes that are vectors in their own right (distillation)."""
    teacher: str = ""
    """Identity and hash of the frozen teacher."""
    threads: int = 1
    """Of torch, on the CPU: sums depend on it."""
    log_every: int = 20
    probe_every: int = 0
    """Steps between two linear probes; 0: none."""
    save_every: int = 500

    def __post_init__(self) -> None:
        for rules in (self._kinds, self._rules):
            for name, good in rules().items():
                if not good:
                    raise InvalidInput(f"{getattr(self, name)!r} cannot be trained with.", field=name)

    def _kinds(self) -> dict[str, bool]:
        """Whether values are of the kind of their defaults, and numbers are: recipes are edited by hand."""
        values = {f.name: (getattr(self, f.name), 1 if f.default is MISSING else f.default) for f in fields(self)[1:]}
        return {name: _alike(value, like) for name, (value, like) in values.items()}

    def _rules(self) -> dict[str, bool]:
        counts = ("steps", "pixels", "projector", "spacing", "threads", "log_every", "save_every")
        weights = ("off_diagonal", "mix", "twins", "monthly", "weight_decay")
        shares = self.warm_up >= 0 and self.plateau >= 0
        return {
            **{name: getattr(self, name) >= 0 for name in weights},
            **{name: getattr(self, name) >= 1 for name in counts},
            "batch": self.batch >= 2,  # a deviation needs two
            "hidden": self.hidden >= 0,
            "probe_every": self.probe_every >= 0,
            **self._family_rules(),
            "dropout": 0 <= self.dropout < 1,
            "precision": self.precision in get_args(Precision),
            **{name: _bounds(getattr(self, name)) for name in ("s2_times", "s1_times")},
            "base_rate": self.base_rate > 0,
            "clip": self.clip > 0,
            "warm_up": shares and self.warm_up + self.plateau < 1,
            "depths": all(0 < depth <= self.student.repr_dim for depth in self.depths)
            and list(self.depths) == sorted(set(self.depths))
            and bool(self.depths) == (self.kind == "distil"),
            "pool": not self.pool or (self.kind == "twins" and self.views == "sparse"),
        }

    def _family_rules(self) -> dict[str, bool]:
        kind = FAMILIES.get(self.family)
        if kind is None:
            return {"family": False}
        v2 = kind is StudentConfig
        # v1 walks 40 valid dates of both sensors, has no prefixes, and its checkpoints do not tell how many heads.
        return {
            "student": type(self.student) is kind and (v2 or self.student.nhead == self.published.sizes["nhead"]),
            "kind": self.kind == "twins" or (self.kind == "distil" and v2),
            "views": self.views == "drawn" or (self.views in get_args(Views) and v2),
            "min_s2": self.min_s2 >= (0 if v2 else 1),
            "min_s1": self.min_s1 >= (0 if v2 else 1),
        }

    @property
    def published(self) -> Family:
        """What goes with the network: statistics, sampling rule, quantiser."""
        return family(self.family)

    def changed(self, **values: Any) -> Recipe:
        """The same with some values instead; None leaves a value as it is."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Recipe:
        """What `to_dict` gave.

        Raises:
            InvalidInput: A value is unknown or cannot be; names it.
        """
        known = {f.name: f for f in fields(cls)}
        unknown = sorted(set(body) - set(known))
        missing = [name for name, f in known.items() if f.default is MISSING and name not in body]
        if unknown or missing:
            raise InvalidInput("is unknown." if unknown else "is missing.", field=(unknown or missing)[0])
        try:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items()}
            kind = FAMILIES.get(body.get("family", cls.family), StudentConfig)
            values["student"] = kind(**body["student"])
            return cls(**values)
        except TypeError as error:
            raise InvalidInput(f"is no recipe: {error}", field="recipe") from None


def _alike(value: Any, like: Any) -> bool:
    if isinstance(like, tuple):
        return type(value) is tuple and all(type(each) is int for each in value)
    if type(like) is float:
        return type(value) in (int, float) and isfinite(value)
    return type(value) is type(like)


def _bounds(pair: tuple[int, ...]) -> bool:
    return len(pair) == 2 and 1 <= pair[0] <= pair[1]


MINI: Final = StudentConfig(repr_dim=128, latent_dim=16, num_layers=3, nhead=4, dim_feedforward=128)
SIZES: Final = {
    "nano": StudentConfig(latent_dim=16, num_layers=6, dim_feedforward=512),
    "small": StudentConfig(latent_dim=64, num_layers=4, dim_feedforward=1024),
    "medium": StudentConfig(latent_dim=128, num_layers=3, dim_feedforward=1920),
    "large": StudentConfig(latent_dim=160, num_layers=4, dim_feedforward=2560),
}
"""Students of 1.07, 7.1, 21 and 44 million parameters. Small and large are the published sizes; of nano and medium only
the number of parameters is published, and ours are near it."""

_MINI: Final = Recipe(
    MINI, steps=2000, pool=True, views="sparse", s2_times=(6, 24), s1_times=(6, 24), projector=512, hidden=2,
    by_width=True, monthly=2.0, base_rate=0.01, probe_every=250,
)  # fmt: skip
V1: Final = Sizes(repr_dim=128, latent_dim=128, num_layers=4, nhead=4, dim_feedforward=4096)
_V1: Final = Recipe(
    V1, steps=28_381, family="tessera-v1.0-qat", projector=16_384, dropout=0.1, qat=True, pixels=2_000_000,
    probe_every=600,
)  # fmt: skip
_V2: Final[dict[str, Any]] = {
    "family": "tessera-v2", "dropout": 0.0, "qat": False, "views": "sparse", "s2_times": (6, 40), "s1_times": (6, 40),
}  # fmt: skip

PRESETS: Final[Mapping[str, Recipe]] = {
    "mini": _MINI,
    "smoke": replace(
        _MINI, student=replace(MINI, num_layers=1), steps=60, batch=64, pixels=1024, projector=128, log_every=5,
        probe_every=0,
    ),
    "cpu": replace(_MINI, pool=False, probe_every=100, save_every=100, min_s2=0, min_s1=0),
    "v1": _V1,
    **{f"v2-{size}": replace(_V1, student=student, **_V2) for size, student in SIZES.items()},
    "distil": Recipe(
        SIZES["nano"], steps=20_000, kind="distil", views="all", depths=DEPTHS, base_rate=0.005, pixels=500_000,
        min_s2=1, min_s1=0, probe_every=500,
    ),
}  # fmt: skip
"""`mini` is the shipped recipe and `smoke` only shows that everything runs. `cpu` is `mini` with pixels shuffled on
disk, probed often: one core trains while another makes batches, about 20 minutes. `v1` is the published recipe of
the network of TESSERA v1.0, `v2-*` the same for v2 students of every size with views of any length, `distil` a nano
student after a teacher."""


def recipe(name: str) -> Recipe:
    """The preset of that name, or the recipe of an earlier run: the path of its `recipe.json`.

    Raises:
        NotFound: There is neither.
        Corrupt: The file is no recipe.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if path.suffix != ".json" or not path.is_file():
        remedy = f"There are {', '.join(PRESETS)}; or name the recipe.json of a run."
        raise NotFound(f"no preset {name!r}.", field="preset", remedy=remedy)
    try:
        return Recipe.from_dict(json.loads(path.read_text())["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path} is no recipe: {error}") from None
