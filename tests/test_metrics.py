"""What Prometheus is told: of every route, encoder, index and store, and who may ask."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import anyio
import morecantile
import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from api import state as states
from api.access import Access
from api.catalogue import Dataset
from api.metrics import Reading
from api.routes import metrics as metrics_route
from api.settings import ApiKey, Limits, Settings
from api.tally import Tally
from api.watch import Watch
from service.errors import Conflict, Unavailable
from service.store.contract import BlockData
from service.values import Counts, Window
from tests.conftest import client_of

TILE = "/datasets/{dataset}/{window}/tiles/{tileMatrixSetId}/{z}/{x}/{y}.{format}"
SEARCH = "/datasets/{dataset}/{window}/search"
PARTS = {"tileMatrixSetId": "WebMercatorQuad", "dataset": "none", "window": "1999", "format": "png"}
SECRET = "a key that is long enough"


class Numbers:
    """/metrics, read: numbers by name and labels."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all series of a name that carry these labels; 0 where there are none."""
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())

    def labels(self, name: str, label: str) -> set[str]:
        return {s.labels[label] for s in self.samples if s.name == name}


def numbers(client: TestClient) -> Numbers:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Numbers(answer.text)


def place(client: TestClient) -> list[float]:
    return list(client.get("/datasets/demo").json()["center"])


def tile_path(client: TestClient, **params: str) -> str:
    template = client.get("/datasets/demo/2024/WebMercatorQuad/tilejson.json", params=params).json()["tiles"][0]
    tile = morecantile.tms.get("WebMercatorQuad").tile(*place(client), 13)
    path = template.replace("{z}", "13").replace("{x}", str(tile.x)).replace("{y}", str(tile.y))
    return str(path.removeprefix("http://127.0.0.1:8000"))


def series(at: list[float] | None = None, **more: Any) -> dict[str, Any]:
    """The body of POST /embed for one pixel with two dates."""
    values = [[900, 800, 700, 2500, 1200, 2000, 2300, 2600, 1800, 1100]] * 2
    s2 = {
        "bands": ["B04", "B02", "B03", "B08", "B8A", "B05", "B06", "B07", "B11", "B12"],
        "dates": ["2024-05-01", "2024-07-01"], "unit": "dn", "values": values, "mask": [1, 1],
    }  # fmt: skip
    return {"window": "2024", "pixels": [{"s2": s2, **({"at": at} if at else {})}], **more}


@pytest.fixture
def fresh(world: Settings) -> TestClient:
    """A client of an app that has answered nothing yet."""
    return client_of(world)


def test_traffic_latency_and_bytes_are_counted_by_route(fresh: TestClient) -> None:
    path = tile_path(fresh)
    first = fresh.get(path)
    assert first.status_code == 200
    assert fresh.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    now = numbers(fresh)
    of_tiles = {"method": "GET", "route": TILE}
    assert now("smalti_http_requests_total", **of_tiles, status="200") == 1
    assert now("smalti_http_requests_total", **of_tiles, status="304") == 1
    assert now("smalti_http_response_bytes_total", **of_tiles) == len(first.content)
    assert now("smalti_http_request_seconds_count", **of_tiles) == 2
    assert 0 < now("smalti_http_request_seconds_sum", **of_tiles) < 30
    assert now("smalti_http_requests_in_progress") == 1, "the one that asks"
    assert now("smalti_picture_seconds_count", dataset="demo", view="pca") == 1


def test_routes_go_by_their_template_in_openapi(fresh: TestClient) -> None:
    document = fresh.get("/openapi.json").json()
    asked = []
    for template, item in document["paths"].items():
        for method in item:
            path = re.sub(r"\{(\w+)\}", lambda found: PARTS.get(found[1], "1"), template)
            fresh.request(method.upper(), path, json={} if method == "post" else None)
            asked.append((method.upper(), template))
    counted = {
        (sample.labels["method"], sample.labels["route"])
        for sample in numbers(fresh).samples
        if sample.name == "smalti_http_requests_total"
    }
    assert len(asked) > 40
    assert set(asked) - counted <= {("GET", "/metrics")}, "counted once it is answered"


