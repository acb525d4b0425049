"""The house: what stands at the top, which way imports run, one door per heavy library, no circles."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from api.problems import STATUS
from service import errors

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"service": 0, "indexing": 1, "api": 2}
MODULES = sorted(p for floor in FLOORS for p in (ROOT / floor).rglob("*.py") if "node_modules" not in p.parts)

DOORS = {
    "zarr": ("service/store/",),
    "icechunk": ("service/store/",),
    "zarrs": ("service/store/",),
    "zstandard": ("service/store/frames.py",),
    "numkong": ("service/linear.py",),
    "isal": ("service/png.py",),
    "obstore": ("service/bucket/objects.py", "service/store/transport.py"),
    "pyarrow": ("service/tables/", "service/training/"),
    "odc": ("service/scenes/reading.py",),
    "xarray": ("service/scenes/reading.py",),
    "onnxruntime": ("service/encoder/",),
    "openvino": ("service/encoder/",),
    "faiss": ("indexing/index/ann.py",),
    "torch": ("service/training/",),
    "onnx": ("service/training/export/",),
    "huggingface_hub": ("service/training/hub.py",),
    "matplotlib": ("service/training/plots.py",),
    "fastapi": ("api/",),
    "starlette": ("api/",),
    "titiler": ("api/",),
    "uvicorn": ("api/cli.py", "api/scenery.py"),
    "typer": ("api/",),
    "rich": ("api/",),
    "prometheus_client": ("api/metrics.py",),
    "structlog": ("api/logs.py",),
    "opentelemetry": ("api/telemetry.py",),
    "dbos": ("api/jobs.py", "api/worker.py"),
    "sqlalchemy": ("api/claims.py", "api/roster.py"),
    "distributed": ("api/batch.py",),
    "httpx2": ("api/fleet.py", "service/scenes/"),
    "httpcore2": ("service/scenes/fetch.py", "service/scenes/resolved.py"),
    "pystac": ("service/scenes/asked.py", "service/simulate/"),
    "pystac_client": ("service/scenes/asked.py",),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Everything a module imports, dotted; lazy imports inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


IMPORTS = {name_of(path): imports_of(path) for path in MODULES}


def edges() -> dict[str, set[str]]:
    return {name: {other for other in IMPORTS if other in seen and other != name} for name, seen in IMPORTS.items()}


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 30


def test_imports_run_one_way_from_api_to_indexing_to_service() -> None:
    for name, seen in IMPORTS.items():
        floor = FLOORS[name.partition(".")[0]]
        up = {other for other in seen if FLOORS.get(other.partition(".")[0], -1) > floor}
        assert not up, f"{name} reaches up to {sorted(up)}"


def test_each_heavy_library_has_one_door() -> None:
    for path in MODULES:
        place = path.relative_to(ROOT).as_posix()
        for library in {other.partition(".")[0] for other in imports_of(path)} & DOORS.keys():
            assert place.startswith(DOORS[library]), f"{place} imports {library}; its door is {DOORS[library]}"


def test_no_module_imports_itself_through_others() -> None:
    graph, done, path = edges(), set(), []

    def visit(name: str) -> None:
        assert name not in path, f"circle: {' -> '.join([*path, name])}"
        if name not in done:
            path.append(name)
            for other in graph[name]:
                visit(other)
            path.pop()
            done.add(name)

    for name in graph:
        visit(name)


def test_settings_are_built_only_on_the_roof() -> None:
    for path in MODULES:
        place = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text())
        calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        if place in {"api/app.py", "api/cli.py"}:
            continue
        assert "Settings" not in calls, f"{place} builds settings"
        environment = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)} & {
            "os.environ",
            "os.getenv",
        }
        assert not environment, f"{place} reads the environment"


def test_the_top_level_is_the_agreed_one() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    allowed = {
        "pyproject.toml", "service", "api", "indexing", "docker", "k8s", "tests", "openapi.yaml",
        "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "requirements", "docs",
    }  # fmt: skip
    assert not {name for name in top if not name.startswith(".")} - allowed


def test_modules_stay_short() -> None:
    long = {str(p.relative_to(ROOT)): n for p in MODULES if (n := len(p.read_text().splitlines())) > 350}
    assert not long


def test_no_room_is_called_utils() -> None:
    assert not [p for p in MODULES if p.stem in {"utils", "helpers", "misc", "common"}]


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*(subclasses(sub) for sub in cls.__subclasses__()))


def test_every_error_kind_has_one_class_and_one_status() -> None:
    tree = subclasses(errors.SmaltiError)
    kinds = [cls.kind for cls in tree]
    assert len(set(kinds)) == len(kinds)
    assert set(kinds) == set(STATUS)
    assert set(kinds) == {
        "internal", "invalid-input", "limit-exceeded", "not-found", "outside", "identity-mismatch", "read-only",
        "conflict", "corrupt", "bad-source", "unavailable", "unauthorized", "forbidden",
    }  # fmt: skip  # clients match on these: add, never rename


def test_errors_keep_their_field_and_remedy_through_pickling() -> None:
    import pickle

    error = errors.LimitExceeded("too many.", field="points", remedy="Send fewer.")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is errors.LimitExceeded
    assert (back.message, back.field, back.remedy) == (error.message, "points", "Send fewer.")
    assert str(back) == "points: too many. Send fewer."
    busy = pickle.loads(pickle.dumps(errors.Unavailable("full.", remedy="Wait.", retry_after=7.5)))
    assert (str(busy), busy.retry_after) == ("full. Wait.", 7.5)


def test_locks_name_no_index_and_hold_hashes_only() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text, f"{lock.name} names an address"
        assert "\ntorch==" not in text
