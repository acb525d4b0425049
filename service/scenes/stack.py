"""The scenes of a block's window, date by date, as the arrays of a d-pixel folder.

Several dates are read at once, each into its own frame, so the result does not depend on how many. Memory holds the
arrays that are asked for and a few rasters of the block's size to each date in work.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from service.dpixels import BANDS
from service.errors import BadSource, LimitExceeded
from service.scenes import optical, radar
from service.scenes.files import Opener
from service.scenes.reading import shown
from service.scenes.value import SCL, Mode, Scene
from service.sources import Placement
from service.values import BoolArray

Arrays = dict[str, npt.NDArray[Any]]

ORBIT_TAG: Final = "ORBIT_PASS_DIRECTION"
"""Where OPERA's files tell their orbit."""
_MOST_A_DAY: Final = 1000
"""Scenes of Sentinel-2 that may show one block on one date; with all its reprocessed versions it has some dozens."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, eq=False)
class _Day:
    """One date of Sentinel-2."""

    scenes: tuple[Scene, ...]
    """Those that have anything there, in the order of the catalogue."""
    choice: optical.Index
    """(h, w) which of them gives each pixel its values; -1 where none does."""
    clear: BoolArray
    """(h, w) where that one shows it clearly."""


@dataclass(frozen=True)
class Stacker:
    """Reads scenes onto some pixels."""

    place: Placement
    """The pixels: the region of which coverage is told."""
    mode: Mode
    opener: Opener
    pool: Executor
    """Where dates are read. Its work never waits for more of it."""

    def arrays(self, scenes: Iterable[Scene]) -> Arrays:
        """The seven arrays of a published d-pixel folder; frames in the order of their dates.

        Args:
            scenes: Of both sensors.

        Raises:
            InvalidInput, BadSource, LimitExceeded: A scene is not what it is said to be.
            Unavailable: One cannot be read now.
        """
        ordered = sorted(scenes, key=lambda scene: scene.order)
        return self._optical([s for s in ordered if s.sensor == "s2"]) | self._radar(
            [s for s in ordered if s.sensor == "s1"]
        )

    def _optical(self, scenes: Sequence[Scene]) -> Arrays:
        days = [day for day in self._each(self._day, by_date(scenes)) if day is not None]
        sides = self.place.height, self.place.width
        bands = np.zeros((len(days), *sides, len(BANDS)), np.uint16)
        whole = self._each(self._fill, list(zip(days, bands, strict=True)))
        kept = [i for i, good in enumerate(whole) if good]
        for to, at in enumerate(kept):  # in place: a copy would double what is held
            if to != at:
                bands[to] = bands[at]
        masks = np.array([days[i].clear for i in kept], np.uint8).reshape(-1, *sides)
        doys = np.array([_day_of_year(days[i].scenes) for i in kept], np.uint16)
        return {"bands": bands[: len(kept)], "masks": masks, "doys": doys}

    def _day(self, scenes: Sequence[Scene]) -> _Day | None:
        """What the scene classes tell of one date; None where too few pixels are clear."""
        there: list[Scene] = []
        classes: list[npt.NDArray[Any]] = []
        for scene in scenes:
            if (told := self._classes(scene)).any():
                there.append(scene)
                classes.append(told)
            if len(there) > _MOST_A_DAY:
                raise LimitExceeded(f"more than {_MOST_A_DAY:,} scenes like {scene} show one block on {scene.date}.")
        if not there:
            return None
        selection = optical.selected(classes)
        if optical.coverage(selection) < optical.MIN_COVERAGE:
            return None
        ids = [str(scene) for scene in there]
        choice = optical.filled(selection, classes, ids, self.place.rows, self.place.cols)
        return _Day(tuple(there), choice, selection >= 0)

    def _fill(self, work: tuple[_Day, npt.NDArray[np.uint16]]) -> bool:
        """Make the bands of one date; False where one of them holds nothing, which drops the date."""
        day, frame = work
        used = [(scene, where) for i, scene in enumerate(day.scenes) if (where := day.choice == i).any()]
        for channel, band in enumerate(BANDS):
            for scene, where in used:
                values = self._read(scene, band, "bilinear")
                np.copyto(frame[..., channel], optical.stored(values, scene.date, self.mode), where=where)
        return all(frame[..., channel].any() for channel in range(len(BANDS)))

    def _radar(self, scenes: Sequence[Scene]) -> Arrays:
        days = by_date(scenes)
        frames = self._each(self._frames, days)
        out: Arrays = {}
        for orbit in radar.ORBITS:
            held = [(_day_of_year(day), one[orbit]) for day, one in zip(days, frames, strict=True) if orbit in one]
            shape = (0, self.place.height, self.place.width, 2)
            out[f"sar_{orbit}"] = np.stack([frame for _, frame in held]) if held else np.zeros(shape, np.int16)
            out[f"sar_{orbit}_doy"] = np.array([doy for doy, _ in held], np.int16)
        return out

    def _frames(self, day: Sequence[Scene]) -> dict[str, radar.Int16Array]:
        """The frame of each orbit on one date."""
        made: dict[str, radar.Int16Array | None] = {}
        for scene in day:
            values: dict[str, npt.NDArray[Any]] = {}
            orbit: str = scene.orbit or ""
            for name in scene.assets:
                with self.opener(scene, name) as raster:
                    orbit = orbit or str(raster.tags().get(ORBIT_TAG, "")).lower()
                    values[name] = shown(raster, self.place, self.mode.s1_resampling)
            if orbit in radar.ORBITS:
                made[orbit] = radar.merged(made.get(orbit), values, self.mode)
        return {orbit: frame for orbit, frame in made.items() if frame is not None}

    def _classes(self, scene: Scene) -> npt.NDArray[Any]:
        classes = self._read(scene, SCL, "nearest")
        if (last := classes.max()) > optical.CLASSES:
            raise BadSource(f"asset {SCL} of {scene} holds {last}, which is no class of a scene.")
        return classes

    def _read(self, scene: Scene, name: str, resampling: Any) -> npt.NDArray[Any]:
        with self.opener(scene, name) as raster:
            return shown(raster, self.place, resampling)

    def _each(self, work: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
        """Results in the order of the items; the first error in that order. Nothing is left running."""
        futures = [self.pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            wait(futures)


def by_date(scenes: Iterable[Scene]) -> list[list[Scene]]:
    """Scenes of each date, in the order of the catalogue; dates in their own."""

    def date(scene: Scene) -> dt.date:
        return scene.date

    return [list(day) for _, day in groupby(sorted(scenes, key=date), date)]


def _day_of_year(day: Sequence[Scene]) -> int:
    """1..366."""
    return day[0].date.timetuple().tm_yday
