"""Pictures of stored vectors: right to the pixel, masked to the pixel, and bounded."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import pytest
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rio_tiler.errors import TileOutsideBounds
from rio_tiler.models import ImageData

from service import paint as painting
from service import plan as planning
from service.choice import level_for
from service.colour import PcaView, Scale, SimilarityView, VectorView, fit_basis
from service.errors import IdentityMismatch, InvalidInput, LimitExceeded, NotFound
from service.grid import Zone, archive_grid
from service.paint import paint
from service.picture import encode
from service.plan import Source, plan, touched
from service.queries import Query
from service.store.contract import Store
from service.tiles import TileReader, tile_target
from service.values import REJECTED, VALID, WATER, ModelIdentity, Vectors, Window
from service.warp import Target, zone_maps
from tests import reference
from tests.fakes import MemoryStore, alphaearth
from tests.reference import Patch
from tests.stores import YEAR, Tiny, random_vectors, tiny_archive

TMS = morecantile.tms.get("WebMercatorQuad")
MIDDLE = (-88.7688, 44.2946)


@pytest.fixture(scope="module")
def aef(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The real raster in a real repository."""
    codes, scales, zone, window, row, col = alphaearth(real_data)
    vectors = Vectors(codes, scales, np.full(scales.shape, VALID, np.uint8))
    return tiny_archive(tmp_path_factory.mktemp("aef"), vectors, zone=zone.name, window=window, at=(row, col))


def tiles_over(tiny: Tiny, z: int) -> list[tuple[int, int, int]]:
    """Every tile that shows a pixel of a tiny store."""
    height, width = tiny.vectors.status.shape
    corners = [tiny.lonlat(i, j) for i in (0, height - 1) for j in (0, width - 1)]
    tiles = [TMS.tile(*corner, z) for corner in corners]
    return [
        (x, y, z)
        for x in range(min(t.x for t in tiles), max(t.x for t in tiles) + 1)
        for y in range(min(t.y for t in tiles), max(t.y for t in tiles) + 1)
    ]


def patch_of(tiny: Tiny) -> Patch:
    """What was put into a tiny store, for the reference."""
    left, top = tiny.grid.x0 + tiny.col * 10, tiny.grid.y0 - tiny.row * 10
    zone, vectors = tiny.grid.zone, tiny.vectors
    return Patch(
        zone.number, zone.south, tiny.grid.epsg, left, top, vectors.codes, vectors.scales, vectors.valid
    )  # fmt: skip


@pytest.mark.parametrize(
    ("z", "least"),
    [
        (13, 0.98),
        (14, 0.995),
        pytest.param(15, 0.995, marks=pytest.mark.slow),
        pytest.param(16, 0.995, marks=pytest.mark.slow),
    ],
)
def test_real_tiles_equal_a_float64_reference_and_gdal_but_for_cell_edges(aef: Tiny, z: int, least: float) -> None:
    """GDAL interpolates its transform: within 10 cm of an edge it may pick the neighbour, never elsewhere."""
    basis, patch = fit_basis(aef.store, [aef.window]), patch_of(aef)
    pictures = TileReader(Source(aef.store, aef.window, PcaView(basis), 64))
    numbers = TileReader(Source(aef.store, aef.window, VectorView(64), 64, picture=False))
    shown = same_colour = either = same = 0
    for x, y, _ in tiles_over(aef, z):
        box = ("EPSG:3857", tuple(TMS.xy_bounds(x, y, z)), 256, 256)
        want = reference.expected([patch], *box)
        held, exact = want.valid, want.vectors.astype(np.float32)
        picture, vectors = pictures.tile(x, y, z), np.moveaxis(numbers.tile(x, y, z).array.data, 0, -1)
        assert (~picture.array.mask[0] == held).all()
        assert (picture.mask == np.where(held, 255, 0)).all()
        assert (vectors[held] == exact[held]).all()
        colour = reference.colours(want.vectors[held], basis.mean, basis.components, basis.low, basis.high)
        shown += held.sum()
        same_colour += (colour == picture.array.data[:, held].T).all(axis=1).sum()
        theirs, found = reference.by_gdal([patch], want, *box)
        equal = (found == held) & (~held | (theirs == vectors).all(axis=2))
        assert (want.edge[~equal] < 0.01).all()
        either, same = either + (held | found).sum(), same + (equal & (held | found)).sum()
    assert shown > 4_000
    assert same_colour >= 0.999 * shown
    assert same >= least * either


