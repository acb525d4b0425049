"""Who may do what, and what no request can make the server do."""

from __future__ import annotations

import socket
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.schemas import JobInfo
from api.settings import ApiKey, Scenes, Settings
from api.state import State
from tests.conftest import client_of, running

EMBED = {"window": "2024", "pixels": [{}]}
SECRET = "a key that is long enough"


@pytest.fixture
def outside(world: Settings) -> TestClient:
    """A client on another machine, of a server that answers to its public name."""
    return client_of(
        world.model_copy(update={"allowed_hosts": ("maps.example",)}),
        base_url="http://maps.example",
        client=("203.0.113.9", 50000),
    )


def with_keys(world: Settings, *scopes: str, **changes: object) -> TestClient:
    digest = sha256(SECRET.encode()).hexdigest()
    key = ApiKey.parse(f"{digest}:{'+'.join(scopes)}")
    return client_of(world.model_copy(update={"api_keys": (key,), **changes}))


def test_reading_is_open_to_other_machines(outside: TestClient) -> None:
    assert outside.get("/datasets").status_code == 200


@pytest.mark.parametrize("path", ["/embed", "/queries", "/bases"])
def test_without_keys_other_machines_cannot_write(outside: TestClient, path: str) -> None:
    answer = outside.post(path, json=EMBED)
    assert answer.status_code == 403
    assert answer.json()["kind"] == "forbidden"
    assert "SMALTI_API_KEYS" in answer.json()["remedy"]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_what_comes_through_a_proxy_is_not_this_machine(client: TestClient, header: str) -> None:
    assert client.post("/embed", json=EMBED, headers={header: "127.0.0.1"}).status_code == 403


def test_a_page_of_another_origin_cannot_write_from_this_machines_browser(client: TestClient) -> None:
    for origin in ("http://evil.example", "http://localhost:3000", "http://127.0.0.1:3000", "null", "http://["):
        assert client.post("/embed", json=EMBED, headers={"Origin": origin}).status_code == 403, origin
    assert client.post("/embed", json=EMBED, headers={"Origin": "http://127.0.0.1:8000"}).status_code == 422


def test_a_named_network_counts_as_this_machine_and_its_neighbours_do_not(world: Settings) -> None:
    bridged = world.model_copy(
        update={"local_networks": Settings(local_networks="10.9.8.1/32, fd00::/64").local_networks}
    )
    for caller, status in (("10.9.8.1", 422), ("10.9.8.2", 403), ("fd00::7", 422), ("fd01::7", 403), ("nonsense", 403)):
        answer = client_of(bridged, client=(caller, 50000)).post("/embed", json=EMBED)
        assert answer.status_code == status, (caller, answer.text)
    through = client_of(bridged, client=("10.9.8.1", 50000)).post(
        "/embed", json=EMBED, headers={"X-Forwarded-For": "203.0.113.9"}
    )
    assert through.status_code == 403


def test_any_host_name_does_not_mean_any_origin(world: Settings) -> None:
    anywhere = client_of(world.model_copy(update={"allowed_hosts": ("*",)}))
    assert anywhere.post("/embed", json=EMBED, headers={"Origin": "http://evil.example"}).status_code == 403


def test_a_host_may_be_written_in_capitals(world: Settings) -> None:
    hosts = Settings(allowed_hosts="Maps.Example, other.example").allowed_hosts
    server = client_of(world.model_copy(update={"allowed_hosts": hosts}))
    for host in ("maps.example", "MAPS.example:8000", "other.example"):
        assert server.get("/datasets", headers={"Host": host}).status_code == 200, host


