"""Alert rules and dashboard: they name what there is, lead to a runbook, fire on a fault and on nothing that is well."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import promql_parser
import pytest
import yaml

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.daemon_figures import Daemon
from bg_pipelines.operations.metrics import read_metrics
from bg_pipelines.operations.prometheus import prometheus_text
from bg_pipelines.queues import Unit
from bg_pipelines_tests.operations.example_figures import all_metrics
from bg_pipelines_tests.operations.promql import Moment, Selector, Vector, grouped_by, selectors
from bg_pipelines_tests.operations.test_metrics import (
    Execute,
    add_run,
    change,
    execute,
    three_stores,
)
from bg_pipelines_tests.support import PROJECT

__all__ = ["execute", "three_stores"]  # fixtures

FOLDER = PROJECT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((PROJECT / "deploy" / "grafana" / "bg-pipelines.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
FOREIGN = {"node_textfile_mtime_seconds": {"file"}}
"""Metrics of others, which rules name."""


def labels_of_metrics() -> dict[str, set[str]]:
    known: dict[str, set[str]] = {name: set(labels) for name, labels in FOREIGN.items()}
    for part in all_metrics().values():
        for metric in part:
            known[metric.name] = set(metric.labels)
            if metric.type == "histogram":
                known[f"{metric.name}_bucket"] = {*metric.labels, "le"}
    return known


def check_expression(expression: str, known: dict[str, set[str]]) -> None:
    """Every metric and label in it exists."""
    parsed = promql_parser.parse(expression)
    named = list(selectors(parsed))
    assert named, expression
    for metric, labels in named:
        assert metric in known, expression
        assert set(labels) <= known[metric], expression
    assert grouped_by(parsed) <= set().union(*(known[metric] for metric, _ in named)), expression


def test_every_rule_names_metrics_and_labels_that_there_are_and_a_runbook_that_can_be_read() -> None:
    known = labels_of_metrics()
    headings = re.findall(r"^#+ (.+)$", (PROJECT / "docs" / "on-call.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace("`", "").replace(" ", "-") for heading in headings}
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        check_expression(rule["expr"], known)
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/on-call.md"
        assert anchor in anchors, rule["alert"]
        of_alert = set().union(*(known[s.metric] for s in selectors(promql_parser.parse(rule["expr"]))))
        told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert told <= of_alert, rule["alert"]
    assert {rule["annotations"]["runbook_url"].partition("#")[2] for rule in RULES} >= {
        anchor for anchor in anchors if anchor.endswith(("isrunning", "storesbehind", "workwaits"))
    }


def firing(text: str, at: float, rates: dict[str, Vector] | None = None) -> set[str]:
    """The rules whose expression finds something, however long that must last."""
    moment = Moment(text, at, rates)
    return {rule["alert"] for rule in RULES if moment.evaluate(rule["expr"])}


def figures(database: Database, silent: float = 10.0) -> tuple[str, float]:
    metrics = read_metrics(database)
    daemon = Daemon(metrics.at, metrics.at - timedelta(seconds=silent), [])
    return prometheus_text(metrics, daemon=daemon), metrics.at.timestamp()


def test_nothing_fires_while_all_is_well_nor_on_an_hourly_job_whatever_the_minute(
    database: Database, execute: Execute, three_stores: None
) -> None:
    for minute in (0, 20, 40, 59):
        execute("TRUNCATE job_runs")
        add_run(execute, "a", "drift_audit", "succeeded", began=minute + 1, seen=minute)
        assert firing(*figures(database)) == set(), f"{minute} minutes after its last run"
    # Its tick comes: for a moment its work is due.
    change(execute, "ann", Unit.AUDIT, "next_due_at = clock_timestamp() - interval '30 seconds'")
    assert firing(*figures(database)) == set()
    assert firing("", 0.0) == {"FiguresAreMissing"}, "nothing is told at all"


def test_each_rule_fires_on_its_fault(database: Database, execute: Execute, three_stores: None) -> None:
    change(execute, "ann", Unit.ORDERS, "last_succeeded_at = clock_timestamp() - interval '5 hours'")
    change(execute, "ben", Unit.STORE, "next_due_at = clock_timestamp() - interval '20 minutes'")
    add_run(execute, "a", "store_sync", "running", began=30, seen=20)
    execute(
        "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message) "
        "VALUES ('f', true, 'scopes', 'high', 's', 's', 'm')"
    )
    execute(
        "INSERT INTO alerts (incident_id, kind, severity, title, body) SELECT id, 'opened', 'high', 't', 'b' FROM incidents"
    )
    execute("INSERT INTO alert_deliveries (alert_id, target) SELECT id, 't' FROM alerts")
    text, at = figures(database, silent=300)
    assert firing(text, at) == {
        "NothingIsRunning",
        "StoresBehind",
        "FirstTierIsStale",
        "WorkWaits",
        "RunsDie",
        "NobodyActs",
        "AlertsDoNotArrive",
    }
    delivery = {"source": "square", "topic": "other"}
    counted: dict[str, Vector] = {
        "bg_pipelines_webhooks_received_total": {
            frozenset({**delivery, "outcome": "bad_signature"}.items()): 1.0,
            frozenset({**delivery, "outcome": "unavailable"}.items()): 0.1,
        }
    }
    seldom = "bg_pipelines_database_connections_in_use 90\nbg_pipelines_database_connections_size 100\n"
    seldom += "bg_pipelines_stores 0\nbg_pipelines_daemon_ticks_stopped 1\nbg_pipelines_database_up 0\n"
    seldom += 'node_textfile_mtime_seconds{file="/x/bg.prom"} 0\n'
    rest = firing(seldom, 1000.0, counted)
    assert "DaemonIsNotSeen" in rest
    assert firing(text, at) | rest | {"FiguresAreMissing"} == {rule["alert"] for rule in RULES}


@pytest.mark.full
def test_promtool_finds_nothing_in_rules_metrics_and_configuration() -> None:
    """Needs Debian's package `prometheus`."""
    from bg_pipelines_tests.operations.example_figures import DAEMON, FIGURES

    for command in (
        ["check", "rules", "rules.yaml"],
        ["test", "rules", "rules_test.yaml"],
        ["check", "config", "prometheus.yaml"],
    ):
        subprocess.run(["promtool", *command], cwd=FOLDER, check=True)
    text = prometheus_text(FIGURES, daemon=DAEMON)
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=True
    )
    assert checked.stderr == ""


# The dashboard


def targets() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target


def test_every_query_of_the_dashboard_names_what_there_is() -> None:
    known = labels_of_metrics()
    for title, expression, target in targets():
        plain = expression.replace("$__rate_interval", "5m").replace("$tier", "1")
        check_expression(plain, known)
        told = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        of_query: set[str] = set().union(*(known[s.metric] for s in selectors(promql_parser.parse(plain))))
        assert told <= of_query, title


def test_the_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies on another"
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}, "no installation's own"
    used = set(re.findall(r"\$(?!__)\{?(\w+)", json.dumps(DASHBOARD))) - {"datasource"}
    assert used <= variables.keys()


def test_an_expression_of_a_metric_that_there_is_not_is_found_out() -> None:
    with pytest.raises(AssertionError):
        check_expression("bg_pipelines_nothing > 1", labels_of_metrics())
    with pytest.raises(AssertionError):
        check_expression('bg_pipelines_stores{shop="a"} > 1', labels_of_metrics())
    assert list(selectors(promql_parser.parse('sum by (a) (rate(b{c="d"}[5m]))'))) == [
        Selector("b", {"c": "d"})
    ]