def flat(value: int, shape: tuple[int, int], status: int = VALID, dims: int = 4) -> Vectors:
    """Pixels that all hold one code in their first dimension."""
    codes = np.zeros((*shape, dims), np.int8)
    codes[..., 0] = value
    return Vectors(codes, np.ones(shape, np.float32), np.full(shape, status, np.uint8))


def around(lon: float, lat: float, *values: tuple[Zone, int], size: int = 400, **options: object) -> MemoryStore:
    """A square of pixels around a place in each zone, each zone holding another number."""
    store: MemoryStore | None = None
    for zone, value in values:
        grid = archive_grid(zone)
        row, col = (int(axis[0]) for axis in grid.from_lonlat(np.array([lon]), np.array([lat])))
        row = int(np.clip(row - size // 2, 0, grid.height - size))
        part = flat(value, (size, size))
        if store is None:
            store = MemoryStore(part.codes, part.scales, zone, YEAR, row, col - size // 2, **options)  # type: ignore[arg-type]
        else:
            store.add(part.codes, part.scales, zone, YEAR, row, col - size // 2)
    assert store is not None
    return store


def reader_of(store: Store, window: Window = YEAR) -> TileReader:
    return TileReader(Source(store, window, VectorView(store.dims), store.dims, picture=False))


def test_at_a_zone_border_each_pixel_comes_from_its_own_zone() -> None:
    reader = reader_of(around(6.0, 52.0, (Zone(31), 31), (Zone(32), 32)))
    image = reader.tile(*TMS.tile(6.0, 52.0, 14))
    target = tile_target(TMS, *TMS.tile(6.0, 52.0, 14))
    lon, _ = Transformer.from_crs(target.crs, "EPSG:4326", always_xy=True).transform(*np.meshgrid(target.xs, target.ys))
    held = ~image.array.mask[0]
    assert (image.array.data[0][held & (lon < 6)] == 31).all()
    assert (image.array.data[0][held & (lon >= 6)] == 32).all()
    assert (held & (lon < 6)).sum() > 1000
    assert (held & (lon >= 6)).sum() > 1000
    border = np.abs(lon - 6) < 0.001
    assert held[128][border[128]].all(), "no gap between the zones"


def test_the_equator_takes_each_pixel_from_its_own_hemisphere() -> None:
    store = around(9.0, 0.0, (Zone(32), 1), (Zone(32, True), 2))
    target = Target("EPSG:3857", (1_000_000.0, -500.0, 1_001_000.0, 500.0), 100, 100)
    image = ImageData(paint(Source(store, YEAR, VectorView(4), 4, picture=False), target))
    rows = image.array.filled(0)[0].max(axis=1)
    assert rows[:50].tolist() == [1] * 50
    assert rows[50:].tolist() == [2] * 50


@pytest.mark.parametrize(("lon", "zone"), [(179.9999, Zone(60)), (-179.9999, Zone(1))])
def test_the_antimeridian_is_only_another_zone_border(lon: float, zone: Zone) -> None:
    store = around(lon, 10.0, (Zone(60), 60), (Zone(1), 1))
    tile = TMS.tile(lon, 10.0, 13)
    values = reader_of(store).tile(*tile).array.compressed()
    assert set(values.tolist()) == {zone.number, 0}  # the first dimension, and the three others
    box = reader_of(store).part((179.995, 9.995, -179.995, 10.005))
    assert set(box.array[0].compressed().tolist()) == {60, 1}
    assert not box.array.mask[0][:, 10:-10].any()


def test_alpha_is_exact_where_the_status_is_not_valid() -> None:
    vectors = random_vectors((60, 80), 4)
    status = np.random.default_rng(0).choice([VALID, WATER, REJECTED, 0], (60, 80)).astype(np.uint8)
    store = MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, 350_000, 25_000, status=status)
    grid = archive_grid(Zone(31))
    left, top = grid.x0 + 250_000, grid.y0 - 3_500_000
    target = Target(grid.crs, (left - 100, top - 700, left + 900, top + 100), 100, 80)
    source = Source(store, YEAR, PcaView(fit_basis(store, [YEAR])), 4)
    seen = ~paint(source, target).mask
    expected = np.zeros((80, 100), bool)
    expected[10:70, 10:90] = status == VALID
    assert (seen == expected).all()
    image = ImageData(paint(source, target))
    for driver, bands in (("PNG", 4), ("WEBP", 4), ("JPEG", 3)):
        with MemoryFile(encode(image, driver)) as memory, memory.open() as file:
            assert file.count == bands
            pixels = file.read()
            if bands == 4:
                assert (pixels[3] == np.where(expected, 255, 0)).all()
                assert (pixels[:3, expected] == image.array.data[:, expected]).all()


def test_one_band_is_a_palette_in_png_and_its_colours_elsewhere() -> None:
    vectors = random_vectors((60, 80), 4)
    store = MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, 350_000, 25_000)
    query = Query.of(store.identity, vectors.dequantised()[3, 3])
    reader = TileReader(Source(store, YEAR, SimilarityView(query, Scale(0.2, clip=True)), 4))
    image, palette = reader.preview(), reader.input.palette
    assert palette is not None
    assert image.array.shape[0] == 1
    assert (image.array.mask == (image.array.data == 0)).all()
    assert 0 < (image.array.data[0] > 0).sum() < 60 * 80
    exact = palette[image.array.filled(0)[0]].transpose(2, 0, 1)
    assert reader.colormap == {index: tuple(colour) for index, colour in enumerate(palette.tolist())}
    with MemoryFile(encode(image, "PNG", palette)) as memory, memory.open() as file:
        assert file.colorinterp == (ColorInterp.palette,)
        table = np.array([file.colormap(1)[index] for index in range(256)])
        assert (table[file.read(1)].transpose(2, 0, 1) == exact).all()
    with MemoryFile(encode(image, "WEBP", palette)) as memory, memory.open() as file:
        shown = file.read()
        assert (shown[3] == exact[3]).all()
        assert (shown[:3, exact[3] > 0] == exact[:3, exact[3] > 0]).all()
    with MemoryFile(encode(image, "JPEG", palette)) as memory, memory.open() as file:
        assert file.count == 3


def test_numbers_are_nan_where_there_is_nothing_and_keep_names_and_place() -> None:
    store = around(3.0, 52.0, (Zone(31), 7))
    image = reader_of(store).tile(*TMS.tile(3.0, 52.0, 13))
    with MemoryFile(encode(image, "GTIFF")) as memory, memory.open() as file:
        assert file.descriptions == ("d0", "d1", "d2", "d3")
        assert file.crs == CRS.from_epsg(3857)
        assert file.bounds == pytest.approx(tuple(image.bounds))
        band = file.read(1)
    assert (np.isnan(band) == image.array.mask[0]).all()
    assert (band[~np.isnan(band)] == 7).all()
    with pytest.raises(InvalidInput, match="PNG"):
        encode(image, "PNG")


def test_a_tile_reads_the_level_that_fits_it() -> None:
    store = around(3.0, 52.0, (Zone(31), 7), levels=(1, 2, 4, 8))
    reader = reader_of(store)
    for z, level in ((15, 1), (13, 1), (12, 2), (11, 4), (10, 8), (8, 8)):
        store.reads.clear()
        values = reader.tile(*TMS.tile(3.0, 52.0, z)).array
        ((_, read, rows, cols),) = store.reads
        assert read == level
        assert set(values[0].compressed().tolist()) == {7}
        assert (rows.stop - rows.start) * (cols.stop - cols.start) <= 512 * 512
    assert level_for((1, 2, 4), ()) == 1


def test_low_zooms_without_overviews_are_refused_with_a_remedy_once_they_cost_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = around(3.0, 52.0, (Zone(31), 7))
    reader = reader_of(store)
    assert reader.minzoom == 0
    monkeypatch.setattr(planning, "MAX_SOURCE_BYTES", 400_000)
    monkeypatch.setattr("service.tiles.MAX_SOURCE_BYTES", 400_000)
    with pytest.raises(LimitExceeded, match="overviews"):
        reader.tile(*TMS.tile(3.0, 52.0, 9))
    low = reader_of(store)
    assert 12 <= low.minzoom <= low.maxzoom == 14
    low.tile(*TMS.tile(3.0, 52.0, low.minzoom))


def test_pictures_are_bounded() -> None:
    store = around(3.0, 52.0, (Zone(31), 7))
    reader = reader_of(store)
    for size in (255, 1024, 4096):
        with pytest.raises(InvalidInput, match="256 or 512"):
            reader.tile(*TMS.tile(3.0, 52.0, 13), tilesize=size)
    with pytest.raises(LimitExceeded, match="2048"):
        reader.preview(width=100_000, height=1)
    wide = random_vectors((8, 8), 128)
    many = reader_of(MemoryStore(wide.codes, wide.scales, Zone(31), YEAR, 350_000, 25_000))
    with pytest.raises(LimitExceeded, match="bands"):
        many.preview(width=2000, height=2000)
    ring = [[3 + 0.001 * np.cos(t), 52 + 0.001 * np.sin(t)] for t in np.linspace(0, 6.28, 10_001)]
    with pytest.raises(LimitExceeded, match="vertices"):
        reader.feature({"type": "Polygon", "coordinates": [ring]})
    patient = reader_of(store)
    for _ in range(100):
        patient.preview(max_size=4)
    with pytest.raises(LimitExceeded, match="features"):
        patient.preview(max_size=4)


def test_tiles_beyond_the_matrix_or_the_dataset_are_outside() -> None:
    reader = reader_of(around(3.0, 52.0, (Zone(31), 7)))
    for x, y, z in ((0, 0, 13), (2**13, 0, 13), (-1, 0, 13), (0, 0, 99), (0, 0, -1)):
        with pytest.raises(TileOutsideBounds):
            reader.tile(x, y, z)


def test_an_empty_window_is_not_found() -> None:
    nothing = flat(0, (10, 10), status=0)
    store = MemoryStore(nothing.codes, nothing.scales, Zone(31), YEAR, 0, 0, status=nothing.status)
    with pytest.raises(NotFound, match="no data"):
        reader_of(store)


def test_a_point_tells_its_vector_or_its_status(aef: Tiny) -> None:
    reader = reader_of(aef.store, aef.window)
    found = reader.point(*aef.lonlat(50, 60))
    assert found.metadata == {"status": "valid"}
    assert (found.array.data == aef.vectors.dequantised()[50, 60]).all()
    away = reader.point(*aef.lonlat(-1, 60))
    assert away.metadata == {"status": "not-embedded"}
    assert away.array.mask.all()
    assert reader.point(20.0, -30.0).metadata == {"status": "outside"}
    x, y = aef.grid.x0 + (aef.col + 60.5) * 10, aef.grid.y0 - (aef.row + 50.5) * 10
    there = reader.point(x, y, coord_crs=CRS.from_epsg(32616))
    assert (there.array.data == found.array.data).all()
    for lon, lat in ((np.nan, 0.0), (0.0, 91.0), (1e9, 0.0)):
        with pytest.raises(InvalidInput):
            reader.point(lon, lat)


def test_a_part_shows_the_stored_pixels_as_they_are(aef: Tiny) -> None:
    """In the zone's own CRS nothing is resampled, so statistics are those of the stored vectors."""
    reader = reader_of(aef.store, aef.window)
    west, south = aef.lonlat(79, 20)
    east, north = aef.lonlat(20, 79)
    image = reader.part((west, south, east, north))
    assert image.crs == CRS.from_epsg(32616)
    left, _, _, top = image.bounds
    row, col = round((aef.grid.y0 - top) / 10) - aef.row, round((left - aef.grid.x0) / 10) - aef.col
    here = aef.vectors.dequantised()[row : row + image.height, col : col + image.width]
    assert (image.array.data.transpose(1, 2, 0) == here).all()
    stats = image.statistics()["d5"]
    assert stats.mean == pytest.approx(here[..., 5].mean(), abs=1e-6)
    assert stats.valid_percent == 100


def test_a_feature_shows_what_lies_inside_it(aef: Tiny) -> None:
    reader = reader_of(aef.store, aef.window)
    a, b, c = aef.lonlat(90, 5), aef.lonlat(90, 90), aef.lonlat(5, 5)
    shape = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [[a, b, c, a]]}}
    image = reader.feature(shape)
    held = ~image.array.mask[0]
    assert 0.45 < held.mean() < 0.55
    assert held[-3, 3]
    assert not held[3, -3]


