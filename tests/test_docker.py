"""The image and the compose files say what is so; `make image-check` builds and runs the image itself."""

from __future__ import annotations

import http.server
import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from api import demo
from api.settings import Settings
from tests.conftest import ROOT
from tests.deployed import (
    DIGEST,
    check_command,
    check_image,
    image_environment,
    instructions,
    settings_from,
    stages,
)

DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent
FILLED = {
    "POSTGRES_PASSWORD": "a1b2",
    "STORAGE_KEY_ID": "id",
    "STORAGE_KEY": "c3d4",
    "SMALTI_API_KEYS": f"{DIGEST}:read+write",
    "SMALTI_ALLOWED_HOSTS": "maps.example.org",
    "EARTHDATA_TOKEN": "e5f6",
    "PLANETARY_COMPUTER_KEY": "g7h8",
}
"""docker/.env, filled in."""


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "hadolint", "-"], input=text, capture_output=True, text=True, check=False)


def test_hadolint_has_nothing_to_say() -> None:
    done = hadolint((DOCKER / "Dockerfile").read_text())
    assert (done.returncode, done.stdout) == (0, "")
    assert hadolint("FROM python:latest\nRUN cd /tmp && sudo ls\n").returncode != 0  # it does speak up


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_as_nobody_in_particular_and_knows_whether_it_is_alive(target: str, tmp_path: Path) -> None:
    said = dict(stages()[target])  # the last of each
    assert said["USER"] == "10001:10001"
    assert json.loads(said["ENTRYPOINT"]) == ["smalti"]
    check_command(json.loads(said["CMD"]), tmp_path)
    assert said["HEALTHCHECK"].endswith('CMD ["python", "/opt/probe.py", "/livez"]')
    assert ("COPY", "docker/probe.py /opt/probe.py") in stages()[target]
    settings = settings_from(image_environment(target))
    assert (settings.home, settings.host) == (Path("/data"), "0.0.0.0")
    assert said["EXPOSE"] == str(settings.port)
    assert said["VOLUME"] == said["WORKDIR"] == "/data"


def test_both_images_hold_the_same_code_and_only_locked_libraries() -> None:
    for target, lock, engine in (
        ("cpu", "server", "onnxruntime"),
        ("gpu", "gpu", "onnxruntime-gpu"),
    ):
        assert ("COPY", f"--from=build-{target} /opt/smalti /opt/smalti") in stages()[target]
        built = stages()[f"build-{target}"]
        assert ("COPY", "--from=source / ./") in built
        installs = re.findall(r"pip install ([^&|;]*)", "; ".join(rest for word, rest in built if word == "RUN"))
        assert [install.strip() for install in installs] == [
            f"--require-hashes -r requirements/{lock}.txt",
            "--no-index --no-deps --no-build-isolation .",
        ]
        locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE)
        assert {name for name in locked if name.startswith("onnxruntime")} == {engine}
        assert {"distributed", "opentelemetry-sdk", "dbos"} <= set(locked)


def test_nothing_secret_and_no_address_is_written_into_the_image() -> None:
    for word, rest in instructions():
        assert "://" not in rest, rest
        if word in {"ARG", "ENV"}:
            assert not re.search(r"(?i)password|secret|token|_key", rest), rest
    assert [rest for word, rest in instructions() if word == "ARG"] == ["BASE_IMAGE=python:3.11-slim-bookworm"]


def reaches_the_builder(path: str) -> bool:
    """Whether .dockerignore lets `path` through: the last pattern that names it, or a folder above it, decides."""
    through = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        if pattern and not pattern.startswith("#"):
            expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            if re.fullmatch(f"{expression}(/.*)?", path):
                through = line.startswith("!")
    return through


def test_the_builder_gets_what_it_copies_and_nothing_else() -> None:
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert reaches_the_builder(source), source
    assert reaches_the_builder("api/web/assets/style.css")
    for private in (
        ".git/config", "docker/.env", ".env", ".venv/pyvenv.cfg", "smalti-data/jobs.sqlite", "smalti.toml",
        "api/web/node_modules/x.js", "api/web/vendor/x.js", "service/__pycache__/a.pyc", "tests/a.py",
    ):  # fmt: skip
        assert not reaches_the_builder(private), private


