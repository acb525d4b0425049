"""Sampling: published index vectors, multiplicities, the order that v1.1 walks, draws of v1.0, who is embedded."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.dpixels import BANDS, DPixels
from service.errors import InvalidInput
from service.families import FAMILIES, SAMPLINGS, family
from service.sampling import (
    DRAWS,
    LENGTHS,
    PADDING,
    bin_of,
    drawn,
    multiplicities,
    orders,
    pattern,
    prepare,
    resample,
    seeds,
    sequences,
    standardise,
)
from tests.pixels import random_dpixels

RULES = {"v1.1": resample, "v2": pattern}

# (n, length): extras behind 0..n-1, of v1.1 and of v2
GOLDEN = {
    (1, 8): ([0] * 7, [0] * 7),
    (3, 8): ([0, 1, 1, 1, 2], [0, 1, 2, 0, 1]),
    (5, 8): ([1, 2, 3], [1, 3, 4]),
    (7, 8): ([3], [3]),
    (8, 8): ([], []),
    (9, 16): ([1, 2, 3, 4, 5, 6, 7], [1, 3, 4, 5, 6, 7, 8]),
    (11, 16): ([2, 3, 5, 7, 8], [1, 4, 6, 8, 10]),
    (100, 104): ([20, 40, 59, 79], [12, 37, 62, 87]),
}


def chosen(seen, t, rng):
    """(n, t) bool: `seen` of t places each."""
    return rng.random((len(seen), t)).argsort(axis=1).argsort(axis=1) < np.array(seen)[:, None]


# --- rules


@pytest.mark.parametrize(("n", "length"), GOLDEN)
def test_golden_index_vectors(n, length):
    for rule, extras in zip((resample, pattern), GOLDEN[n, length], strict=True):
        assert rule(n, length).tolist() == [*range(n), *extras]


def test_golden_index_vectors_of_too_many():
    found = resample(300, 256).tolist()
    assert found[:7] == [1, 3, 5, 7, 9, 11, 13]
    assert found[-6:] == [294, 295, 296, 297, 298, 299]
    found = pattern(300, 256).tolist()
    assert found[:9] == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert found[-6:] == [293, 294, 295, 296, 297, 299]


@given(st.integers(1, 600))
@settings(max_examples=60, deadline=None)
def test_rules_are_written_as_published(n):
    """With numpy's own array_split and linspace, as the published code has them."""
    length = bin_of(n)
    if n > length:
        middles = [part[len(part) // 2] for part in np.array_split(np.arange(n), length)]
        assert resample(n, length).tolist() == middles
        return
    extras = np.clip(np.round(np.linspace(0, n - 1, length - n + 2)[1:-1]), 0, n - 1).astype(int)
    assert resample(n, length).tolist() == [*range(n), *extras]
    if 0 < (r := length - n) <= n:
        parts = np.array_split(np.arange(n), r)
        assert pattern(n, length)[n:].tolist() == [part[len(part) // 2] for part in parts]


@given(st.integers(1, 600), st.sampled_from(sorted(RULES)))
@settings(max_examples=60, deadline=None)
def test_tables_are_the_rules_counted(n, sampling):
    taken = RULES[sampling](n, bin_of(n))
    table = multiplicities(600, sampling=sampling)
    assert table[n].sum() == bin_of(n)
    assert (np.bincount(taken, minlength=table.shape[1]) == table[n]).all()
    kept = np.flatnonzero(table[n])
    assert (kept[orders(600, sampling=sampling)[n, : bin_of(n)]] == taken).all()


def test_bins():
    assert [bin_of(n) for n in (0, 1, 8, 9, 255, 256, 257, 1000)] == [0, 8, 8, 16, 256, 256, 256, 256]


# --- the short form


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_sequences_hold_each_observation_once(seen, seed):
    t = 300
    rng = np.random.default_rng(seed)
    valid = chosen(seen, t, rng)
    values = rng.normal(size=(len(seen), t, 2)).astype(np.float32)
    doy = np.broadcast_to(np.arange(1, t + 1), valid.shape)
    out = sequences(values, doy, valid)
    assert out.order is out.steps is out.step_bucket is None
    for i, n in enumerate(seen):
        real = out.logm[i] > PADDING / 2
        assert real.sum() == min(max(n, 1), 256)
        assert out.bucket[i] in LENGTHS
        assert real.sum() <= out.bucket[i]
        assert not real[out.bucket[i] :].any()
        if n == 0:
            assert (out.values[i] == 0).all()
            assert (out.doy[i] == 0).all()
            continue
        assert round(float(np.exp(out.logm[i][real]).sum())) == bin_of(n)
        days = out.doy[i][real]
        assert valid[i, days - 1].all()
        assert (values[i, days - 1] == out.values[i][real]).all()


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_order_walks_the_published_sequence(seen, seed):
    t = 300
    valid = chosen(seen, t, np.random.default_rng(seed))
    doy = np.broadcast_to(np.arange(1, t + 1), valid.shape)
    out = sequences(doy[..., None].astype(np.float32), doy, valid, sampling="v1.1")
    for i, n in enumerate(seen):
        real = out.steps[i] == 0
        assert set(np.unique(out.steps[i])) <= {0, PADDING}
        walked = out.doy[i][out.order[i][real]]
        want = np.flatnonzero(valid[i])[resample(n, bin_of(n))] + 1 if n else np.zeros(8)
        assert walked.tolist() == want.tolist()
        assert (out.values[i, :, 0] == out.doy[i]).all()
        assert len(want) <= out.step_bucket[i] <= out.steps.shape[1]
        assert out.step_bucket[i] in LENGTHS
        assert (out.order[i] < out.bucket[i]).all()


def test_standardising_is_float32():
    mean, std = (1633.0042, 3405.0322), (1999.4603, 1531.2615)
    raw = np.array([[0, 65535], [1633, 3405]], np.uint16)
    want = (raw.astype(np.float32) - np.float32(mean)) / (np.float32(std) + np.float32(1e-9))
    found = standardise(raw, mean, std)
    assert found.dtype == np.float32
    assert (found == want).all()


# --- draws of v1.0


@given(st.lists(st.integers(0, 120), min_size=1, max_size=6), st.integers(0, 2**62))
@settings(max_examples=60, deadline=None)
def test_draws_are_forty_of_what_may_be_drawn(seen, seed):
    among = chosen(seen, 120, np.random.default_rng(seed))
    many = drawn(among, np.arange(len(seen), dtype=np.uint64) + np.uint64(seed))
    for i, n in enumerate(seen):
        assert many[i].sum() == (DRAWS if n else 0)
        assert not many[i][~among[i]].any()
        if n >= DRAWS:
            assert many[i].max() == 1


@pytest.mark.parametrize("n", [1, 7, 39, 40, 41, 100])
def test_draws_are_as_random_as_numpys(n):
    """Means, variances and covariances of how often each is drawn, against what the published draw has exactly."""
    pixels = 40_000
    many = drawn(np.ones((pixels, n), bool), np.arange(pixels, dtype=np.uint64)).astype(float)
    share = DRAWS / n
    if n < DRAWS:  # multinomial
        variance, covariance = DRAWS / n * (1 - 1 / n), -DRAWS / n**2
    else:  # hypergeometric
        variance, covariance = share * (1 - share), -share * (1 - share) / max(n - 1, 1)
    error = 6 * np.sqrt(max(variance, 1e-12) / pixels)
    assert np.abs(many.mean(axis=0) - share).max() <= error
    found = np.atleast_2d(np.cov(many.T))
    want = np.full((n, n), covariance)
    np.fill_diagonal(want, variance)
    assert np.abs(found - want).max() <= 8 * max(variance, 1e-12) * np.sqrt(2 / pixels) + 1e-12


def test_seeds_are_of_the_content_and_nothing_else():
    rng = np.random.default_rng(1)
    stored, doy = rng.integers(0, 9000, (2, 6, 10)).astype(np.uint16), np.tile(np.arange(3, 9), (2, 1))
    among = np.array([[1, 1, 0, 1, 1, 0]] * 2, bool)
    want = seeds(stored, doy, among)
    assert want[0] != want[1]
    assert (seeds(stored.astype(np.float32), doy.astype(np.int16), among) == want).all()
    assert (seeds(stored[:, among[0]], doy[:, among[0]], np.ones((2, 4), bool)) == want).all()
    assert (seeds(stored[::-1], doy, among) == want[::-1]).all()
    noise = np.where(among[..., None], stored, 5)
    assert (seeds(noise, np.where(among, doy, 0), among) == want).all()
    for turned in (stored[:, ::-1], stored + (np.arange(6) == 3)[:, None].astype(np.uint16)):
        assert (seeds(turned, doy, among) != want).all()
    assert (seeds(stored, doy + (np.arange(6) == 4), among) != want).all()


def padded(d: DPixels, by: int) -> DPixels:
    """The same pixels with frames on day 0 behind each series: what does not exist must not matter."""
    wider = {
        f.name: np.concatenate((one, np.zeros((len(d), by, *one.shape[2:]), one.dtype)), axis=1)
        for f in fields(d)
        if f.name != "shape" and (one := getattr(d, f.name)) is not None
    }
    return replace(d, **wider)


def same(a, b, i=slice(None), j=slice(None)):
    for one, other in ((a.s2, b.s2), (a.s1, b.s1)):
        for f in fields(one):
            x, y = getattr(one, f.name), getattr(other, f.name)
            assert (x is None) == (y is None)
            if x is None:
                continue
            x, y = x[i], y[j]
            if x.ndim > 1:  # the batch may be wider than the pixel needs
                length = min(x.shape[1], y.shape[1])
                x, y = x[:, :length], y[:, :length]
            assert np.array_equal(x, y), f.name
    assert np.array_equal(a.wanted[i], b.wanted[j])


@pytest.mark.parametrize("name", ["tessera-v1.0-early", "tessera-v1.0-qat", "tessera-v1.1-aws", "tessera-v2"])
def test_a_pixel_is_prepared_alike_in_any_company(name):
    f = family(name)
    rng = np.random.default_rng(2)
    d = random_dpixels(rng.integers(0, 60, 30), rng.integers(0, 50, 30), rng.integers(0, 50, 30), t2=60, ta=50)
    whole = prepare(d, f.statistics, f.sampling)
    same(whole, prepare(d, f.statistics, f.sampling))
    same(whole, prepare(padded(d, 7), f.statistics, f.sampling))
    for i in (0, 11, 29):
        same(whole, prepare(d[i : i + 1], f.statistics, f.sampling), slice(i, i + 1))


def test_v10_takes_clouded_frames_where_there_is_nothing_else():
    f = family("tessera-v1.0-qat")
    d = random_dpixels([0, 3], [4, 4], [0, 0], t2=5, ta=4)
    out = prepare(d, f.statistics, f.sampling)
    assert out.wanted.all()
    held = [set(out.s2.doy[i][out.s2.logm[i] > PADDING / 2]) for i in (0, 1)]
    assert held[0] <= set(d.s2_doy[0])
    assert held[1] <= set(d.s2_doy[1][d.s2_valid[1]])
    assert np.exp(out.s2.logm[0]).sum() == pytest.approx(DRAWS)


def test_v10_embeds_what_its_own_rule_embeds():
    d = random_dpixels([3, 3, 0, 3], [2, 0, 2, 0], [0, 0, 0, 0], t2=4, ta=3)
    d.s2[2] = 0  # Sentinel-1 alone, and not one Sentinel-2 value
    gone = replace(d, s1_asc_doy=np.where(np.arange(4)[:, None] == 3, 0, d.s1_asc_doy))
    gone = replace(gone, s1_desc_doy=np.where(np.arange(4)[:, None] == 3, 0, d.s1_desc_doy))
    for name, want in (
        ("tessera-v1.0-qat", [True, True, False, True]),
        ("tessera-v1.0-early", [True, True, False, False]),  # no frame of Sentinel-1 at all: it has no dummy
        ("tessera-v1.1-mpc", [True] * 4),
        ("tessera-v2", [True] * 4),
    ):
        f = family(name)
        assert prepare(gone, f.statistics, f.sampling).wanted.tolist() == want, name


def test_an_orbit_without_frames_gets_one_of_zeros():
    """(-2.9307, -1.7402) on day 180 for each: what the published code makes of it."""
    f = family("tessera-v1.0-qat")
    d = random_dpixels([3], [0], [0], ta=2)
    d = replace(d, s1_asc_doy=d.s1_asc_doy * 0, s1_desc_doy=d.s1_desc_doy * 0)
    s1 = prepare(d, f.statistics, f.sampling).s1
    real = s1.logm[0] > PADDING / 2
    assert (s1.doy[0][real] == 180).all()
    assert s1.values[0][real] == pytest.approx(np.tile([-2.9307, -1.7402], (real.sum(), 1)), abs=5e-5)
    assert (s1.order[0, :DRAWS] == np.sort(s1.order[0, :DRAWS])).all()
    one = replace(d, s1_desc=d.s1_desc + 3000, s1_desc_doy=d.s1_desc_doy + 9)  # one orbit is there: no dummy
    assert set(prepare(one, f.statistics, f.sampling).s1.doy[0]) <= {0, 9}


# --- preparing


def test_bands_come_in_the_order_asked_for():
    f = family("tessera-v2")
    d = random_dpixels([5], [3], [2])
    turned = prepare(replace(d, s2=d.s2[..., ::-1]), f.statistics, "v2", BANDS[::-1]).s2.values
    assert (turned == prepare(d, f.statistics, "v2").s2.values).all()


def test_orbits_are_standardised_apart_and_stay_in_order():
    d = random_dpixels([1], [3], [2])
    f = family("tessera-v1.1-aws")
    s1 = prepare(d, f.statistics, f.sampling).s1
    asc, desc = d.s1_asc_valid[0], d.s1_desc_valid[0]
    assert s1.doy[0, :5].tolist() == [*d.s1_asc_doy[0][asc], *d.s1_desc_doy[0][desc]]
    want = standardise(d.s1_desc[0][desc], f.statistics.s1_desc_mean, f.statistics.s1_desc_std)
    assert (s1.values[0, 3:5] == want).all()


def test_an_unknown_rule():
    with pytest.raises(InvalidInput, match=r"v1\.1"):
        prepare(random_dpixels([1], [1], [1]), family("tessera-v2").statistics, "v3")


# --- families


def test_families_are_told_apart():
    assert list(FAMILIES) == [
        "tessera-v1.0-early", "tessera-v1.0-qat", "tessera-v1.1-mpc", "tessera-v1.1-aws", "tessera-v2",
        "tessera-v2-teacher",
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="no family") as caught:
        family("tessera-v3")
    assert "tessera-v1.1-aws" in str(caught.value.remedy)
    assert {one.sampling for one in FAMILIES.values()} == set(SAMPLINGS)
    for one in FAMILIES.values():
        pooled = one.statistics.s1_asc_mean == one.statistics.s1_desc_mean
        assert pooled == (one.name in ("tessera-v1.0-early", "tessera-v1.0-qat", "tessera-v2-teacher"))
        assert one.dims <= one.native_dims
        assert one.quantiser == ("v2" if one.sampling == "v2" else "v1")
    different = [one.statistics for one in FAMILIES.values()]
    assert len(set(different)) == 5  # both v1.0 were trained on the same data
