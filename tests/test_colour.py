"""Views and bases: what they compute, that colours never move, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.schemas import Legend
from service.colour import (
    BandsView,
    Basis,
    PcaView,
    Scale,
    SimilarityView,
    VectorView,
    View,
    fit_basis,
    parse_view,
    project,
)
from service.colour.ramp import COLORMAPS, colours, palette
from service.colour.tone import Tone, indexed, stretched
from service.errors import Corrupt, IdentityMismatch, InvalidInput, LimitExceeded
from service.grid import Zone
from service.linear import product
from service.queries import Query
from service.shelf import Shelf
from service.values import BLOCK, WATER, ModelIdentity, Vectors
from tests.fakes import IDENTITY, MemoryStore, alphaearth
from tests.stores import YEAR, random_vectors


@pytest.fixture(scope="module")
def store(real_data: Path) -> MemoryStore:
    return MemoryStore(*alphaearth(real_data))


@pytest.fixture(scope="module")
def basis(store: MemoryStore) -> Basis:
    return fit_basis(store, store.windows())


def noise(shape: tuple[int, int] = (40, 50), dims: int = 8, seed: int = 0) -> MemoryStore:
    vectors = random_vectors(shape, dims, seed)
    return MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, 300_000, 20_000)


def some(basis: Basis) -> tuple[View, ...]:
    wanted = np.ones((1, basis.dims), np.float32)
    return (
        PcaView(basis),
        BandsView((0, 1, 2), basis),
        BandsView((3,), basis),
        BandsView((3, 4), basis),
        SimilarityView(Query.of(basis.identity, wanted)),
        VectorView(basis.dims),
    )


def test_the_basis_is_what_a_singular_value_decomposition_gives(store: MemoryStore, basis: Basis) -> None:
    vectors = store.parts[0].vectors.dequantised().reshape(-1, 64).astype(np.float64)
    assert basis.sample == len(vectors)
    assert np.allclose(basis.mean, vectors.mean(axis=0))
    _, singular, directions = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    assert np.allclose(np.abs((basis.components * directions[:3]).sum(axis=1)), 1, atol=1e-9)
    assert np.allclose(basis.explained, (singular**2 / (singular**2).sum())[:3])
    along = (vectors - basis.mean) @ basis.components.T
    assert np.allclose(basis.low, np.percentile(along, 2, axis=0))
    assert np.allclose(basis.high, np.percentile(along, 98, axis=0))


def test_each_direction_points_where_its_largest_weight_is_positive(basis: Basis) -> None:
    largest = np.abs(basis.components).argmax(axis=1)
    assert (basis.components[np.arange(3), largest] > 0).all()


def test_the_same_seed_gives_the_same_colours_after_a_restart(
    store: MemoryStore, basis: Basis, real_data: Path, tmp_path: Path
) -> None:
    again = fit_basis(MemoryStore(*alphaearth(real_data)), store.windows())
    assert again.id == basis.id
    shelf = Shelf(tmp_path, "basis")
    assert shelf.put(basis.to_document(), "default") == basis.id
    kept = Basis.from_document(shelf.get("default")[1])
    vectors = store.parts[0].vectors
    assert (PcaView(kept).picture(vectors) == PcaView(basis).picture(vectors)).all()
    assert PcaView(kept).key == PcaView(basis).key


def test_a_sample_is_drawn_by_seed_from_every_block_and_never_from_what_is_not_valid() -> None:
    store = noise((BLOCK, 3 * BLOCK), dims=6)
    first, again, other = (fit_basis(store, [YEAR], seed=s, sample=300) for s in (1, 1, 2))
    assert first.id == again.id != other.id
    assert first.sample == 300
    vectors = store.parts[0].vectors
    hidden = vectors.status.copy()
    hidden[:, 10:] = WATER
    codes = vectors.codes.copy()
    codes[:, 10:] = 127
    part = MemoryStore(codes, vectors.scales, store.parts[0].grid, YEAR, 300_000, 20_000, status=hidden)
    few = fit_basis(part, [YEAR], sample=100_000)
    assert few.sample == BLOCK * 10
    assert np.allclose(few.mean, vectors.dequantised()[:, :10].reshape(-1, 6).mean(axis=0), atol=1e-5)


def test_too_few_pixels_or_too_large_a_sample_are_refused() -> None:
    with pytest.raises(InvalidInput, match="too few"):
        fit_basis(noise((3, 4)), [YEAR])
    with pytest.raises(LimitExceeded):
        fit_basis(noise(), [YEAR], sample=10_000_000)


def test_fewer_than_three_dimensions_are_refused() -> None:
    with pytest.raises(InvalidInput, match="2 dimensions"):
        fit_basis(noise((20, 20), dims=2), [YEAR])
    assert fit_basis(noise((20, 20), dims=3), [YEAR]).components.shape == (3, 3)


def test_a_document_that_is_no_basis_is_corrupt(basis: Basis) -> None:
    document = basis.to_document()
    with pytest.raises(Corrupt):
        Basis.from_document({**document, "type": "query"})
    del document["low"]
    with pytest.raises(Corrupt, match="low"):
        Basis.from_document(document)


def test_projection_on_codes_is_projection_of_dequantised_vectors() -> None:
    vectors = random_vectors((90, 70), 128)
    vectors.status[3, 4] = WATER
    rng = np.random.default_rng(1)
    matrix, mean = rng.normal(size=(3, 128)), rng.normal(size=128)
    exact = (vectors.codes.astype(np.float64) * vectors.scales[..., None].astype(np.float64) - mean) @ matrix.T
    found = project(vectors, matrix, mean)
    assert np.isnan(found[3, 4]).all()
    assert np.isnan(found).any(axis=-1).sum() == 1
    held = vectors.valid
    assert np.abs(found[held] - exact[held]).max() < 1e-5 * np.abs(exact).max()


def test_every_view_gives_nan_exactly_where_not_valid_and_one_value_a_name(store: MemoryStore, basis: Basis) -> None:
    vectors = store.parts[0].vectors
    status = vectors.status.copy()
    status[::7, ::3] = WATER
    mixed = Vectors(vectors.codes, vectors.scales, status)
    for view in some(basis):
        values = view.values(mixed)
        assert values.dtype == np.float32
        assert values.shape == (97, 97, len(view.band_names))
        assert (np.isnan(values).all(axis=-1) == ~mixed.valid).all()
        assert not np.isnan(values[mixed.valid]).any()
        assert view.legend["view"]
        if isinstance(view, VectorView):
            with pytest.raises(InvalidInput, match="no picture"):
                view.picture(mixed)
        else:
            picture = view.picture(mixed)
            assert picture.dtype == np.uint8
            if view.palette is None:
                assert picture.shape == (97, 97, 3)
            else:
                assert picture.shape == (97, 97, 1)
                assert ((picture[..., 0] > 0) == mixed.valid).all()
                assert (view.palette[:, 3] == np.where(np.arange(256) > 0, 255, 0)).all()
    assert len({view.key for view in some(basis)}) == 6


def test_a_pixel_has_the_score_of_the_search_and_the_best_one_is_brightest(store: MemoryStore) -> None:
    vectors = store.parts[0].vectors
    query = Query.of(IDENTITY, vectors.dequantised()[50, 50])
    view = SimilarityView(query, Scale(0.5))
    values = view.values(vectors)[..., 0]
    assert values[50, 50] == pytest.approx(1)
    exact = query.exact_scores(vectors.codes.reshape(-1, 64)).reshape(97, 97)
    assert np.abs(values - exact).max() < 1e-6
    picture = view.picture(vectors)
    assert (view.palette[picture[50, 50, 0]] == palette("fern")[255]).all()
    assert (picture[exact < 0.499] == 1).all()
    assert (view.palette[1] == palette("fern")[1]).all()
    with pytest.raises(InvalidInput):
        Scale(1.0)


EYES = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""What eyes without one kind of cone make of linear RGB (Machado, Oliveira and Fernandes 2009, severity 1)."""


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("name", ["fern", "ember", "ice"])
def test_ramps_grow_lighter_with_every_step_to_all_eyes(name: str, eyes: str) -> None:
    """CIE lightness, computed here from scratch: no two neighbours change by more than twice the mean."""
    lightness = lightness_of(colours(name, np.linspace(0, 1, 255)), eyes)
    assert (np.diff(lightness[::4]) > 0).all()
    assert lightness[0] < 20
    assert lightness[-1] > 90
    assert np.diff(lightness[::8]).max() < 2.2 * np.diff(lightness[::8]).mean()


