"""Hits as GeoJSON, CSV or Arrow: which form an answer takes, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
from fastapi import Response
from pydantic import BaseModel, Field

from api.catalogue import DatasetWindow
from api.likeness.bodies import HitForm, Metric
from api.likeness.forms import documents, table
from indexing.question import Engine, Hit, Question, SearchResult
from service.grid import PIXEL
from service.values import STATUS_NAMES

NAMED: Final = 20
"""Shards that a header names."""
PLACES: Final = 7
"""Decimal places of degrees: a centimetre."""


class PointGeometry(BaseModel):
    """Centre of a pixel."""

    type: Literal["Point"]
    coordinates: tuple[float, float]


class HitProperties(BaseModel):
    """How alike a pixel is."""

    score: float = Field(
        description="cosine with the query, -1 to 1; of the Euclidean metric 1 - distance / length of the query: 1 is "
        "the same vector, and there is no least"
    )
    distance: float | None = Field(None, description="Euclidean distance from the query; left out for cosine")
    rank: int = Field(description="from 1; equal scores in order of window as asked, zone, row and column")
    status: str = Field(description="always valid: where there is no vector there is no hit")
    window: str
    zone: str = Field(description="UTM zone that the pixel lies in", examples=["31N"])


class HitFeature(BaseModel):
    """One pixel like the query."""

    type: Literal["Feature"]
    geometry: PointGeometry
    properties: HitProperties


class Searched(BaseModel):
    """How one window was searched."""

    window: str
    revision: str
    engine: Engine = Field(
        description="exact: every pixel was scored. index: candidates from the index, scored exactly. "
        "index+exact: and a part pixel by pixel: what changed since the index was built, what `spacing` left, or, with "
        "`refine`, all that lies below the best coarse pixels, and nothing else"
    )
    recall: float | None = Field(description="share of the true 10 best that the index finds; 1: exact; null: unknown")
    scanned: int = Field(description="pixels that were scored one by one")
    candidates: int = Field(description="pixels that the index proposed")
    probes: int = Field(description="lists of the index that were looked into")
    stale: int = Field(description="`level` above 1: blocks looked at that are older than the pixels below them")
    partial: bool = Field(description="whether shards of the index did not answer")
    missing: list[str] = Field(description="their names")


class SearchAnswer(BaseModel):
    """Hits, best first, and how they were found."""

    type: Literal["FeatureCollection"]
    dataset: str
    model: str
    window: str = Field(description="the one in the path")
    revision: str = Field(description="of the first window searched")
    metric: Metric
    level: int
    pixel: int = Field(description="side of a pixel of that level, metres")
    engine: Engine = Field(description="as of `searched`; of windows that were searched differently `index+exact`")
    recall: float | None = Field(description="the least of all windows; null: of one it is not known")
    partial: bool = Field(description="whether shards of an index did not answer, so that hits may be missing")
    missing: list[str] = Field(description="their names")
    spacing: float = Field(description="metres between any two hits of a window, at least")
    searched: list[Searched] = Field(description="each window, in the order asked")
    wanted: int = Field(description="examples for that the query was made of")
    unwanted: int = Field(description="examples against")
    query: str = Field(description="id of the query; POST /queries with the same examples saves it under this id")
    saved: bool = Field(description="whether it is saved, so that view=similarity:{query} works")
    features: list[HitFeature]


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in one or more windows."""

    at: DatasetWindow
    """The dataset, and the window that the path names."""
    question: Question
    """As it was asked of the first window."""
    saved: bool
    windows: tuple[tuple[DatasetWindow, SearchResult], ...]
    """At least one, in the order asked."""

    @cached_property
    def hits(self) -> tuple[tuple[DatasetWindow, Hit], ...]:
        """The k best of all windows; of equal scores those of the window named first."""
        every = [(at, hit) for at, result in self.windows for hit in result.hits]
        return tuple(sorted(every, key=lambda one: -one[1].score)[: self.question.k])

    @property
    def level(self) -> int:
        """Of the hits: those that are refined are pixels of 10 m."""
        return self.windows[0][1].level

    @property
    def engine(self) -> Engine:
        """How it was searched, of all windows."""
        engines = {result.engine for _, result in self.windows}
        return engines.pop() if len(engines) == 1 else "index+exact"

    @property
    def recall(self) -> float | None:
        """The least of all windows."""
        known = [result.recall for _, result in self.windows]
        return None if None in known else round(min(one for one in known if one is not None), 4)

    @property
    def missing(self) -> list[str]:
        """Shards that did not answer."""
        return [name for _, result in self.windows for name in result.missing]

    def told(self, form: HitForm) -> Response:
        """The answer in one of its forms."""
        if form == "geojson":
            return documents(self._document(), form)
        return table(self._columns(), self._provenance(), form)

    def _document(self) -> dict[str, Any]:
        return {
            "type": "FeatureCollection",
            **self.at.dataset.provenance(self.at.window),
            "revision": self.windows[0][1].revision,
            "metric": self.question.query.metric,
            "level": self.level,
            "pixel": pixel_side(self.level),
            "engine": self.engine,
            "recall": self.recall,
            "partial": bool(self.missing),
            "missing": self.missing,
            "spacing": self.question.spacing,
            "searched": [_searched(at, result) for at, result in self.windows],
            "wanted": len(self.question.query.wanted),
            "unwanted": len(self.question.query.unwanted),
            "query": self.question.query.id,
            "saved": self.saved,
            "features": [feature(at, hit, rank) for rank, (at, hit) in enumerate(self.hits, 1)],
        }

    def _provenance(self) -> dict[str, str]:
        """What headers and Arrow's metadata say."""
        told = {
            **self.at.dataset.provenance(self.at.window),
            "revision": self.windows[0][1].revision,
            "metric": self.question.query.metric,
            "level": str(self.level),
            "engine": self.engine,
            "query": self.question.query.id,
            "partial": str(bool(self.missing)).lower(),
        }
        if self.recall is not None:
            told["recall"] = repr(self.recall)
        if self.missing:
            more = len(self.missing) - NAMED
            told["missing"] = ", ".join(self.missing[:NAMED]) + (f" and {more} more" if more > 0 else "")
        return told

    def _columns(self) -> dict[str, np.ndarray]:
        """A row a hit."""
        hits, by_window = [hit for _, hit in self.hits], {at.window: result for at, result in self.windows}
        results = [by_window[at.window] for at, _ in self.hits]
        told = {at.window: _said(at, result) for at, result in self.windows}
        rows = [told[at.window] for at, _ in self.hits]
        words = {name: [row[name] for row in rows] for name in _said(*self.windows[0])}
        distances = {}
        if self.question.query.metric == "euclidean":
            distances = {"distance": np.array([hit.distance for hit in hits], np.float64)}
        return {
            "rank": np.arange(1, len(hits) + 1),
            "score": np.array([hit.score for hit in hits], np.float64),
            **distances,
            "lon": np.array([round(hit.lon, PLACES) for hit in hits], np.float64),
            "lat": np.array([round(hit.lat, PLACES) for hit in hits], np.float64),
            "status": np.array([STATUS_NAMES[hit.status] for hit in hits], str),
            "zone": np.array([hit.zone.name for hit in hits], str),
            **{name: np.array(values, str) for name, values in words.items()},
            "recall": np.array([result.recall for result in results], np.float64),
            "stale": np.array([result.stale for result in results], np.int64),
            "partial": np.array([result.partial for result in results], bool),
        }


