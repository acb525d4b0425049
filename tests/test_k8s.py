"""Every overlay is valid, and says what is so: rendered by kubectl, checked against the published schemas, offline."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import numpy as np
import pytest
import yaml
from distributed import Client

from api.settings import Settings
from service.encoder.ort import GPU_CALLS
from service.quant import quantise
from service.values import BLOCK
from tests.conftest import ROOT, program
from tests.deployed import DIGEST, check_command, check_image, image_environment, settings_from

K8S = ROOT / "k8s"
BIN = Path(sys.executable).parent
OVERLAYS: Final = ("cpu", "gpu", "dev", "dask", "fleet")
Document = dict[str, Any]

SECRET: Final = {
    "api-keys": f"{DIGEST}:read",
    "jobs-database": "postgresql://smalti:a1b2@postgres:5432/smalti",
    "fleet-key": "e5f6",
    "storage-key-id": "id",
    "storage-key": "c3d4",
    "earthdata-token": "g7h8",
    "planetary-computer-key": "i9j0",
}
"""examples/secret.yaml, filled in."""

COMMON: Final = {
    "Namespace smalti", "ServiceAccount smalti", "ConfigMap smalti", "Deployment smalti-api", "Service smalti-api",
    "NetworkPolicy deny-all", "NetworkPolicy to-api", "NetworkPolicy from-smalti",
}  # fmt: skip
SCALED: Final = COMMON | {
    "HorizontalPodAutoscaler smalti-api", "PodDisruptionBudget smalti-api", "StatefulSet smalti-worker",
    "Service smalti-worker", "PodDisruptionBudget smalti-worker",
}  # fmt: skip
DASK: Final = {
    "Deployment smalti-dask", "Service smalti-dask", "Deployment smalti-dask-worker",
    "NetworkPolicy to-dask-scheduler", "NetworkPolicy to-dask-worker", "NetworkPolicy within-dask",
    "NetworkPolicy from-dask-client",
}  # fmt: skip
FLEET: Final = {
    "StatefulSet smalti-shards", "Service smalti-shards", "PodDisruptionBudget smalti-shards",
    "NetworkPolicy to-shards", "NetworkPolicy from-api-to-shards",
}  # fmt: skip
DASK_CLIENT: Final = {"smalti/dask-client": "true"}
"""Pods that send work to Dask; the overlay itself has none."""
EXPECTED: Final = {"cpu": SCALED, "gpu": SCALED, "dev": COMMON, "dask": SCALED | DASK, "fleet": SCALED | FLEET}


@functools.cache
def rendered(overlay: str) -> str:
    command = [program("kubectl"), "kustomize", str(K8S / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def documents(overlay: str) -> list[Document]:
    return list(yaml.safe_load_all(rendered(overlay)))


def title(document: Document) -> str:
    name = document["metadata"]["name"]
    return f"{document['kind']} {name.rpartition('-')[0] if document['kind'] == 'ConfigMap' else name}"


def of_kind(overlay: str, *kinds: str) -> list[Document]:
    return [document for document in documents(overlay) if document["kind"] in kinds]


def workloads(overlay: str) -> list[Document]:
    return of_kind(overlay, "Deployment", "StatefulSet")


def pod(workload: Document) -> Document:
    found: Document = workload["spec"]["template"]["spec"]
    return found


def container(workload: Document) -> Document:
    (only,) = pod(workload)["containers"]
    assert "initContainers" not in pod(workload)
    return dict(only)


def ports_of(spec: Document) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in spec.get("ports", [])}


def named(overlay: str, wanted: str) -> Document:
    (found,) = [document for document in documents(overlay) if title(document) == wanted]
    return found


def environment(overlay: str, workload: Document, number: int = 0) -> dict[str, str]:
    """What the container's process gets: the image's, then envFrom, then env; of the pod with this number."""
    spec, found = container(workload), image_environment()
    for source in spec.get("envFrom", []):
        (config,) = of_kind(overlay, "ConfigMap")
        assert source["configMapRef"]["name"] == config["metadata"]["name"]
        found |= config["data"]
    for entry in spec.get("env", []):
        source = entry.get("valueFrom", {})
        if "secretKeyRef" in source:
            assert source["secretKeyRef"]["name"] == "smalti"
            found[entry["name"]] = SECRET[source["secretKeyRef"]["key"]]
        elif "resourceFieldRef" in source:
            assert source["resourceFieldRef"]["resource"] == "limits.cpu"
            found[entry["name"]] = spec["resources"]["limits"]["cpu"]
        elif "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"
            found[entry["name"]] = str(number)
        else:
            found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], entry["value"])
    return found


def selects(selector: dict[str, str], workload: Document) -> bool:
    return selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()


def check(text: str, version: str) -> None:
    """Every document against that version's schemas; a field or a kind they do not know is a fault."""
    for document in yaml.safe_load_all(text):
        assert kubernetes_validate.validate(document, version, strict=True).startswith(version)