def lightness_of(shown: np.ndarray, eyes: str = "all") -> np.ndarray:
    linear = np.where(shown / 255 <= 0.04045, shown / 255 / 12.92, ((shown / 255 + 0.055) / 1.055) ** 2.4)
    luminance = np.clip(linear @ np.array(EYES[eyes]).T, 0, 1) @ np.array([0.2126, 0.7152, 0.0722])
    return np.asarray(116 * np.cbrt(luminance) - 16)


def test_what_means_different_things_looks_different() -> None:
    """No colour of likeness is one of change, but for the dark and the pale ends."""
    first, second = (palette(name)[33:225, :3].astype(int) for name in ("fern", "ember"))
    assert np.abs(first[:, None] - second[None]).sum(axis=-1).min() > 80


def test_colour_maps_are_what_their_names_promise() -> None:
    t = np.linspace(0, 1, 255)
    helix, tide = lightness_of(colours("cubehelix", t)), lightness_of(colours("tide", t))
    assert (colours("cubehelix", t)[[0, -1]] == [[0, 0, 0], [255, 255, 255]]).all()
    assert (np.diff(helix[::4]) > 0).all()
    assert np.argmax(tide) == 127
    assert (np.diff(tide[:128:4]) > 0).all()
    assert abs(tide[0] - tide[-1]) < 5
    assert (colours("grey", t)[:, 0] == np.rint(t * 255)).all()
    for name in COLORMAPS:
        table = palette(name)
        assert (table[0].tolist(), set(table[1:, 3].tolist())) == ([0, 0, 0, 0], {255})
        assert (palette(f"{name}_r")[1:] == table[:0:-1]).all()
        assert (palette(name, 2.0)[1:, :3] == colours(name, np.sqrt(t))).all()
    for name, gamma in (("viridis", 1.0), ("fern_r_r", 1.0), ("fern", 0.0), ("fern", float("nan")), ("", 1.0)):
        with pytest.raises(InvalidInput):
            palette(name, gamma)