def test_what_callers_make_up_becomes_no_label(fresh: TestClient) -> None:
    for n in range(3):
        fresh.get(f"/nothing/{n}")
        fresh.get(f"/datasets/made-up-{n}")
        fresh.get(f"/web/assets/{n}.js")
        fresh.request(f"BREW{n}", "/livez")
    now = numbers(fresh)
    routes = now.labels("smalti_http_requests_total", "route")
    assert routes == {"unmatched", "/datasets/{dataset}", "/web/assets/{path}", "/livez"}
    assert now.labels("smalti_http_requests_total", "method") == {"GET", "OTHER"}
    assert now("smalti_http_requests_total", route="unmatched", status="404") == 3
    assert not any("made-up" in value for sample in now.samples for value in sample.labels.values())


def test_two_apps_share_no_numbers(world: Settings, fresh: TestClient) -> None:
    fresh.get("/livez")
    assert numbers(client_of(world))("smalti_http_requests_total", route="/livez") == 0


def test_a_search_tells_its_engine_and_what_it_looked_at(fresh: TestClient) -> None:
    lon, lat = place(fresh)
    before = numbers(fresh)
    for _ in range(2):
        assert fresh.get(f"/datasets/demo/2024/search?lon={lon}&lat={lat}").json()["engine"] == "index"
    west, south = lon - 0.001, lat - 0.001
    small = f"bbox={west},{south},{lon + 0.001},{lat + 0.001}"
    assert fresh.get(f"/datasets/demo/2024/search?lon={lon}&lat={lat}&{small}").json()["engine"] == "exact"
    now = numbers(fresh)
    assert now("smalti_search_requests_total", dataset="demo", outcome="index") == 2
    assert now("smalti_search_requests_total", dataset="demo", outcome="exact") == 1
    assert now("smalti_search_seconds_count", dataset="demo", engine="index") == 2
    assert now("smalti_search_candidates_total", dataset="demo") > 0
    assert now("smalti_search_scanned_total", dataset="demo") > now("smalti_search_candidates_total", dataset="demo")
    blocks = {"cache": "blocks", "dataset": "demo"}
    assert before("smalti_cache_lookups_total", **blocks) == 0
    assert now("smalti_cache_lookups_total", **blocks, result="hit") > 0
    assert now("smalti_cache_bytes", **blocks) > 0


def test_uploads_are_counted_with_their_pixels_and_device(fresh: TestClient) -> None:
    assert fresh.post("/embed", json=series() | {"pixels": series()["pixels"] * 7}).status_code == 200
    now = numbers(fresh)
    model = now.labels("smalti_encoder_info", "model").pop()
    assert model.startswith("smalti-mini@")
    device = now.labels("smalti_encoder_info", "device").pop()
    assert now("smalti_encoder_info", model=model, device=device, asked="auto", precision="fp32") == 1
    assert now("smalti_encoder_requests_total", model=model, outcome="ok") == 1
    assert now("smalti_encoder_pixels_total", model=model, device=device) == 7
    assert now("smalti_encoder_queue_pixels", model=model) == 0
    assert now("smalti_encoder_places_total", model=model, held="pixel") == 7
    assert now("smalti_encoder_places_total", model=model, held="all") in (8, 16)
    assert now("smalti_encoder_seconds_count", model=model) == 1
    assert now("smalti_encoder_wait_seconds_count") == 1
    assert now("smalti_encoder_uploads") == 0


def test_the_queue_of_uploads_shows_who_waits_and_who_was_refused(world: Settings) -> None:
    limits = Limits(uploads_at_once=2)
    client = client_of(world.model_copy(update={"limits": limits}))
    state = client.app.state.smalti  # type: ignore[attr-defined]
    with state.turns.taken_in(), state.turns.taken_in(), state.turns._counted():
        assert client.post("/embed", json=series()).status_code == 503
        now = numbers(client)
    assert now("smalti_encoder_refused_total") == 1
    assert now("smalti_encoder_uploads", state="encoding") == 1
    assert now("smalti_encoder_uploads", state="waiting") == 1
    assert now("smalti_encoder_uploads_limit") == 2
    assert numbers(client)("smalti_encoder_uploads") == 0


