"""The alerts that Penstock proposes: they name metrics that there are, and fire when they should.

The latter needs promtool (Debian's package prometheus), which evaluates rules over made-up series.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.metrics import METRICS
from adapters.settings import standard_rulebook_text
from runtime.ledger.rule_file import parse_rulebook

ALERTS = Path(__file__).parents[2] / "docs" / "alerts.yml"
(GROUP,) = yaml.safe_load(ALERTS.read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}
SUFFIXES = {"counter": "_total", "gauge": ""}
AT = "80m"
PROMTOOL = shutil.which("promtool")

# What each alert fires on, and what it does not: levels and counts of every minute, as promtool writes them.
COMMITS, STUCK, CALLS = "commits_total", "0+0x90", 'erp_calls_total{outcome="posted"}'
FIRES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "PenstockUnseen": ({}, {"parts_down": "0x90"}),
    "PenstockPartDown": ({"parts_down": "1x90"}, {"parts_down": "0 1 0x88"}),
    "PenstockStandsStill": (
        {'shard_lag_rows{shard="1"}': "7x90", COMMITS: STUCK},
        {'shard_lag_rows{shard="1"}': "7x90", COMMITS: "0+60x90"},
    ),
    "PenstockFallsBehind": ({'shard_lag_rows{shard="1"}': "200000x90"}, {'shard_lag_rows{shard="1"}': "99999x90"}),
    "PenstockRefuses": ({"gateway_refused_total": "0+5x90"}, {"gateway_refused_total": STUCK}),
    "PenstockFault": (
        {'exceptions_open{type="erp_timeout"}': "1x90"},
        {'exceptions_open{type="erp_timeout"}': "0x90", 'exceptions_open{type="denial"}': "5x90"},
    ),
    "PenstockExceptionsGrow": (
        {'exceptions_open{type="mapping_missing"}': "0+50x90"},
        {'exceptions_open{type="mapping_missing"}': "0+5x90"},
    ),
    "PenstockDeadLetters": (
        {'feed_dead_letters_total{feed="card"}': "0+1x90"},
        {'feed_dead_letters_total{feed="card"}': "3x90"},
    ),
    "PenstockConsumerWaits": (
        {'statuses_waiting{consumer="payables"}': "9x90", 'statuses_told_total{consumer="payables"}': STUCK},
        {'statuses_waiting{consumer="payables"}': "9x90", 'statuses_told_total{consumer="payables"}': "0+1x90"},
    ),
    "PenstockPostsNothing": ({"deltas_waiting": "4x90", CALLS: STUCK}, {"deltas_waiting": "4x90", CALLS: "0+1x90"}),
    "PenstockEntriesInDoubt": ({"entries_unknown": "2x90"}, {"entries_unknown": "2x70 0x20"}),
    "PenstockNoCheckpoints": ({COMMITS: "0+60x90"}, {COMMITS: "0+60x90", "checkpoints_total": "0+6x90"}),
}


def test_alerts_name_metrics_exceptions_and_tags_that_there_are():
    """A misspelt name would be an alert that never comes."""
    shown = {f"ray_penstock_{name}{SUFFIXES.get(one.type, '')}" for name, one in METRICS.items()}
    tags = {tag for one in METRICS.values() for tag in one.tags}
    types = parse_rulebook(standard_rulebook_text()).exception.keys()
    for rule in RULES.values():
        expression = rule["expr"]
        assert set(re.findall(r"ray_penstock_\w+", expression)) <= shown
        assert set(re.findall(r"by \((\w+)\)", expression)) <= tags
        named = re.findall(r'type=~"([^"]+)"', expression) + re.findall(r"--type (\w+)", str(rule["annotations"]))
        assert {one for names in named for one in names.split("|")} <= types


def test_alerts_say_what_is_wrong_and_what_to_do():
    """Each of them, and how bad it is."""
    for rule in RULES.values():
        assert rule["annotations"].keys() == {"summary", "remedy"}
        assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (of Debian's package prometheus)")
def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path):
    """Each over a series that it is for, and over the nearest one that it is not for."""
    assert FIRES.keys() == RULES.keys()
    tests = [_over(name, wrong, True) for name, (wrong, _) in FIRES.items()]
    tests += [_over(name, right, False) for name, (_, right) in FIRES.items()]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}))
    done = subprocess.run([PROMTOOL, "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _over(name: str, series: dict[str, str], fires: bool) -> dict[str, Any]:
    """One of promtool's tests: whether this alert fires over the series."""
    firing = f'count(ALERTS{{alertname="{name}", alertstate="firing"}})'
    return {
        "name": f"{name} {'fires' if fires else 'is silent'}",
        "interval": "1m",
        "input_series": [{"series": f"ray_penstock_{one}", "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {"expr": firing, "eval_time": AT, "exp_samples": [{"labels": "{}", "value": 1}] if fires else []}
        ],
    }