def test_a_host_name_that_was_rebound_to_this_machine_is_refused(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
        answer = client.get("/datasets", headers={"Host": host})
        assert answer.status_code == 403
        assert answer.json()["field"] == "Host"
    for host in ("localhost:8000", "[::1]:8000", "127.0.0.1"):
        assert client.get("/datasets", headers={"Host": host}).status_code == 200


def test_a_load_balancer_that_names_no_host_may_ask_whether_it_is_ready(world: Settings) -> None:
    with running(world) as address, socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as line:
        line.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert b" 200 " in answer.partition(b"\r\n")[0]
    assert answer.endswith(b'{"ready":true,"parts":{}}')


def test_with_keys_a_route_wants_its_scope(world: Settings) -> None:
    client = with_keys(world, "write")
    assert client.post("/embed", json=EMBED).json()["kind"] == "unauthorized"
    assert client.post("/embed", json=EMBED, headers={"X-API-Key": "guess"}).status_code == 401
    assert client.post("/embed", json=EMBED, headers={"X-API-Key": SECRET}).status_code == 403
    assert with_keys(world, "embed").post("/embed", json=EMBED, headers={"X-API-Key": SECRET}).status_code == 422
    assert with_keys(world, "admin").post("/embed", json=EMBED, headers={"X-API-Key": SECRET}).status_code == 422


def test_reading_can_be_closed_too(world: Settings) -> None:
    client = with_keys(world, "read", public_read=False)
    tile, search = "tiles/WebMercatorQuad/14/0/0.png", "search?lon=2&lat=54"
    for path in ("/datasets", f"/datasets/demo/2024/{tile}", f"/datasets/demo/2024/{search}", "/models"):
        assert client.get(path).status_code == 401, path
    assert client.get("/datasets", headers={"X-API-Key": SECRET}).status_code == 200
    assert client.get("/livez").status_code == 200


def test_keys_are_configured_by_their_digest_only() -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        ApiKey.parse("plain-text-key:read")
    with pytest.raises(ValueError, match="scopes"):
        ApiKey.parse(f"{'0' * 64}:root")


def test_other_origins_may_read_and_not_write(client: TestClient) -> None:
    origin = {"Origin": "http://elsewhere.example"}
    assert client.get("/datasets", headers=origin).headers["access-control-allow-origin"] == "*"
    ask = {**origin, "Access-Control-Request-Method": "POST"}
    assert client.options("/embed", headers=ask).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/datasets/..%2f..%2fetc/2024/tilejson.json",
        "/datasets/demo/2024/tiles/WebMercatorQuad/14/0/0.png?url=file:///etc/passwd",
        "/datasets/demo/2024/tiles/WebMercatorQuad/0/0/0.png?expression=__import__('os')",
        "/web/assets/../../settings.py",
        "/web/assets/%2e%2e/%2e%2e/settings.py",
        "/web/package.json",
    ],
)
def test_no_path_or_url_of_the_clients_choosing_is_opened(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert "root:" not in answer.text
    assert "BaseSettings" not in answer.text
    assert answer.status_code in {200, 404, 422}


def test_the_page_allows_nothing_from_elsewhere(client: TestClient) -> None:
    answer = client.get("/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text


def test_a_model_named_beside_points_is_held_against_the_datasets(client: TestClient) -> None:
    center = client.get("/datasets/demo").json()["center"]
    body = {"points": [center], "model": "other@9/x"}
    answer = client.post("/datasets/demo/2024/search", json=body)
    assert answer.status_code == 409
    assert "other@9/x" in answer.json()["detail"]
    assert "smalti-mini" in answer.json()["detail"]


def test_a_large_question_is_refused_before_it_is_read(client: TestClient) -> None:
    body = b'{"points": [' + b"[0,0]," * 900_000 + b"[0,0]]}"
    answer = client.post("/datasets/demo/2024/vectors", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["kind"] == "limit-exceeded"


def test_reading_cannot_be_closed_while_there_are_no_keys() -> None:
    with pytest.raises(ValueError, match="SMALTI_API_KEYS"):
        Settings(public_read=False)
    assert not Settings(api_keys=f"{'0' * 64}:read", public_read=False).public_read


PUBLIC = "https://planetarycomputer.microsoft.com/api/stac/v1"


def sources(home: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Documents of sources, each with what an error of it says as the owner knows it."""
    folder, keyed = home / "secret", f"{PUBLIC}?key=hush"
    return {
        "folder": ({"type": "dpixels", "folder": f"{folder}", "window": "2024"}, f"no d-pixels in {folder}: a patch"),
        "s2": (
            {"type": "scenes", "mode": "mpc", "s2": f"{folder}/catalog.json", "s1": None},
            f"catalogue {folder}/catalog.json is not there; asset B04 of one is not there: {folder}/B04.tif",
        ),
        "s1": (
            {"type": "scenes", "mode": "mpc", "s2": PUBLIC, "s1": keyed},
            f"catalogue {keyed} is not there: its server answers 404.",
        ),
    }


def job_that_failed(error: str) -> JobInfo:
    counted = dict.fromkeys(("done", "total", "pixels_done", "pixels", "min_s2"), 0)
    none = dict.fromkeys(("valid", "rejected", "water", "empty"), 0)
    return JobInfo(
        id="0" * 20, kind="area", dataset="demo", window="2024", model="m@1/default", state="failed", eta_s=None,
        outcome=none, error=error, blocks=None, created=0, updated=0, **counted,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("folder", "no d-pixels in the source of demo: a patch"),
        ("s2", "catalogue the source of demo is not there; asset B04 of one is not there: scenes/B04.tif"),
        ("s1", f"catalogue {PUBLIC} is not there: its server answers 404."),
    ],
)
def test_a_job_does_not_tell_where_scenes_lie_nor_with_which_key(own_world: Settings, name: str, says: str) -> None:
    document, error = sources(own_world.home)[name]
    State(own_world).sources.put(document, "demo")
    scenes = Scenes(folders=(own_world.home / "secret",))
    reader = client_of(own_world.model_copy(update={"scenes": scenes}), client=("203.0.113.9", 50000))
    job = job_that_failed(error)
    same = {call: lambda *_, **__: job for call in ("read", "look", "cancel", "retry")}
    held = SimpleNamespace(all=lambda: [job], workers=tuple, listeners=0, running=dict, close=lambda: None, **same)
    reader.app.state.smalti.jobs = held  # type: ignore[attr-defined]
    assert reader.get(f"/jobs/{job.id}").json()["error"] == says
    assert reader.get("/jobs").json()["jobs"][0]["error"] == says
    assert says in reader.get(f"/jobs/{job.id}/events").text
    owner = client_of(own_world.model_copy(update={"scenes": scenes}))
    owner.app.state.smalti.jobs = held  # type: ignore[attr-defined]
    assert owner.delete(f"/jobs/{job.id}").json()["error"] == says
    assert owner.post(f"/jobs/{job.id}/retry").json()["error"] == says


def test_a_refusal_does_not_tell_where_a_source_lies(own_world: Settings) -> None:
    for name in ("folder", "s2"):
        State(own_world).sources.put(sources(own_world.home)[name][0], "demo")
        for folders in ((), (own_world.home / "secret",)):
            client = client_of(own_world.model_copy(update={"scenes": Scenes(folders=folders)}))
            body = {"dataset": "demo", "window": "2024", "bbox": [2.3, 54.7, 2.31, 54.71], "dry_run": True}
            answer = client.post("/areas", json=body)
            assert answer.status_code >= 400, answer.text
            assert "the source of demo" in answer.text
            assert "secret" not in answer.text


def test_a_block_tells_what_it_was_made_from_and_not_where_that_lies(own_world: Settings) -> None:
    client = client_of(own_world)
    coverage = client.get("/datasets/demo/2024/coverage").json()
    place = f"/datasets/demo/2024/blocks/{coverage['features'][0]['properties']['block']}"
    fingerprint = client.get(place).json()["fingerprint"]
    state: State = client.app.state.smalti  # type: ignore[attr-defined]
    reports = state.reports("demo")
    made = {name: document | {"scenes": {}} for name, (document, _) in sources(own_world.home).items()}
    reports.put({"source": made["folder"]}, "a" * 64)
    reports.put({"source": made["s2"]}, "b" * 64, "a" * 64)
    key = f"{fingerprint[:2]}/{fingerprint}.json"
    state.storage.at("shelf", "reports", "demo").delete(key)
    reports.put({"source": made["s1"]}, fingerprint, "b" * 64)
    told = [piece["source"] for piece in client.get(place).json()["made"]]
    assert told == [
        {"type": "scenes", "mode": "mpc", "s2": PUBLIC, "s1": PUBLIC, "scenes": {}},
        {"type": "scenes", "mode": "mpc", "s1": None, "scenes": {}},
        {"type": "dpixels", "window": "2024", "scenes": {}},
    ]
    assert reports.of(fingerprint)[0]["source"]["s1"].endswith("?key=hush"), "stored whole"
