"""Layouts that others write, made here with zarr and icechunk alone: never through our own writers."""

from __future__ import annotations

import warnings
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from service.errors import Corrupt, IdentityMismatch, InvalidInput, NotFound
from service.grid import Block, Zone
from service.store import Store, open_store
from service.store.export import export_geoemb
from service.values import NOT_EMBEDDED, REJECTED, VALID, WATER, ModelIdentity, Window
from tests.stores import tiny_archive

MODEL = ModelIdentity("tessera", "2.0", "2b-l~beta1")
Y23, Y24 = Window.year(2023), Window.year(2024)
DIMS = 32  # the published stores have 128; nothing depends on it
LEFT, TOP, SIDE = 500_000.0, 1_600.0, 512  # 160 rows north of the equator, 352 south of it


def published(path: Path, years: tuple[int, ...] = (2023, 2024)) -> tuple[np.ndarray, np.ndarray]:
    """A store in the published layout over the equator in zone 33; its codes (t, d, y, x) and scales (t, y, x)."""
    rng = np.random.default_rng(5)
    codes = rng.integers(-127, 128, (len(years), DIMS, SIDE, SIDE)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (len(years), SIDE, SIDE)).astype(np.float32)
    scales[:, 10:20, 30:60] = np.nan  # water
    scales[:, 400:, 300:] = np.inf  # not written
    scales[0, 5, 5], scales[0, 5, 6] = 3e38, 0.0
    root = zarr.open_group(path, mode="w", zarr_format=3)
    root.attrs.update(
        {
            "geoemb:type": "pixel",
            "geoemb:dimensions": DIMS,
            "geoemb:model": "https://geotessera.org/model/v2",
            "geoemb:depths": [
                {"dimensions": 16, "array": "embeddings_d16"},
                {"dimensions": DIMS, "array": "embeddings"},
            ],
        }
    )
    group = root.create_group("utm33")
    group.attrs.update(
        {
            "proj:code": "EPSG:32633",
            "spatial:transform": [10.0, 0.0, LEFT, 0.0, -10.0, TOP],
            "spatial:shape": [SIDE, SIDE],
            "spatial:dimensions": ["y", "x"],
        }
    )
    blosc = (BloscCodec(cname="zstd", clevel=3),)
    for name, bands, inner in (("embeddings", DIMS, 32), ("embeddings_d16", 16, 64)):
        array = group.create_array(
            name,
            shape=(len(years), bands, SIDE, SIDE),
            dtype="int8",
            chunks=(1, bands, inner, inner),
            shards=(1, bands, 256, 256),
            compressors=blosc,
            fill_value=0,
        )
        array[:] = codes[:, :bands]
    array = group.create_array(
        "scales",
        shape=scales.shape,
        dtype="float32",
        chunks=(1, 32, 32),
        shards=(1, 256, 256),
        compressors=blosc,
        fill_value=np.inf,
    )
    array[:] = scales
    group.create_array("time", data=np.array(years, np.int32))
    group.create_array("y", data=TOP - 10 * (np.arange(SIDE) + 0.5))
    group.create_array("x", data=LEFT + 10 * (np.arange(SIDE) + 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(root.store)
    return codes, scales


def agrees(store: Store, codes: np.ndarray, scales: np.ndarray, nan: int) -> None:
    """Every pixel of both hemispheres and both years, by window and by point."""
    north, south = Zone(33), Zone(33, south=True)
    for time, window in enumerate((Y23, Y24)):
        for zone, rows in ((north, slice(0, 160)), (south, slice(160, SIDE))):
            want = np.full((SIDE, SIDE), VALID)
            want[np.isnan(scales[time])] = nan
            want[np.isposinf(scales[time])] = NOT_EMBEDDED
            want[(scales[time] >= 1) & np.isfinite(scales[time]) | (scales[time] == 0)] = REJECTED
            want = want[rows]
            found = store.read(zone, window, slice(0, rows.stop - rows.start), slice(0, SIDE))
            np.testing.assert_array_equal(found.status, want)
            np.testing.assert_array_equal(
                found.codes[found.valid], np.moveaxis(codes[time], 0, -1)[rows][want == VALID]
            )
            np.testing.assert_array_equal(found.scales[found.valid], scales[time, rows][want == VALID])
            assert not found.codes[~found.valid].any()
            assert not found.scales[~found.valid].any()
            points = np.random.default_rng(1).integers(0, 160, (2, 30))
            single = store.sample(zone, window, *points)
            np.testing.assert_array_equal(single.codes, found.codes[tuple(points)])
            np.testing.assert_array_equal(single.status, found.status[tuple(points)])


@pytest.fixture(scope="module")
def geoemb(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    path = tmp_path_factory.mktemp("published") / "v2.zarr"
    return path, *published(path)


def test_a_published_store(geoemb: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, codes, scales = geoemb
    store = open_store(path, identity=MODEL)
    assert not store.writable
    assert (store.identity, store.dims, store.depths) == (MODEL, DIMS, (16, DIMS))
    assert (store.windows(), store.levels()) == ((Y23, Y24), (1,))
    agrees(store, codes, scales, WATER)
    prefix = store.read(Zone(33), Y24, slice(0, 90), slice(0, 90), dims=16)
    np.testing.assert_array_equal(prefix.codes[prefix.valid], np.moveaxis(codes[1, :16], 0, -1)[:90, :90][prefix.valid])
    with pytest.raises(InvalidInput, match="8 dimensions"):
        store.read(Zone(33), Y24, slice(0, 9), slice(0, 9), dims=8)
    with pytest.raises(NotFound, match="2020"):
        store.read(Zone(33), Window.year(2020), slice(0, 9), slice(0, 9))
    with pytest.raises(NotFound, match="34N"):
        store.read(Zone(34), Y24, slice(0, 9), slice(0, 9))
    revision, strong = store.revision()
    assert not strong
    assert not store.refresh()
    assert store.revision()[0] == revision == store.versions(Y24, [Block("33N", 0, 0)])[Block("33N", 0, 0)]


def test_a_store_that_changed_is_noticed_at_the_next_look(tmp_path: Path) -> None:
    published(tmp_path / "v2.zarr")
    store = open_store(tmp_path / "v2.zarr", identity=MODEL)
    before = store.revision()
    scales = zarr.open_group(tmp_path / "v2.zarr", mode="r+", use_consolidated=False)["utm33/scales"]
    scales[0, :32, :32] = np.inf  # type: ignore[index]
    assert not store.refresh()
    store.recheck_after = 0.0  # type: ignore[attr-defined]
    assert store.refresh()
    assert store.revision() != before
    assert not store.read(Zone(33), Y23, slice(0, 32), slice(0, 32)).valid.any()


def test_southern_places_lie_on_a_grid_of_their_own(geoemb: tuple[Path, np.ndarray, np.ndarray]) -> None:
    north, south = open_store(geoemb[0], identity=MODEL).zones()
    assert (north.zone, south.zone) == (Zone(33), Zone(33, south=True))
    assert (north.height, south.height, south.y0, south.epsg) == (160, 352, 0.0, 32633)
    lon, lat = south.to_lonlat(np.array([0.5, 351.5]), np.array([0.5, 511.5]))
    assert (lat < 0).all()
    assert lat[0] == pytest.approx(-5 / 110_574, rel=0.01)
    assert [Zone.of(a, b) for a, b in zip(lon, lat, strict=True)] == [south.zone] * 2
    assert south.cell(float(lon[1]), float(lat[1])) == (351, 511)


def test_blocks_are_those_that_hold_something(geoemb: tuple[Path, np.ndarray, np.ndarray]) -> None:
    found = open_store(geoemb[0], identity=MODEL).blocks(Y24)
    assert found == tuple(
        [Block("33N", 0, 0), Block("33N", 0, 1)] + [Block("33S", row, col) for row in (0, 1) for col in (0, 1)]
    )  # in 33S block (1, 1) only its left 44 columns are written
    assert open_store(geoemb[0], identity=MODEL).blocks(Y24) == found


def test_the_model_must_be_known(geoemb: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="which model"):
        open_store(geoemb[0])
    tiny = tiny_archive(tmp_path)
    export_geoemb(tiny.store, tmp_path / "out.zarr", shard=256)
    assert open_store(tmp_path / "out.zarr").identity == tiny.store.identity
    with pytest.raises(IdentityMismatch, match="tiny@1/test"):
        open_store(tmp_path / "out.zarr", identity=MODEL)


def test_what_we_export_we_read_again(tmp_path: Path) -> None:
    tiny = tiny_archive(tmp_path, zone="56S")
    tiny.vectors.status[:20] = WATER
    seen: list[tuple[int, int]] = []
    path = export_geoemb(
        tiny.store, tmp_path / "out.zarr", shard=128, on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1] == len(seen)
    store = open_store(path)
    (grid,) = store.zones()
    lon, lat = tiny.lonlat(0, 0)
    row, col = grid.cell(lon, lat)
    height, width = tiny.vectors.status.shape
    found = store.read(grid.zone, tiny.window, slice(row, row + height), slice(col, col + width))
    stored = tiny.store.read(grid.zone, tiny.window, tiny.rows, tiny.cols)
    for name in ("codes", "scales", "status"):
        np.testing.assert_array_equal(getattr(found, name), getattr(stored, name))
    for wrong in ({"path": path}, {"depths": (128,)}, {"shard": 100}):
        with pytest.raises(InvalidInput):
            export_geoemb(tiny.store, **({"path": tmp_path / "other"} | wrong))  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="2023"):
        export_geoemb(tiny.store, tmp_path / "other", windows=[Y23])
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".tmp") == []


@pytest.mark.parametrize("damage", ["root", "zone", "array", "shard", "json"])
def test_a_published_store_cut_short_names_what_is_wrong(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "v2.zarr"
    published(path)
    if damage == "shard":
        shard = path / "utm33/scales/c/1/0/0"
        shard.write_bytes(shard.read_bytes()[:1000])
        store = open_store(path, identity=MODEL)
        with pytest.raises(Corrupt, match="utm33/scales, chunk 1/0/"):
            store.read(Zone(33), Y24, slice(0, 99), slice(0, 99))
        assert store.read(Zone(33), Y23, slice(0, 99), slice(0, 99)).valid.any()
        return
    gone = {"root": "zarr.json", "zone": "utm33/zarr.json", "array": "utm33/embeddings/zarr.json"}
    if damage == "json":
        (path / "zarr.json").write_text('{"zarr_format": 3, "node_ty')
    else:
        (path / gone[damage]).unlink()
    named = {"root": r"zarr\.json", "zone": "utm33", "array": "utm33/embeddings", "json": r"zarr\.json"}
    with pytest.raises(Corrupt, match=named[damage]):
        open_store(path, identity=MODEL)


@pytest.mark.parametrize("attributes", [{"geoemb:dimensions": "many"}, {"tessera:year": "last"}])
def test_metadata_that_makes_no_sense_is_an_error_of_ours(tmp_path: Path, attributes: dict[str, str]) -> None:
    """Any other would take the whole catalogue down."""
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3, attributes=attributes)
    with pytest.raises(Corrupt, match=r"a\.zarr"):
        open_store(tmp_path / "a.zarr", identity=MODEL)


def foreign_archive(path: Path, *, shards: bool, encoding: str) -> tuple[np.ndarray, np.ndarray]:
    """A repository as the global archive's makers write it: no status or versions, their own chunks and origin."""
    rng = np.random.default_rng(6)
    codes = rng.integers(-127, 128, (2, DIMS, SIDE, SIDE)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (2, SIDE, SIDE)).astype(np.float32)
    scales[:, 10:20, 30:60] = np.nan
    scales[:, 416:, 320:] = np.nan
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
    session = repo.writable_session("main")
    root = zarr.create_group(session.store, attributes={"geoemb:dimensions": DIMS})
    for name, rows, top, epsg in (("33N", slice(0, 160), TOP, 32633), ("33S", slice(160, SIDE), 10_000_000.0, 32733)):
        height = rows.stop - rows.start
        group = root.create_group(name)
        group.attrs.update(
            {
                "proj:code": f"EPSG:{epsg}",
                "spatial:transform": [10.0, 0.0, LEFT, 0.0, -10.0, top],
                "spatial:shape": [height, SIDE],
                "spatial:dimensions": ["northing", "easting"],
                "years_complete": [2023, 2024],
            }
        )
        for array, values, fill in (
            ("embeddings", np.moveaxis(codes, 1, -1)[:, rows], 0),
            ("scales", scales[:, rows], np.nan),
            ("s2_obs_count", np.full((2, height, SIDE), 33, np.uint16), 0),
            ("s1_asc_obs_count", np.full((2, height, SIDE), 22, np.uint16), 0),
            ("s1_desc_obs_count", np.full((2, height, SIDE), 11, np.uint16), 0),
        ):
            tail = values.shape[3:]
            group.create_array(
                array,
                shape=values.shape,
                dtype=values.dtype,
                chunks=(1, 64, 64, *tail),
                shards=(1, 256, 256, *tail) if shards else None,
                fill_value=fill,
            )[:] = values
        years = np.array([2023, 2024], np.int64)
        if encoding == "years":
            group.create_array("time", data=years)
        else:
            since = (years - 1970).astype("datetime64[Y]").astype("datetime64[ns]").astype(np.int64)
            group.create_array("time", data=since).attrs["units"] = "nanoseconds since 1970-01-01"
    session.commit("made by others")
    return codes, scales


@pytest.mark.parametrize(("shards", "encoding"), [(True, "nanoseconds"), (False, "years")])
def test_a_repository_made_by_others(tmp_path: Path, shards: bool, encoding: str) -> None:
    codes, scales = foreign_archive(tmp_path / "global.icechunk", shards=shards, encoding=encoding)
    store = open_store(tmp_path / "global.icechunk", identity=MODEL)
    assert not store.writable
    assert (store.windows(), store.dims, store.levels()) == ((Y23, Y24), DIMS, (1,))
    agrees(store, codes, scales, NOT_EMBEDDED)
    assert store.counts(Zone(33), Y24, np.array([3]), np.array([4])).s1_asc.tolist() == [22]
    assert len(store.blocks(Y24)) == 6
    revision = store.revision()
    assert revision[1]
    assert set(store.versions(Y24, store.blocks(Y24)).values()) == {revision[0]}
    with pytest.raises(InvalidInput, match="which model"):
        open_store(tmp_path / "global.icechunk")


def test_a_repository_that_contradicts_itself(tmp_path: Path) -> None:
    foreign_archive(tmp_path / "global.icechunk", shards=False, encoding="years")
    repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "global.icechunk")))
    for change, where in (
        ({"spatial:transform": [20.0, 0.0, LEFT, 0.0, -20.0, TOP]}, "33N"),
        ({"spatial:shape": [99, 99], "spatial:transform": [10.0, 0.0, LEFT, 0.0, -10.0, TOP]}, "33N"),
    ):
        session = repo.writable_session("main")
        zarr.open_group(session.store, path="33N").attrs.update(change)
        session.commit("wrong")
        with pytest.raises(Corrupt, match=where):
            open_store(tmp_path / "global.icechunk", identity=MODEL)