@pytest.fixture
def answering() -> Iterator[http.server.HTTPServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/livez" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_probe_tells_200_from_anything_else(answering: http.server.HTTPServer) -> None:
    def probe(path: str, port: int) -> int:
        command = [sys.executable, DOCKER / "probe.py", path]
        # A proxy in the container's environment must not be asked about loopback.
        env = {"SMALTI_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
        return subprocess.run(command, env=env, capture_output=True, check=False).returncode

    port = answering.server_port
    assert probe("/livez", port) == 0
    assert probe("/readyz", port) == 1
    answering.shutdown()
    answering.server_close()
    assert probe("/livez", port) == 1


def filled_in(text: str) -> str:
    """A compose file with ${NAME:-default} and ${NAME:?why} put in, as compose does."""

    def value(match: re.Match[str]) -> str:
        name, mark, rest = match.groups()
        assert mark == ":-" or name in FILLED, f"{name} is not in .env.example"
        return FILLED.get(name, rest)

    return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", value, text)


def compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(filled_in((DOCKER / f"compose.{name}.yaml").read_text()))
    return found


COMPOSED = [(name, service) for name in ("laptop", "server") for service in compose(name)["services"]]


def test_compose_files_follow_the_published_schema(tmp_path: Path) -> None:
    def check(*paths: Path) -> int:
        command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *paths]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert check(DOCKER / "compose.laptop.yaml", DOCKER / "compose.server.yaml") == 0
    broken = tmp_path / "compose.yaml"
    broken.write_text((DOCKER / "compose.laptop.yaml").read_text().replace("restart:", "restarts:"))
    assert check(broken) != 0


@pytest.mark.parametrize(("name", "service"), COMPOSED)
def test_what_a_service_refers_to_exists(name: str, service: str) -> None:
    whole = compose(name)
    said = whole["services"][service]
    check_image(said["image"], {"cpu"})
    for other, how in said.get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert whole["services"][other]["healthcheck"]["test"]
    for volume in said["volumes"]:
        assert volume.split(":")[0] in whole["volumes"]
    for network in said.get("networks", []):
        assert network in whole["networks"]
    for port in said.get("ports", []):
        assert port.startswith("127.0.0.1:"), "published to everybody"
    assert said["restart"] == "unless-stopped"


OURS = [(name, service) for name, service in COMPOSED if "build" in compose(name)["services"][service]]


@pytest.mark.parametrize(("name", "service"), OURS)
def test_our_containers_are_told_what_they_understand_and_may_do_no_more_than_they_need(
    name: str, service: str, tmp_path: Path
) -> None:
    said = compose(name)["services"][service]
    target = said["build"]["target"]
    assert (DOCKER / said["build"]["context"] / said["build"]["dockerfile"]).exists()
    assert said["image"].endswith(f"-{target}")
    command = said["command"]
    check_command(command.split() if isinstance(command, str) else command, tmp_path)
    settings = settings_from(image_environment(target) | said["environment"])
    assert [port.split(":")[-1] for port in said.get("ports", [])] in ([], [str(settings.port)])
    assert said["read_only"]
    assert said["cap_drop"] == ["ALL"]
    assert said["security_opt"] == ["no-new-privileges:true"]
    assert any(volume.endswith(f":{settings.home}") for volume in said["volumes"])
    assert [mount.split(":")[0] for mount in said["tmpfs"]] == ["/tmp"]
    assert int(said.get("stop_grace_period", "10s").rstrip("s")) > settings.shutdown_seconds
    if "ports" in said:
        *command, path = said["healthcheck"]["test"]
        assert command == ["CMD", "python", "/opt/probe.py"]
        assert path in ("/readyz", "/readyz?enough=some")


def test_on_a_laptop_the_networks_gateway_and_nobody_else_counts_as_this_machine() -> None:
    whole = compose("laptop")
    (network,) = whole["networks"]["default"]["ipam"]["config"]
    trusted = settings_from(whole["services"]["smalti"]["environment"]).local_networks
    assert trusted == (ipaddress.ip_network(network["gateway"]),)
    assert trusted[0].subnet_of(ipaddress.ip_network(network["subnet"]))  # type: ignore[arg-type]


def test_the_servers_parts_find_each_other() -> None:
    services = compose("server")["services"]
    database, storage = services["postgres"], services["storage"]
    for name, said in services.items():
        if "build" not in said:
            continue
        environment = said["environment"]
        jobs = urlsplit(environment["SMALTI_JOBS_DATABASE"])
        assert services[str(jobs.hostname)] == database, name
        assert (jobs.username, jobs.password, jobs.path[1:]) == tuple(
            database["environment"][f"POSTGRES_{key}"] for key in ("USER", "PASSWORD", "DB")
        )
        endpoint, bucket = urlsplit(environment["AWS_ENDPOINT_URL"]), urlsplit(environment["SMALTI_STORAGE"]).netloc
        assert services[str(endpoint.hostname)] == storage
        assert f":{endpoint.port}/" in storage["healthcheck"]["test"][1]
        assert f"-bucket={bucket}" in storage["command"]
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert environment[key] == storage["environment"][key]
        assert "inside" in said["networks"]
        assert said["depends_on"].keys() == {"postgres", "storage"}
    workers = [said for said in services.values() if said.get("command", [""])[0] == "worker"]
    assert len(workers) == 2
    assert len({said["command"][-1] for said in workers} | {said["volumes"][0] for said in workers}) == 4


def test_whoever_plans_and_makes_embeddings_reaches_the_catalogues_with_their_tokens() -> None:
    whole = compose("server")
    for name in ("api", "worker-1", "worker-2"):
        said = whole["services"][name]
        networks = [whole["networks"][network] for network in said["networks"]]
        assert any(not network.get("internal") for network in networks), f"{name} reaches no catalogue"
        scenes = settings_from(said["environment"]).scenes
        tokens = scenes.earthdata_token, scenes.planetary_computer_key
        assert [token and token.get_secret_value() for token in tokens] == ["e5f6", "g7h8"]


def test_secrets_come_from_a_file_that_is_not_in_the_repository() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert example.keys() == FILLED.keys()
    assert not any(example.values())
    ignored = subprocess.run(["git", "check-ignore", "-q", "docker/.env"], cwd=ROOT, check=False)
    assert ignored.returncode in (0, 128)  # 128: not a git checkout
    for name in ("laptop", "server"):
        text = (DOCKER / f"compose.{name}.yaml").read_text()
        for key, value in re.findall(r"^\s*(\w*(?:PASSWORD|KEY|SECRET|TOKEN)\w*):\s*(.*)$", text, re.MULTILINE):
            assert re.match(r"(&[\w-]+ )?\$\{\w+:(\?|-\}$)|\*[\w-]+$", value), f"{key} is written out"


@pytest.mark.slow
def test_a_request_under_way_is_answered_before_the_server_stops(world: Settings) -> None:
    """What a rolling update relies on: told to stop, it takes no more, but finishes what it has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    told = {"SMALTI_HOME": str(world.home), "SMALTI_PORT": str(port), "SMALTI_SHUTDOWN_SECONDS": "30"}
    server = subprocess.Popen([BIN / "smalti", "serve"], env=os.environ | told, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        body = json.dumps({"points": [list(demo.CORNER)]}).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
            head = "POST /datasets/demo/2024/vectors HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
            time.sleep(1)
            server.terminate()
            time.sleep(5)  # longer than a server that nobody told to wait would
            assert server.poll() is None
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)
            slow.sendall(body[5:])
            answer = slow.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
        assert b'"vector"' in answer
        server.wait(20)
    finally:
        server.kill()


def wait_for(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            assert time.monotonic() < end, "it never listened"
            time.sleep(0.2)
