"""The published TESSERA families as data: what each takes, how it samples, what it gives and how that is stored.

Families are not interchangeable: weights of one with the statistics or the sampling of another give plausible
nonsense, so everything that goes with the weights stands in one place. Numbers are those of the published inference
code of each release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final, Literal

from service.errors import InvalidInput
from service.quant import Variant

Sampling = Literal["v1.0-early", "v1.0", "v1.1", "v2"]
"""A rule of service.sampling: how n observations become the sequence that the network sees."""

SAMPLINGS: Final[tuple[Sampling, ...]] = ("v1.0-early", "v1.0", "v1.1", "v2")


@dataclass(frozen=True)
class Statistics:
    """Means and standard deviations that stored values are standardised with: (x - mean) / std, float32."""

    s2_mean: tuple[float, ...]
    """10, in the order of BANDS; of reflectance x 10000."""
    s2_std: tuple[float, ...]
    s1_asc_mean: tuple[float, ...]
    """VV, VH; of stored backscatter."""
    s1_asc_std: tuple[float, ...]
    s1_desc_mean: tuple[float, ...]
    s1_desc_std: tuple[float, ...]

    def __post_init__(self) -> None:
        for f in fields(self):
            values = tuple(float(v) for v in getattr(self, f.name))
            object.__setattr__(self, f.name, values)
            if len(values) != (10 if f.name.startswith("s2") else 2):
                raise InvalidInput(f"has {len(values)} entries.", field=f"statistics.{f.name}")
            if f.name.endswith("std") and not min(values) > 0:
                raise InvalidInput("must be above 0.", field=f"statistics.{f.name}")


@dataclass(frozen=True)
class Family:
    """What all checkpoints of one family have in common."""

    name: str
    sampling: Sampling
    quantiser: Variant
    statistics: Statistics
    native_dims: int
    """Numbers that the network gives."""
    dims: int
    """How many of them, from the first, are stored and served."""
    sizes: Mapping[str, int | bool]
    """Sizes of the network by their published names. They hold for every checkpoint of v1.x; checkpoints of v2 bring
    their own, and these are the published code's defaults for what they leave out."""
    depths: tuple[int, ...] = ()
    """Prefix lengths that are vectors in their own right (Matryoshka); empty: only the whole is."""
    published: tuple[str, ...] = ()
    """Names of the published files."""
    max_observations: int = 256
    """Longest sequence of one sensor."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", MappingProxyType(dict(self.sizes)))


_V10: Final = Statistics(
    s2_mean=(
        1711.0938, 1308.8511, 1546.4543, 3010.1293, 3106.5083, 2068.3044, 2685.0845, 2931.5889, 2514.6928, 1899.4922,
    ),
    s2_std=(
        1926.1026, 1862.9751, 1803.1792, 1741.7837, 1677.4543, 1888.7862, 1736.3090, 1715.8104, 1514.5199, 1398.4779,
    ),
    s1_asc_mean=(5484.0407, 3003.7812),
    s1_asc_std=(1871.2334, 1726.0670),
    s1_desc_mean=(5484.0407, 3003.7812),
    s1_desc_std=(1871.2334, 1726.0670),
)  # fmt: skip
_V11_MPC: Final = Statistics(
    s2_mean=(
        2683.4553, 2223.3630, 2432.0950, 3633.1970, 3602.1755, 3006.4324, 3400.2710, 3515.6392, 2456.9163, 1983.8783,
    ),
    s2_std=(
        2739.5217, 2846.2993, 2690.8250, 2290.0439, 2088.8970, 2673.1106, 2381.4521, 2229.5225, 1601.0942, 1495.3545,
    ),
    s1_asc_mean=(5588.3291, 3025.6270),
    s1_asc_std=(1713.4646, 1693.0471),
    s1_desc_mean=(5552.9683, 2955.0520),
    s1_desc_std=(1685.5857, 1677.6414),
)  # fmt: skip
_V11_AWS: Final = Statistics(
    s2_mean=(
        2793.6589, 2356.7776, 2551.0496, 3741.9229, 3713.7844, 3120.1997, 3516.3342, 3637.0342, 2501.0283, 2038.1504,
    ),
    s2_std=(
        2810.0093, 2933.8835, 2755.6360, 2344.5027, 2145.7986, 2743.9019, 2438.8601, 2286.5977, 1680.7367, 1585.5529,
    ),
    s1_asc_mean=(5697.0859, 2838.6687),
    s1_asc_std=(1671.3737, 1789.4116),
    s1_desc_mean=(5759.1367, 2873.2854),
    s1_desc_std=(1583.2858, 1747.8390),
)  # fmt: skip
_V2_S2_MEAN: Final = (
    1633.0042, 1341.1090, 1539.5536, 3054.8269, 3117.4658, 2004.1648, 2694.7275, 2945.1504, 2266.6079, 1657.3094,
)  # fmt: skip
_V2_S2_STD: Final = (
    1999.4603, 2014.7549, 1929.2201, 1754.2493, 1649.9807, 1936.8988, 1748.6041, 1708.6991, 1207.5250, 1108.6046,
)  # fmt: skip
_V2: Final = Statistics(
    s2_mean=_V2_S2_MEAN,
    s2_std=_V2_S2_STD,
    s1_asc_mean=(5909.3921, 3405.0322),
    s1_asc_std=(1507.1750, 1531.2615),
    s1_desc_mean=(5816.1382, 3277.7576),
    s1_desc_std=(1554.6475, 1546.4733),
)
_V2_TEACHER: Final = Statistics(
    s2_mean=_V2_S2_MEAN,
    s2_std=_V2_S2_STD,
    s1_asc_mean=(5862.7652, 3341.3949),
    s1_asc_std=(1531.8051, 1540.2014),
    s1_desc_mean=(5862.7652, 3341.3949),
    s1_desc_std=(1531.8051, 1540.2014),
)


def _sizes(
    repr_dim: int, latent_dim: int, num_layers: int, nhead: int, dim_feedforward: int, **more: bool
) -> dict[str, int | bool]:
    sizes = (repr_dim, latent_dim, num_layers, nhead, dim_feedforward)
    return dict(zip(("repr_dim", "latent_dim", "num_layers", "nhead", "dim_feedforward"), sizes, strict=True)) | more


def _v11(source: str, statistics: Statistics) -> Family:
    return Family(
        name=f"tessera-v1.1-{source}",
        sampling="v1.1",
        quantiser="v1",
        statistics=statistics,
        native_dims=192,
        dims=128,
        sizes=_sizes(192, 192, 4, 4, 2048),
        published=(f"tessera_v1_1_{source}_encoder.pt", f"tessera_v1_1_{source}_full.pt"),
    )


FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        one.name: one
        for one in (
            Family(
                name="tessera-v1.0-early",
                sampling="v1.0-early",
                quantiser="v1",
                statistics=_V10,
                native_dims=128,
                dims=128,
                sizes=_sizes(128, 128, 8, 8, 4096),
                published=("best_model_fsdp_20250427_084307.pt",),
                max_observations=40,
            ),
            Family(
                name="tessera-v1.0-qat",
                sampling="v1.0",
                quantiser="v1",
                statistics=_V10,
                native_dims=128,
                dims=128,
                sizes=_sizes(128, 128, 4, 4, 4096),
                published=("best_model_fsdp_20250608_220648_QAT.pt", "tessera-v1.0-QAT-best.pt"),
                max_observations=40,
            ),
            _v11("mpc", _V11_MPC),
            _v11("aws", _V11_AWS),
            Family(
                name="tessera-v2",
                sampling="v2",
                quantiser="v2",
                statistics=_V2,
                native_dims=128,
                dims=128,
                sizes=_sizes(128, 64, 4, 4, 1024, enable_qk_norm=False),
                depths=(16, 32, 64, 128),
                published=tuple(f"student_{size}.pt" for size in ("nano", "small", "medium", "large")),
            ),
            Family(
                name="tessera-v2-teacher",
                sampling="v2",
                quantiser="v2",
                statistics=_V2_TEACHER,
                native_dims=1024,
                dims=1024,
                sizes=_sizes(1024, 1024, 4, 4, 16384, final_layernorm=True),
                published=("tessera_v2_2B_teacher.pt",),
            ),
        )
    }
)
"""By name."""


def family(name: str) -> Family:
    """The published family of that name.

    Raises:
        InvalidInput: There is none; the remedy lists them.
    """
    try:
        return FAMILIES[name]
    except KeyError:
        known = ", ".join(FAMILIES)
        raise InvalidInput(f"{name[:60]!r} is no family.", field="family", remedy=f"Use one of {known}.") from None