def test_touched_blocks_are_those_whose_pixels_are_shown() -> None:
    store = around(3.0, 52.0, (Zone(31), 7), size=900)
    target = tile_target(TMS, *TMS.tile(3.0, 52.0, 13))
    blocks = touched(Source(store, YEAR, VectorView(4), 4), target).blocks
    assert blocks is not None
    (part,) = zone_maps(target, store.zones())
    assert {(b.row, b.col) for b in blocks} == set(
        zip((part.rows // 256).tolist(), (part.cols // 256).tolist(), strict=True)
    )
    ((rectangle),) = plan(Source(store, YEAR, VectorView(4), 4), target)
    assert rectangle.level == blocks[0].level == 1
    for lon in (5.0, -60.0):  # the same zone, far from any data; and another
        target = tile_target(TMS, *TMS.tile(lon, 40.0, 13))
        assert touched(Source(store, YEAR, VectorView(4), 4), target).blocks == ()


def test_few_large_rectangles_are_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store, target = around(3.0, 52.0, (Zone(31), 7)), tile_target(TMS, *TMS.tile(3.0, 52.0, 14))
    read, reading, seen = store.read, set[int](), list[int]()

    def slowly(*args: Any, **more: Any) -> Vectors:
        reading.add(threading.get_ident())
        seen.append(len(reading))
        time.sleep(0.1)
        reading.discard(threading.get_ident())
        return read(*args, **more)

    monkeypatch.setattr(store, "read", slowly)

    def most_at_once() -> int:
        seen.clear()
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: paint(Source(store, YEAR, VectorView(4), 4, picture=False), target), range(8)))
        return max(seen)

    assert most_at_once() > painting.LARGE_AT_ONCE, "small ones do not wait for each other"
    monkeypatch.setattr(painting, "LARGE_BYTES", 0)
    assert most_at_once() <= painting.LARGE_AT_ONCE


