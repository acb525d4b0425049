"""PNG: what we write, other programs read back to the byte."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.io import MemoryFile

from service.errors import InvalidInput
from service.png import png
from service.values import UInt8Array

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def chunks(file: bytes) -> dict[str, bytes]:
    """The chunks of a file, read by the specification: order, lengths and checks."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = {}, 8
    while at < len(file):
        size, name = struct.unpack_from(">I4s", file, at)
        data = file[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", file, at + 8 + size)[0] == zlib.crc32(name + data)
        assert name.decode() not in found
        found[name.decode()] = data
        at += 12 + size
    assert list(found) in (
        ["IHDR", "IDAT", "IEND"],
        ["IHDR", "PLTE", "IDAT", "IEND"],
        ["IHDR", "PLTE", "tRNS", "IDAT", "IEND"],
    )
    assert found["IEND"] == b""
    return found


def opened(file: bytes) -> tuple[UInt8Array, dict[int, tuple[int, ...]] | None]:
    """(h, w, bands) as GDAL reads it, and its palette."""
    with MemoryFile(file) as memory, memory.open() as picture:
        assert picture.driver == "PNG"
        palette = picture.colormap(1) if picture.colorinterp[0] is rasterio.enums.ColorInterp.palette else None
        return np.moveaxis(picture.read(), 0, -1), palette


pictures = st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([3, 4])).flatmap(
    lambda shape: arrays(np.uint8, shape)
)


@settings(max_examples=40)
@given(pictures)
def test_colours_come_back(pixels: UInt8Array) -> None:
    file = png(pixels)
    header = struct.unpack(">IIBBBBB", chunks(file)["IHDR"])
    height, width, bands = pixels.shape
    assert header == (width, height, 8, {3: 2, 4: 6}[bands], 0, 0, 0)
    read, palette = opened(file)
    assert palette is None
    np.testing.assert_array_equal(read, pixels)


@settings(max_examples=40)
@given(st.data(), st.integers(1, 40), st.integers(1, 40), st.integers(0, 255))
def test_indices_come_back_with_their_palette(data: st.DataObject, height: int, width: int, opaque_from: int) -> None:
    pixels = data.draw(arrays(np.uint8, (height, width)))
    palette = np.random.default_rng(0).integers(0, 255, (256, 4), dtype=np.uint8)
    palette[opaque_from:, 3] = 255
    file = png(pixels, palette)
    assert len(chunks(file).get("tRNS", b"")) == opaque_from
    read, colours = opened(file)
    np.testing.assert_array_equal(read[..., 0], pixels)
    assert colours == dict(enumerate(map(tuple, palette.tolist())))


def test_rows_need_not_lie_side_by_side_in_memory() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (3, 20, 31), dtype=np.uint8)
    np.testing.assert_array_equal(opened(png(pixels.transpose(1, 2, 0)))[0], pixels.transpose(1, 2, 0))
    np.testing.assert_array_equal(
        opened(png(pixels.transpose(1, 2, 0)[::2, ::3]))[0], pixels.transpose(1, 2, 0)[::2, ::3]
    )


@pytest.mark.parametrize("bands", [1, 4])
def test_an_empty_tile_is_tiny_and_made_once(bands: int) -> None:
    palette = np.full((256, 4), 255, np.uint8)
    palette[0] = 0
    files = [
        png(np.zeros((256, 256, 4), np.uint8)) if bands == 4 else png(np.zeros((256, 256), np.uint8), palette)
        for _ in range(2)
    ]
    assert files[0] is files[1]
    assert len(files[0]) < 1200
    assert not opened(files[0])[0].any()
    other = palette.copy()
    other[7] = 3
    if bands == 1:  # another palette is another file
        assert opened(png(np.zeros((256, 256), np.uint8), other))[1][7] == (3, 3, 3, 3)  # type: ignore[index]


def test_a_black_picture_is_no_empty_one() -> None:
    read, _ = opened(png(np.zeros((5, 6, 3), np.uint8)))
    assert read.shape == (5, 6, 3)
    assert not read.any()


@pytest.mark.parametrize(
    ("shape", "palette"), [((4, 4, 3), True), ((4, 4), False), ((0, 4, 3), False), ((4, 4, 2), False), ((4,), False)]
)
def test_what_is_no_picture_is_refused(shape: tuple[int, ...], palette: bool) -> None:
    with pytest.raises(InvalidInput):
        png(np.zeros(shape, np.uint8), np.zeros((256, 4), np.uint8) if palette else None)
    with pytest.raises(InvalidInput):
        png(np.zeros((4, 4, 3), np.float32))


def test_the_same_pixels_are_the_same_bytes_whoever_packs_them_beside_whom() -> None:
    """A strong validator names one sequence of bytes."""
    rng = np.random.default_rng(4)
    blocks = rng.integers(0, 256, (12, 70, 70, 4), dtype=np.uint8).repeat(4, 1).repeat(4, 2)[:, :256, :256]
    pictures = [*blocks, *blocks[..., :3], *rng.integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)]
    alone = [png(picture) for picture in pictures]
    order = np.repeat(np.arange(len(pictures)), 4)
    rng.shuffle(order)
    with ThreadPoolExecutor(6) as threads:
        beside = list(threads.map(lambda i: png(pictures[i]), order))
    assert all(file == alone[i] for file, i in zip(beside, order, strict=True))
