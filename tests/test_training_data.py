"""Training pixels: records, tile folders, the shuffle on disk, views."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from service.dpixels import from_arrays  # noqa: E402
from service.errors import Conflict, Corrupt, InvalidInput, NotFound  # noqa: E402
from service.families import FAMILIES  # noqa: E402
from service.simulate import Landscape  # noqa: E402
from service.training import shards, sources, views  # noqa: E402
from service.training.data import simulated_dpixels, training_series  # noqa: E402
from service.training.folders import find_tiles, read_tile  # noqa: E402
from service.training.recipes import SIZES, Recipe  # noqa: E402
from service.training.records import record_type, stream, to_dpixels, to_records  # noqa: E402

STATISTICS = FAMILIES["tessera-v2"].statistics
KIND = record_type(146, 128)
RECIPE = Recipe(SIZES["small"], steps=9, min_s2=0, min_s1=0)


def tile(folder: Path, seed: int, side: int = 12, **changes) -> Path:
    folder.mkdir(parents=True)
    for name, array in (Landscape(seed, side, side).dpixels(2023) | changes).items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for seed in range(3):
        tile(tmp_path / "data" / f"{seed}_0_12_12", seed)
    return tmp_path / "data"


def rows_of(records) -> list[bytes]:
    return sorted(record.tobytes() for record in records)


# --- records


def test_records_keep_what_is_valid_and_only_that():
    d = from_arrays(Landscape(5, 8, 8).dpixels(2023))
    records = to_records(d, KIND)
    back = to_dpixels(records)
    for name in ("s2", "s1_asc", "s1_desc"):
        for i in range(len(d)):
            ours, theirs = getattr(back, f"{name}_valid")[i], getattr(d, f"{name}_valid")[i]
            assert np.array_equal(getattr(back, name)[i][ours], getattr(d, name)[i][theirs])
            assert np.array_equal(getattr(back, f"{name}_doy")[i][ours], getattr(d, f"{name}_doy")[i][theirs])
            assert records[f"{name}_n"][i] == theirs.sum()


def test_too_many_dates_are_thinned_evenly():
    d = from_arrays(Landscape(5, 4, 4).dpixels(2023))
    records = to_records(d, record_type(7, 3))
    assert records["s2_n"].max() == 7
    assert records["s1_asc_n"].max() == 3
    pixel = int(np.argmax(d.s2_valid.sum(axis=1)))
    days = d.s2_doy[pixel][d.s2_valid[pixel]]
    kept = records["s2_doy"][pixel]
    assert (kept[0], kept[-1]) == (days[0], days[-1])
    assert (np.diff(kept) > 0).all()
    assert set(kept) <= set(days)


def test_simulated_pixels_are_the_same_in_memory_and_on_disk():
    series = training_series(300, 7, STATISTICS)
    records = to_records(next(simulated_dpixels(300, 7)), record_type(64, 36))
    for sensor, ours in (("s2", stream(records, "s2", STATISTICS)), ("s1", stream(records, "s1", STATISTICS))):
        values, doy, valid = ours
        theirs = getattr(series, f"{sensor}_valid")
        assert np.array_equal(values[valid], getattr(series, sensor)[theirs])
        assert np.array_equal(doy[valid], getattr(series, f"{sensor}_doy")[theirs])


# --- folders


def test_every_pixel_of_every_folder_is_read(folders):
    tiles = find_tiles([folders, folders / "1_0_12_12"])
    assert [t.path.name for t in tiles] == ["0_0_12_12", "1_0_12_12", "2_0_12_12"]
    read = [np.concatenate(list(read_tile(t, KIND, min_s2=0, min_s1=0, spacing=1))) for t in tiles]
    for seed, records in enumerate(read):
        assert np.array_equal(records, to_records(from_arrays(Landscape(seed, 12, 12).dpixels(2023)), KIND))


def test_pixels_with_few_dates_are_left_out_and_spacing_thins(folders):
    (one,) = find_tiles([folders / "0_0_12_12"])
    every = np.concatenate(list(read_tile(one, KIND, min_s2=0, min_s1=0, spacing=1)))
    least = int(np.median(every["s2_n"]))
    some = np.concatenate(list(read_tile(one, KIND, min_s2=least, min_s1=0, spacing=1)))
    assert 0 < len(some) < len(every)
    assert np.array_equal(some, every[every["s2_n"] >= least])
    none = np.concatenate(list(read_tile(one, KIND, min_s2=0, min_s1=500, spacing=1)))
    assert len(none) == 0
    spaced = np.concatenate(list(read_tile(one, KIND, min_s2=0, min_s1=0, spacing=5)))
    assert np.array_equal(spaced, every.reshape(12, 12)[::5, ::5].ravel())
    assert len(spaced) == one.pixels(5)


def test_an_orbit_without_passes_and_older_day_types(tmp_path):
    none = np.zeros((0, 12, 12, 2), np.int16)
    made = tile(tmp_path / "t", 1, sar_descending=none, sar_descending_doy=np.zeros(0, np.int32))
    records = np.concatenate(list(read_tile(find_tiles([made])[0], KIND, min_s2=0, min_s1=0, spacing=1)))
    assert records["s1_desc_n"].max() == 0
    assert records["s1_asc_n"].min() > 0


def test_folders_that_are_none_are_refused(tmp_path, folders):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="no d-pixel tile folders"):
        find_tiles([folders, tmp_path / "empty"])
    (folders / "1_0_12_12" / "masks.npy").unlink()
    with pytest.raises(InvalidInput, match=r"1_0_12_12/masks\.npy: is missing"):
        find_tiles([folders])


def test_arrays_that_are_wrong_are_named(tmp_path):
    np.save(tmp_path / "x.npy", np.array([object()]), allow_pickle=True)
    pickled = tile(tmp_path / "pickled", 0)
    (tmp_path / "x.npy").rename(pickled / "doys.npy")
    with pytest.raises(InvalidInput, match=r"doys\.npy: cannot be read"):
        find_tiles([pickled])
    short = tile(tmp_path / "short", 0)
    (short / "bands.npy").write_bytes((short / "bands.npy").read_bytes()[:5000])
    with pytest.raises(InvalidInput, match=r"bands\.npy: cannot be read"):
        find_tiles([short])
    made = tile(tmp_path / "days", 0, sar_ascending_doy=np.zeros(31, np.int16))
    with pytest.raises(InvalidInput, match="sar_ascending_doy"):
        list(read_tile(find_tiles([made])[0], KIND, min_s2=0, min_s1=0, spacing=1))


# --- shuffling


def test_the_shuffle_loses_nothing_and_depends_on_the_seed_alone(tmp_path):
    parts = [to_records(d, record_type(64, 36)) for d in simulated_dpixels(700, 3)]
    parts = [parts[0][:500], parts[0][500:]]
    size = parts[0].dtype.itemsize
    made = [
        shards.write(iter(parts), 700, tmp_path / name, seed, {"of": 1}, shard_bytes=100 * size)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    whole = [np.concatenate([s.read(i) for i in range(len(s.counts))]) for s in made]
    assert len(made[0].counts) == 7
    assert len(made[0]) == 700
    assert all(rows_of(w) == rows_of(np.concatenate(parts)) for w in whole)
    assert np.array_equal(whole[0], whole[1])
    assert not np.array_equal(whole[0], whole[2])
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"shards.json", *(f"pixels-{i:05d}.npy" for i in range(7))}
    first = {record.tobytes(): i for i, record in enumerate(np.concatenate(parts))}
    order = np.array([first[record.tobytes()] for record in whole[0]])
    assert abs(np.corrcoef(order, np.arange(700))[0, 1]) < 0.15  # neighbours of one part are far apart
    assert abs(np.corrcoef(order[:100], np.arange(100))[0, 1]) < 0.4


def test_shuffling_holds_one_shard_at_a_time(tmp_path):
    part = to_records(next(simulated_dpixels(400, 3)), record_type(64, 36))
    whole = 50 * part.nbytes
    tracemalloc.start()
    made = shards.write((part for _ in range(50)), 20_000, tmp_path / "a", 1, {}, shard_bytes=1_000_000)
    reader = shards.Reader(made, 256, seed=1)
    for step in range(40):
        reader.rows(step)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(made) == 20_000
    assert whole > 30_000_000
    assert most < 9_000_000


def test_batches_cover_every_pass_and_can_begin_anywhere(tmp_path):
    records = to_records(next(simulated_dpixels(210, 3)), record_type(64, 36))
    made = shards.write([records], 210, tmp_path / "a", 1, {}, shard_bytes=50 * records.dtype.itemsize)
    reader = shards.Reader(made, 30, seed=4)
    batches = [reader.rows(step)[0] for step in range(14)]
    for turn in (batches[:7], batches[7:]):
        assert rows_of(np.concatenate(turn)) == rows_of(records)
    assert rows_of(batches[0]) != rows_of(batches[7])
    again = shards.Reader(made, 30, seed=4)
    assert np.array_equal(again.rows(9)[0], batches[9])
    with pytest.raises(Conflict, match="a batch of 211"):
        shards.Reader(made, 211, seed=4)


def test_half_a_shuffle_is_made_anew_and_another_is_refused(tmp_path):
    recipe = replace(RECIPE, pixels=120)
    (tmp_path / "p.part").mkdir()
    (tmp_path / "p.part" / "00000").write_bytes(b"torn")
    first = sources.shuffled(recipe, (), tmp_path / "p", 1)
    assert len(first) == 120
    seen = [first.read(0)[name] for name in ("s2_n", "s1_asc_n", "s1_desc_n")]
    enough = int(((seen[0] >= 20) & (seen[1] + seen[2] >= 30)).sum())
    assert len(sources.shuffled(replace(recipe, min_s2=20, min_s1=30), (), tmp_path / "few", 1)) == enough < 120
    stamp = first.path(0).stat().st_mtime_ns
    assert sources.shuffled(recipe, (), tmp_path / "p", 1).path(0).stat().st_mtime_ns == stamp
    with pytest.raises(Conflict, match=r"other pixels \(simulated differ"):
        sources.shuffled(replace(recipe, pixels=121), (), tmp_path / "p", 1)
    first.path(0).write_bytes(first.path(0).read_bytes()[:-100])
    with pytest.raises(Corrupt, match=r"pixels-00000\.npy cannot be read"):
        first.read(0)


def test_folders_are_shuffled_together(folders, tmp_path):
    found = sources.shuffled(RECIPE, [folders], tmp_path / "p", 1)
    whole = np.concatenate([found.read(i) for i in range(len(found.counts))])
    kind = whole.dtype
    wanted = [to_records(from_arrays(Landscape(seed, 12, 12).dpixels(2023)), kind) for seed in range(3)]
    assert rows_of(whole) == rows_of(np.concatenate(wanted))
    tile(folders / "3_0_12_12", 3)
    with pytest.raises(Conflict, match="other pixels"):
        sources.shuffled(RECIPE, [folders], tmp_path / "p", 1)
    with pytest.raises(InvalidInput, match="no pixel with enough valid dates"):
        sources.shuffled(replace(RECIPE, min_s2=140), [folders], tmp_path / "q", 1)


def test_data_that_the_statistics_cannot_be_of_are_refused(tmp_path):
    arrays = Landscape(0, 12, 12).dpixels(2023)
    offset = tile(tmp_path / "offset", 0, bands=np.minimum(arrays["bands"] * 5 + 9000, 65535).astype(np.uint16))
    with pytest.raises(InvalidInput, match=r"statistics: band \d+ of s2 .* deviations"):
        sources.shuffled(RECIPE, [offset], tmp_path / "p", 1)
    assert not (tmp_path / "p").exists()
    decibel = tile(tmp_path / "db", 0, sar_ascending=(arrays["sar_ascending"] // 500).astype(np.int16))
    with pytest.raises(InvalidInput, match="of s1_asc"):
        sources.shuffled(RECIPE, [decibel], tmp_path / "q", 1)


# --- views


def test_the_v1_rule_draws_forty_valid_dates_in_order():
    rng = np.random.default_rng(0)
    counts = np.array([0, 1, 39, 40, 41, 90])
    valid = np.zeros((6, 90), bool)
    for row, n in zip(valid, counts, strict=True):
        row[rng.permutation(90)[:n]] = True
    places = views.drawn(valid, 40, rng)
    assert places.shape == (6, 40)
    assert (np.diff(places, axis=1) >= 0).all()
    assert all(valid[i, places[i]].all() for i in range(1, 6))
    distinct = [len(set(row)) for row in places]
    assert distinct[3:] == [40, 40, 40]  # without replacement where there are enough
    assert distinct[1] == 1
    assert 15 < distinct[2] < 35  # with replacement below: about 1 - 1/e of 39
    assert set(places[3]) == set(np.flatnonzero(valid[3]))
    few = views.drawn(valid[:, :30], 40, rng)
    assert few.shape == (6, 40)


def test_every_valid_date_is_drawn_equally_often():
    rng = np.random.default_rng(1)
    valid = np.zeros((4000, 12), bool)
    valid[:, ::2] = True
    for n in (4, 9):  # without and with replacement
        share = np.bincount(views.drawn(valid, n, rng).ravel(), minlength=12) / (4000 * n)
        assert np.allclose(share, [1 / 6, 0] * 6, atol=0.01)


def test_views_hold_standardised_values_and_a_missing_sensor_is_one_token_of_zeros():
    records = to_records(from_arrays(Landscape(5, 6, 6).dpixels(2023)), KIND)
    records["s1_asc_n"][:2] = 0
    records["s1_desc_n"][:2] = 0
    s2, s1 = (stream(records, sensor, STATISTICS) for sensor in ("s2", "s1"))
    made = views.view(s2, s1, "drawn", (40, 40), np.random.default_rng(0))
    assert made.s2.shape == (36, 40, 10)
    assert made.s2_logm is None
    assert (made.s1[:2] == 0).all()
    assert (made.s1_doy[:2] == 0).all()
    back = made.s2.numpy() * np.array(STATISTICS.s2_std) + np.array(STATISTICS.s2_mean)
    for i in range(36):
        held = {(int(d), *v) for d, v in zip(records["s2_doy"][i], records["s2"][i].tolist(), strict=True)}
        for day, values in zip(made.s2_doy[i], back[i], strict=True):
            assert (int(day), *np.rint(values).astype(int).tolist()) in held
    every = views.view(s2, s1, "all", (1, 1), np.random.default_rng(0))
    assert torch.equal((every.s2_logm == 0).sum(dim=1), torch.from_numpy(records["s2_n"].astype(np.int64)))
    assert (every.s1_logm[:2] == 0).sum(dim=1).tolist() == [1, 1]
    sparse = views.view(s2, s1, "sparse", (9, 5), np.random.default_rng(0))
    assert sparse.s2.shape[1] == 9
    assert ((sparse.s2_logm == 0).sum(dim=1).numpy() == np.minimum(records["s2_n"], 9)).all()


def test_two_views_of_a_batch_are_drawn_independently_and_a_step_is_always_the_same(tmp_path):
    found = sources.shuffled(replace(RECIPE, pixels=64), (), tmp_path / "p", 1)
    recipe = replace(RECIPE, batch=16)
    source = sources.Streamed(found, recipe, 9)
    batches = [source.batch(step) for step in range(6)]
    assert not torch.equal(batches[0].one.s2_doy, batches[0].two.s2_doy)
    assert 0 <= float(batches[0].alpha) < 1
    assert sorted(batches[0].order.tolist()) == list(range(16))
    again = sources.Streamed(found, recipe, 9).batch(5)
    assert torch.equal(again.one.s2, batches[5].one.s2)
    assert torch.equal(again.order, batches[5].order)
    assert not torch.equal(sources.Streamed(found, recipe, 8).batch(5).order, batches[5].order)