def test_storing_counts_a_commit_and_puts_the_index_behind(own_world: Settings) -> None:
    client = client_of(own_world)
    before = numbers(client)
    assert before("smalti_index_blocks_behind", dataset="demo", window="2024") == 0
    assert before("smalti_index_recall", window="2024") > 0.9
    assert before("smalti_index_pixels", window="2024") > 1000
    assert 0 <= before("smalti_index_age_seconds", window="2024") < 3600
    assert client.post("/embed", json=series(place(client), dataset="demo")).status_code == 200
    now = numbers(client)
    assert now("smalti_store_commit_seconds_count", dataset="demo") == 1
    assert now("smalti_index_blocks_behind", dataset="demo", window="2024") == 1
    assert now("smalti_index_blocks_behind", dataset="demo", window="2023") == 0
    assert now("smalti_index_blocks_behind_limit") > 1


def test_a_lost_race_is_a_conflict_of_the_store(own_world: Settings) -> None:
    client = client_of(own_world)
    store = client.app.state.smalti.datasets.writable("demo", Window.year(2024))  # type: ignore[attr-defined]
    block = store.blocks(Window.year(2024))[0]
    held = store.read_block(block, Window.year(2024))
    stale = BlockData(block, held.window, held.vectors, Counts.zeros((256, 256)), "1" * 64, base="another")
    with pytest.raises(Conflict):
        store.write([stale], "too late")
    conflicts = {"dataset": "demo", "operation": "commit", "kind": "conflict"}
    assert numbers(client)("smalti_store_errors_total", **conflicts) == 1


def test_reads_are_counted_in_bytes_and_failures_by_kind(own_world: Settings) -> None:
    client = client_of(own_world)
    store = client.app.state.smalti.datasets["demo"].store  # type: ignore[attr-defined]
    zone = store.zones()[0].zone
    read = store.read(zone, Window.year(2024), slice(0, 10), slice(0, 10))
    now = numbers(client)
    assert now("smalti_store_read_seconds_count", dataset="demo") == 1
    assert now("smalti_store_read_bytes_total", dataset="demo") == 100 * (read.dims + 4 + 1)
    with pytest.raises(LookupError):
        store.read(zone, Window.year(1999), slice(0, 10), slice(0, 10))
    assert numbers(client)("smalti_store_errors_total", operation="read", kind="not-found") == 1


