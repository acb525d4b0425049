"""D-pixels: views of published arrays, dated series, uploads; each mistake refused with its own message."""

from __future__ import annotations

import datetime as dt
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.dpixels import (
    BANDS,
    MAX_FRAMES,
    PixelSeries,
    S1Series,
    S2Series,
    UploadLimits,
    counts,
    from_arrays,
    from_json,
    load_npz,
)
from service.dpixels.stored import s1_stored
from service.errors import InvalidInput, LimitExceeded
from service.values import Window

YEAR = Window.year(2024)
LIMITS = UploadLimits(10_000, 10_000_000)


def arrays(height=2, width=3, t=4, ta=2, td=1, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "bands": rng.integers(1, 9000, (t, height, width, 10)).astype(np.uint16),
        "masks": rng.integers(0, 2, (t, height, width)).astype(np.uint8),
        "doys": np.arange(5, 5 + t, dtype=np.uint16),
        "sar_ascending": rng.integers(3000, 7000, (ta, height, width, 2)).astype(np.int16),
        "sar_ascending_doy": np.arange(7, 7 + ta, dtype=np.int16),
        "sar_descending": rng.integers(3000, 7000, (td, height, width, 2)).astype(np.int32).astype(np.int16),
        "sar_descending_doy": np.arange(9, 9 + td, dtype=np.int32),
    }


def test_published_arrays_are_taken_as_views():
    held = arrays()
    d = from_arrays(held)
    assert len(d) == 6
    assert d.shape == (2, 3)
    for mine, theirs in ((d.s2, "bands"), (d.s1_asc, "sar_ascending"), (d.s1_desc, "sar_descending")):
        assert np.shares_memory(mine, held[theirs])
    assert np.shares_memory(d.s2_valid, held["masks"])
    assert (d.s2[4, 2] == held["bands"][2, 1, 1]).all()
    assert (d.s2_valid[4] == held["masks"][:, 1, 1].astype(bool)).all()
    assert (d.s2_doy[3] == held["doys"]).all()
    assert (d[2:5].s2 == d.s2[2:5]).all()
    assert d[2:5].shape == (3,)


def test_counts_follow_masks_and_zeros():
    held = arrays()
    held["sar_ascending"][0, 0, 0] = 0
    held["sar_ascending"][1, 0, 0] = (0, 5000)  # one polarisation is an observation
    seen = counts(from_arrays(held))
    assert (seen.s2.reshape(2, 3) == held["masks"].sum(axis=0)).all()
    assert seen.s1_asc[0] == 1
    assert seen.s1_asc[1] == 2
    assert (seen.s1_desc == 1).all()


def test_no_frames_at_all_are_allowed():
    d = from_arrays(arrays(t=0, ta=0, td=0))
    assert len(d) == 6
    assert (counts(d).s2 == 0).all()


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("masks", None, "masks missing"),
        ("bands", lambda a: a.astype(np.int64), "int64"),
        ("bands", lambda a: a[..., :9], "10"),
        ("bands", lambda a: a[0], "shape"),
        ("bands", lambda a: np.where(a > 0, np.nan, a).astype(np.float32), "not finite"),
        ("bands", lambda a: (a / 10000).astype(np.float32), "reflectance"),
        ("masks", lambda a: a + np.uint8(1), "holds 2"),
        ("masks", lambda a: a.astype(float), "float64"),
        ("masks", lambda a: a[:-1], "masks"),
        ("doys", lambda a: a - 5, "1..366"),
        ("doys", lambda a: a + 400, "1..366"),
        ("doys", lambda a: a[:-1], "one a frame"),
        ("doys", lambda a: a.astype(float), "integers"),
        ("sar_ascending", lambda a: a[:, :1], "pixels"),
        ("sar_ascending", lambda a: -a, "0..32767"),
        ("sar_descending_doy", lambda a: a * 0, "1..366"),
    ],
)
def test_wrong_arrays_are_refused_by_name(name, change, says):
    held = arrays()
    if change is None:
        del held[name]
    else:
        held[name] = change(held[name])
    with pytest.raises(InvalidInput) as caught:
        from_arrays(held)
    assert caught.value.field == name
    assert says in str(caught.value)


