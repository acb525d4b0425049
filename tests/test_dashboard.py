"""The dashboard and the alerts in k8s/: every number they ask for is one that /metrics tells, and none is forgotten."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from api.settings import Limits, Settings
from api.tally import STATES, Tally
from service.errors import NotFound
from service.values import Window
from tests.conftest import ROOT, client_of
from tests.test_metrics import Numbers, numbers, place, series, tile_path

DASHBOARD = json.loads((ROOT / "k8s" / "dashboard.json").read_text())
ALERTS = [
    rule for group in yaml.safe_load((ROOT / "k8s" / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
EXPRESSIONS = [(title, target["expr"]) for title, target in TARGETS] + [(r["alert"], r["expr"]) for r in ALERTS]

GIVEN_BY_PROMETHEUS = {"instance", "job"}
UNITS = {"reqps", "percentunit", "s", "short", "Bps", "bytes", "ops"}
SELECTOR = re.compile(r"\b((?:smalti|process|python)_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


@pytest.fixture(scope="module")
def warm(world: Settings, tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    """/metrics of a server that has done one of everything, failures included."""
    home = tmp_path_factory.mktemp("warm") / "home"
    shutil.copytree(world.home, home)
    client = client_of(world.model_copy(update={"home": home, "limits": Limits(uploads_at_once=1)}))
    state = client.app.state.smalti  # type: ignore[attr-defined]
    lon, lat = place(client)
    for path in (tile_path(client), f"/datasets/demo/2024/search?lon={lon}&lat={lat}"):
        assert client.get(path).status_code == 200
    assert client.post("/embed", json=series([lon, lat], dataset="demo")).status_code == 200
    with pytest.raises(NotFound):
        state.datasets["demo"].store.read(
            state.datasets["demo"].store.zones()[0].zone, Window.year(1999), *[slice(0, 1)] * 2
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "tally", lambda: Tally(dict.fromkeys(STATES, 1), 2, 3, 4.0, 1, 5.0))
        return numbers(client)


def label_values(warm: Numbers) -> dict[str, dict[str, set[str]]]:
    """Metric -> label -> the values it has."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for sample in warm.samples:
        found[sample.name].update({})
        for label, value in sample.labels.items():
            found[sample.name][label].add(value)
    return found


def selectors(expression: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    for name, inside in SELECTOR.findall(expression):
        yield name, MATCHER.findall(inside)


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_what_is_asked_for_is_told(warm: Numbers, title: str, expression: str) -> None:
    told = label_values(warm)
    asked = list(selectors(expression))
    assert asked
    known = set(GIVEN_BY_PROMETHEUS)
    for name, matchers in asked:
        assert name in told, f"{title}: there is no {name}"
        known |= set(told[name])
        for label, operator, value in matchers:
            assert label in told[name], f"{title}: {name} has no label {label}"
            if operator == "=":
                assert value in told[name][label], f"{title}: {name} never has {label}={value}"
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {label.strip() for label in group.split(",")} <= known, f"{title}: by ({group})"
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)
    rates = re.findall(r"rate\((\w+)", expression)
    assert all(name.endswith(("_total", "_bucket", "_sum", "_count")) for name in rates), "a gauge has no rate"
    counters = {name for name, _ in asked if name.endswith(("_total", "_bucket", "_sum", "_count"))}
    assert counters <= set(rates), f"{title}: a counter alone says little"
    if "histogram_quantile" in expression:
        assert re.search(r"by \(le\b", expression)


@pytest.mark.parametrize(("title", "target"), TARGETS)
def test_legends_name_labels_that_are_there(warm: Numbers, title: str, target: dict[str, Any]) -> None:
    named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    kept = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", target["expr"]) for label in group.split(",")}
    assert named <= (kept or GIVEN_BY_PROMETHEUS), title
    assert kept - {"le"} <= named, f"{title}: lines that look alike"


def test_every_number_of_ours_is_on_the_dashboard(warm: Numbers) -> None:
    asked = {name for _, target in TARGETS for name, _ in selectors(target["expr"])}
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
    told = {family.name for family in warm.families if family.name.startswith("smalti_")}
    assert told - shown == set()
    assert len(told) > 25


def test_panels_are_whole_and_do_not_overlap() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["datasource"]["uid"] == "${datasource}", "whatever the Prometheus is called"
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0


def test_units_follow_the_metric() -> None:
    for panel in PANELS:
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            expression = target["expr"]
            if "histogram_quantile" in expression or re.search(r"\(smalti_\w+_seconds\)", expression):
                assert unit == "s", panel["title"]
            if re.search(r"rate\(\w+_bytes_total", expression):
                assert unit == "Bps", panel["title"]


def test_servers_that_tell_nothing_are_noticed() -> None:
    """Every other rule is about numbers that are there: with no server there are none, and nobody would hear."""
    (gone,) = [rule for rule in ALERTS if rule["expr"].startswith("absent(")]
    assert gone["expr"] == "absent(smalti_build_info)"
    assert gone["labels"]["severity"] == "critical"


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for rule in ALERTS:
        assert re.fullmatch(r"Smalti[A-Z]\w+", rule["alert"])
        assert re.fullmatch(r"\d+m", rule["for"])
        assert rule["labels"]["severity"] in {"warning", "critical"}
        named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        kept = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in group.split(",")}
        assert named <= kept, rule["alert"]
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