def _said(at: DatasetWindow, result: SearchResult) -> dict[str, str]:
    """What all rows of a window say."""
    told = at.dataset.provenance(at.window)
    return {
        "window": str(at.window),
        "dataset": told["dataset"],
        "model": told["model"],
        "revision": result.revision,
        "engine": result.engine,
    }


def feature(at: DatasetWindow, hit: Hit, rank: int) -> dict[str, Any]:
    """A hit as GeoJSON."""
    distance = {} if hit.distance is None else {"distance": hit.distance}
    return {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [round(hit.lon, PLACES), round(hit.lat, PLACES)]},
        "properties": {
            "score": hit.score,
            **distance,
            "rank": rank,
            "status": STATUS_NAMES[hit.status],
            "window": str(at.window),
            "zone": hit.zone.name,
        },
    }


def pixel_side(level: int) -> int:
    """Side of a pixel of a level, metres."""
    return round(PIXEL) * level


def _searched(at: DatasetWindow, result: SearchResult) -> Mapping[str, Any]:
    return {
        "window": str(at.window),
        "revision": result.revision,
        "engine": result.engine,
        "recall": None if result.recall is None else round(result.recall, 4),
        "scanned": result.scanned,
        "candidates": result.candidates,
        "probes": result.probes,
        "stale": result.stale,
        "partial": result.partial,
        "missing": list(result.missing),
    }
