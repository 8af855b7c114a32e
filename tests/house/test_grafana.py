"""The dashboard for Grafana: metrics that exist, panels with room, a data source that is chosen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from tests.house.test_monitoring import unknown
from tests.house.tree import ROOT

PATH = ROOT / "deploy" / "grafana" / "curb.json"
#: What Grafana fills in, and something that stands for it.
VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$scope": "team"}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    return [each for each in dashboard()["panels"] if each["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """(title of the panel, expression as Prometheus gets it)."""
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            yield panel["title"], text


def test_expressions_use_metrics_that_exist() -> None:
    found = list(expressions())
    assert len(found) > 25
    assert not list(unknown(text for _, text in found))
    assert not [text for _, text in found if "$" in text], "a variable that nobody fills in"


def test_the_data_source_is_a_variable_everywhere() -> None:
    variables = {each["name"]: each for each in dashboard()["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    used = [each.get("datasource") for panel in panels() for each in (panel, *panel["targets"])]
    used.append(variables["scope"]["datasource"])
    assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in used)


def test_panels_lie_side_by_side_and_have_ids_of_their_own() -> None:
    every = dashboard()["panels"]
    assert len({each["id"] for each in every}) == len(every)
    for one, other in combinations((each["gridPos"] for each in every), 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)
    assert all(each["gridPos"]["x"] + each["gridPos"]["w"] <= 24 for each in every)


def test_the_dashboard_answers_what_is_asked_first() -> None:
    text = " ".join(text for _, text in expressions())
    for metric in (
        "curb_burn_usd_per_hour",
        "curb_expected_usd_per_hour",
        "curb_alert_at_risk_usd",
        "curb_budget_forecast_usd",
        "curb_saved_usd_total",
        "curb_connector_last_success_timestamp_seconds",
        "curb_detector_lag_seconds",
    ):
        assert re.search(rf"\b{metric}\b", text), metric