def test_an_unknown_array_is_refused():
    with pytest.raises(InvalidInput, match="extra"):
        from_arrays(arrays() | {"extra": np.zeros(3)})


def test_more_frames_than_a_year_has_are_refused_by_name():
    full = arrays(1, 1, MAX_FRAMES) | {"doys": np.arange(MAX_FRAMES) % 366 + 1}
    assert (counts(from_arrays(full)).s2 == full["masks"].sum()).all()
    for name, held in (
        ("bands", arrays(1, 1, MAX_FRAMES + 1)),
        ("sar_ascending", arrays(1, 1, ta=MAX_FRAMES + 1)),
        ("sar_descending", arrays(1, 1, td=MAX_FRAMES + 1)),
    ):
        with pytest.raises(LimitExceeded, match="1,001 observations") as caught:
            from_arrays(held)
        assert caught.value.field == name
    d = from_arrays(arrays(1, 1))
    with pytest.raises(LimitExceeded) as caught:  # not even those who build one themselves
        replace(d, s1_asc=np.zeros((1, 1001, 2), np.int16), s1_asc_doy=np.ones((1, 1001), np.int16))
    assert caught.value.field == "s1_asc"
    with pytest.raises(LimitExceeded) as caught:
        from_json([PixelSeries(s2(dates=["2024-01-01"] * 1001))], YEAR)
    assert caught.value.field == "pixels[0].s2.dates"


def test_frames_of_an_npz_are_counted_before_unpacking():
    body = Unreadable(packed(arrays(1, 1, 65_539), np.savez).read())
    with pytest.raises(LimitExceeded, match="65,539 observations") as caught:
        load_npz(body, LIMITS)
    assert caught.value.field == "bands"
    assert body.total < 200_000


# --- dated series


def s2(n=3, **changes):
    values = [[100 * (i + 1) + 7 * b for b in range(10)] for i in range(n)]
    base = S2Series(BANDS, [f"2024-03-{i + 1:02d}" for i in range(n)], "dn", values, mask=[True] * n)
    return replace(base, **changes)


def s1(**changes):
    return replace(S1Series("ascending", ["2024-01-05", "2024-02-05"], "db", [(-10, -16.5), (-9, -15)]), **changes)


def test_series_become_padded_dpixels():
    other = PixelSeries(s2(1, scl=[8], mask=None), (s1(orbit="descending", dates=[], values=[]),))
    d, reordered = from_json([PixelSeries(s2(), (s1(),)), other], YEAR)
    assert not reordered
    assert d.shape == (2,)
    assert d.s2.shape == (2, 3, 10)
    assert d.s2_valid.tolist() == [[True] * 3, [False] * 3]
    assert d.s2_doy[0].tolist() == [61, 62, 63]  # a leap year
    assert d.s1_asc[0].tolist() == [[6000, 3400], [6400, 4000]]
    seen = counts(d)
    assert seen.s2.tolist() == [3, 0]
    assert seen.s1_asc.tolist() == [2, 0]
    assert seen.s1_desc.tolist() == [0, 0]


def test_a_declared_order_is_put_right():
    order = np.random.default_rng(0).permutation(10)
    shuffled = s2(bands=[BANDS[i] for i in order], values=[[row[i] for i in order] for row in s2().values])
    d, reordered = from_json([PixelSeries(shuffled)], YEAR)
    plain, _ = from_json([PixelSeries(s2())], YEAR)
    assert reordered
    assert (d.s2 == plain.s2).all()


def test_reflectance_and_dn_are_the_same():
    dn, _ = from_json([PixelSeries(s2())], YEAR)
    values = [[v / 10000 for v in row] for row in s2().values]
    reflectance, _ = from_json([PixelSeries(s2(unit="reflectance", values=values))], YEAR)
    assert (dn.s2 == reflectance.s2).all()


