"""What POST /vectors answers of polygons, before it takes a form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
import orjson

from api.schemas import AnswerForm
from service.grid import PIXEL
from service.tables import write_columns
from service.values import STATUS_NAMES
from service.zonal import STATUSES, Summaries

HECTARES: Final = PIXEL**2 / 10_000
"""Of one pixel."""
NAMES: Final = tuple(STATUS_NAMES[status].replace("-", "_") for status in STATUSES)
SENSORS: Final = ("s2", "s1_asc", "s1_desc")


@dataclass(frozen=True, eq=False)
class Zones:
    """The mean and spread of polygons."""

    found: Summaries
    """In the order asked."""
    provenance: Mapping[str, str]
    """Dataset, model, window and revision: in every form."""

    def write(self, file: IO[bytes], form: AnswerForm) -> None:
        """Write it in one of the forms."""
        if form == "json":
            body = {**self.provenance, "results": self._results()}
            file.write(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY))
        elif form == "npy":
            both = np.stack([self.found.mean, self.found.sd], axis=1)
            np.lib.format.write_array(file, both, allow_pickle=False)
        elif form == "npz":
            np.savez(file, allow_pickle=False, **self.arrays())
        else:
            write_columns(file, self._columns(), self.provenance)

    def arrays(self) -> dict[str, Any]:
        """All there is to tell as arrays by name."""
        found = self.found
        tally = dict(zip(NAMES, found.tally.T, strict=True))
        observed = {name: found.observed[:, at] for at, name in enumerate(SENSORS)}
        return tally | {"hectares": found.valid * HECTARES, **observed, "mean": found.mean, "sd": found.sd}

    def _columns(self) -> dict[str, Any]:
        """A row a polygon; of what was observed the three numbers in columns of their own."""
        arrays = self.arrays()
        out: dict[str, Any] = {"polygon": np.arange(len(self.found.mean))}
        for name, array in arrays.items():
            if name in SENSORS:
                out |= {f"{name}_{what}": array[:, at] for at, what in enumerate(("mean", "least", "most"))}
            else:
                out[name] = array
        return out

    def _results(self) -> list[dict[str, Any]]:
        found = self.found
        out = []
        for n, tally in enumerate(found.tally.tolist()):
            valid = int(found.valid[n])
            out.append(
                {
                    "count": valid,
                    "hectares": valid * HECTARES,
                    "pixels": dict(zip((STATUS_NAMES[status] for status in STATUSES), tally, strict=True)),
                    "mean": found.mean[n] if valid else None,
                    "sd": found.sd[n] if valid else None,
                    "counts": _observed(found.observed[n]) if valid else None,
                }
            )
        return out


def _observed(numbers: Any) -> dict[str, Any]:
    return {
        name: {"mean": mean, "least": int(least), "most": int(most)}
        for name, (mean, least, most) in zip(SENSORS, numbers.tolist(), strict=True)
    }