def test_a_view_of_another_model_is_refused_before_anything_is_read() -> None:
    store = around(3.0, 52.0, (Zone(31), 7))
    query = Query.of(ModelIdentity("other", "9"), np.ones((1, 4), np.float32))
    with pytest.raises(IdentityMismatch, match="other@9"):
        Source(store, YEAR, SimilarityView(query), 4)
    assert not store.reads
    with pytest.raises(InvalidInput, match="depth"):
        Source(store, YEAR, VectorView(3), 3)


def test_colours_are_the_same_on_both_sides_of_a_tile_border(aef: Tiny) -> None:
    """One tile of 512 pixels and the four of 256 that cover it are the same picture."""
    reader = TileReader(Source(aef.store, aef.window, PcaView(fit_basis(aef.store, [aef.window])), 64))
    tile = TMS.tile(*MIDDLE, 14)
    whole = reader.tile(tile.x, tile.y, 14, tilesize=512)
    for i in (0, 1):
        for j in (0, 1):
            quarter = reader.tile(tile.x * 2 + j, tile.y * 2 + i, 15)
            here = whole.array[:, i * 256 : i * 256 + 256, j * 256 : j * 256 + 256]
            assert (quarter.array.mask == here.mask).all()
            assert (quarter.array.data == here.data).all()
