"""Pictures of every layout, across zones, hemispheres and the antimeridian, against plain float64 arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.params import SUPPORTED_TMS
from service.colour import BandsView, ChangeView, PcaView, SimilarityView, VectorView, fit_basis
from service.colour.stored import StoredView
from service.errors import InvalidInput, LimitExceeded
from service.grid import Block, Zone, archive_grid
from service.paint import paint
from service.plan import Side, Source, touched
from service.queries import Query
from service.store import Store
from service.tiles import TileReader, tile_target
from service.values import Window
from service.warp import Target
from tests import reference
from tests.fakes import MemoryStore
from tests.layouts import LAYOUTS, around, ours
from tests.reference import Expected, Patch
from tests.stores import YEAR

MERCATOR = SUPPORTED_TMS.get("WebMercatorQuad")
LAST = Window.year(2023)
PLACES = {
    "zone border": (6.0, 52.0), "four zones": (12.0, 0.0), "south": (-65.98, -30.0), "antimeridian": (180.0, -17.0),
    "Norway": (5.0, 60.5), "Svalbard": (9.0, 78.2), "far north": (24.0, 83.4),
}  # fmt: skip


class Scene:
    """Patches around a place, in one layout."""

    def __init__(self, path: Path, layout: str, place: str) -> None:
        self.lon, self.lat = PLACES[place]
        self.patches = around(self.lon, self.lat, seed=len(place))
        self.store: Store = LAYOUTS[layout](path, self.patches)
        self.basis = fit_basis(self.store, [YEAR])

    def target(self, z: float, dx: float = 0.0, dy: float = 0.0, size: tuple[int, int] = (150, 130)) -> Target:
        """A picture near the place with the pixels of a zoom, so many of them off, that may cross the antimeridian."""
        x, y = reference.transformer("EPSG:4326", "EPSG:3857").transform(self.lon, self.lat)
        pixel = 2 * 20037508.342789244 / 256 / 2**z
        left, top = x + (dx - size[0] / 2) * pixel, y + (dy + size[1] / 2) * pixel
        return Target("EPSG:3857", (left, top - size[1] * pixel, left + size[0] * pixel, top), *size)

    def source(self, **options: object) -> Source:
        told = {"view": VectorView(8), "dims": 8, "picture": False} | options
        return Source(self.store, YEAR, **told)  # type: ignore[arg-type]


def numbers(source: Source, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """((h, w, bands) numbers or colours, (h, w) which are shown)."""
    found = paint(source, target)
    return np.moveaxis(found.data, 0, -1), ~found.mask[0]


def box(target: Target) -> tuple[str, tuple[float, float, float, float], int, int]:
    return target.crs, target.bounds, target.width, target.height


def expected(scene: Scene, target: Target) -> Expected:
    return reference.expected(scene.patches, *box(target))


def check(scene: Scene, target: Target) -> int:
    """Vectors to the bit, validity of all, colours of all but one pixel in 1000; returns how many there are."""
    want = expected(scene, target)
    assert want.sure.sum() >= want.sure.size - target.width - target.height, "a meridian and the equator at most"
    vectors, shown = numbers(scene.source(), target)
    assert (shown == want.valid)[want.sure].all()
    shown &= want.sure
    assert (vectors[shown] == want.vectors.astype(np.float32)[shown]).all()
    basis = scene.basis
    picture, seen = numbers(Source(scene.store, YEAR, PcaView(basis), 8), target)
    assert (seen == want.valid)[want.sure].all()
    colours = reference.colours(want.vectors, basis.mean, basis.components, basis.low, basis.high)
    differ = (picture != colours).any(axis=2) & shown
    assert differ.sum() <= np.ceil(shown.sum() / 1000), "values that lie between two colours, but for rounding"
    assert (np.abs(picture - colours)[differ] <= 1).all()
    return int(shown.sum())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Scene]:
    """Scenes by layout and place, each made once."""
    return lru_cache(maxsize=None)(lambda layout, place: Scene(tmp_path_factory.mktemp("scene"), layout, place))


Scenes = Callable[[str, str], Scene]


@pytest.mark.parametrize(
    ("layout", "place"), [*((layout, "four zones") for layout in LAYOUTS), ("archive", "antimeridian")]
)
def test_pictures_equal_the_reference(scenes: Scenes, layout: str, place: str) -> None:
    scene = scenes(layout, place)
    target = scene.target(14, size=(90, 80))
    assert check(scene, target) > 5000
    want = expected(scene, target)
    for zone in np.unique(want.zones):
        assert want.valid[want.zones == zone].sum() > 500, "each zone has its share"


@pytest.mark.parametrize(("z", "least"), [(13, 0.98), (14, 0.995), (15, 0.995)])
@pytest.mark.parametrize("layout", ["ours", "geoemb"])
def test_pictures_agree_with_gdal_but_for_cell_edges(scenes: Scenes, layout: str, z: int, least: float) -> None:
    """GDAL interpolates its transform: a hundredth of a cell from an edge it may pick the neighbour, no farther."""
    scene = scenes(layout, "four zones")
    target = scene.target(z)
    want = expected(scene, target)
    theirs, held = reference.by_gdal(scene.patches, want, *box(target))
    vectors, shown = numbers(scene.source(), target)
    same = (shown == held) & (~shown | (vectors == theirs).all(axis=2))
    assert (want.edge[~same] < 0.01).all()
    held |= shown
    assert (same & held).sum() >= least * held.sum() > 1000


def both_valid(first: list[Patch], second: list[Patch]) -> tuple[list[Patch], list[Patch]]:
    """The same patches, valid where both are."""
    return tuple(  # type: ignore[return-value]
        [replace(p, valid=p.valid & q.valid) for p, q in zip(one, other, strict=True)]
        for one, other in ((first, second), (second, first))
    )


def test_between_stored_pixels_each_view_is_of_the_mean_vector(scenes: Scenes, tmp_path: Path) -> None:
    scene = scenes("ours", "four zones")
    target = scene.target(15.3, size=(40, 36))
    want = reference.blended(scene.patches, *box(target))
    x, basis = want.vectors, scene.basis
    query = Query.of(scene.store.identity, np.arange(-4, 4, dtype=np.float32)[None])
    views = {
        VectorView(8): x,
        PcaView(basis): (x - basis.mean) @ basis.components.T,
        BandsView((1, 5), basis): x[..., [1, 5]],
        SimilarityView(query): reference.cosine(x, query.direction)[..., None],
    }
    for view, values in views.items():
        found, shown = numbers(scene.source(view=view, resampling="bilinear"), target)
        assert (shown == want.valid).all()
        assert found[shown] == pytest.approx(values[shown], abs=2e-5)
    picture, _ = numbers(scene.source(view=PcaView(basis), picture=True, resampling="bilinear"), target)
    colours = reference.colours(x, basis.mean, basis.components, basis.low, basis.high)
    assert (picture == colours).all(axis=2)[shown].sum() >= 0.999 * shown.sum() > 500
    then = around(scene.lon, scene.lat, seed=99)
    other = Side(ours(tmp_path, then, window=LAST), LAST)
    a, b = (reference.blended(patches, *box(target)) for patches in both_valid(scene.patches, then))
    norms = np.linalg.norm(a.vectors, axis=2) * np.linalg.norm(b.vectors, axis=2)
    turned = 1 - (a.vectors * b.vectors).sum(axis=2) / np.where(a.valid, norms, 1)
    found, shown = numbers(scene.source(view=ChangeView(YEAR, LAST), other=other, resampling="bilinear"), target)
    assert (shown == a.valid).all()
    assert found[shown, 0] == pytest.approx(turned[shown], abs=2e-5)


def test_between_the_pixels_of_an_overview_too() -> None:
    (patch,) = around(3.0, 52.0, size=200)
    grid = archive_grid(Zone(31))
    row, col = round((grid.y0 - patch.top) / 10), round((patch.left - grid.x0) / 10)
    store = MemoryStore(patch.codes, patch.scales, grid, YEAR, row, col, levels=(1, 2, 4))
    held = store.read(Zone(31), YEAR, slice(row // 4, row // 4 + 60), slice(col // 4, col // 4 + 60), level=4)
    left, top = grid.x0 + col // 4 * 40, grid.y0 - row // 4 * 40
    coarse = Patch(31, False, 32631, left, top, held.codes, held.scales, held.valid, pixel=40.0)
    x, y = reference.transformer("EPSG:4326", "EPSG:3857").transform(3.0, 52.0)
    target = Target("EPSG:3857", (x - 1650, y - 1650, x + 1650, y + 1650), 44, 44)  # 75 m, 46 on the ground
    want = reference.blended([coarse], *box(target))
    source = Source(store, YEAR, VectorView(8), 8, picture=False, resampling="bilinear")
    found, shown = numbers(source, target)
    assert store.reads[-1][1] == 4
    assert (shown == want.valid).all()
    assert found[shown] == pytest.approx(want.vectors[shown], abs=2e-5)


def test_what_lies_between_depends_on_the_blocks_of_all_four() -> None:
    """A pixel whose neighbours lie in other blocks changes its validator with them."""
    (patch,) = around(3.0, 52.0, size=600)
    grid = archive_grid(Zone(31))
    row, col = round((grid.y0 - patch.top) / 10), round((patch.left - grid.x0) / 10)
    store = MemoryStore(patch.codes, patch.scales, grid, YEAR, row, col)
    corner = Block("31N", row // 256 + 1, col // 256 + 1)
    left, top = grid.x0 + corner.cols.start * 10, grid.y0 - corner.rows.start * 10
    target = Target(grid.crs, (left, top - 10, left + 10, top), 4, 4)  # within the first pixel of the block
    nearest = Source(store, YEAR, VectorView(8), 8, picture=False)
    assert touched(nearest, target).blocks == (corner,)
    around_it = {Block("31N", corner.row - i, corner.col - j) for i in (0, 1) for j in (0, 1)}
    assert set(touched(replace(nearest, resampling="bilinear"), target).blocks or ()) == around_it


def test_stored_codes_have_nothing_between_them(scenes: Scenes) -> None:
    with pytest.raises(InvalidInput, match="between"):
        scenes("ours", "four zones").source(view=StoredView(8), resampling="bilinear")


@pytest.mark.parametrize("buffer", [0.5, 1, 17.5])
def test_a_buffer_adds_pixels_on_each_side(scenes: Scenes, buffer: float) -> None:
    scene = scenes("ours", "four zones")
    reader = TileReader(scene.source())
    tile = MERCATOR.tile(scene.lon, scene.lat, 15)
    left, bottom, right, top = MERCATOR.xy_bounds(tile)
    more, pixel = int(2 * buffer), (right - left) / 256
    image = reader.tile(*tile, buffer=buffer)
    assert (image.width, image.height) == (256 + more, 256 + more)
    grown = (left - buffer * pixel, bottom - buffer * pixel, right + buffer * pixel, top + buffer * pixel)
    assert image.bounds == pytest.approx(grown)
    want = reference.expected(scene.patches, "EPSG:3857", grown, 256 + more, 256 + more)
    assert (~image.array.mask[0] == want.valid).all()
    assert (np.moveaxis(image.array.data, 0, -1)[want.valid] == want.vectors.astype(np.float32)[want.valid]).all()
    if not more % 2:
        inner = slice(more // 2, -(more // 2))
        assert (image.array[:, inner, inner].filled(0) == reader.tile(*tile).array.filled(0)).all()


@pytest.mark.parametrize(("buffer", "error"), [(-1, InvalidInput), (0.3, InvalidInput), (128.5, LimitExceeded)])
def test_a_buffer_is_a_multiple_of_a_half_and_bounded(buffer: float, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"half|grows"):
        tile_target(MERCATOR, 0, 0, 3, buffer=buffer)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_any_picture_anywhere_equals_the_reference(scenes: Scenes, data: st.DataObject) -> None:
    """Windows, zooms from 12 to 19, sizes, layouts, zone borders, exceptions, both hemispheres, 83 degrees north."""
    scene = scenes(data.draw(st.sampled_from([*LAYOUTS])), data.draw(st.sampled_from([*PLACES])))
    z = data.draw(st.floats(12.0, 19.0))
    dx, dy = (data.draw(st.floats(-150, 150)) for _ in range(2))
    check(scene, scene.target(z, dx, dy, (data.draw(st.integers(1, 200)), data.draw(st.integers(1, 200)))))


@pytest.mark.slow
@pytest.mark.parametrize("name", SUPPORTED_TMS.list())
@pytest.mark.parametrize("place", ["zone border", "far north"])
def test_tiles_of_every_scheme_equal_the_reference(scenes: Scenes, name: str, place: str) -> None:
    scene, tms = scenes("geoemb", place), SUPPORTED_TMS.get(name)
    unit = 111_320 if tms.rasterio_crs.is_geographic else 1
    z = next(z for z in range(tms.minzoom, tms.maxzoom) if tms.matrix(z).cellSize * unit < 13)
    across, down = reference.transformer("EPSG:4326", tms.rasterio_crs.to_wkt()).transform(scene.lon, scene.lat)
    matrix = tms.matrix(z)
    left, top = matrix.pointOfOrigin if not tms._invert_axis else matrix.pointOfOrigin[::-1]
    side = 256 * matrix.cellSize
    x, y = int((across - left) // side), int((top - down) // side)
    if not (0 <= x < matrix.matrixWidth and 0 <= y < matrix.matrixHeight):
        pytest.skip(f"{name} does not reach {place}")
    target = tile_target(tms, x, y, z)
    left, top = left + x * side, top - y * side
    assert target.bounds == pytest.approx((left, top - side, left + side, top))
    assert check(scene, target) > 1000