@pytest.mark.parametrize("version", ["1.32", "1.37"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid_and_complete(overlay: str, version: str) -> None:
    check(rendered(overlay), version)
    assert sorted(map(title, documents(overlay))) == sorted(EXPECTED[overlay])


def test_the_judge_finds_what_is_wrong() -> None:
    for wrong in ("minReplicas: two", "minimumReplicas: 2"):
        with pytest.raises(kubernetes_validate.ValidationError):
            check(rendered("cpu").replace("minReplicas: 2", wrong), "1.37")
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        check(rendered("cpu").replace("kind: StatefulSet", "kind: StatefullSet"), "1.37")


def test_the_examples_are_valid_and_fit() -> None:
    for path in (K8S / "examples").iterdir():
        check(path.read_text(), "1.37")
    secret = yaml.safe_load((K8S / "examples" / "secret.yaml").read_text())
    assert secret["metadata"] == {"name": "smalti", "namespace": "smalti"}
    assert secret["stringData"] == dict.fromkeys(SECRET, "")
    ingress, nowhere = yaml.safe_load_all((K8S / "examples" / "ingress.yaml").read_text())
    (rule,) = ingress["spec"]["rules"]
    closed, everything = rule["http"]["paths"]
    assert (closed["path"], closed["pathType"]) == ("/metrics", "Exact")
    assert closed["backend"]["service"]["name"] == nowhere["metadata"]["name"]
    assert "selector" not in nowhere["spec"]
    service = named("cpu", "Service smalti-api")
    assert everything["backend"]["service"]["name"] == service["metadata"]["name"]
    assert everything["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    settings = settings_from(environment("cpu", named("cpu", "Deployment smalti-api")))
    assert rule["host"] in settings.allowed_hosts
    assert rule["host"] in ingress["spec"]["tls"][0]["hosts"]


def test_the_job_that_builds_an_index_may_and_runs_a_command_that_exists(tmp_path: Path) -> None:
    job = yaml.safe_load((K8S / "examples" / "index-build.yaml").read_text())
    spec = container(job)
    check_image(spec["image"], {"cpu"})
    check_command(spec["args"], tmp_path)
    (port,) = named("dask", "Service smalti-dask")["spec"]["ports"]
    assert spec["args"][-2:] == ["--scheduler", f"tcp://smalti-dask:{port['port']}"]
    assert job["spec"]["template"]["metadata"]["labels"].items() >= DASK_CLIENT.items()


def test_the_job_that_embeds_a_region_may_and_runs_a_command_that_exists(tmp_path: Path) -> None:
    job = yaml.safe_load((K8S / "examples" / "embed-region.yaml").read_text())
    spec = container(job)
    check_image(spec["image"], {"cpu"})
    check_command(spec["args"], tmp_path)
    (port,) = named("dask", "Service smalti-dask")["spec"]["ports"]
    assert f"--scheduler=tcp://smalti-dask:{port['port']}" in spec["args"]
    assert job["spec"]["template"]["metadata"]["labels"].items() >= DASK_CLIENT.items()


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_a_worker_told_to_stop_has_time_for_a_block_and_one_for_each_stage(overlay: str) -> None:
    workload = named(overlay, "StatefulSet smalti-worker")
    settings = settings_from(environment(overlay, workload))
    slowest = 30 * settings.encoder_threads
    assert pod(workload)["terminationGracePeriodSeconds"] >= BLOCK**2 / slowest
    assert settings.blocks_at_once >= (GPU_CALLS if overlay == "gpu" else 1) + 2
    assert workload["spec"]["replicas"] > 1
    assert settings.scenes.earthdata_token is not None


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_are_told_what_they_understand(overlay: str, tmp_path: Path) -> None:
    for workload in workloads(overlay):
        spec = container(workload)
        check_image(spec["image"], {"cpu", "gpu"})
        settings = settings_from(environment(overlay, workload))
        if "command" not in spec:
            check_command(spec["args"], tmp_path)
            assert settings.encoder_threads > 0
        mounts = {mount["mountPath"]: mount["name"] for mount in spec["volumeMounts"]}
        assert mounts.keys() == {str(settings.home), "/tmp"}
        assert set(mounts.values()) == {volume["name"] for volume in pod(workload)["volumes"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_may_do_no_more_than_they_need(overlay: str) -> None:
    assert (
        named(overlay, "Namespace smalti")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    )
    for workload in workloads(overlay):
        spec, whole = container(workload), pod(workload)
        assert whole["securityContext"]["runAsNonRoot"]
        assert whole["securityContext"]["runAsUser"] == 10001
        assert whole["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert whole["serviceAccountName"] == "smalti"
        assert not whole["automountServiceAccountToken"]
        assert not whole["enableServiceLinks"]  # else a Service called smalti sets SMALTI_PORT
        assert spec["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert spec["resources"]["limits"].keys() >= {"cpu", "memory"}
        assert all("sizeLimit" in volume["emptyDir"] for volume in whole["volumes"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_their_own_pods_and_no_others(overlay: str) -> None:
    everything = workloads(overlay)
    for workload in everything:
        own = workload["spec"]["selector"]["matchLabels"]
        assert [other for other in everything if selects(own, other)] == [workload]
        for spread in pod(workload).get("topologySpreadConstraints", []):
            assert spread["labelSelector"]["matchLabels"] == own
    for document in of_kind(overlay, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = document["spec"]
        selector = spec["selector"] if "selector" in spec else spec["podSelector"]
        labels = selector if document["kind"] == "Service" else selector.get("matchLabels", {})
        found = [workload for workload in everything if selects(labels, workload)]
        assert found or labels == DASK_CLIENT, title(document)
        if document["kind"] != "NetworkPolicy":
            assert len(found) == 1
    for workload in of_kind(overlay, "StatefulSet"):
        assert named(overlay, f"Service {workload['spec']['serviceName']}")["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "dask", "fleet"])
def test_the_autoscaler_has_a_target_that_is_its_alone(overlay: str) -> None:
    scaler = named(overlay, "HorizontalPodAutoscaler smalti-api")["spec"]
    target = named(overlay, f"{scaler['scaleTargetRef']['kind']} {scaler['scaleTargetRef']['name']}")
    assert "replicas" not in target["spec"]
    assert target["apiVersion"] == scaler["scaleTargetRef"]["apiVersion"]
    budget = named(overlay, "PodDisruptionBudget smalti-api")["spec"]
    assert budget["maxUnavailable"] < scaler["minReplicas"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_agree(overlay: str) -> None:
    ports = {
        title(w): {p["name"]: p["containerPort"] for p in container(w).get("ports", [])} for w in workloads(overlay)
    }
    for document in of_kind(overlay, "Service"):
        for port in document["spec"].get("ports", []):
            assert all(
                port["targetPort"] in ports[title(workload)]
                for workload in workloads(overlay)
                if selects(document["spec"]["selector"], workload)
            )
    for document in of_kind(overlay, "NetworkPolicy"):
        for rule in document["spec"].get("ingress", []):
            for workload in workloads(overlay):
                if selects(document["spec"]["podSelector"]["matchLabels"], workload):
                    assert all(port["port"] in ports[title(workload)] for port in rule["ports"])
    api = named(overlay, "Deployment smalti-api")
    settings = settings_from(environment(overlay, api))
    annotations = api["spec"]["template"]["metadata"]["annotations"]
    assert ports["Deployment smalti-api"] == {"http": settings.port}
    assert annotations["prometheus.io/port"] == str(settings.port)
    assert settings.public_metrics or overlay == "dev"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_for_what_is_served_and_a_pod_that_stops_has_time_to(overlay: str) -> None:
    served = set(re.findall(r"^  (/\S*):$", (ROOT / "openapi.yaml").read_text(), re.MULTILINE))
    api = named(overlay, "Deployment smalti-api")
    spec = container(api)
    asked = {probe: spec[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz?enough=some",
    }
    assert {probe["port"] for probe in asked.values()} == {"http"}
    assert served >= {"/livez", "/readyz", api["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"]}
    sleep, seconds = spec["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    assert int(seconds) >= 5
    under_way = settings_from(environment(overlay, api)).shutdown_seconds
    assert pod(api)["terminationGracePeriodSeconds"] >= int(seconds) + under_way + 5


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_goes_in_or_out_unless_a_policy_says_so(overlay: str) -> None:
    closed = named(overlay, "NetworkPolicy deny-all")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for document in of_kind(overlay, "NetworkPolicy"):
        for direction in ("ingress", "egress"):
            for rule in document["spec"].get(direction, []):
                assert rule["ports"], "a rule without ports opens all of them"
                assert direction == "egress" or rule["from"]
        reached = {port["port"] for rule in document["spec"].get("egress", []) for port in rule["ports"]}
        assert 80 not in reached  # the cloud's metadata service


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_written_out(overlay: str) -> None:
    assert not of_kind(overlay, "Secret")
    for workload in workloads(overlay):
        for entry in container(workload).get("env", []):
            if any(word in entry["name"] for word in ("KEY", "SECRET", "PASSWORD", "TOKEN", "DATABASE")):
                assert "secretKeyRef" in entry["valueFrom"], entry["name"]
    (config,) = of_kind(overlay, "ConfigMap")
    assert not [name for name in config["data"] if any(word in name for word in ("KEY", "SECRET", "PASSWORD", "TOKEN"))]


def test_only_gpu_workers_ask_for_a_gpu_and_they_insist_on_it() -> None:
    for overlay in OVERLAYS:
        for workload in workloads(overlay):
            wanted = overlay == "gpu" and title(workload) == "StatefulSet smalti-worker"
            spec = container(workload)
            assert (spec["resources"]["limits"].get("nvidia.com/gpu") == 1) is wanted
            assert spec["image"].endswith("-gpu") is wanted
            assert (settings_from(environment(overlay, workload)).device == "cuda") is wanted
            assert ("tolerations" in pod(workload)) is wanted


def test_the_dev_overlay_needs_nothing_from_elsewhere() -> None:
    api = named("dev", "Deployment smalti-api")
    assert container(api)["args"] == ["demo"]
    assert api["spec"]["replicas"] == 1
    assert not [entry for entry in container(api)["env"] if "secretKeyRef" in entry.get("valueFrom", {})]
    settings = settings_from(environment("dev", api))
    assert not settings.storage
    assert settings.jobs_database is None
    assert not settings.api_keys


def test_the_parts_of_a_fleet_find_each_other_and_share_everything() -> None:
    shards, service = named("fleet", "StatefulSet smalti-shards"), named("fleet", "Service smalti-shards")
    api = settings_from(environment("fleet", named("fleet", "Deployment smalti-api"))).fleet
    holders = [settings_from(environment("fleet", shards, n)) for n in range(shards["spec"]["replicas"])]
    (port,) = service["spec"]["ports"]
    names = [f"smalti-shards-{n}.{service['metadata']['name']}" for n in range(len(holders))]
    assert api.peers == tuple(f"http://{name}:{port['port']}" for name in names)
    assert [holder.allowed_hosts for holder in holders] == [(name,) for name in names]
    assert (api.shards, api.key.get_secret_value() if api.key else None) == ("none", SECRET["fleet-key"])
    assert [holder.fleet.shards for holder in holders] == [f"{n}/{len(holders)}" for n in range(len(holders))]
    ports = ports_of(container(shards))
    (way,) = named("fleet", "NetworkPolicy from-api-to-shards")["spec"]["egress"]
    assert [one["port"] for one in way["ports"]] == [port["port"]] == [ports["http"]] == [holders[0].port]


def dask_parts() -> tuple[Document, Document]:
    return container(named("dask", "Deployment smalti-dask")), container(named("dask", "Deployment smalti-dask-worker"))


def test_the_parts_of_dask_find_each_other() -> None:
    scheduler, worker = dask_parts()
    service = named("dask", "Service smalti-dask")
    (port,) = service["spec"]["ports"]
    assert worker["args"][0] == f"tcp://{service['metadata']['name']}:{port['port']}"
    assert f"--port={ports_of(scheduler)['dask']}" in scheduler["args"]
    assert f"--worker-port={ports_of(worker)['dask']}" in worker["args"]
    assert f"--nthreads={Settings.model_fields['blocks_at_once'].default}" in worker["args"]
    for spec in (scheduler, worker):
        assert spec["livenessProbe"]["httpGet"] == {"path": "/health", "port": "health"}
        assert f"--dashboard-address=:{ports_of(spec)['health']}" in spec["args"]
    (way,) = named("dask", "NetworkPolicy within-dask")["spec"]["egress"]
    assert [port["port"] for port in way["ports"]] == [ports_of(spec)["dask"] for spec in (scheduler, worker)]


def holds(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a pod with these labels is selected; knows what the policies here use."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )


def may_reach(source: dict[str, str], target: dict[str, str], named_port: str, number: int) -> tuple[bool, bool]:
    """Whether a pod is let out to a port of another in the dask overlay, and whether it is let in there."""
    found = []
    for own, other, direction, peers in ((source, target, "egress", "to"), (target, source, "ingress", "from")):
        found.append(
            any(
                {port["port"] for port in rule["ports"]} & {named_port, number}
                and any(holds(peer["podSelector"], other) for peer in rule[peers] if "podSelector" in peer)
                for document in of_kind("dask", "NetworkPolicy")
                if holds(document["spec"]["podSelector"], own)
                for rule in document["spec"].get(direction, [])
            )
        )
    return found[0], found[1]


def test_only_dask_and_its_clients_reach_what_runs_any_code() -> None:
    pods = {title(each): each["spec"]["template"]["metadata"]["labels"] for each in workloads("dask")}
    scheduler, worker = pods.pop("Deployment smalti-dask"), pods.pop("Deployment smalti-dask-worker")
    assert pods.keys() >= {"Deployment smalti-api", "StatefulSet smalti-worker"}
    for labels in pods.values():
        assert may_reach(labels, scheduler, "dask", 8786) == (False, False)
        assert may_reach(labels, worker, "dask", 8788) == (False, False)
    assert may_reach(worker, scheduler, "dask", 8786) == (True, True)
    assert may_reach(scheduler, worker, "dask", 8788) == (True, True)
    assert may_reach(worker, worker, "dask", 8788) == (True, True)
    assert may_reach(DASK_CLIENT, scheduler, "dask", 8786) == (True, True)
    assert may_reach(DASK_CLIENT, worker, "dask", 8788) == (False, False)


@pytest.mark.slow
def test_the_dask_overlay_runs_our_code(tmp_path: Path) -> None:
    """Its two command lines as they stand, but for addresses: here everything is on loopback."""
    free = iter(free_ports(4))
    dask, health = next(free), [next(free), next(free)]
    scheduler, worker = dask_parts()
    moved = {
        f"--port={ports_of(scheduler)['dask']}": f"--port={dask}",
        worker["args"][0]: f"tcp://127.0.0.1:{dask}",
        f"--worker-port={ports_of(worker)['dask']}": f"--worker-port={next(free)}",
        "--local-directory=/tmp": f"--local-directory={tmp_path}",
    }
    running = []
    try:
        for spec, port in zip((scheduler, worker), health, strict=True):
            moved[f"--dashboard-address=:{ports_of(spec)['health']}"] = f"--dashboard-address=127.0.0.1:{port}"
            words = [*spec["command"], *(moved.get(word, word) for word in spec["args"]), "--host=127.0.0.1"]
            running.append(subprocess.Popen([BIN / words[0], *words[1:]], cwd=tmp_path, stderr=subprocess.DEVNULL))
        with Client(f"tcp://127.0.0.1:{dask}", timeout=60) as client:
            client.wait_for_workers(1, timeout=60)
            codes, _ = client.submit(quantise, np.full((1, 4), 0.5, np.float32)).result(timeout=60)
            assert codes.tolist() == [[127] * 4]
            assert list(client.run(os.getpid).values()) == [running[1].pid]
        for port in health:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
                assert answer.status == 200
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