def test_a_valid_pixel_without_a_direction_has_no_colour() -> None:
    codes = np.array([[3, 4], [0, 0], [-3, -4]], np.int8)
    pixels = Vectors(codes, np.ones(3, np.float32), np.ones(3, np.uint8))
    query = Query.of(IDENTITY, np.array([[3.0, 4.0]]))
    for scale in (Scale(0.5), Scale(-1.0, clip=True)):
        assert SimilarityView(query, scale).picture(pixels)[:, 0].astype(bool).tolist() == [True, False, True]


def test_what_lies_below_the_threshold_is_clipped_if_asked(store: MemoryStore) -> None:
    vectors = store.parts[0].vectors
    query = Query.of(IDENTITY, vectors.dequantised()[50, 50])
    scores = SimilarityView(query).values(vectors)[..., 0]
    picture = SimilarityView(query, Scale(0.8, clip=True)).picture(vectors)
    seen = picture[..., 0] > 0
    assert (seen == (scores >= np.float32(0.8))).all()
    assert 0 < seen.sum() < scores.size
    assert (picture[seen] == SimilarityView(query, Scale(0.8)).picture(vectors)[seen]).all()
    for low, high in ((0.5, 0.5), (0.5, 0.4), (0.0, 2.5), (-1.5, 1.0), (0.0, float("nan")), (float("nan"), 1.0)):
        with pytest.raises(InvalidInput):
            SimilarityView(query, Scale(low, top=high))
    keys = [
        Scale(0.1), Scale(0.1, clip=True), Scale(0.1, top=0.9), Scale(0.1000001), Scale(0.1, gamma=2.0),
        Scale(0.1, colormap="ice"),
    ]  # fmt: skip
    assert len({SimilarityView(query, scale).key for scale in keys}) == len(keys)


