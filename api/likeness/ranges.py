"""How much is alike, as JSON, CSV or Arrow: pixels and hectares of each area."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fastapi import Response
from pydantic import BaseModel, Field

from api.catalogue import DatasetWindow
from api.likeness.bodies import Metric, TableForm
from api.likeness.forms import documents, table
from api.likeness.hits import HitFeature, feature, pixel_side
from indexing.question import PixelCount, RangeQuestion, RangeResult


class AreaCount(BaseModel):
    """What of one area is alike, in one window."""

    window: str
    area: int | None = Field(description="which of `areas`, from 0; null: everywhere, as none was given")
    inside: int = Field(description="pixels in it that the filters let through, of blocks that hold data")
    valid: int = Field(description="those of them that hold a vector")
    alike: int = Field(description="those of them that are at least so alike")
    hectares: float = Field(description="of `alike`, on the UTM grid: within 0.2 % of those on the ground")
    valid_hectares: float = Field(description="of `valid`")
    stale: int = Field(
        description="`level` above 1: blocks of the window that are missing or older than the pixels below them; "
        "what lies there is not counted, or as it was"
    )


class RangesAnswer(BaseModel):
    """How much is alike. Every pixel was compared."""

    dataset: str
    model: str
    window: str = Field(description="the one in the path")
    revision: str = Field(description="of the first window counted in")
    metric: Metric
    level: int
    pixel: int = Field(description="side of a pixel of that level, metres")
    engine: Literal["exact"] = Field(description="nothing is estimated")
    min_score: float = Field(description="from which on a pixel counts")
    query: str = Field(description="id of the query; POST /queries with the same examples saves it under this id")
    saved: bool = Field(description="whether it is saved, so that view=similarity:{query} works")
    scanned: int = Field(description="pixels compared, of all windows; one in several areas is compared once")
    results: list[AreaCount] = Field(description="each window's areas in the order asked")
    hits: list[HitFeature] = Field(description="the best `k` of the pixels that count, each once; GeoJSON features")


@dataclass(frozen=True, eq=False)
class Ranges:
    """What was counted in one or more windows."""

    at: DatasetWindow
    """The dataset, and the window that the path names."""
    question: RangeQuestion
    """As it was asked of the first window."""
    saved: bool
    windows: tuple[tuple[DatasetWindow, RangeResult], ...]
    """At least one, in the order asked."""

    def told(self, form: TableForm) -> Response:
        """The answer in one of its forms."""
        return documents(self._document(), form) if form == "json" else table(self._columns(), self._provenance(), form)

    def _head(self) -> dict[str, Any]:
        asked = self.question
        return {
            **self.at.dataset.provenance(self.at.window),
            "revision": self.windows[0][1].revision,
            "metric": asked.query.metric,
            "level": asked.level,
            "pixel": pixel_side(asked.level),
            "engine": "exact",
            "min_score": asked.least,
            "query": asked.query.id,
        }

    def _document(self) -> dict[str, Any]:
        every = [(at, hit) for at, result in self.windows for hit in result.hits]
        best = sorted(every, key=lambda one: -one[1].score)[: self.question.most]
        return {
            **self._head(),
            "saved": self.saved,
            "scanned": sum(result.scanned for _, result in self.windows),
            "results": [_row(*each) for each in self._rows()],
            "hits": [feature(at, hit, rank) for rank, (at, hit) in enumerate(best, 1)],
        }

    def _rows(self) -> list[tuple[DatasetWindow, int | None, PixelCount, int]]:
        areas = range(len(self.question.polygons)) or (None,)
        return [
            (at, area, one, result.stale)
            for at, result in self.windows
            for area, one in zip(areas, result.counts, strict=True)
        ]

    def _provenance(self) -> dict[str, str]:
        return {name: str(value) for name, value in self._head().items()}

    def _columns(self) -> dict[str, np.ndarray]:
        """A row an area and window; -1 is everywhere."""
        rows = [_row(*each) for each in self._rows()]
        told = [at.dataset.provenance(at.window) for at, *_ in self._rows()]
        revisions = [result.revision for _, result in self.windows for _ in result.counts]
        return {
            "window": np.array([row["window"] for row in rows], str),
            "area": np.array([-1 if row["area"] is None else row["area"] for row in rows], np.int64),
            **{name: np.array([row[name] for row in rows], np.int64) for name in ("inside", "valid", "alike")},
            **{name: np.array([row[name] for row in rows], np.float64) for name in ("hectares", "valid_hectares")},
            "stale": np.array([row["stale"] for row in rows], np.int64),
            "dataset": np.array([one["dataset"] for one in told], str),
            "model": np.array([one["model"] for one in told], str),
            "revision": np.array(revisions, str),
            "engine": np.array(["exact"] * len(rows), str),
        }


def _row(at: DatasetWindow, area: int | None, count: PixelCount, stale: int) -> dict[str, Any]:
    return {
        "window": str(at.window),
        "area": area,
        "inside": count.inside,
        "valid": count.valid,
        "alike": count.within,
        "hectares": count.hectares,
        "valid_hectares": count.valid_hectares,
        "stale": stale,
    }
