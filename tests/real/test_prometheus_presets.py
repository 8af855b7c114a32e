"""The queries of the presets, evaluated by Prometheus: what they make of new, restarted and lost counters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from curb.connectors.gpus.prometheus_presets import PRESETS
from tests.real.promtool import promtool

pytestmark = pytest.mark.real

_SPEND = PRESETS["litellm"]["fields"]["effective_cost"].replace("$step", "60s")


def _series(name: str, values: str, **labels: str) -> dict[str, str]:
    inner = ",".join(f'{key}="{value}"' for key, value in {"job": "g", "instance": "a", **labels}.items())
    return {"series": f"{name}{{{inner}}}", "values": values}


def _spend(key: str, values: str) -> dict[str, str]:
    return _series("litellm_spend_metric_total", values, hashed_api_key=key)


def _expect(directory: Path, series: list[dict[str, str]], expected: dict[str, dict[str, float]]) -> None:
    """Compare the dollars of each key in the minute before a time, such as 3m, with `expected`."""
    tests = [
        {
            "expr": _SPEND,
            "eval_time": at,
            "exp_samples": [
                {"labels": f'{{hashed_api_key="{key}"}}', "value": usd} for key, usd in sorted(usd_by_key.items())
            ],
        }
        for at, usd_by_key in expected.items()
    ]
    group = {"interval": "15s", "input_series": series, "promql_expr_test": tests}
    body = {"rule_files": [], "evaluation_interval": "15s", "tests": [group]}
    (directory / "presets.json").write_text(json.dumps(body), encoding="utf-8")  # JSON is YAML
    assert "SUCCESS" in promtool("test", "rules", "presets.json", directory=directory)


def test_a_new_key_counts_from_its_first_value(tmp_path: Path) -> None:
    series = [
        _series("up", "1x24"),
        _spend("steady", "100x24"),
        # From 2:15 on $5, later $6 more.
        _spend("new", "_x9 5x7 11x8"),
    ]
    _expect(tmp_path, series, {"2m": {"steady": 0}, "3m": {"steady": 0, "new": 5}, "4m": {"steady": 0, "new": 0}})


def test_a_target_that_was_away_or_is_new_brings_no_past(tmp_path: Path) -> None:
    away = [_series("up", "1x8 0x31 1x16"), _spend("old", "100x8 stale _x30 100x16")]
    _expect(tmp_path, away, {"10m30s": {"old": 0}, "12m": {"old": 0}})
    first = [_series("up", "_x9 1x15"), _spend("old", "_x9 100x15")]
    _expect(tmp_path, first, {"2m": {}, "3m": {"old": 0}, "4m": {"old": 0}})
