"""The published global archive: a small repository of its make, local and in a bucket, and stores in buckets."""

from __future__ import annotations

import io
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr
from zarr.codecs.numcodecs import PCodec

from api.settings import Settings
from service.bucket import open_bucket
from service.errors import Unavailable
from service.grid import Block, Zone
from service.store import create_store, open_store
from service.store import held as held_module
from service.store.records import Records
from service.values import NOT_EMBEDDED, VALID, WATER, ModelIdentity, Vectors
from tests.conftest import client_of
from tests.services import S3, moto_python, s3_server
from tests.stores import TINY, YEAR, archive_grid, blocks_from, corner, random_vectors, tiny_archive
from tests.test_store_published import MODEL, Y24, agrees, published

DCLIMATE = ModelIdentity("tessera", "1.1", "dclimate")
DIMS = 8
"""The published one has 128; nothing depends on it."""
SHARD, INNER, SIDE = 2048, 256, 4096
CODE = {"31N": 10, "32N": 100}
SCALE = 0.01
EDGE, LAT = 6.0, 45.0
"""Degrees: between the two zones, and where the data is."""


def global_copy(path: Path) -> None:
    """Two neighbouring groups that overlap by 20 km, each with one number everywhere; 2024 alone is complete."""
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
    session = repo.writable_session("main")
    root = zarr.create_group(session.store, attributes={"geoemb:dimensions": DIMS})
    for name, code in CODE.items():
        zone = Zone.parse(name)
        whole = archive_grid(zone)
        row, col = whole.cell(EDGE - 0.01 if name == "31N" else EDGE + 0.01, LAT)
        x0, y0 = whole.x0 + (col - SIDE // 2) * 10, whole.y0 - (row - SIDE // 2) * 10
        group = root.create_group(name)
        group.attrs.update(
            {
                "proj:code": f"EPSG:{32600 + zone.number}",
                "spatial:transform": [10.0, 0.0, x0, 0.0, -10.0, y0],
                "spatial:shape": [SIDE, SIDE],
                "spatial:dimensions": ["northing", "easting"],
                "years_complete": [2024],
            }
        )
        chunks, shards = (1, INNER, INNER), (1, SHARD, SHARD)
        codes = group.create_array(
            "embeddings",
            shape=(2, SIDE, SIDE, DIMS),
            dtype="int8",
            chunks=(*chunks, DIMS),
            shards=(*shards, DIMS),
            fill_value=0,
        )
        scales = group.create_array(
            "scales",
            shape=(2, SIDE, SIDE),
            dtype="float32",
            chunks=chunks,
            shards=shards,
            serializer=PCodec(level=8),
            compressors=None,
            fill_value=np.nan,
        )
        here = slice(SIDE // 2 - INNER, SIDE // 2 + INNER)
        codes[1, here, here] = code
        scales[1, here, here] = SCALE
        group.create_array("time", data=np.array([2023, 2024], np.int64))
    session.commit("made by others")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("global") / "dclimate.icechunk"
    global_copy(path)
    return path


def test_the_global_archive(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(archive, identity=DCLIMATE)
    assert store.windows() == (Y24,), "years that are not complete in any zone are none"
    middle = slice(SIDE // 2 - 10, SIDE // 2 + 10)
    read = store.read(Zone(31), Y24, middle, middle)
    assert (read.codes == 10).all()
    assert (read.scales == np.float32(SCALE)).all()
    assert (store.read(Zone(31), Y24, slice(0, 9), slice(0, 9)).status == NOT_EMBEDDED).all()
    assert store.blocks(Y24) == tuple(Block(zone, row, col) for zone in CODE for row in (7, 8) for col in (7, 8)), (
        "found in the shards' indexes"
    )
    # One that is too large to be gone through is everywhere on its grids, roughly by shards before that.
    monkeypatch.setattr(held_module, "INDEX_BYTES", 0)
    assert len(store.blocks(Y24)) == 2 * (SIDE // 256) ** 2
    monkeypatch.setattr(held_module, "MOST_BLOCKS", 100)
    settings = _settings(archive.parent / "huge", str(archive))
    with client_of(settings) as client:
        told = client.get("/datasets/global").json()
        assert told["bounds"][0] < EDGE < told["bounds"][2]
        assert client.get(f"/datasets/global/2024/point/{EDGE + 0.01},{LAT}").status_code == 200
        assert client.get("/datasets/global/2024/coverage").json()["kind"] == "limit-exceeded"


def _settings(home: Path, location: str, anonymous: bool = False) -> Settings:
    home.mkdir()
    entry = f'[[datasets]]\nid = "global"\nlocation = "{location}"\nmodel = "{DCLIMATE}"\n'
    (home / "smalti.toml").write_text(entry + ("anonymous = true\n" if anonymous else ""))
    return Settings(home=home, catalogue=home / "smalti.toml")


def test_where_groups_overlap_each_pixel_is_of_its_own_zone(archive: Path, tmp_path: Path) -> None:
    zoom, size = 13, 256
    n = 2**zoom
    x = int((EDGE + 180) / 360 * n)
    y = int((1 - np.arcsinh(np.tan(np.radians(LAT))) / np.pi) / 2 * n)
    with client_of(_settings(tmp_path / "home", str(archive))) as client:
        for tile in (x - 1, x):
            answer = client.get(f"/datasets/global/2024/tiles/WebMercatorQuad/{zoom}/{tile}/{y}.npy?tilesize={size}")
            assert answer.status_code == 200, answer.text
            values = np.load(io.BytesIO(answer.content))[0].astype(np.float64)
            lon = (tile + (np.arange(size) + 0.5) / size) / n * 360 - 180
            held = np.isfinite(values) & (values != 0)
            want = np.broadcast_to(np.where(lon < EDGE, CODE["31N"], CODE["32N"]) * SCALE, values.shape)
            assert held.any()
            np.testing.assert_allclose(values[held], want[held], rtol=1e-6)


# In buckets


def upload(folder: Path, place: str) -> None:
    bucket = open_bucket(place)
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.upload(path, path.relative_to(folder).as_posix())


@pytest.mark.slow
def test_stores_in_a_bucket_signed_and_anonymous(
    s3: S3, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, scales = published(tmp_path / "v2.zarr")
    upload(tmp_path / "v2.zarr", s3.place("published/v2.zarr"))
    upload(archive, s3.place("published/dclimate.icechunk"))
    near = Records(tmp_path / "near", 10**9)
    store = open_store(s3.place("published/v2.zarr"), identity=MODEL, records=near)
    agrees(store, codes, scales, WATER)
    assert store.blocks(Y24) == open_store(tmp_path / "v2.zarr", identity=MODEL).blocks(Y24)
    far = open_store(s3.place("published/dclimate.icechunk"), identity=DCLIMATE, records=near)
    assert not far.writable
    middle = slice(SIDE // 2 - 10, SIDE // 2 + 10)
    assert (far.read(Zone(32), Y24, middle, middle).codes == 100).all()
    # A shard of the first store is replaced, and the root metadata is as it was: the next whole look tells.
    before = store.revision()
    open_bucket(s3.place("published/v2.zarr")).delete("utm33/scales/c/1/0/0")
    store.recheck_after = store.look_whole_after = 0.0  # type: ignore[attr-defined]
    assert store.refresh()
    assert store.revision() != before
    assert not store.read(Zone(33), Y24, slice(0, 50), slice(0, 50)).valid.any()
    with pytest.raises(Unavailable, match="no such bucket"):
        open_store("s3://no-such-bucket/v2.zarr", identity=MODEL)
    with s3_server(moto_python(), guarded=False) as open_to_all:
        for name, value in open_to_all.variables().items():
            monkeypatch.setenv(name, value)
        upload(tmp_path / "v2.zarr", open_to_all.place("v2.zarr"))
        upload(archive, open_to_all.place("dclimate.icechunk"))
        open_to_all.open_to_all()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        public = open_store(open_to_all.place("v2.zarr"), identity=MODEL, anonymous=True)
        agrees(public, codes, scales, WATER)
        public = open_store(open_to_all.place("dclimate.icechunk"), identity=DCLIMATE, anonymous=True)
        assert (public.read(Zone(31), Y24, middle, middle).codes == 10).all()


@pytest.mark.slow
def test_a_new_snapshot_makes_stale_only_what_it_changed(s3: S3, tmp_path: Path) -> None:
    location = s3.place("written/tiny.icechunk")
    vectors = random_vectors((300, 300), 16)
    row, col = corner("31N")
    blocks = blocks_from("31N", row, col, vectors, YEAR, tiny_archive(tmp_path, vectors).counts)
    writer = create_store(location, TINY, dims=16)
    writer.write(blocks, "first")

    def reader() -> tuple[set[Path], Vectors]:
        """What another process reads, and all that is near afterwards."""
        records = Records(tmp_path / "near", 10**9)
        store = open_store(location, records=records)
        read = store.read(Zone(31), YEAR, slice(row, row + 300), slice(col, col + 300))
        records.settle()
        return set((tmp_path / "near").glob("*/*/*")), read

    held, first = reader()
    np.testing.assert_array_equal(first.codes, vectors.codes)
    assert held
    assert reader()[0] == held, "the second finds all of it"
    emptied = Vectors.empty((256, 256), 16, NOT_EMBEDDED)
    changed = [type(blocks[0])(blocks[0].block, YEAR, emptied, blocks[0].counts, "cd" * 32)]
    writer.refresh()
    writer.write(changed, "one block is emptied")
    after, now = reader()
    rows = slice(max(blocks[0].block.rows.start - row, 0), blocks[0].block.rows.stop - row)
    cols = slice(max(blocks[0].block.cols.start - col, 0), blocks[0].block.cols.stop - col)
    gone = np.zeros((300, 300), bool)
    gone[rows, cols] = True
    assert (now.status[gone] != VALID).all()
    np.testing.assert_array_equal(now.codes[~gone], vectors.codes[~gone])
    assert held < after
    assert len(after - held) < len(held) / 2, "the other blocks were near"
