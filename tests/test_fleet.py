"""A fleet: every shard asked of one peer that holds it, what fails told by name, nothing a peer sends believed."""

from __future__ import annotations

import http.server
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from api.fleet import HttpPeer, Line
from api.settings import KEY_HEADER, ApiKey, Settings
from api.settings import Fleet as FleetSettings
from indexing.fleet import share as fleets
from indexing.fleet.share import Fleet, Share
from indexing.fleet.wire import MEDIA_TYPE, packed, unpacked
from service.errors import Corrupt, Forbidden, SmaltiError, Unavailable
from tests.conftest import client_of

SECRET = "a-key-nobody-may-see"


@dataclass(frozen=True)
class Echoed:
    shards: tuple[str, ...]
    holds: frozenset[str]


@dataclass
class Echo:
    """A question that is answered by the names of the shards."""

    path = "echo"
    index = "d/2024"
    most = 1000

    def to_bytes(self, shards: tuple[str, ...]) -> bytes:
        return ",".join(shards).encode()

    def read(self, message: bytes, shards: tuple[str, ...]) -> Echoed:
        if not message.startswith(b"held "):
            raise Corrupt("sends something else.")
        return Echoed(tuple(message[5:].decode().split()), frozenset(message[5:].decode().split()))


@dataclass
class FakePeer:
    name: str
    held: set[str]
    fault: SmaltiError | None = None
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def ask(self, question: Echo, shards: tuple[str, ...], seconds: float) -> Future[Echoed]:
        self.asked.append(shards)
        future: Future[Echoed] = Future()
        if self.fault:
            future.set_exception(self.fault)
        else:
            future.set_result(Echoed(tuple(s for s in shards if s in self.held), frozenset(self.held)))
        return future


def gathered(fleet: Fleet, wanted: str) -> tuple[list[str], tuple[str, ...]]:
    """What was believed, sorted, and what is missing."""
    answers, missing = fleet.gather(Echo(), wanted.split())
    return sorted(shard for _, believed in answers for shard in believed), missing


def test_every_shard_is_asked_of_one_that_holds_it() -> None:
    peers = [FakePeer("a", {"s1", "s2"}), FakePeer("b", {"s2", "s3"}), FakePeer("c", {"s1", "s2", "s3"})]
    fleet = Fleet(peers, 1.0)
    for _ in range(3):
        assert gathered(fleet, "s1 s2 s3") == (["s1", "s2", "s3"], ()), "none counts twice"
    later = [shard for peer in peers for shards in peer.asked[1:] for shard in shards]
    assert sorted(later) == sorted(2 * ["s1", "s2", "s3"]), "once it is known who holds what"
    peers[2].held.add("s4")
    assert gathered(fleet, "s1 s4") == (["s1", "s4"], ()), "a shard that is new is asked of all"


def test_what_one_cannot_answer_another_does_and_else_it_is_missing_by_name(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "REST_S", 0.2)
    gone = Unavailable("cannot be reached.")
    peers = [FakePeer("a", {"s1", "s2"}), FakePeer("b", {"s2"}), FakePeer("c", set())]
    fleet = Fleet(peers, 1.0)
    assert gathered(fleet, "s1 s2") == (["s1", "s2"], ())
    peers[0].fault = gone
    for _ in range(3):
        assert gathered(fleet, "s1 s2") == (["s2"], ("s1",))
    assert len(peers[0].asked) == 2, "it is left alone for a while"
    assert [record.getMessage() for record in caplog.records] == ["peer a: cannot be reached."], "said once"
    peers[0].fault = None
    time.sleep(0.25)
    assert gathered(fleet, "s1 s2") == (["s1", "s2"], ())
    peers[0].fault = Corrupt("sends something else.")
    assert gathered(fleet, "s1 s2") == (["s2"], ("s1",))
    assert gathered(Fleet([], 1.0), "s9 s1") == ([], ("s1", "s9"))