def test_legends_say_what_is_shown(store: MemoryStore, basis: Basis) -> None:
    for view in some(basis):
        legend = Legend.model_validate(view.legend)
        assert legend.title
        assert legend.text.endswith(".")
    pca, bands = (some(basis)[n].legend["channels"] for n in (0, 1))
    assert [channel["colour"] for channel in pca] == ["red", "green", "blue"]
    assert [channel["explained"] for channel in pca] == list(basis.explained)
    assert [channel["name"] for channel in bands] == ["d0", "d1", "d2"]
    grey = BandsView((3,), basis).legend
    assert grey["range"] == [basis.band_low[3], basis.band_high[3]]
    assert grey["colours"][:2] == ["#000000", "#1a1a1a"]
    likeness = SimilarityView(
        Query.of(basis.identity, np.ones((1, basis.dims), np.float32)), Scale(0.5, clip=True)
    ).legend
    assert (likeness["range"], likeness["clip"], len(likeness["colours"])) == ([0.5, 1.0], True, 11)
    assert likeness["colours"][0] == "#" + bytes(palette("fern")[1, :3]).hex()
    assert likeness["colours"][-1] == "#" + bytes(palette("fern")[255, :3]).hex()


def test_a_stretch_clips_and_rounds() -> None:
    values = np.array([[-9.0, 0, 1, 2, 9, np.nan]], np.float32).T
    assert stretched(values, np.array([0.0]), np.array([2.0])).ravel().tolist() == [0, 0, 128, 255, 255, 0]
    assert stretched(values, np.array([1.0]), np.array([1.0])).dtype == np.uint8
    assert indexed(values, 0.0, 2.0).ravel().tolist() == [1, 1, 128, 255, 255, 0]
    assert indexed(values, 1.0, 1.0)[:3].ravel().tolist() == [1, 1, 1]


def test_a_tone_moves_the_ends_and_bends_what_lies_between(store: MemoryStore, basis: Basis) -> None:
    vectors = store.parts[0].vectors
    values = PcaView(basis).values(vectors).astype(float)
    spans, gamma = ((-1.0, 1.0), (0.0, 0.5), (-0.25, 0.0)), 1.8
    view = PcaView(basis, Tone(spans, gamma))
    low, high = np.array(spans).T
    exact = 255 * np.clip((values - low) / (high - low), 0, 1) ** (1 / gamma)
    assert np.abs(view.picture(vectors) - exact).max() <= 0.51
    assert (view.values(vectors) == PcaView(basis).values(vectors)).all()
    legend = Legend.model_validate(view.legend)
    assert (legend.stretch, legend.gamma) == (list(spans), gamma)
    one = BandsView((3,), basis, Tone(((-0.2, 0.2),)), "tide")
    assert (one.picture(vectors)[..., 0] == indexed(one.values(vectors)[..., 0], -0.2, 0.2)).all()
    assert (one.palette == palette("tide")).all()
    assert (one.legend["range"], one.legend["colormap"]) == ([-0.2, 0.2], "tide")
    looks = [Tone(), Tone(gamma=2.0), Tone(((0.0, 1.0),)), Tone(((0.0, 2.0),))]
    assert len({PcaView(basis, tone).key for tone in looks}) == 4
    assert len({one.key, BandsView((3,), basis).key, BandsView((3,), basis, colormap="ice").key}) == 3
    for bad in ((1.0, 0.0), (0.0, 0.0), (0.0, float("nan")), (-1e9, 0.0)):
        with pytest.raises(InvalidInput):
            Tone((bad,))
    with pytest.raises(InvalidInput, match="2 pairs for 3"):
        PcaView(basis, Tone(((0.0, 1.0), (0.0, 1.0)))).check(basis.identity, basis.dims)
    with pytest.raises(InvalidInput, match="red, green and blue"):
        BandsView((1, 2), basis, colormap="ice")