def test_stored_values_are_integers():
    """Reflectance is rounded, so that 0.29 is 2900 and not 2899; dn loses its fraction as in a cast to uint16."""
    first = [0.12345, 0.12346, 0.29, -0.00004, 0.57, *[0.1] * 5]
    d, _ = from_json([PixelSeries(s2(1, unit="reflectance", values=[first]))], YEAR)
    assert d.s2[0, 0].tolist() == [1234, 1235, 2900, 0, 5700, *[1000] * 5]
    d, _ = from_json([PixelSeries(s2(1, values=[[1234.9, -3.7, 0.4, *[7.0] * 7]]))], YEAR)
    assert d.s2[0, 0].tolist() == [1234, 0, 0, *[7] * 7]


def test_unusable_scene_classes():
    n = 12
    d, _ = from_json([PixelSeries(s2(n, mask=None, scl=list(range(n))))], YEAR)
    assert np.flatnonzero(~d.s2_valid[0]).tolist() == [0, 1, 2, 3, 8, 9]


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"bands": BANDS[:9]}, "bands", "missing band B12"),
        ({"bands": (*BANDS[:9], "B01")}, "bands", "unknown band B01"),
        ({"bands": (*BANDS[:9], "B04")}, "bands", "repeated band B04"),
        ({"bands": ("b04", *BANDS[1:])}, "bands", "unknown band b04"),
        ({"unit": "toa"}, "unit", "not a unit"),
        ({"unit": "reflectance"}, "unit", "Is it dn?"),
        ({"values": [[0.1] * 10] * 3}, "unit", "Is it reflectance?"),
        ({"values": [[-9999.0] * 10] * 3}, "values", "no-data"),
        ({"values": [[65536.0] * 10] * 3}, "values", "no-data"),
        ({"values": [[float("nan")] + [100.0] * 9] * 3}, "values[0]", "not finite"),
        ({"values": [[100.0] * 9] * 3}, "values", "3 rows of 9"),
        ({"values": [[100.0] * 10] * 2}, "values", "2 rows of 10"),
        ({"values": [[100.0] * 10, [100.0] * 9, [100.0] * 10]}, "values", "not a table"),
        ({"values": [["a"] * 10] * 3}, "values", "not a table"),
        ({"dates": ["2024-03-01", "2024-03-02", "2024-03-01"]}, "dates[2]", "twice"),
        ({"dates": ["2024-03-01", "2024-03-02", "2025-01-01"]}, "dates[2]", "outside the window"),
        ({"dates": ["2024-03-01", "2024-03-02", "2024-02-30"]}, "dates[2]", "not a date"),
        ({"mask": None}, "", "either mask or scl"),
        ({"scl": [4, 4, 4]}, "", "either mask or scl"),
        ({"mask": [True]}, "mask", "1 entries for 3"),
        ({"mask": [1, 1, 2]}, "mask", "0..1"),
        ({"mask": None, "scl": [4, 4, 12]}, "scl", "0..11"),
    ],
)
def test_each_mistake_in_an_optical_series_has_its_own_message(changes, field, says):
    with pytest.raises(InvalidInput) as caught:
        from_json([PixelSeries(s2()), PixelSeries(s2(**changes))], YEAR)
    assert caught.value.field == f"pixels[1].s2{'.' if field else ''}{field}"
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"unit": "watt"}, "unit", "not a unit"),
        ({"values": [(6000, 3400)] * 2}, "unit", "looks like power or scaled"),
        ({"values": [(-9999, -9999)] * 2}, "unit", "no-data"),
        ({"unit": "power"}, "unit", "looks like db"),
        ({"unit": "power", "values": [(6000, 3400)] * 2}, "unit", "looks like scaled"),
        ({"unit": "scaled"}, "unit", "looks like db"),
        ({"unit": "scaled", "values": [(0.1, 0.02)] * 2}, "unit", "looks like power"),
        ({"orbit": "up"}, "orbit", "orbit"),
        ({"dates": ["2024-01-05", "2024-01-05"]}, "dates[1]", "twice"),
        ({"values": [(-10,), (-9,)]}, "values", "2 rows of 1"),
        ({"values": [(-10, float("inf")), (-9, -15)]}, "values[0]", "not finite"),
    ],
)
def test_each_mistake_in_a_radar_series_has_its_own_message(changes, field, says):
    with pytest.raises(InvalidInput) as caught:
        from_json([PixelSeries(s2(), (s1(**changes),))], YEAR)
    assert caught.value.field == f"pixels[0].s1[0].{field}"
    assert says in str(caught.value)