def test_nobody_is_believed_about_what_he_was_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    class Boaster(FakePeer):
        def ask(self, question: Echo, shards: tuple[str, ...], seconds: float) -> Future[Echoed]:
            future: Future[Echoed] = Future()
            future.set_result(Echoed(("s1", "s2", "s3"), frozenset({"s1", "s2", "s3"})))
            return future

    fleet = Fleet([FakePeer("a", {"s1"}), Boaster("b", set())], 1.0)
    with caplog.at_level(logging.WARNING):
        found, missing = gathered(fleet, "s1 s2")
    assert (found, missing) == (["s1", "s2"], ())


def test_shares_cover_every_shard_once_are_alike_and_hardly_change_when_others_come() -> None:
    shares = [Share.parse(f"{n}/3") for n in range(3)]
    for count in (1, 4, 7, 300):
        sizes = {f"s-{n * 7919:012x}": 1 + n % 5 for n in range(count)}
        chosen = [share.chosen(sizes) for share in shares]
        assert sorted(name for each in chosen for name in each) == sorted(sizes)
        loads = [sum(sizes[name] for name in each) for each in chosen]
        assert max(loads) <= max(1.2 * sum(loads) / 3, sum(loads) / 3 + 5)
    more = sizes | {f"s-{n * 104729:012x}": 3 for n in range(1, 11)}
    moved = sum(len(before - share.chosen(more)) for before, share in zip(chosen, shares, strict=True))
    assert moved < 30
    assert Share.parse("all").chosen(sizes) == frozenset(sizes)
    assert not Share.parse("none").chosen(sizes)
    assert Share.parse("all").is_all


@pytest.mark.parametrize("shards", ["3/3", "0/0", "-1/2", "some", "1/2/3", ""])
def test_a_share_that_is_none_is_refused(shards: str) -> None:
    with pytest.raises(ValidationError):
        FleetSettings(shards=shards)


@pytest.mark.parametrize("peer", ["ftp://a", "http://user:word@a", "http://a/path", "http://a?b", "a:8000", "http://"])
def test_a_peer_is_a_server_and_nothing_else(peer: str) -> None:
    with pytest.raises(ValidationError) as refused:
        FleetSettings(peers=f"http://ok:1,{peer}")
    assert "word" not in refused.value.errors()[0]["msg"]


ROGUES = {
    "redirect": (307, MEDIA_TYPE, {"Location": "/good/shards/echo"}, b"held s1"),
    "refuses": (401, "application/problem+json", {}, b'{"kind": "unauthorized", "detail": "KEY"}'),
    "differs": (409, "application/problem+json", {}, b'{"kind": "identity-mismatch", "detail": "\\u001b[2J"}'),
    "breaks": (500, "text/plain", {}, b"KEY" * 10_000),
    "garbage": (200, MEDIA_TYPE, {}, b"\x00\xffKEY"),
    "html": (200, "text/html", {}, b"held s1"),
    "packed": (200, MEDIA_TYPE, {"Content-Encoding": "gzip"}, b"held s1"),
}
"""Status, media type, headers and body of peers that answer badly; KEY stands for the one they were sent."""


