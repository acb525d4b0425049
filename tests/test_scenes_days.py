"""A day of scenes becomes a frame: held against each pixel worked out on its own, from the published rules."""

from __future__ import annotations

import datetime as dt
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.dpixels import BANDS
from service.errors import BadSource, LimitExceeded
from service.grid import Zone
from service.scenes import optical, radar
from service.scenes.stack import Stacker
from service.scenes.value import AWS, MPC, SCL, Mode, Scene
from service.sources import Placement
from tests.rasters import Held, opener_of

BAD = (0, 1, 2, 3, 8, 9)
PLACE = Placement(Zone(31), 355_000, 13_800, 3, 4)
DATES = [dt.date(2021, 12, 30), dt.date(2022, 1, 25), dt.date(2022, 1, 26), dt.date(2022, 3, 1)]


def stack(
    scenes: list[Scene], held: dict[tuple[str, str], Held], mode: Mode, threads: int = 1, place: Placement = PLACE
) -> dict[str, np.ndarray]:
    with ThreadPoolExecutor(threads) as pool:
        return Stacker(place, mode, opener_of(held), pool).arrays(scenes)


def scene(number: int, sensor: Any, date: dt.date, orbit: Any, names: Any) -> Scene:
    assets = dict.fromkeys(names, "")
    return Scene(f"{sensor}{number}", sensor, sensor, date, orbit, assets, 32631, None, number, "1", 1)