def test_an_orbit_twice_no_sensor_and_no_pixels():
    with pytest.raises(InvalidInput, match="comes twice"):
        from_json([PixelSeries(None, (s1(), s1()))], YEAR)
    with pytest.raises(InvalidInput, match="neither sensor"):
        from_json([PixelSeries()], YEAR)
    with pytest.raises(InvalidInput, match="at least one"):
        from_json([], YEAR)


def test_dates_across_the_turn_of_the_year():
    window = Window(dt.date(2023, 9, 1), dt.date(2024, 8, 30))
    d, _ = from_json([PixelSeries(s2(dates=["2023-12-31", "2024-01-01", dt.date(2024, 2, 29)]))], window)
    assert d.s2_doy[0].tolist() == [365, 1, 60]


def test_backscatter_is_scaled_as_published():
    power = np.array([0.05, 0.1, 0.5, 1.0, 10.0, 10**-2.5, 0.01, 0.0])[:, None].repeat(2, axis=1)
    stored = s1_stored(power, "power")[:, 0]
    assert stored.tolist() == [4795, 6000, 8795, 10000, 14000, 0, 2000, 0]
    assert (s1_stored(np.array([[-10.0, -20.0]]), "db") == s1_stored(np.array([[0.1, 0.01]]), "power")).all()
    assert s1_stored(np.array([[100.0, 20.0]]), "power").tolist() == [[18000, 15204]]


# --- a real pixel


def real_pixel(data: Path, bands=None):
    doc = json.loads((data / "tessera-pixel" / "dpixel.json").read_text())
    names = [f"B{name[1:]:0>2}" for name in doc["bands"]]
    values = [row["b"] for row in doc["s2"]]
    if bands:
        values = [[row[names.index(name)] for name in bands] for row in values]
    optical = S2Series(
        bands or names, [r["d"] for r in doc["s2"]], "reflectance", values, scl=[r["scl"] for r in doc["s2"]]
    )
    radar = []
    for letter, orbit in (("a", "ascending"), ("d", "descending")):
        rows = [row for row in doc["s1"] if row["o"] == letter]
        radar.append(S1Series(orbit, [r["d"] for r in rows], "db", [(r["vv"], r["vh"]) for r in rows]))
    return PixelSeries(optical, tuple(radar)), doc


def test_the_real_pixel_is_counted_as_published(real_data):
    pixel, doc = real_pixel(real_data)
    d, reordered = from_json([pixel], Window.year(2025))
    seen = counts(d)
    assert reordered
    assert (seen.s2[0], seen.s1_asc[0], seen.s1_desc[0]) == (70, 100, 98)
    assert d.s2_valid[0].tolist() == [row["scl"] not in (0, 1, 2, 3, 8, 9) for row in doc["s2"]]
    same, reordered = from_json([real_pixel(real_data, BANDS)[0]], Window.year(2025))
    assert not reordered
    assert (same.s2 == d.s2).all()


# --- NPZ


def packed(held, save=np.savez_compressed):
    body = io.BytesIO()
    save(body, **held)
    body.seek(0)
    return body


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_round_trips(tmp_path, save):
    held = arrays()
    held["bands"] = np.asfortranarray(held["bands"])
    back = load_npz(packed(held, save), LIMITS)
    assert all((back[name] == held[name]).all() for name in held)
    (tmp_path / "in.npz").write_bytes(packed(held, save).read())
    assert (load_npz(tmp_path / "in.npz", LIMITS)["bands"] == held["bands"]).all()
    assert np.shares_memory(from_arrays(back).s2, back["bands"])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_npz_is_refused(share):
    whole = packed(arrays()).read()
    with pytest.raises(InvalidInput):
        load_npz(io.BytesIO(whole[: int(len(whole) * share)]), LIMITS)