def test_vectors_of_another_model_are_refused_with_both_names(basis: Basis) -> None:
    other = ModelIdentity("other", "2")
    for view in some(basis)[:5]:
        with pytest.raises(IdentityMismatch, match=r"fake@1/test.*other@2|other@2.*fake@1/test"):
            view.check(other, basis.dims)


def test_views_refuse_dimensions_they_do_not_have(basis: Basis) -> None:
    with pytest.raises(InvalidInput):
        PcaView(basis).check(basis.identity, 32)
    with pytest.raises(InvalidInput, match="64"):
        BandsView((0, 64, 2), basis).check(basis.identity, 64)
    BandsView((0, 31, 2), basis).check(basis.identity, 32)


@pytest.mark.parametrize(
    ("text", "kind", "argument"),
    [
        ("pca", "pca", "default"),
        ("pca:autumn", "pca", "autumn"),
        ("bands", "bands", "0,1,2"),
        ("bands:5", "bands", "5"),
        ("similarity:0f3a", "similarity", "0f3a"),
        ("similarity:-2.5,51.25", "similarity", "-2.5,51.25"),
        ("change:2023", "change", "2023"),
        ("change:2024-01-01..2024-12-31", "change", "2024"),
        ("change:2024-05-01..2024-09-30", "change", "2024-05-01..2024-09-30"),
        ("observations:s1_asc", "observations", "s1_asc"),
        ("vector", "vector", ""),
    ],
)
def test_views_are_read(text: str, kind: str, argument: str) -> None:
    spec = parse_view(text)
    assert (spec.kind, spec.argument) == (kind, argument)


def test_a_place_to_compare_with_is_told_from_a_query() -> None:
    assert parse_view("similarity:-2.5,51.25").place == (-2.5, 51.25)
    assert parse_view("similarity:0f3a").place is None


BAD_PLACES = ["1,2,3", "181,0", "0,91", "nan,0", "1e2,0", "1,", ",1", " 1,2", "１,2"]
BAD = [
    "", "pca:", "pca:../x", "bands:1,2,3,4", "bands:-1", "bands:", "similarity:", "similarity", "vector:1", "PCA",
    "change", "change:", "change:x", "change:2024..2023", "observations", "observations:s3",
    *(f"similarity:{place}" for place in BAD_PLACES),
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_view_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_view(text)
    assert refused.value.field == "view"


@given(st.sampled_from(BAD) | st.text(max_size=30).filter(lambda t: t.partition(":")[0] not in ("pca", "bands")))
def test_anything_else_is_refused_by_name(text: str) -> None:
    if (text.startswith("similarity:") and text not in BAD) or text == "vector":
        return
    with pytest.raises(InvalidInput) as refused:
        parse_view(text)
    assert refused.value.field == "view"


@settings(deadline=None)
@given(st.integers(0, 700), st.integers(1, 40), st.integers(1, 300))
def test_products_in_pieces_are_whole_products(n: int, d: int, m: int) -> None:
    rng = np.random.default_rng(n)
    rows, weights = rng.normal(size=(n, d)), rng.normal(size=(d, m))
    assert np.allclose(product(rows, weights), rows @ weights)