class Rogue(http.server.BaseHTTPRequestHandler):
    """A peer that answers as badly as its address says."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        _, how, _ = self.path.split("/", 2)
        good = 200, MEDIA_TYPE, dict[str, str](), b"held " + body.replace(b",", b" ")
        status, media, extra, held = ROGUES.get(how, good)
        time.sleep(30 * (how == "silent"))
        self.send_response(status)
        for name, value in {"Content-Type": media, **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(held.replace(b"KEY", self.headers[KEY_HEADER].encode()))
            while how in ("endless", "drips"):
                self.wfile.write(b"x" * 65536 if how == "endless" else b" ")
                time.sleep(0.05 * (how == "drips"))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def rogue() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rogue)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def line() -> Line:
    return Line(SECRET)


def test_a_peer_over_http_answers(rogue: str, line: Line) -> None:
    peer = HttpPeer(f"{rogue}/good/", line)
    assert peer.ask(Echo(), ("s1", "s2"), 5.0).result() == Echoed(("s1", "s2"), frozenset({"s1", "s2"}))


@pytest.mark.parametrize(
    ("how", "kind", "told"),
    [
        ("redirect", Corrupt, "307"),
        ("refuses", Forbidden, r"401 \(unauthorized\)"),
        ("differs", Corrupt, r"409 \(identity-mismatch\)"),
        ("breaks", Unavailable, "500"),
        ("garbage", Corrupt, "something else"),
        ("html", Corrupt, "something else"),
        ("packed", Corrupt, "something else"),
        ("endless", Corrupt, "1,000 bytes"),
        ("silent", Unavailable, "within 0.3 s"),
        ("drips", Unavailable, "within 0.3 s"),
    ],
)
def test_a_peer_that_answers_badly_is_refused_in_time_and_quotes_nothing(
    how: str, kind: type[SmaltiError], told: str, rogue: str, line: Line
) -> None:
    began, seconds = time.monotonic(), 0.3 if how in ("silent", "drips") else 20.0
    with pytest.raises(kind, match=told) as error:
        HttpPeer(f"{rogue}/{how}", line).ask(Echo(), ("s1",), seconds).result()
    assert time.monotonic() - began < 15
    text = f"{error.value} {error.value.__cause__} {error.value.__context__!r}"
    assert SECRET not in str(error.value)
    assert SECRET not in text
    assert "\x1b" not in text


def test_a_peer_that_is_not_there_is_unavailable_at_once(line: Line) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        HttpPeer("http://127.0.0.1:9", line).ask(Echo(), ("s1",), 5.0).result()


KINDS = {"a": ("<f4", 2), "b": ("|i1", 1)}
ARRAYS = {"a": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.arange(3, dtype="|i1")}


def test_a_message_comes_back_as_it_was() -> None:
    for b in (ARRAYS["b"], ARRAYS["b"][:0]):
        head, arrays = unpacked(packed({"x": [1, "ü"]}, ARRAYS | {"b": b}), KINDS)
        assert head == {"x": [1, "ü"]}
        np.testing.assert_array_equal(arrays["a"], ARRAYS["a"])
        np.testing.assert_array_equal(arrays["b"], b)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_message_that_was_damaged_is_refused_or_has_the_right_shape(data: st.DataObject) -> None:
    good = packed({"x": 1}, ARRAYS)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = data.draw(
        st.one_of(
            st.just(good[:at]),
            st.just(good + b"x"),
            st.binary(max_size=40),
            st.binary(min_size=1, max_size=4).map(lambda bit: good[:at] + bit + good[at + len(bit) :]),
        )
    )
    try:
        head, arrays = unpacked(bad, KINDS)
    except Corrupt:
        return
    assert isinstance(head, dict)
    assert {name: (array.dtype.str, array.ndim) for name, array in arrays.items()} == KINDS


@pytest.mark.parametrize("path", ["/shards/candidates", "/shards/best"])
def test_what_peers_ask_is_nobody_elses_even_where_reading_is_public(path: str, world: Settings) -> None:
    far = {"client": ("203.0.113.7", 50000)}
    assert client_of(world, **far).post(path, content=b"x").status_code == 403
    here = client_of(world).post(path, content=b"x")
    assert (here.status_code, here.json()["kind"]) == (422, "invalid-input")
    key = ApiKey.parse(f"{sha256(SECRET.encode()).hexdigest()}:read")
    keyed = client_of(world.model_copy(update={"api_keys": (key,)}), **far)
    assert keyed.post(path, content=b"x").status_code == 401
    assert keyed.post(path, content=b"x", headers={KEY_HEADER: SECRET}).status_code == 422
    assert path not in keyed.get("/api").json()["paths"]
