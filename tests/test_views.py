"""Views over HTTP: observations, how they look, prefixes, and bases that are fitted somewhere and never lost."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import morecantile
import numpy as np
import pytest
from fastapi.testclient import TestClient
from rasterio.io import MemoryFile

from api.catalogue import Dataset
from api.legends import drawn
from api.settings import Settings
from service.colour import Region, fit_basis
from service.colour.ramp import palette
from service.errors import InvalidInput, LimitExceeded
from service.grid import Zone, archive_grid
from service.shelf import Shelf
from service.values import NOT_EMBEDDED, Area, Counts, Vectors
from tests.conftest import client_of
from tests.fakes import Datasets, MemoryStore
from tests.stores import YEAR, Tiny, random_vectors, tiny_archive

TMS = morecantile.tms.get("WebMercatorQuad")
DIMS = 8
SHAPE = (300, 320)


def served(home: Path, store: Any) -> TestClient:
    client = client_of(Settings(home=home, catalogue=Path("none.toml")))
    client.app.state.smalti.datasets = Datasets({"tiny": Dataset("tiny", store, "Tiny", "CC0")})  # type: ignore[attr-defined]
    assert client.post("/bases", json={"dataset": "tiny"}).status_code == 201
    return client


def ramped() -> tuple[Vectors, Counts]:
    """Noise, a hole in it, and counts that grow to the east; ascending ones to the south; no descending ones."""
    vectors = random_vectors(SHAPE, DIMS)
    vectors.status[100:140, 50:200] = NOT_EMBEDDED
    row, col = np.indices(SHAPE)
    return vectors, Counts(*(axis.astype(np.uint16) for axis in (col // 2, row // 4, 0 * row)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestClient, Tiny]:
    home = tmp_path_factory.mktemp("home")
    vectors, counts = ramped()
    tiny = tiny_archive(home, vectors, counts=counts)
    tiny.store.write_overviews(YEAR)
    return served(home, tiny.store), tiny


def path_of(tiny: Tiny, z: int, suffix: str = ".png", at: tuple[int, int] = (120, 160)) -> str:
    x, y, _ = TMS.tile(*tiny.lonlat(*at), z)
    return f"/datasets/tiny/2024/tiles/WebMercatorQuad/{z}/{x}/{y}{suffix}"


def numbers(client: TestClient, path: str, **params: str) -> np.ndarray:
    answer = client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return np.asarray(np.load(io.BytesIO(answer.content)))


def indices(client: TestClient, path: str, **params: Any) -> np.ndarray:
    answer = client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    with MemoryFile(answer.content) as memory, memory.open() as file:
        assert file.count == 1
        return np.asarray(file.read(1))


# Observations


def test_observations_are_the_stored_counts_where_there_is_a_vector(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    path = path_of(tiny, 14, ".npy")
    for view, want in (("s2", tiny.counts.s2), ("s1_asc", tiny.counts.s1_asc), ("s1_desc", tiny.counts.s1_desc)):
        found = numbers(client, path, view=f"observations:{view}")[0]
        held = np.isfinite(found)
        assert (held == np.isfinite(numbers(client, path, view="pca")[0])).all()
        assert set(np.unique(found[held])) <= set(np.unique(want[tiny.vectors.valid]).tolist())
        assert held.sum() > 1000
    i, j = 30, 77
    seen, nothing = (
        client.get("/datasets/tiny/2024/point/{},{}?view=observations:s2".format(*tiny.lonlat(*at))).json()
        for at in ((i, j), (120, 77))
    )
    assert (seen["values"], seen["band_names"]) == ([j // 2], ["s2"])
    assert (nothing["values"], nothing["status"]) == ([None], "not-embedded")


@pytest.mark.parametrize("z", [9, 11, 13, 15])
def test_their_pictures_are_their_numbers_at_every_zoom(made: tuple[TestClient, Tiny], z: int) -> None:
    client, tiny = made
    look = {"view": "observations:s2", "top": "120", "threshold": "10"}
    count = numbers(client, path_of(tiny, z, ".npy"), **look)[0]
    shown = indices(client, path_of(tiny, z), **look)
    held = np.isfinite(count)
    assert held.any()
    assert ((shown > 0) == held).all()
    exact = 1 + 254 * np.clip((count[held] - 10) / 110, 0, 1)
    assert np.abs(shown[held] - exact).max() <= 0.51
    assert (count[held] == np.rint(count[held])).all()
    assert count[held].max() <= tiny.counts.s2.max()
    hidden = indices(client, path_of(tiny, z), **look, clip="true")
    assert ((hidden > 0) == (count >= 10)).all()


def test_layouts_that_record_none_say_so(made: tuple[TestClient, Tiny], tmp_path: Path) -> None:
    vectors = random_vectors((60, 60), DIMS)
    store = MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, 350_000, 25_000)
    client = served(tmp_path, store)
    answer = client.get("/datasets/tiny/2024/preview.png?view=observations:s2")
    assert answer.status_code == 422
    assert answer.json()["field"] == "view"
    assert "does not record" in answer.json()["detail"]
    assert "views" in answer.json()["remedy"]
    assert client.get("/datasets/tiny").json()["views"] == ["pca", "bands", "similarity"]
    assert made[0].get("/datasets/tiny").json()["views"] == ["pca", "bands", "similarity", "observations"]
    assert client.get("/datasets/tiny/2024/legend?view=observations:s2").status_code == 422


# How it looks


def test_how_a_view_looks_changes_its_pictures_its_tag_and_its_legend(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    path = path_of(tiny, 13)
    looks: list[dict[str, Any]] = [
        {}, {"gamma": 2}, {"stretch": "-2,2"}, {"stretch": ["-2,2", "-1,1", "-3,0"]}, {"stretch": "-2,2", "gamma": 0.5},
    ]  # fmt: skip
    answers = [client.get(path, params={"view": "pca", **look}) for look in looks]
    assert [answer.status_code for answer in answers] == [200] * len(looks)
    assert len({answer.content for answer in answers}) == len(looks)
    assert len({answer.headers["etag"] for answer in answers}) == len(looks)
    legend = client.get("/datasets/tiny/2024/legend", params={"view": "pca", **looks[3], "gamma": 2}).json()
    assert [channel["range"] for channel in legend["channels"]] == [[-2, 2], [-1, 1], [-3, 0]]
    assert legend["gamma"] == 2
    numbers_ = [numbers(client, path_of(tiny, 13, ".npy"), view="pca", **look) for look in (looks[0], {"gamma": "2"})]
    assert np.array_equal(*numbers_, equal_nan=True), "numbers have no look"


def test_one_number_may_take_any_colour_map(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    path = path_of(tiny, 13)
    lon, lat = tiny.lonlat(30, 30)
    for view, own in ((f"similarity:{lon},{lat}", "fern"), ("bands:3", "grey"), ("observations:s2", "ice")):
        plain = indices(client, path, view=view)
        for look, want in (({}, (own, 1.0)), ({"colormap": "tide_r", "gamma": 2}, ("tide_r", 2.0))):
            answer = client.get(path, params={"view": view, **look})
            with MemoryFile(answer.content) as memory, memory.open() as file:
                table = [file.colormap(1)[index] for index in range(1, 256)]
                assert (file.read(1) == plain).all(), "which colour, not which number"
            assert table == [tuple(colour) for colour in palette(*want)[1:].tolist()]
        legend = client.get("/datasets/tiny/2024/legend", params={"view": view, "colormap": "tide_r"}).json()
        assert legend["colormap"] == "tide_r"
        assert legend["colours"][0] == "#" + bytes(palette("tide_r")[1, :3]).hex()


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ("view=pca&colormap=fern", "colormap"),
        ("view=pca&threshold=0.5", "threshold"),
        ("view=pca&clip=true", "clip"),
        ("view=pca&stretch=1", "stretch"),
        ("view=pca&stretch=2,1", "stretch"),
        ("view=pca&stretch=a,b", "stretch"),
        ("view=pca&stretch=nan,1", "stretch"),
        ("view=pca&stretch=0,inf", "stretch"),
        ("view=pca&stretch=0,1&stretch=0,1", "stretch"),
        ("view=pca&stretch=0,1&stretch=0,1&stretch=0,1&stretch=0,1", "stretch"),
        ("view=pca&gamma=0", "gamma"),
        ("view=pca&gamma=nan", "gamma"),
        ("view=pca&gamma=11", "gamma"),
        ("view=bands:1,2&colormap=fern", "colormap"),
        ("view=bands:1&colormap=viridis", "colormap"),
        ("view=bands:1&top=0.5", "top"),
        ("view=similarity:3,52&stretch=0,1", "stretch"),
        ("view=similarity:3,52&top=3", "top"),
        ("view=observations:s2&top=0", "top"),
        ("view=observations:s2&threshold=-1", "threshold"),
        ("view=observations:s2&top=2000", "top"),
        ("view=observations", "view"),
        ("view=observations:s2,s1", "view"),
        ("view=vector&gamma=2", "gamma"),
    ],
)
def test_what_means_nothing_to_a_view_is_refused_by_name(
    made: tuple[TestClient, Tiny], params: str, field: str
) -> None:
    client, tiny = made
    params = params.replace("3,52", "{},{}".format(*tiny.lonlat(30, 30)))
    answer = client.get(f"{path_of(tiny, 13)}?{params}")
    assert answer.status_code == 422, answer.text
    assert field in answer.json()["field"]


def test_a_legend_comes_as_a_picture_too(made: tuple[TestClient, Tiny]) -> None:
    client, _ = made
    for view, words in (
        ("pca", ["Principal components", "pc1: ", "of the variance"]),
        ("observations:s1_asc&top=40&colormap=tide", ["Sentinel-1 ascending observations", ">40<", "valid dates"]),
        ("bands:2", ["Dimension 2"]),
    ):
        answer = client.get(f"/datasets/tiny/2024/legend.svg?view={view}")
        assert answer.headers["content-type"] == "image/svg+xml"
        root = ElementTree.fromstring(answer.text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        legend = client.get(f"/datasets/tiny/2024/legend?view={view}").json()
        for word in [*words, *legend.get("colours", [])]:
            assert word in answer.text
    assert "&lt;b&gt;" in drawn({"title": "<b>", "text": "x"})


# Prefixes


class Nested(MemoryStore):
    """A store with prefixes, which notes how long a prefix each read asks for."""

    def __init__(self) -> None:
        vectors = random_vectors((90, 90), 16)
        self.asked: list[int | None] = []
        super().__init__(vectors.codes, vectors.scales, Zone(31), YEAR, 350_000, 25_000, depths=(4, 16))

    def read(self, *args: Any, dims: int | None = None, **more: Any) -> Vectors:
        self.asked.append(dims)
        return super().read(*args, dims=dims, **more)


def test_a_prefix_is_seen_through_a_basis_of_its_own_and_is_all_that_is_read(tmp_path: Path) -> None:
    store = Nested()
    client = served(tmp_path, store)
    path = "/datasets/tiny/2024/preview.png"
    missing = client.get(f"{path}?view=pca&dims=4")
    assert missing.status_code == 404
    assert missing.json()["field"] == "dims"
    assert 'POST /bases {"dataset": "tiny", "dims": 4}' in missing.json()["remedy"]
    fitted = client.post("/bases", json={"dataset": "tiny", "dims": 4}).json()
    assert (fitted["name"], fitted["dims"]) == ("default~4", 4)
    assert {b["name"]: b["dims"] for b in client.get("/bases?dataset=tiny").json()["bases"]} == {
        "default": 16, "default~4": 4,
    }  # fmt: skip
    store.asked.clear()
    short = client.get(f"{path}?view=pca&dims=4")
    assert short.status_code == 200
    assert set(store.asked) == {4}
    for view in (f"pca:{fitted['id']}", "pca:default~4"):
        assert client.get(f"{path}?view={view}").content == short.content
    assert set(store.asked) == {4}
    assert client.get(f"{path}?view=pca").content != short.content
    for query in (f"view=pca:{fitted['id']}&dims=16", "view=pca&dims=5"):
        refused = client.get(f"{path}?{query}")
        assert (refused.status_code, refused.json()["field"]) == (422, "dims")
    assert client.post("/bases", json={"dataset": "tiny", "dims": 5}).status_code == 422


# Bases


def halves() -> MemoryStore:
    """Two kinds of noise, west and east, three blocks wide."""
    vectors = random_vectors((256, 768), 6)
    vectors.codes[:, 300:] = np.roll(vectors.codes[:, 300:] // 4 + 40, 1, axis=-1)
    return MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, 350_208, 25_088)


def test_a_basis_is_fitted_to_the_pixels_of_a_region_and_to_no_others() -> None:
    store = halves()
    part, grid = store.parts[0], archive_grid(Zone(31))
    corner = [grid.to_lonlat(np.array([part.row0 + r]), np.array([part.col0 + c])) for r, c in ((200, 20), (50, 280))]
    (west, south), (east, north) = ((float(lon[0]), float(lat[0])) for lon, lat in corner)
    basis = fit_basis(store, [YEAR], region=Region.of_box(Area(west, south, east, north)))
    rows, cols = np.indices(part.vectors.status.shape)
    lon, lat = grid.to_lonlat(part.row0 + rows.ravel() + 0.5, part.col0 + cols.ravel() + 0.5)
    inside = (lon > west) & (lon < east) & (lat > south) & (lat < north)
    wanted = part.vectors.dequantised().reshape(-1, 6)[inside]
    assert basis.sample == inside.sum() > 30_000
    assert np.allclose(basis.mean, wanted.mean(axis=0), atol=1e-6)
    assert basis.region == {"bbox": [west, south, east, north]}
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    polygon = Region.of_geojson({"type": "Polygon", "coordinates": [ring]})
    assert np.allclose(fit_basis(store, [YEAR], region=polygon).mean, basis.mean)
    assert fit_basis(store, [YEAR]).id != basis.id
    assert fit_basis(store, [YEAR], sample=500, region=polygon).sample == 500
    with pytest.raises(InvalidInput, match="nothing there"):
        fit_basis(store, [YEAR], region=Region.of_box(Area(4.5, -20, 5, -19)))
    with pytest.raises(InvalidInput, match="too few"):
        fit_basis(store, [YEAR], region=Region.of_box(Area(west, south, west + 2e-4, south + 1e-4)))
    with pytest.raises(LimitExceeded, match="positions"):
        Region.of_geojson({"type": "Polygon", "coordinates": [[*ring[:-1] * 300, ring[0]]]})


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ((170.0, -5.0, -170.0, 5.0), [(175, 1), (-175, -1), (179.99, 1)], [(1, 1), (165, 1), (175, 6)]),
        ((-180.0, -90.0, 180.0, 90.0), [(1, 1), (179, 80), (-121, -75)], []),
    ],
)
def test_a_box_is_the_polygon_that_covers_it(
    bounds: tuple[float, float, float, float], inside: list[Any], outside: list[Any]
) -> None:
    region = Region.from_document(Region.of_box(Area(*bounds)).document)
    for places, want in ((inside, True), (outside, False)):
        for lon, lat in places:
            zone = archive_grid(Zone.of(lon, lat))
            row, col = (int(axis[0]) for axis in zone.from_lonlat(np.array([lon]), np.array([lat])))
            shape = region.polygon.on(zone, (-180, -90, 180, 90), "bbox")
            found = shape is not None and bool(shape.mask(slice(row, row + 1), slice(col, col + 1)).any())
            assert found == want, (lon, lat)


def test_a_name_may_move_and_nothing_is_lost(tmp_path: Path) -> None:
    client = served(tmp_path, halves())
    first = client.get("/bases/default?dataset=tiny").json()
    pinned = client.get(f"/datasets/tiny/2024/preview.png?view=pca:{first['id']}").content
    assert (first["history"][0]["id"], len(first["history"])) == (first["id"], 1)
    second = client.post("/bases", json={"dataset": "tiny", "seed": 5, "sample": 400}).json()
    again = client.post("/bases", json={"dataset": "tiny", "seed": 5, "sample": 400}).json()
    assert second == again
    told = client.get("/bases/default?dataset=tiny").json()
    assert [moved["id"] for moved in told["history"]] == [second["id"], first["id"]]
    assert told["history"][0]["since"] > told["history"][1]["since"]
    assert client.get(f"/datasets/tiny/2024/preview.png?view=pca:{first['id']}").content == pinned
    assert client.get("/datasets/tiny/2024/preview.png").content != pinned
    by_id = client.get(f"/bases/{first['id']}?dataset=tiny").json()
    assert (by_id["name"], by_id["id"], by_id["history"]) == (None, first["id"], [])
    assert by_id["revision"]
    assert client.get("/bases/nobody?dataset=tiny").status_code == 404


def test_a_basis_without_a_name_is_known_by_its_id(tmp_path: Path) -> None:
    client = served(tmp_path, halves())
    box = client.get("/datasets/tiny").json()["bounds"]
    made = client.post("/bases", json={"dataset": "tiny", "name": None, "bbox": box, "sample": 200_000}).json()
    assert (made["name"], made["region"]) == (None, {"bbox": box})
    assert [basis["name"] for basis in client.get("/bases?dataset=tiny").json()["bases"]] == ["default"]
    assert client.get(f"/datasets/tiny/2024/preview.png?view=pca:{made['id']}").status_code == 200
    ring = [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[1]]]
    shape = {"type": "Polygon", "coordinates": [ring]}
    body: dict[str, Any] = {"dataset": "tiny", "name": "half", "geometry": shape, "sample": 200_000}
    triangle = client.post("/bases", json=body)
    assert triangle.status_code == 201, triangle.text
    assert 0.4 < triangle.json()["sample"] / made["sample"] < 0.6
    for body in (
        {"bbox": box, "geometry": shape},
        {"bbox": [0, 10, 1, 5]},
        {"bbox": [-60, -20, -59, -19]},
        {"geometry": {"type": "Point", "coordinates": [0, 0]}},
        {"geometry": {"type": "Polygon", "coordinates": [ring[:-1]]}},
    ):
        assert client.post("/bases", json={"dataset": "tiny", **body}).status_code == 422, body


def test_names_of_a_shelf_without_history_keep_what_they_pointed_to(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "basis")
    old = shelf.put({"a": 1})
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "x").write_text(old)
    assert [(moved.id, moved.since) for moved in shelf.history("x")] == [(old, None)]
    new = shelf.put({"a": 2}, "x")
    assert [moved.id for moved in shelf.history("x")] == [new, old]
    assert [moved.since is None for moved in shelf.history("x")] == [False, True]
    back = shelf.put({"a": 1}, "x")
    assert [moved.id for moved in Shelf(tmp_path, "basis").history("x")] == [back, new, old]
    assert shelf.put({"a": 1}, "x") == back
    assert len(shelf.history("x")) == 3
