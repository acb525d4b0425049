"""The landscape: known truth, the same however it is cut, plausible values, one change."""

from __future__ import annotations

import numpy as np
import pytest

from service.dpixels import counts, from_arrays
from service.errors import InvalidInput
from service.signals import normal, uniform
from service.simulate import CHANGED, CLASSES, Landscape


@pytest.fixture(scope="module")
def land() -> Landscape:
    return Landscape(7, 64, 64)


def test_every_class_is_there():
    cover = Landscape(7).land_cover(2023)
    assert cover.shape == (256, 256)
    assert cover.dtype == np.uint8
    share = np.bincount(cover.ravel(), minlength=len(CLASSES)) / cover.size
    assert (share > 0.01).all()
    assert len(share) == len(CLASSES)


def test_one_change_between_the_years():
    land = Landscape(7)
    before, after = land.land_cover(CHANGED - 1), land.land_cover(CHANGED)
    changed = before != after
    assert 1000 < changed.sum() < 6000
    assert set(np.unique(before[changed])) <= {CLASSES.index("broadleaf forest"), CLASSES.index("conifer forest")}
    assert set(np.unique(after[changed])) == {CLASSES.index("maize")}
    rows, cols = np.nonzero(changed)
    assert changed[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1].mean() > 0.7  # one place
    assert (land.land_cover(2020) == before).all()


def test_a_block_is_the_same_however_it_is_cut(land):
    whole, part = land.dpixels(2023), land.dpixels(2023, slice(10, 20), slice(33, 50))
    for name, array in whole.items():
        cut = array if array.ndim == 1 else array[:, 10:20, 33:50]
        assert np.array_equal(part[name], cut), name


def test_seeds_and_years_differ_and_repeat(land):
    rows = slice(0, 8)
    first = land.dpixels(2023, rows, rows)
    again = Landscape(7, 64, 64).dpixels(2023, rows, rows)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["bands"], land.dpixels(2024, rows, rows)["bands"][: len(first["bands"])])
    assert not np.array_equal(Landscape(8, 64, 64).land_cover(2023), land.land_cover(2023))


def test_arrays_are_what_the_published_layout_asks(land):
    held = land.dpixels(2023)
    assert held["bands"].dtype == np.uint16
    assert held["sar_ascending"].dtype == np.int16
    seen = counts(from_arrays(held))
    assert 10 < seen.s2.mean() < 60
    assert (seen.s1_asc == 31).all() or (seen.s1_asc == 30).all()
    usable = held["bands"][held["masks"] == 1]
    assert 1 <= usable.min() < usable.max() <= 20000
    assert (usable.mean() > 1000) & (usable.mean() < 3000)
    radar = held["sar_ascending"].astype(float)
    assert np.allclose(radar.mean(axis=(0, 1, 2)), (5900, 3400), atol=900)


def test_classes_look_as_they_should():
    land = Landscape(7)
    rows, cols = slice(0, 256, 4), slice(0, 256, 4)
    cover = land.land_cover(2023)[rows, cols]
    held = land.dpixels(2023, rows, cols)
    clear = np.where(held["masks"][..., None] == 1, held["bands"].astype(float), np.nan)
    red, nir = clear[..., 0], clear[..., 3]
    ndvi = (nir - red) / (nir + red)
    day = held["doys"]

    def mean(name, first, last):
        return np.nanmean(ndvi[(day >= first) & (day <= last)][:, cover == CLASSES.index(name)])

    assert mean("winter cereal", 120, 160) > 0.75
    assert mean("winter cereal", 215, 260) < 0.45
    assert mean("maize", 100, 150) < 0.35
    assert mean("maize", 200, 250) > 0.75
    assert mean("conifer forest", 1, 60) > 0.6
    assert mean("water", 1, 365) < 0
    radar = held["sar_ascending"].astype(float).mean(axis=0)
    by_class = {name: radar[cover == CLASSES.index(name)].mean(axis=0) for name in CLASSES}
    assert by_class["water"][0] < by_class["maize"][0] < by_class["town"][0]


def test_clouds_are_bright_and_masked(land):
    held = land.dpixels(2023)
    clear, masked = (held["bands"][..., 1][held["masks"] == k] for k in (1, 0))
    assert np.percentile(masked, 90) > 4000
    assert np.percentile(clear, 99) < 2500


def test_random_numbers_of_places():
    row, col = np.mgrid[:200, :200]
    u, z = uniform(1, row, col), normal(1, row, col)
    assert abs(u.mean() - 0.5) < 0.01
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) < 0.02
    assert (uniform(1, row[50:60], col[50:60]) == u[50:60]).all()
    assert not np.array_equal(uniform(2, row, col), u)


def test_no_landscape_of_nothing():
    with pytest.raises(InvalidInput):
        Landscape(1, 0, 5)
