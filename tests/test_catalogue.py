"""The catalogue: what is open goes on being served whatever becomes of the storage, and nothing is made up."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from api import catalogue as catalogues
from api.catalogue import Catalogue, open_or_make
from api.entries import written
from api.settings import Scenes, Settings
from api.state import State
from api.watch import Watch
from service.bucket.folder import FolderBucket
from service.errors import IdentityMismatch, InvalidInput, NotFound, Unavailable
from service.grid import Zone
from service.registry import SHIPPED
from service.values import ModelIdentity, Window
from tests import layouts
from tests.conftest import client_of
from tests.slow_web import SlowWeb
from tests.test_cli import here
from tests.test_scenes_folder import patch

AWAY = Unavailable("s3://away could not be reached.", remedy="Check AWS_ENDPOINT_URL.")
TINY = ModelIdentity.parse("tiny@1")


class Shaky(FolderBucket):
    """A folder that is taken for a bucket, can be away, and takes its time."""

    remote = True
    away = False
    slow: threading.Event | None = None

    def folders(self, under: str = "") -> list[str]:
        if self.slow:
            self.slow.wait(20)
        if self.away:
            raise AWAY
        return super().folders(under)


@pytest.fixture
def shaky(own_world: Settings, monkeypatch: pytest.MonkeyPatch) -> Shaky:
    monkeypatch.setattr(catalogues, "LOOK_AGAIN_S", 0.0)
    return Shaky(own_world.home)


def looked(catalogue: Catalogue) -> None:
    """Let a look that goes on in the background end."""
    with catalogue._lock:
        pass


def test_what_is_open_stays_open_while_the_storage_is_away(own_world: Settings, shaky: Shaky) -> None:
    catalogue = Catalogue(own_world, Watch(), shaky)
    held = catalogue["demo"]
    shaky.away = True
    catalogue.look_now()
    assert catalogue["demo"].store is held.store
    assert catalogue.broken == {"storage": AWAY}
    with pytest.raises(Unavailable, match="AWS_ENDPOINT_URL"):
        catalogue["other"]  # who knows?
    catalogue.require_storage()
    shaky.away = False
    catalogue.look_now()
    assert catalogue.broken == {}
    with pytest.raises(NotFound):
        catalogue["other"]


def test_nothing_is_said_of_a_storage_never_seen_but_files_beside_it_are_served(
    own_world: Settings, shaky: Shaky, tmp_path: Path
) -> None:
    shaky.away = True
    catalogue = Catalogue(own_world, Watch(), shaky)
    with pytest.raises(Unavailable):
        catalogue.require_storage()
    with pytest.raises(Unavailable):
        catalogue["demo"]
    toml = tmp_path / "smalti.toml"
    toml.write_text(f'[[datasets]]\nid = "mine"\nlocation = "{own_world.home}/datasets/demo.icechunk"\n')
    catalogue = Catalogue(own_world.model_copy(update={"catalogue": toml}), Watch(), shaky)
    assert [dataset.id for dataset in catalogue.all()] == ["mine"]
    catalogue.require_storage()


def test_requests_do_not_wait_for_a_look_once_something_serves(own_world: Settings, shaky: Shaky) -> None:
    catalogue = Catalogue(own_world, Watch(), shaky)
    assert list(catalogue) == ["demo"]
    looked(catalogue)
    shaky.slow = threading.Event()
    started = time.monotonic()
    for _ in range(10):
        assert catalogue["demo"]
    assert time.monotonic() - started < 10, "the storage takes twenty seconds"
    shaky.slow.set()
    looked(catalogue)
    shaky.slow = None
    open_or_make(shaky, "second", TINY, 4, Window.year(2024))
    until = time.monotonic() + 10
    while list(catalogue) != ["demo", "second"]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_changed_afar_while_nobody_asked_is_seen_by_the_first_who_asks(own_world: Settings, shaky: Shaky) -> None:
    catalogue = Catalogue(own_world, Watch(), shaky)
    assert list(catalogue) == ["demo"]
    looked(catalogue)
    open_or_make(shaky, "second", TINY, 4, Window.year(2024))
    catalogue._looked_at -= 3600
    assert list(catalogue) == ["demo", "second"]


def test_those_who_wait_for_a_storage_that_is_away_do_not_ask_it_anew_each(
    own_world: Settings, shaky: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogues, "LOOK_AGAIN_S", 60.0)
    shaky.away = True
    asked: list[str] = []
    catalogue = Catalogue(own_world, Watch(), shaky)
    before = shaky.folders

    def folders(under: str = "") -> list[str]:
        asked.append(under)
        time.sleep(0.2)
        return before(under)

    monkeypatch.setattr(shaky, "folders", folders)
    threads = [threading.Thread(target=lambda: list(catalogue)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == ["datasets"]


def test_what_a_dataset_is_made_of_must_agree(tmp_path: Path) -> None:
    bucket = FolderBucket(tmp_path / "new")
    store = open_or_make(bucket, "d", TINY, 4, Window.year(2024))
    assert store.location == str(tmp_path / "new" / "datasets" / "d.icechunk")
    assert open_or_make(bucket, "d", TINY, 4, Window.year(2023)).location == store.location
    with pytest.raises(IdentityMismatch):
        open_or_make(bucket, "d", ModelIdentity.parse("other@1"), 4, Window.year(2024))
    with pytest.raises(InvalidInput):
        open_or_make(bucket, "../d", TINY, 4, Window.year(2024))


def test_a_written_dataset_may_be_read_without_keys(tmp_path: Path) -> None:
    toml = tmp_path / "smalti.toml"
    entry = '[[datasets]]\nid = "p"\nlocation = "s3://public/p.icechunk"\n'
    toml.write_text(entry + "anonymous = true\n")
    (listed,) = written(toml)
    assert (listed.location, listed.anonymous) == ("s3://public/p.icechunk", True)
    toml.write_text(entry)
    assert not written(toml)[0].anonymous
    toml.write_text(entry + 'anonymous = "yes"\n')
    with pytest.raises(InvalidInput, match="neither true nor false"):
        written(toml)


def test_data_and_what_can_be_lost_can_lie_apart(own_world: Settings, tmp_path: Path) -> None:
    apart = own_world.model_copy(update={"home": tmp_path / "scratch", "storage": str(own_world.home)})
    client = client_of(apart)
    answer = client.get("/readyz")
    assert answer.status_code == 200, answer.text
    assert answer.json()["parts"]["storage"] == "ok, a folder"
    assert "pixels, recall" in answer.json()["parts"]["index demo 2024"], "used where it lies"
    assert not (tmp_path / "scratch" / "copies").exists()


def test_whoever_reads_is_told_no_paths_of_this_machine(own_world: Settings) -> None:
    (own_world.home / "datasets" / "torn.icechunk" / "refs").mkdir(parents=True)
    client = client_of(own_world)
    for path in ("/datasets", "/datasets/torn", "/readyz"):
        answer = client.get(path).text
        assert "torn" in answer
        assert str(own_world.home) not in answer, path


def test_what_goes_wrong_names_the_dataset_and_not_where_it_lies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layouts.geoemb(tmp_path, layouts.around(2.0, 50.0, size=100)[:1], nested=False)
    web = SlowWeb(tmp_path, latency=0)
    web.start()
    toml = tmp_path / "smalti.toml"
    toml.write_text(f'[[datasets]]\nid = "far"\nlocation = "{web.url}/geoemb.zarr/"\nmodel = "{layouts.MODEL}"\n')
    client = client_of(Settings(home=tmp_path / "home", catalogue=toml))
    assert client.get("/datasets/far/2024/legend?view=vector").status_code == 200
    web.kill()
    answer = client.get("/datasets/far")
    assert (answer.status_code, answer.json()["detail"].partition(" ")[0]) == (503, "far:")
    assert str(web.port) not in answer.text
    assert web.url in caplog.text, "the log keeps the whole"


def test_places_that_begin_alike_are_told_apart(own_world: Settings) -> None:
    table = '[[datasets]]\nid = "{id}"\nlocation = "{location}"\n'
    told = {"a": "/data/a", "ab": "/data/ab/", "c": "file:///data/c", "all": "/", "own": f"{own_world.home}/own"}
    toml = own_world.home / "smalti.toml"
    toml.write_text("".join(table.format(id=id, location=location) for id, location in told.items()))
    catalogue = Catalogue(own_world.model_copy(update={"catalogue": toml}), Watch(), FolderBucket(own_world.home))
    catalogue.look_now()
    for text, said in {
        "/data/a: torn": "a: torn",
        "/data/ab/2024.zarr: torn": "ab/2024.zarr: torn",
        "/data/c and /data/d": "c and /data/d",
        f"{own_world.home}/own/x": "own/x",
        f"{own_world.home}/datasets/demo.icechunk: torn": "demo: torn",
        f"{own_world.home}/shelf/x": f"{own_world.home}/shelf/x",
    }.items():
        assert catalogue.named(text) == said


def test_of_two_datasets_of_one_name_neither_tells_where_it_lies(own_world: Settings) -> None:
    toml = own_world.home / "smalti.toml"
    toml.write_text(2 * f'[[datasets]]\nid = "twice"\nlocation = "{own_world.home}/datasets/demo.icechunk"\n')
    answer = client_of(own_world.model_copy(update={"catalogue": toml})).get("/datasets/twice")
    assert "a second dataset" in answer.text
    assert str(own_world.home) not in answer.text


def test_an_empty_dataset_with_a_source_is_made_by_a_command_and_told_anew_by_people(tmp_path: Path) -> None:
    make = ("datasets", "create", "mine", "--model", "smalti-mini")
    made = here(tmp_path, *make, "--source", "aws", "--bbox", "5,52,7,53")
    assert made.returncode == 0, made.stderr
    settings = Settings(home=tmp_path, catalogue=tmp_path / "smalti.toml")
    told = client_of(settings).get("/datasets/mine").json()
    assert (told["source"], told["source_bounds"], told["windows"]) == ("scenes", [5, 52, 7, 53], [])
    for source, says in (
        ("https://evil.example/stac", "evil.example"),
        ("nowhere", "neither a catalogue nor a folder"),
    ):
        refused = here(tmp_path, *make, "--source", source)
        assert (refused.returncode, says in refused.stderr) == (2, True), refused.stderr
    assert here(tmp_path, *make, "--source", "aws", "--embed-on-view", "16").returncode == 0
    assert State(settings).lookout.outlook("mine", "2024").on_view == 16
    where = f'id = "mine2"\nlocation = "{tmp_path}/datasets/mine.icechunk"\n'
    settings.catalogue.write_text(
        f'[[datasets]]\n{where}source = {{type = "dpixels", folder = "patches", window = 2024}}\n'
    )
    told = {"type": "dpixels", "folder": str(tmp_path / "patches"), "window": 2024}
    assert written(settings.catalogue)[0].source == told
    assert client_of(settings).get("/datasets/mine2").json()["source"] == "dpixels"


def test_a_folder_of_d_pixels_is_embedded_as_the_window_it_shows_and_no_other(tmp_path: Path) -> None:
    patch(tmp_path / "patches" / "a", (Zone(30), 256 * 1395, 256 * 100), (4, 4), (20, 2, 2), 1000)
    env = {"SMALTI_SCENES__FOLDERS": str(tmp_path / "patches")}
    make = ("datasets", "create", "mine", "--model", "smalti-mini", "--source")
    for more, says in (
        ((str(tmp_path / "patches"),), "Add --window"),
        ((str(tmp_path / "patches"), "--window", "2018-99"), "2018-99"),
        (("mpc", "--window", "2018"), "Leave it out"),
        ((str(tmp_path / "patches"), "--window", "2018", "--bbox", "5,52,6,53"), "bbox"),
    ):
        refused = here(tmp_path, *make, *more, **env)
        assert (refused.returncode, says in refused.stderr) == (2, True), refused.stderr
    assert not (tmp_path / "datasets").exists(), "refused, and left behind"
    made = here(tmp_path, *make, str(tmp_path / "patches"), "--window", "2018", **env)
    assert made.returncode == 0, made.stderr

    folders = {"folders": (tmp_path / "patches",)}
    client = client_of(Settings(home=tmp_path, catalogue=tmp_path / "smalti.toml", scenes=Scenes(**folders)))
    west, south, east, north = client.get("/datasets/mine").json()["source_bounds"]
    asked = {"dataset": "mine", "bbox": [west, south, east, north], "dry_run": True}
    assert client.post("/areas", json={**asked, "window": "2018"}).json()["pixels"] == 16
    other = client.post("/areas", json={**asked, "window": "2024"})
    assert (other.status_code, other.json()["field"]) == (404, "window"), other.text
    assert "show 2018, not 2024" in other.json()["detail"]


def test_a_dataset_is_not_made_of_scenes_that_its_encoder_was_not_trained_on(tmp_path: Path) -> None:
    mini = json.loads((SHIPPED / "smalti-mini" / "manifest.json").read_text())
    (tmp_path / "models" / "other").mkdir(parents=True)
    told = mini | {"identity": "other@1/default", "family": "tessera-v1.1-aws"}
    (tmp_path / "models" / "other" / "manifest.json").write_text(json.dumps(told))
    make = ("datasets", "create", "mine", "--model", "other")
    refused = here(tmp_path, *make, "--source", "mpc")
    assert (refused.returncode, "Take them from 'aws'" in refused.stderr) == (2, True), refused.stderr
    assert not (tmp_path / "datasets").exists(), "refused, and left behind"
    assert here(tmp_path, *make, "--source", "aws").returncode == 0

    settings = Settings(home=tmp_path, catalogue=tmp_path / "smalti.toml")
    where = f'id = "mine2"\nlocation = "{tmp_path}/datasets/mine.icechunk"\n'
    settings.catalogue.write_text(f'[[datasets]]\n{where}source = {{type = "scenes", mode = "mpc"}}\n')
    asked = {"dataset": "mine2", "window": "2024", "bbox": [5.0, 52.0, 5.01, 52.01], "dry_run": True}
    answer = client_of(settings).post("/areas", json=asked)
    assert (answer.status_code, answer.json()["field"]) == (422, "source"), answer.text
    assert "trained on scenes of mode 'aws', and these are of 'mpc'" in answer.text


def test_two_names_of_one_place_have_indexes_of_their_own(own_world: Settings, tmp_path: Path) -> None:
    place = own_world.home / "datasets" / "demo.icechunk"
    (tmp_path / "smalti.toml").write_text(f'[[datasets]]\nid = "again"\nlocation = "{place}"\n')
    state = State(own_world.model_copy(update={"catalogue": tmp_path / "smalti.toml"}))
    for name, indexed in (("again", False), ("demo", True)):
        searcher = state.searcher(state.datasets[name])
        assert (searcher.index(Window.year(2024)) is not None) == indexed
    assert {name: len(found) for name, found in state.searchers().items()} == {"again": 1, "demo": 1}
