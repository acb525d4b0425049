"""Published stores read where they lie: on a web server that is far away, and what stays near of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from service.errors import Corrupt, InvalidInput, NotFound, Unavailable
from service.grid import Zone
from service.store import Store, open_store
from service.store.records import Records
from service.values import WATER
from tests.slow_web import SlowWeb, slow_web
from tests.test_store_published import MODEL, Y23, Y24, agrees, published

WINDOW = (slice(3, 150), slice(100, 400))
"""Of zone 33: two shards, some of their chunks."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    folder = tmp_path_factory.mktemp("web")
    return folder, *published(folder / "v2.zarr")


@pytest.fixture
def web(made: tuple[Path, np.ndarray, np.ndarray]) -> Iterator[SlowWeb]:
    with slow_web(made[0]) as server:
        yield server


def opened(web: SlowWeb, near: Path | None = None) -> Store:
    return open_store(f"{web.url}/v2.zarr", identity=MODEL, records=Records(near, 10**9))


def test_it_reads_as_on_a_disk_in_few_round_trips_and_then_in_none(
    web: SlowWeb, made: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    near = Records(tmp_path, 10**9)
    store = open_store(f"{web.url}/v2.zarr", identity=MODEL, records=near)
    blocks = store.blocks(Y24)
    assert blocks == open_store(made[0] / "v2.zarr", identity=MODEL).blocks(Y24)
    first = store.read(Zone(33), Y24, *WINDOW)
    assert web.depth() <= 8, "root, time axis, indexes of the footprint, and two arrays of at most two rounds"
    assert not [one.path for one in web.asked if one.path.endswith(("/x/c/0", "/y/c/0"))], "coordinates are not read"
    agrees(store, *made[1:], WATER)

    web.forget()
    near.settle()
    again = opened(web, tmp_path)  # another process, a day later
    assert again.blocks(Y24) == blocks
    np.testing.assert_array_equal(again.read(Zone(33), Y24, *WINDOW).codes, first.codes)
    assert [one.path for one in web.asked] == ["/v2.zarr/zarr.json"]


def test_a_store_that_changed_is_noticed_and_never_mixed(
    made: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    shutil.copytree(made[0] / "v2.zarr", tmp_path / "v2.zarr")
    codes = made[1].copy()
    with slow_web(tmp_path, latency=0.0) as web:
        near = Records(tmp_path / "near", 10**9)
        store = open_store(f"{web.url}/v2.zarr", identity=MODEL, records=near)
        store.recheck_after = 0.0  # type: ignore[attr-defined]
        root = zarr.open_group(tmp_path / "v2.zarr", mode="r+", use_consolidated=False)
        first = slice(0, 30)
        for again in (2, 3):
            store.read(Zone(33), Y24, first, first)
            before = store.revision()[0]
            assert not store.refresh()
            # One year is written anew, and nothing else: the index that is near speaks of the shard as it was.
            codes[1, :, :64, :256] = made[1][1, :, :64, :256] // again
            root["utm33/embeddings"][1, :, :64, :256] = codes[1, :, :64, :256]  # type: ignore[index]
            beside = slice(64 * again, 64 * again + 30)
            with pytest.raises(Unavailable, match="changed while"):
                store.read(Zone(33), Y24, first, beside)
            assert store.refresh()
            assert store.revision()[0] != before
            found = store.read(Zone(33), Y24, first, beside)
            np.testing.assert_array_equal(found.codes, _expected(codes, first, beside))
        store.read(Zone(33), Y24, first, slice(224, 256))
        near.settle()
        later = opened(web, tmp_path / "near")  # what lies there of the store before it changed is not taken for near
        assert later.revision() == store.revision()
        found = later.read(Zone(33), Y24, first, first)
        np.testing.assert_array_equal(found.codes, np.where(found.valid[..., None], _expected(codes, first, first), 0))


def _expected(codes: np.ndarray, rows: slice, cols: slice) -> np.ndarray:
    return np.moveaxis(codes[1], 0, -1)[rows, cols]


@pytest.mark.parametrize("failing", ["error", "cut", "ignore-ranges", "dead"])
def test_a_server_that_fails_is_an_error_and_nothing_of_it_stays(
    made: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path, failing: str
) -> None:
    with slow_web(made[0], latency=0.0) as web:
        store = opened(web, tmp_path)
        if failing == "dead":
            web.kill()
        else:
            web.failing = failing
        if failing != "cut":  # what comes in halves is put together again
            with pytest.raises(Unavailable, match=r"Range|could not be reached"):
                store.read(Zone(33), Y24, slice(0, 40), slice(0, 40))
        web.failing = ""
        if failing == "dead":
            web.start()
        found = store.read(Zone(33), Y24, *WINDOW)
        want = np.moveaxis(made[1][1], 0, -1)[WINDOW]
        np.testing.assert_array_equal(found.codes, np.where(found.valid[..., None], want, 0))


def test_what_cannot_be_opened_says_why(made: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    for address in ("https://user:secret@127.0.0.1/v2.zarr", "http://127.0.0.1/v2.zarr?token=1", "ftp://127.0.0.1/a"):
        with pytest.raises(InvalidInput, match="address") as refused:
            open_store(address, identity=MODEL)
        assert "secret" not in str(refused.value)
    with pytest.raises(Unavailable, match="could not be reached"):
        open_store("https://127.0.0.1:9/v2.zarr", identity=MODEL)
    with pytest.raises(Unavailable, match="no server has that name"):
        open_store("https://nowhere.invalid/v2.zarr", identity=MODEL)
    with pytest.raises(InvalidInput, match="read from a local path or s3://"):
        open_store("https://127.0.0.1/x.icechunk")
    zarr.open_group(tmp_path / "loose.zarr", mode="w", zarr_format=3).create_group("utm33")
    with slow_web(tmp_path, latency=0.0) as web:
        with pytest.raises(NotFound, match=r"zarr\.json is not there|zarr\.json\) is not there"):
            open_store(f"{web.url}/none.zarr", identity=MODEL)
        with pytest.raises(Corrupt, match="no consolidated metadata"):
            open_store(f"{web.url}/loose.zarr", identity=MODEL)
        with pytest.raises(Unavailable, match="no certificate that is trusted"):
            open_store(f"{web.url.replace('http:', 'https:')}/loose.zarr", identity=MODEL)
    assert Y23 in open_store(made[0] / "v2.zarr", identity=MODEL).windows()
