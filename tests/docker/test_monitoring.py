"""Prometheus and Grafana ask for what the server exports, at the addresses that compose.yaml gives."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from typing import Any

import promql_parser
import pytest
import yaml

from tests.docker.files import DOCKER, ROOT

BOARD = json.loads((DOCKER / "grafana" / "boards" / "llmserve.json").read_text())
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "counter": ("",)}


def exported() -> dict[str, set[str]]:
    """Names of samples, by docs/metrics.md (which a test holds to the registry) → their labels."""
    out = {}
    for row in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", (ROOT / "docs" / "metrics.md").read_text(), re.M):
        name, kind, labels = row
        own = {"model_name", *re.findall(r"`(\w+)`", labels)}
        for suffix in SUFFIXES[kind]:
            out[name + suffix] = own | ({"le"} if suffix == "_bucket" else set())
    return out


EXPORTED = exported()


def queries() -> list[tuple[str, dict[str, Any]]]:
    return [(panel["title"], target) for panel in BOARD["panels"] for target in panel["targets"]]


def parsed(query: str) -> Any:
    return promql_parser.parse(query.replace("$__rate_interval", "1m").replace("$", ""))


def selectors(node: Any) -> list[Any]:
    """All vector selectors under a node of the expression's tree."""
    if isinstance(node, promql_parser.VectorSelector):
        return [node]
    if isinstance(node, promql_parser.MatrixSelector):
        return [node.vector_selector]
    children = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "param")] + list(getattr(node, "args", []))
    return [found for child in children if child is not None for found in selectors(child)]


def test_the_board_is_what_its_script_writes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "grafana_board.py"], capture_output=True, text=True, check=True
    )
    again = "python scripts/grafana_board.py > docker/grafana/boards/llmserve.json"
    assert json.loads(done.stdout) == BOARD, f"run `{again}`"


@pytest.mark.parametrize(("title", "target"), queries())
def test_a_query_is_promql_over_metrics_that_are_exported(title: str, target: dict[str, Any]) -> None:
    found = selectors(parsed(target["expr"]))
    assert found, f"{title}: no metric in {target['expr']}"
    for selector in found:
        assert selector.name in EXPORTED, f"{title}: {selector.name} is not in docs/metrics.md"
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= EXPORTED[selector.name] | {"instance"}, f"{title}: {asked}"
    labels = set().union(*(EXPORTED[s.name] for s in found)) | {"instance"}
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels


def test_rates_are_of_counters_alone() -> None:
    gauges = set(re.findall(r"^\| `(\w+)` \| gauge", (ROOT / "docs" / "metrics.md").read_text(), re.M))
    for title, target in queries():
        for name in re.findall(r"rate\((\w+)", target["expr"]):
            assert name not in gauges, f"{title}: rate of the gauge {name}"


def test_panels_neither_overlap_nor_leave_the_page() -> None:
    cells = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        mine = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert not mine & cells, panel["title"]
        assert max(x for x, _ in mine) < 24, panel["title"]
        cells |= mine
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_variables_are_asked_for_and_known() -> None:
    variables = {variable["name"] for variable in BOARD["templating"]["list"]}
    used = set().union(*(re.findall(r"\$(\w+)", target["expr"]) for _, target in queries())) - {"__rate_interval"}
    assert used == variables
    for variable in BOARD["templating"]["list"]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
        assert label in EXPORTED[metric] | {"instance"}


def test_every_panel_asks_the_provisioned_source() -> None:
    sources = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    known = {(source["type"], source["uid"]) for source in sources}
    for panel in BOARD["panels"]:
        for asked in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert (asked["type"], asked["uid"]) in known, panel["title"]


def test_addresses_are_services_and_their_ports() -> None:
    """Grafana's source is Prometheus' service, Prometheus' target the server's, each at the port it listens on."""
    published = {name: s["ports"][0] for name, s in COMPOSE["services"].items() if "ports" in s}
    ports = {name: port.rpartition(":")[2] for name, port in published.items()}
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == f"http://prometheus:{ports['prometheus']}"
    (job,) = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"server:{ports['server']}"]}]


def test_boards_are_looked_for_where_they_are_mounted() -> None:
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/boards.yaml").read_text())["providers"]
    mounts = [mount.split(":") for mount in COMPOSE["services"]["grafana"]["volumes"]]
    folders = {inside: DOCKER / outside for outside, inside, *_ in mounts if outside.startswith(".")}
    assert list(folders[provider["options"]["path"]].glob("*.json"))
    assert (folders["/etc/grafana/provisioning"] / "datasources").is_dir()