def test_broken_parts_show_and_stop_nobody(own_world: Settings) -> None:
    (own_world.home / "datasets" / "torn.icechunk").mkdir()
    (own_world.home / "datasets" / "torn.icechunk" / "half").write_bytes(b"a file")
    files = [path for path in (own_world.home / "index" / "demo" / "2024").rglob("*") if path.is_file()]
    damaged = max(files, key=lambda path: path.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    client = client_of(own_world)
    lon, lat = place(client)
    assert client.get(f"/datasets/demo/2024/search?lon={lon}&lat={lat}").status_code == 500
    now = numbers(client)
    assert now("smalti_search_requests_total", dataset="demo", outcome="corrupt") == 1
    assert now("smalti_datasets", state="broken") == 1
    assert now("smalti_datasets", state="open") == 1
    assert now("smalti_index_broken", window="2024") == 1
    assert now("smalti_index_broken", window="2023") == 0


def test_jobs_show_what_waits_for_whom(own_world: Settings) -> None:
    client = client_of(own_world)
    before = numbers(client)
    assert before("smalti_jobs_reachable") == 1
    assert before("smalti_jobs") == before("smalti_job_blocks") == before("smalti_job_waiting_seconds") == 0
    bounds = client.get("/datasets/demo").json()["source_bounds"]
    asked = client.post("/areas", json={"dataset": "demo", "window": "2024", "bbox": bounds}).json()
    assert asked["state"] == "queued"
    now = numbers(client_of(own_world))
    assert now("smalti_jobs", state="queued") == now("smalti_jobs") == 1
    assert now("smalti_job_blocks", state="left") == asked["blocks"] > 0
    assert now("smalti_job_blocks", state="done") == 0
    assert 0 < now("smalti_job_waiting_seconds") < 60
    assert now("smalti_job_workers") == 0


def test_a_jobs_database_out_of_reach_shows_and_stops_nobody(world: Settings) -> None:
    nowhere = SecretStr("postgresql://smalti:hunter2@127.0.0.1:1/jobs")
    now = numbers(client_of(world.model_copy(update={"jobs_database": nowhere})))
    assert now("smalti_jobs_reachable") == 0
    assert now("smalti_datasets", state="open") == 1


def test_a_dead_jobs_database_is_not_waited_for_at_every_scrape(
    fresh: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def dead(_: object) -> Tally:
        tries.append(time.monotonic())
        time.sleep(0.3)
        raise Unavailable("it does not answer.")

    monkeypatch.setattr(states, "tally", dead)
    monkeypatch.setattr(states, "TALLY_S", 0.2)
    for _ in range(2):
        assert numbers(fresh)("smalti_jobs_reachable") == 0
    assert len(tries) == 1, "kept from when it was known, not from when it was asked"
    time.sleep(0.25)
    assert numbers(fresh)("smalti_jobs_reachable") == 0
    assert len(tries) == 2


def test_scrapes_take_one_thread_however_many_ask(fresh: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    now, most = 0, 0

    def slow(*_: object) -> list[Reading]:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        time.sleep(0.05)
        now -= 1
        return []

    monkeypatch.setattr(metrics_route, "readings", slow)
    with fresh, ThreadPoolExecutor(4) as askers:
        assert [a.status_code for a in askers.map(fresh.get, ["/metrics"] * 4)] == [200] * 4
    assert most == 1


def test_a_store_out_of_reach_takes_no_other_numbers_away(fresh: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert numbers(fresh)("smalti_datasets", state="open") == 1

    def out_of_reach(_: object) -> tuple[Window, ...]:
        raise Unavailable("the bucket does not answer.")

    monkeypatch.setattr(Dataset, "windows", out_of_reach)
    now = numbers(fresh)
    assert (now("smalti_datasets", state="open"), now("smalti_datasets", state="broken")) == (0, 1)
    assert now("smalti_index_blocks_behind_limit") > 0


def test_a_map_that_is_known_is_a_hit(fresh: TestClient) -> None:
    fresh.get(tile_path(fresh))
    before = numbers(fresh)
    assert fresh.get(tile_path(fresh, view="bands:0")).status_code == 200
    now = numbers(fresh)
    hits = {"cache": "maps", "result": "hit"}
    assert now("smalti_cache_lookups_total", **hits) > before("smalti_cache_lookups_total", **hits)


def test_a_tile_that_was_made_before_is_a_hit(fresh: TestClient) -> None:
    path = tile_path(fresh)
    size = len(fresh.get(path).content)
    before = numbers(fresh)
    fresh.get(path)
    now = numbers(fresh)
    for result, more in (("hit", 1), ("miss", 0)):
        labels = {"cache": "tiles", "result": result}
        assert now("smalti_cache_lookups_total", **labels) == before("smalti_cache_lookups_total", **labels) + more
    assert now("smalti_cache_bytes", cache="tiles") >= size


def test_every_name_has_a_unit_and_a_help_and_one_kind(fresh: TestClient) -> None:
    families = [family for family in numbers(fresh).families if family.name.startswith("smalti_")]
    assert len(families) > 25
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.documentation, family.name
        assert family.type != "histogram" or family.name.endswith("_seconds"), family.name
        assert not any(sample.name.endswith("_created") for sample in family.samples)


# Who may ask


def with_key(world: Settings, scope: str = "admin", **changes: Any) -> Settings:
    key = ApiKey.parse(f"{sha256(SECRET.encode()).hexdigest()}:{scope}")
    return world.model_copy(update={"api_keys": (key,), **changes})


OUTSIDE = {"client": ("203.0.113.9", 50000)}
POD = {"base_url": "http://10.1.2.3:8000", **OUTSIDE}


def test_metrics_answer_this_machine_and_nobody_else(world: Settings) -> None:
    assert client_of(world).get("/metrics").status_code == 200
    assert client_of(world, **OUTSIDE).get("/metrics").status_code == 403
    page = {"Origin": "http://evil.example"}
    assert client_of(world).get("/metrics", headers=page).status_code == 403


def test_with_keys_metrics_need_admin_under_whatever_name(world: Settings) -> None:
    for settings, sent, expected in (
        (with_key(world), {}, 401),
        (with_key(world), {"X-API-Key": "wrong"}, 401),
        (with_key(world, "read+embed"), {"X-API-Key": SECRET}, 403),
        (with_key(world), {"X-API-Key": SECRET}, 200),
    ):
        assert client_of(settings, **POD).get("/metrics", headers=sent).status_code == expected


def test_public_metrics_need_nothing(world: Settings) -> None:
    public = {"public_metrics": True}
    for settings in (world.model_copy(update=public), with_key(world, **public)):
        assert client_of(settings, **POD).get("/metrics").status_code == 200


def test_probes_may_ask_by_any_name_and_learn_nothing_else(world: Settings) -> None:
    pod = client_of(world, **POD)
    assert pod.get("/livez").json() == {"alive": True}
    ready = pod.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "parts": {}})
    assert client_of(world).get("/readyz").json()["parts"], "by its own name it tells"
    assert pod.get("/datasets").status_code == 403
    assert pod.post("/livez").status_code == 403
    rebinding = client_of(world, base_url="http://evil.example")
    assert rebinding.get("/metrics").status_code == 403, "a page here under a name of its own is not this machine"


# The middleware alone: what no test client shows


def exchange(app: Any, receive: list[dict[str, Any]] | None = None) -> tuple[Numbers, list[dict[str, Any]]]:
    """Send one request through the middleware to `app`; what was counted, and what was sent."""
    watch, sent, inbox = Watch(), [], list(receive or [])
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "route": type("R", (), {"path": "/x"})}

    async def take() -> dict[str, Any]:
        return inbox.pop(0)

    async def give(message: dict[str, Any]) -> None:
        sent.append(message)

    async def run() -> None:
        await Access(app, Settings(), watch)(scope, take, give)  # type: ignore[arg-type]

    try:
        anyio.run(run)
    except ValueError:
        sent.append({"type": "raised"})
    return Numbers(watch.metrics.text().decode()), sent


def start(status: int = 200, kind: bytes = b"image/png") -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def test_an_answer_in_pieces_passes_at_once_and_counts_as_one() -> None:
    order = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for piece in (b"a", b"bc"):
            await send(body(piece, more=True))
            order.append(piece)
        await send(body())

    now, sent = exchange(app)
    assert [m.get("body") for m in sent] == [None, b"a", b"bc", b""], "nothing is held back or joined"
    assert now("smalti_http_requests_total", status="200") == 1
    assert now("smalti_http_response_bytes_total") == 3
    assert now("smalti_http_requests_in_progress") == 0


def test_a_client_that_leaves_before_the_answer_is_499_and_no_error_of_ours() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if (await receive())["type"] == "http.disconnect":
            raise ValueError("gone")

    now, sent = exchange(app, [{"type": "http.disconnect"}])
    assert sent == [], "nobody is there to be answered, and the server is told of no fault"
    assert now("smalti_http_requests_total", status="499") == 1
    assert now("smalti_http_requests_total", status="500") == 0


def test_an_answer_that_breaks_off_by_our_fault_counts_as_500() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"half", more=True))
        raise ValueError("broken")

    now, sent = exchange(app)
    assert sent[-1] == {"type": "raised"}, "the server must cut the connection"
    assert now("smalti_http_requests_total", status="500") == 1