def test_every_damaged_byte_is_refused_or_harmless():
    whole = packed(arrays(1, 1, 2, 1, 1)).read()
    want = load_npz(io.BytesIO(whole), LIMITS)
    for at in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[at] ^= 0x55
        try:
            back = load_npz(io.BytesIO(bytes(broken)), LIMITS)
        except InvalidInput:
            continue
        assert all((back[name] == want[name]).all() for name in want)


def test_pickles_are_never_loaded():
    held = arrays() | {"doys": np.array([{}, print, 1, 2], dtype=object)}
    with pytest.raises(InvalidInput, match="plain numbers"):
        load_npz(packed(held), LIMITS)


def test_unexpected_or_repeated_members_are_refused():
    with pytest.raises(InvalidInput, match="does not belong"):
        load_npz(packed(arrays() | {"notes": np.zeros(3)}), LIMITS)
    body = packed(arrays())
    with zipfile.ZipFile(body, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("bands.npy", b"x")
    body.seek(0)
    with pytest.raises(InvalidInput, match="twice"):
        load_npz(body, LIMITS)


class Unreadable(io.BytesIO):
    """Counts what is read, to show that nothing large was."""

    total = 0

    def read(self, size=-1):
        out = super().read(size)
        self.total += len(out)
        return out


def test_too_many_pixels_or_bytes_are_refused_before_unpacking():
    body = Unreadable(packed(arrays(50, 60, 40), np.savez).read())
    with pytest.raises(LimitExceeded, match="3,000 pixels"):
        load_npz(body, UploadLimits(2_999, 10_000_000))
    assert body.total < 200_000
    with pytest.raises(LimitExceeded, match="bytes allowed"):
        load_npz(body, UploadLimits(10_000, 1_000_000))


def test_a_bomb_is_refused_by_its_ratio():
    held = arrays(1, 1, 1) | {"bands": np.zeros((20, 200, 250, 10), np.uint16)}
    body = packed(held)
    assert len(body.getvalue()) < 100_000
    with pytest.raises(LimitExceeded, match="times its size"):
        load_npz(body, UploadLimits(10**6, 10**9))


def test_a_header_that_promises_more_than_is_there():
    held = packed(arrays(), np.savez).read()
    lied = held.replace(b"(4, 2, 3, 10)", b"(9, 2, 3, 10)")
    with pytest.raises(InvalidInput):
        load_npz(io.BytesIO(lied), LIMITS)


def test_a_name_that_is_not_the_text_it_is_flagged_as():
    whole = bytearray(packed(arrays(), np.savez).read())
    entry = whole.index(b"PK\x01\x02")
    whole[entry + 9] |= 0x08  # general purpose bit 11: the name is UTF-8
    whole[entry + 46] = 0xFF
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_npz(io.BytesIO(bytes(whole)), LIMITS)


def test_a_member_shorter_than_it_promises():
    """Its checksum is right and so is its header: only the bytes are missing."""
    whole = packed(arrays()).read()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        raw = {info.filename: archive.read(info) for info in archive.infolist()}
    size, cut = len(raw["bands.npy"]), raw["bands.npy"][:-2]
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in raw.items():
            archive.writestr(name, cut if name == "bands.npy" else content)
    lied = body.getvalue().replace(len(cut).to_bytes(4, "little"), size.to_bytes(4, "little"))
    with pytest.raises(InvalidInput, match="bytes promised") as caught:
        load_npz(io.BytesIO(lied), LIMITS)
    assert caught.value.field == "bands"


@pytest.mark.parametrize("header", ["{'descr': (", "{1: 2, 'a': 3}", "{[]: 1}", "  x\\n y\\n  z\\n"])
def test_a_header_that_is_no_header(header):
    raw = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("bands.npy", raw)
    with pytest.raises(InvalidInput, match=r"not an \.npy array") as caught:
        load_npz(body, LIMITS)
    assert caught.value.field == "bands"