@st.composite
def optical_days(draw: st.DrawFn) -> tuple[list[Scene], dict[tuple[str, str], Held]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scenes, held = [], {}
    for number in range(draw(st.integers(1, 6))):
        one = scene(number, "s2", draw(st.sampled_from(DATES)), None, (*BANDS, SCL))
        classes = rng.integers(0, 12, (3, 4)).astype(np.uint8)
        held[one.id, SCL] = Held(np.zeros_like(classes) if draw(st.integers(0, 5)) == 0 else classes, PLACE)
        for band in BANDS:
            held[one.id, band] = Held(rng.choice([0, 7, 999, 1000, 1001, 9000, 65535], (3, 4)).astype(np.uint16), PLACE)
        scenes.append(one)
    if draw(st.booleans()):
        held[scenes[0].id, "B05"] = Held(np.zeros((3, 4), np.uint16), PLACE)
    return scenes, held


def harmonised(number: int, date: dt.date, mode: Mode) -> int:
    late = mode is MPC and date > dt.date(2022, 1, 25)
    return number - 1000 if late and number >= 1000 else number


@settings(max_examples=40, deadline=None)
@given(optical_days(), st.sampled_from([MPC, AWS]), st.randoms())
def test_each_pixel_of_a_date_is_of_the_first_scene_that_shows_it_clearly(made, mode, rnd):
    scenes, held = made
    shuffled = rnd.sample(scenes, len(scenes))
    out = stack(shuffled, held, mode)
    frame = 0
    for date in sorted({s.date for s in scenes}):
        day = [s for s in sorted(scenes, key=lambda s: s.order) if s.date == date]
        clear = [[[held[s.id, SCL].values[y, x] not in BAD for x in range(4)] for y in range(3)] for s in day]
        if not np.any(clear):
            continue
        values = np.zeros((3, 4, 10), int)
        mask = np.zeros((3, 4), int)
        unclear = []
        for y in range(3):
            for x in range(4):
                first = next((i for i in range(len(day)) if clear[i][y][x]), None)
                told = [
                    [harmonised(int(held[s.id, b].values[y, x]), date, mode) for b in BANDS]
                    for s in (day if first is None else [day[first]])
                ]
                mask[y, x] = first is not None
                values[y, x] = told[0]
                if first is None:
                    there = [i for i, s in enumerate(day) if held[s.id, SCL].values.any()]
                    if len(there) > 1:
                        there = [i for i in there if held[day[i].id, SCL].values[y, x] != 0]
                    unclear.append((y, x, [told[i] for i in there] or [[0] * 10]))
        if any(not held[s.id, b].values.any() for s in day for b in BANDS) and (
            len(day) == 1 or frame >= len(out["doys"]) or out["doys"][frame] != date.timetuple().tm_yday
        ):
            continue  # a band that holds nothing drops its date; of several scenes others may fill it
        assert out["doys"][frame] == date.timetuple().tm_yday
        assert (out["masks"][frame] == mask).all()
        for y, x, told in unclear:
            assert out["bands"][frame, y, x].tolist() in told
            values[y, x] = out["bands"][frame, y, x]
        assert (out["bands"][frame] == values).all()
        frame += 1
    assert frame == len(out["doys"]) == len(out["bands"]) == len(out["masks"])
    again = stack(scenes, held, mode, threads=4)
    assert all((out[name] == again[name]).all() for name in out)


@st.composite
def radar_days(draw: st.DrawFn) -> tuple[list[Scene], dict[tuple[str, str], Held]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scenes, held = [], {}
    for number in range(draw(st.integers(1, 7))):
        names = draw(st.sampled_from([("VV", "VH"), ("VV",), ("VH",)]))
        orbit = draw(st.sampled_from(["ascending", "descending"]))
        by_file = draw(st.booleans())
        one = scene(number, "s1", draw(st.sampled_from(DATES)), None if by_file else orbit, names)
        for name in names:
            values = rng.choice([0.0, -1.0, np.nan, np.inf, 1e-4, 0.01, 0.1, 0.37, 1.0, 1e9], (3, 4)).astype(np.float32)
            if draw(st.integers(0, 4)) == 0:
                values[:] = -32768
            tags = {"ORBIT_PASS_DIRECTION": orbit.upper() if draw(st.booleans()) else orbit} if by_file else {}
            held[one.id, name] = Held(values, PLACE, -32768.0, tags)
        scenes.append(one)
        held[one.id, "orbit"] = orbit  # type: ignore[assignment]
    return scenes, held


def scaled(power: np.floating[Any], mode: Mode) -> int:
    """One number by the published formula, in the width of the mode; plain Python is float64."""
    if not math.isfinite(power) or power <= 0:
        return 0
    if mode is MPC:
        level = (20 * math.log10(float(power)) + 50) * 200
    else:
        level = float((np.float32(20) * np.log10(power) + np.float32(50)) * np.float32(200))
    return int(min(max(level, 0), 32767))


@settings(max_examples=40, deadline=None)
@given(radar_days(), st.sampled_from([MPC, AWS]))
def test_each_radar_pixel_is_the_first_valid_of_its_date_and_orbit(made, mode):
    scenes, held = made
    out = stack(scenes, held, mode)
    for orbit in ("ascending", "descending"):
        days, frames = [], []
        for date in sorted({s.date for s in scenes}):
            day = [s for s in scenes if s.date == date and held[s.id, "orbit"] == orbit]
            frame, some = np.zeros((3, 4, 2), int), False
            for channel, name in enumerate(("VV", "VH")):
                rasters = [held[s.id, name].values for s in day if name in s.assets]
                rasters = [r for r in rasters if (np.isfinite(r) & (r > 0)).any()]
                some |= bool(rasters)
                for y in range(3):
                    for x in range(4):
                        stored = [scaled(r[y, x], mode) for r in rasters]
                        frame[y, x, channel] = next((v for v in stored if v), 0)
            if some:
                days.append(date.timetuple().tm_yday)
                frames.append(frame)
        assert out[f"sar_{orbit}_doy"].tolist() == days
        assert out[f"sar_{orbit}"].tolist() == [frame.tolist() for frame in frames]


def test_the_two_widths_cut_off_differently_as_published():
    a = np.array([0.01, 0.05, 0.1, 0.5, 1, 10, 10**-2.5, 0, -1, np.nan, np.inf], np.float64)
    single = radar.scaled(a.astype(np.float32), AWS).tolist()
    assert radar.scaled(a, MPC).tolist()[0] == 2000
    assert single == [1999, 4795, 6000, 8795, 10000, 14000, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("pixels", "kept"), [(6, False), (7, True)])
def test_a_date_or_radar_scene_with_less_than_a_ten_thousandth_of_the_block_is_left_out(pixels, kept):
    block = Placement(Zone(31), 355_072, 13_824, 256, 256)
    few = np.zeros((256, 256), np.uint8)
    few.flat[:pixels] = 4
    one, two = scene(0, "s2", DATES[3], None, (*BANDS, SCL)), scene(1, "s1", DATES[3], "ascending", ("VV", "VH"))
    held = {(one.id, band): Held(np.full((256, 256), 2000, np.uint16), block) for band in BANDS}
    held[one.id, SCL] = Held(few, block)
    held[two.id, "VV"] = Held(few.astype(np.float32), block, -32768.0)
    held[two.id, "VH"] = Held(np.ones((256, 256), np.float32), block, -32768.0)
    out = stack([one, two], held, MPC, place=block)
    assert len(out["doys"]) == kept
    assert (out["sar_ascending"][0, ..., 0] > 0).sum() == (pixels if kept else 0)
    assert (out["sar_ascending"][0, ..., 1] == 10000).all()


def shown_on_a_day(classes: list[np.ndarray]) -> dict[str, np.ndarray]:
    scenes = [scene(number, "s2", DATES[3], None, (*BANDS, SCL)) for number in range(len(classes))]
    held = {(one.id, band): Held(np.full((3, 4), 2000, np.uint16), PLACE) for one in scenes for band in BANDS}
    held |= {(one.id, SCL): Held(told, PLACE) for one, told in zip(scenes, classes, strict=True)}
    return stack(scenes, held, MPC)


def test_what_is_no_class_of_a_scene_is_told_of_by_scene() -> None:
    classes = np.full((3, 4), 11, np.uint16)
    assert shown_on_a_day([classes])["masks"].all()
    for wrong in (12, 4711):
        classes[1, 2] = wrong
        with pytest.raises(BadSource, match=f"asset SCL of s2/s21 holds {wrong}, which is no class"):
            shown_on_a_day([np.full((3, 4), 4, np.uint8), classes])


def test_more_scenes_of_a_day_than_there_can_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.scenes.stack._MOST_A_DAY", 2)
    some, none = np.full((3, 4), 4, np.uint8), np.zeros((3, 4), np.uint8)
    assert len(shown_on_a_day([some, none, none, some])["doys"]) == 1
    with pytest.raises(LimitExceeded, match="more than 2 scenes like s2/s23 show one block on 2022-03-01"):
        shown_on_a_day([some, none, some, some])


def clouds(scenes: int, height: int, width: int) -> list[np.ndarray]:
    return [np.full((height, width), 9, np.uint8) for _ in range(scenes)]


def test_what_fills_unclear_pixels_depends_on_scene_and_place_alone():
    nothing = np.full((40, 50), -1, np.int16)
    rows, cols = slice(1000, 1040), slice(2000, 2050)
    whole = optical.filled(nothing, clouds(3, 40, 50), ["a", "b", "c"], rows, cols)
    assert [0.25 < (whole == i).mean() < 0.42 for i in range(3)] == [True] * 3
    part = optical.filled(nothing[:7, :9], clouds(3, 7, 9), ["a", "b", "c"], slice(1011, 1018), slice(2030, 2039))
    assert (part == whole[11:18, 30:39]).all()
    fewer = optical.filled(nothing, clouds(2, 40, 50), ["c", "a"], rows, cols)
    named = np.array(["a", "b", "c"])[whole], np.array(["c", "a"])[fewer]
    assert (named[0] == named[1])[named[0] != "b"].all()
    some = nothing.copy()
    some[3] = 2
    kept = optical.filled(some, clouds(3, 40, 50), ["a", "b", "c"], rows, cols)
    assert (kept[3] == 2).all()
    assert (kept[4:] == whole[4:]).all()
    gap = clouds(3, 40, 50)
    gap[whole[0, 0]][0, 0] = 0
    assert optical.filled(nothing, gap, ["a", "b", "c"], rows, cols)[0, 0] not in (-1, whole[0, 0])
    assert optical.filled(nothing, [0 * cloud for cloud in gap], ["a", "b", "c"], rows, cols).max() == -1
    assert not optical.filled(nothing, gap[:1], ["a"], rows, cols).any()


def test_a_window_over_new_year_keeps_its_dates_in_order():
    days = [dt.date(2024, 2, 3), dt.date(2023, 12, 30), dt.date(2024, 12, 31), dt.date(2024, 1, 1)]
    scenes = [scene(i, "s2", day, None, (*BANDS, SCL)) for i, day in enumerate(days)]
    scenes += [scene(i + 10, "s1", day, "descending", ("VV",)) for i, day in enumerate(days)]
    held = {(s.id, b): Held(np.full((3, 4), 2000 + s.order, np.uint16), PLACE) for s in scenes[:4] for b in BANDS}
    held |= {(s.id, SCL): Held(np.full((3, 4), 5, np.uint8), PLACE) for s in scenes[:4]}
    held |= {(s.id, "VV"): Held(np.full((3, 4), 0.1, np.float32), PLACE, -32768.0) for s in scenes[4:]}
    out = stack(scenes, held, MPC)
    assert out["doys"].tolist() == out["sar_descending_doy"].tolist() == [364, 1, 34, 366]
    assert out["bands"][:, 0, 0, 0].tolist() == [1001, 1003, 1000, 1002]
    assert out["sar_ascending"].shape == (0, 3, 4, 2)