def test_a_stream_of_events_counts_until_it_began() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(kind=b"text/event-stream; charset=utf-8"))
        await anyio.sleep(0.3)
        await send(body())

    now, _ = exchange(app)
    assert now("smalti_http_request_seconds_sum") < 0.2


def test_busy_threads_show_and_do_not_keep_probes_or_prometheus_waiting(world: Settings) -> None:
    app = client_of(world).app

    async def ask(path: str) -> tuple[int, str]:
        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
            "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"},
        }  # fmt: skip

        async def take() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def give(message: dict[str, Any]) -> None:
            sent.append(message)

        await app(scope, take, give)  # type: ignore[arg-type]
        return sent[0]["status"], b"".join(m.get("body", b"") for m in sent).decode()

    async def run() -> tuple[tuple[int, str], tuple[int, str]]:
        pool = current_default_thread_limiter()
        pool.total_tokens = 1
        free = anyio.Event()
        async with anyio.create_task_group() as group, pool:
            group.start_soon(ask, "/datasets")
            await anyio.sleep(0.05)
            with anyio.fail_after(20):
                found = await ask("/livez"), await ask("/metrics")
            free.set()
        return found

    alive, text = anyio.run(run)
    assert alive[0] == text[0] == 200
    now = Numbers(text[1])
    assert now("smalti_http_threads", state="busy") == 1
    assert now("smalti_http_threads", state="waiting") == 1
    assert now("smalti_http_threads_limit") == 1
