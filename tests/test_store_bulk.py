"""Tiny chunks unpacked in bulk: what zarr gives, for every way Blosc packs them, or nothing at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from service.store.ahead import Sharding
from service.store.bulk import read_chunks, read_small

SIDE = 48


def made(folder: Path, dtype: str, codec: Any, chunk: int = 4, kind: str = "noise") -> zarr.Array[Any]:
    """(48, 48[, 16]) in shards of 16 pixels, of which one was never written and one holds a gap."""
    rng = np.random.default_rng(0)
    codes = dtype == "int8"
    shape, tail = (SIDE, SIDE, 16) if codes else (SIDE, SIDE), ((16,) if codes else ())
    array = zarr.create_array(
        folder, shape=shape, dtype=dtype, chunks=(chunk, chunk, *tail), shards=(16, 16, *tail),
        compressors=codec, filters=None, fill_value=7 if codes else float("nan"),
    )  # fmt: skip
    values = rng.integers(-127, 128, shape) if kind == "noise" else np.indices(shape).sum(axis=0) // 9 % 100
    values = values.astype(dtype)
    array[:32] = values[:32]
    array[32:, 20:] = values[32:, 20:]
    return array


KINDS = ["bitshuffle", "shuffle", "noshuffle"]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zarr.Array[Any]]:
    folder = tmp_path_factory.mktemp("bulk")
    return {
        f"{dtype} {shuffle} {kind}": made(
            folder / f"{dtype}-{shuffle}-{kind}", dtype, BloscCodec(cname="zstd", clevel=3, shuffle=shuffle), kind=kind
        )
        for dtype in ("int8", "float32")
        for shuffle in KINDS
        for kind in ("noise", "smooth")
        if (dtype, shuffle) != ("float32", "bitshuffle")
    }


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_window_is_what_zarr_reads(arrays: dict[str, zarr.Array[Any]], data: st.DataObject) -> None:
    array = arrays[data.draw(st.sampled_from(sorted(arrays)))]
    top, left = data.draw(st.integers(0, SIDE - 1)), data.draw(st.integers(0, SIDE - 1))
    bottom, right = data.draw(st.integers(top + 1, SIDE)), data.draw(st.integers(left + 1, SIDE))
    found = read_small(array, slice(top, bottom), slice(left, right))
    assert found is not None
    np.testing.assert_array_equal(found, array[top:bottom, left:right])


@pytest.mark.parametrize(
    ("codec", "chunk"),
    [
        (BloscCodec(cname="lz4", clevel=3), 4),
        (ZstdCodec(level=3), 4),
        (None, 4),
    ],
)
def test_what_is_packed_otherwise_is_left_to_zarr(tmp_path: Path, codec: Any, chunk: int) -> None:
    assert read_small(made(tmp_path / "a", "int8", codec, chunk), slice(0, 9), slice(0, 9)) is None


BIG, LITTLE = BytesCodec(endian="big"), BytesCodec(endian="little")


def sharded(folder: Path, shape: tuple[int, ...], shard: tuple[int, ...], codec: ShardingCodec) -> zarr.Array[Any]:
    array = zarr.create_array(
        folder, shape=shape, dtype="float32", chunks=shard, serializer=codec, compressors=None, filters=None
    )
    array[:] = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return array


@pytest.mark.parametrize(
    ("numbers", "index", "location", "known"),
    [
        (LITTLE, LITTLE, "end", True),
        (BIG, LITTLE, "end", False),
        (LITTLE, BIG, "end", False),
        (LITTLE, LITTLE, "start", False),
    ],
)
def test_what_lies_otherwise_is_left_to_zarr(
    tmp_path: Path, numbers: BytesCodec, index: BytesCodec, location: Any, known: bool
) -> None:
    inner, index_codecs = [numbers, BloscCodec(cname="zstd", typesize=4)], [index, Crc32cCodec()]
    codec = ShardingCodec(chunk_shape=(4, 4), codecs=inner, index_codecs=index_codecs, index_location=location)
    array = sharded(tmp_path / "a", (21, 23), (16, 16), codec)
    found = read_small(array, slice(3, 21), slice(5, 23))
    assert (found is not None) == known
    if found is not None:
        np.testing.assert_array_equal(found, array[3:21, 5:23])
    assert (Sharding.of(array) is None) == (index is BIG)


@pytest.mark.parametrize("times", [1, 2])
def test_shards_of_several_times_are_left_to_zarr(tmp_path: Path, times: int) -> None:
    codec = ShardingCodec(chunk_shape=(1, 8, 8), codecs=[LITTLE, BloscCodec(cname="zstd", typesize=4)])
    array = sharded(tmp_path / "a", (2, 16, 16), (times, 16, 16), codec)
    found = read_chunks(array, 1, [(1, 0)])
    assert (found is None) == (times > 1)
    if found is not None:
        np.testing.assert_array_equal(found[0], array[1, 8:, :8])


def test_bits_of_wider_numbers_are_put_in_order_too(tmp_path: Path) -> None:
    array = made(tmp_path / "a", "float32", BloscCodec(cname="zstd", shuffle="bitshuffle"), 16, kind="smooth")
    found = read_small(array, slice(0, 40), slice(3, 30))
    np.testing.assert_array_equal(found, array[:40, 3:30])


@pytest.mark.parametrize("where", [100, -40, -2], ids=["a chunk", "the index", "its checksum"])
def test_damage_is_never_unpacked(tmp_path: Path, where: int) -> None:
    array = made(tmp_path / "a", "int8", BloscCodec(cname="zstd", shuffle="noshuffle"), kind="smooth")
    path = tmp_path / "a" / "c" / "0" / "0" / "0"
    body = bytearray(path.read_bytes())
    if where == 100:
        body[:2000] = bytes(2000)
    else:
        body[where] ^= 255
    path.write_bytes(bytes(body))
    assert read_small(array, slice(0, 16), slice(0, 16)) is None


def test_a_shard_cut_short_is_never_unpacked(tmp_path: Path) -> None:
    array = made(tmp_path / "a", "int8", BloscCodec(cname="zstd"))
    path = tmp_path / "a" / "c" / "0" / "0" / "0"
    path.write_bytes(path.read_bytes()[:50])
    assert read_small(array, slice(0, 16), slice(0, 16)) is None


@pytest.mark.parametrize("dims", [16, 17, 128])
@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize(("cname", "shuffle"), [("zstd", "noshuffle"), ("zstd", "bitshuffle"), ("lz4", "noshuffle")])
def test_chunks_of_planes_are_what_zarr_reads_at_the_edge_too(
    tmp_path: Path, cname: Any, shuffle: Any, kind: str, dims: int
) -> None:
    """(time, d, row, col) of 40 x 44 pixels in shards of 24: the last ones reach beyond, and one was never written."""
    array = zarr.create_array(
        tmp_path / "a", shape=(2, dims, 40, 44), dtype="int8", chunks=(1, dims, 8, 8), shards=(1, dims, 24, 24),
        compressors=BloscCodec(cname=cname, clevel=3, shuffle=shuffle), filters=None, fill_value=7,
    )  # fmt: skip
    shape = (dims, 24, 44)
    noise = np.random.default_rng(0).integers(-127, 128, shape)
    array[1, :, :24] = (noise if kind == "noise" else np.indices(shape).sum(axis=0) // 5 % 60).astype("int8")
    cells = [(row, col) for row in range(5) for col in range(6)]
    found = read_chunks(array, 1, cells)
    assert found is not None
    for (row, col), square in zip(cells, found, strict=True):
        expected = np.moveaxis(np.asarray(array[1, :, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8]), 0, -1)
        np.testing.assert_array_equal(square[:, : expected.shape[1]], expected)


def test_a_damaged_chunk_of_planes_is_left_to_zarr(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a", shape=(1, 16, 16, 16), dtype="int8", chunks=(1, 16, 8, 8), shards=(1, 16, 16, 16),
        compressors=BloscCodec(cname="zstd"), filters=None, fill_value=0,
    )  # fmt: skip
    array[:] = (np.indices(array.shape).sum(axis=0) % 50).astype("int8")
    path = tmp_path / "a" / "c" / "0" / "0" / "0" / "0"
    path.write_bytes(bytes(100) + path.read_bytes()[100:])
    assert read_chunks(array, 0, [(0, 0), (0, 1), (1, 0), (1, 1)]) is None
