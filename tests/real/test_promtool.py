"""What Curb publishes for Prometheus, checked by Prometheus' own promtool."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from curb.serve.money_metrics import MoneyMetrics
from tests.fakes.alerts import alert_message, an_alert
from tests.fakes.money import MoneyDaemon, a_shard, charge
from tests.house.test_grafana import expressions
from tests.house.tree import ROOT
from tests.real.promtool import promtool

pytestmark = pytest.mark.real
BUDGET = {"name": "keys", "scope": "key", "amount_usd": 10, "period": "day"}


@pytest.mark.parametrize("key", ["k1", 'a"b\\c\nd{e}="1",\r\0', "日本 \U0001f4b8", "", " " * 300])
def test_metrics_keep_to_the_conventions_and_any_tag_can_be_read(key: str) -> None:
    shard = a_shard(budgets=[BUDGET])
    charge(shard, {key: 8.0})
    daemon = MoneyDaemon(shard)
    daemon.view.apply(alert_message(an_alert()))
    output = promtool("check", "metrics", text=MoneyMetrics(daemon).text())
    assert not [line for line in output.splitlines() if line.startswith("curb_")], output


def test_rules_can_be_loaded_and_do_what_their_tests_say() -> None:
    folder = ROOT / "deploy" / "prometheus"
    assert "SUCCESS" in promtool("check", "rules", "curb.rules.yaml", directory=folder)
    assert "SUCCESS" in promtool("test", "rules", "curb.rules.test.yaml", directory=folder)


def test_expressions_of_the_dashboard_can_be_parsed(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": text} for number, (_, text) in enumerate(expressions())]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", "panels.yaml", directory=tmp_path)
