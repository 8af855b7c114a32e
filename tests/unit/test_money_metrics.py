"""The metrics of money: what is published one by one and what is summed, and that counters never go back."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from curb.actions.ledger.memory import Memory
from curb.serve.money_metrics import MoneyMetrics, tag_labels
from curb.stream.metrics import REST
from docs.generate import REFERENCE
from tests.fakes.alerts import a_plan, alert_message, an_alert, an_entry
from tests.fakes.memory_log import MemoryLog
from tests.fakes.money import MoneyDaemon, a_shard, charge
from tests.fakes.spend import T0

HOSTILE = 'a"b\\c\nd{e}=1, \ud800 日本'


def scraped(subject: MoneyMetrics) -> dict[str, dict[tuple[str, ...], float]]:
    """Name → values of its labels in the order of their names → value, as Prometheus reads them."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(subject.text().decode()):
        for each in family.samples:
            found.setdefault(each.name, {})[tuple(each.labels.values())] = each.value
    return found


def series(subject: MoneyMetrics, name: str, scope: str = "key") -> dict[str, float]:
    """The key, or else the team, of every series of a scope → value."""
    place = 1 if scope == "key" else -1
    return {labels[place]: value for labels, value in scraped(subject).get(name, {}).items() if labels[0] == scope}


def test_the_largest_are_published_and_the_others_summed() -> None:
    shard = a_shard()
    subject = MoneyMetrics(MoneyDaemon(shard, most=2))
    charge(shard, {"a": 5.0, "b": 3.0, "c": 2.0, "d": 1.0})
    assert series(subject, "curb_spend_usd_total") == {"a": 5.0, "b": 3.0, REST: 0.0}
    assert series(subject, "curb_spend_usd_total", "team") == {"search": 11.0}
    burn = series(subject, "curb_burn_usd_per_hour")
    assert set(burn) == {"a", "b", REST}
    assert sum(burn.values()) == pytest.approx(series(subject, "curb_burn_usd_per_hour", "team")["search"])
    assert set(series(subject, "curb_expected_usd_per_hour")) == {"a", "b", REST}


def test_none_one_by_one_leaves_the_sums() -> None:
    shard = a_shard()
    subject = MoneyMetrics(MoneyDaemon(shard, most=0))
    charge(shard, {"a": 5.0, "b": 3.0})
    assert set(series(subject, "curb_burn_usd_per_hour")) == {REST}


def test_the_sum_of_the_others_counts_what_they_are_charged_from_now_on() -> None:
    shard = a_shard()
    subject = MoneyMetrics(MoneyDaemon(shard, most=1))
    charge(shard, {"a": 5.0, "b": 3.0, "c": 2.0})
    scraped(subject)
    charge(shard, {"a": 1.0, "b": 0.5, "c": 0.25}, T0 + 60)
    assert series(subject, "curb_spend_usd_total") == {"a": 6.0, REST: 0.75}


def test_a_series_that_grows_past_others_is_published_and_those_stay() -> None:
    shard = a_shard()
    subject = MoneyMetrics(MoneyDaemon(shard, most=1))
    charge(shard, {"a": 5.0, "b": 3.0, "c": 2.0})
    scraped(subject)
    charge(shard, {"c": 9.0}, T0 + 60)
    # What c was charged before it was published is in the sum of the others, and stays there.
    assert series(subject, "curb_spend_usd_total") == {"c": 11.0, "a": 5.0, REST: 9.0}


@settings(max_examples=25)
@given(
    st.lists(st.dictionaries(st.sampled_from("abcde"), st.floats(-3, 5), min_size=1), min_size=1, max_size=12),
    st.integers(0, 3),
)
def test_no_counter_goes_back(steps: list[dict[str, float]], most: int) -> None:
    shard = a_shard()
    subject = MoneyMetrics(MoneyDaemon(shard, most=most))
    before: dict[Any, float] = {}
    for number, step in enumerate(steps):
        charge(shard, step, T0 + 60 * number)
        now = {
            tuple(each.labels.items()): each.value
            for family in subject.collect()
            for each in family.samples
            if each.name == "curb_spend_usd_total"
        }
        assert all(value >= before.get(labels, 0.0) for labels, value in now.items())
        before |= now


def test_credits_are_counted_apart() -> None:
    shard = a_shard()
    subject = MoneyMetrics(MoneyDaemon(shard))
    charge(shard, {"a": 5.0})
    charge(shard, {"a": -2.0}, T0 + 60)
    assert series(subject, "curb_spend_usd_total") == {"a": 5.0}
    assert scraped(subject)["curb_credits_usd_total"] == {("key",): 2.0, ("team",): 2.0}


def test_charges_outlive_a_snapshot() -> None:
    shard, again = a_shard(), a_shard()
    charge(shard, {"a": 5.0})
    charge(shard, {"a": -2.0}, T0 + 60)
    again.restore(shard.snapshot())
    assert series(MoneyMetrics(MoneyDaemon(again)), "curb_spend_usd_total") == {"a": 5.0}


def test_spend_waits_until_the_log_was_read() -> None:
    shard = a_shard()
    daemon = MoneyDaemon(shard)
    daemon.ready = False
    subject = MoneyMetrics(daemon)
    charge(shard, {"a": 5.0})
    assert "curb_spend_usd_total" not in scraped(subject)
    assert scraped(subject)["curb_ready"] == {(): 0.0}


def test_a_partition_that_comes_or_goes_is_no_spend_of_the_others() -> None:
    first, second = a_shard(), a_shard()
    daemon = MoneyDaemon(first, most=1)
    subject = MoneyMetrics(daemon)
    charge(first, {"a": 5.0, "b": 1.0})
    charge(second, {"x": 4.0, "y": 3.0}, team="ads")
    scraped(subject)
    daemon.owned = [first, second]
    assert series(subject, "curb_spend_usd_total")[REST] == 0.0
    charge(second, {"y": 0.5}, T0 + 60, team="ads")
    daemon.owned = [second]
    assert series(subject, "curb_spend_usd_total")[REST] in {0.0, 0.5}


def test_budgets_by_share_and_the_others_summed() -> None:
    budget = {"name": "keys", "scope": "key", "amount_usd": 10, "period": "day"}
    shard = a_shard(budgets=[budget])
    subject = MoneyMetrics(MoneyDaemon(shard, most=1))
    charge(shard, {"a": 5.0, "b": 8.0, "c": 1.0})
    found = scraped(subject)
    spent = {labels[2]: value for labels, value in found["curb_budget_spent_usd"].items()}
    amount = {labels[2]: value for labels, value in found["curb_budget_amount_usd"].items()}
    assert spent == {"b": 8.0, REST: 6.0}
    assert amount == {"b": 10.0, REST: 20.0}
    # No whole day is known yet.
    assert "curb_budget_forecast_usd" not in found


def test_alerts_with_most_at_risk_and_the_others_summed() -> None:
    daemon = MoneyDaemon(most=1)
    for number, usd in enumerate((10.0, 30.0, 20.0)):
        daemon.view.apply(alert_message(an_alert(fingerprint=f"f{number}", alert_id=f"a{number}", dollars_at_risk=usd)))
    found = scraped(MoneyMetrics(daemon))["curb_alert_at_risk_usd"]
    assert {labels[0]: value for labels, value in found.items()} == {"a1": 30.0, REST: 30.0}


def test_lag_mode_and_version() -> None:
    shard = a_shard()
    daemon = MoneyDaemon(shard, mode="approve")
    charge(shard, {"a": 1.0})
    daemon.clock.jump(200)
    found = scraped(MoneyMetrics(daemon))
    assert found["curb_detector_lag_seconds"] == {(): 200 + T0 - (shard.event_time or 0)}
    assert found["curb_actions_mode"] == {("approve",): 1.0}
    assert list(found["curb_build_info"].values()) == [1.0]


def test_tags_are_data() -> None:
    shard = a_shard()
    charge(shard, {"a": 1.0}, team='x"} 1\ncurb_ready 0')
    charge(shard, {"a": 1.0}, T0 + 60, team="back\\slash")
    found = scraped(MoneyMetrics(MoneyDaemon(shard)))
    assert set(found["curb_burn_usd_per_hour"]) >= {
        ("team", 'x"} 1\ncurb_ready 0'),
        ("team", "back\\slash"),
    }
    assert found["curb_ready"] == {(): 1.0}


def test_names_of_tags_become_labels() -> None:
    assert tag_labels({"aws:Team": "a", "aws-Team": "b", "job": HOSTILE}) == {
        "tag_aws_Team": "a",
        "tag_aws_Team_2": "b",
        "tag_job": HOSTILE.replace("\ud800", "?"),
    }


def test_the_size_does_not_grow_with_the_series() -> None:
    budget = {"name": "keys", "scope": "key", "amount_usd": 10, "period": "day"}
    counts = []
    for many in (500, 3000):
        shard = a_shard(budgets=[budget])
        charge(shard, {f"key-{number}": 1.0 + number % 7 for number in range(many)})
        counts.append(generate_latest(MoneyMetrics(MoneyDaemon(shard))).count(b'scope="key"'))
    # Three metrics of series with their rest; of the budget's rows seven, two of them with a rest; credits.
    assert counts[0] == counts[1] <= 3 * 101 + 8 * 100 + 2 + 1


def test_every_published_name_has_a_line_in_the_reference() -> None:
    budget = {"name": "keys", "scope": "key", "amount_usd": 10, "period": "day"}
    shard = a_shard(budgets=[budget])
    charge(shard, {"a": 8.0})
    daemon = MoneyDaemon(shard)
    daemon.view.apply(alert_message(an_alert()))
    page = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
    text = MoneyMetrics(daemon).text().decode()
    names = set(re.findall(r"^# TYPE (curb_\w+) ", text, re.MULTILINE))
    assert {"curb_spend_usd_total", "curb_alert_at_risk_usd", "curb_budget_spent_usd"} <= names
    missing = [name for name in names if not name.endswith("_created") and f"`{name}`" not in page]
    assert not missing


# --- saved and refused --------------------------------------------------------------------------------------------


def value(name: str, action: str = "gate-of-metrics") -> float | None:
    return REGISTRY.get_sample_value(name, {"action": action})


async def test_saved_dollars_count_once_when_an_action_ends() -> None:
    log = MemoryLog()
    memory = Memory(log)
    await memory.read(T0)
    plan = a_plan(action="gate-of-metrics")
    for state, saved, refused in (
        ("planned", None, None),
        ("applied", 1.0, 3),
        ("effective", 4.0, 9),
        ("restored", 6.0, 12),
        ("restored", 6.0, 12),
    ):
        await memory.record(an_entry(1, state, plan=plan, saved_usd=saved, rejected=refused))
        if state == "effective":
            assert (value("curb_saved_usd_total"), value("curb_saving_usd")) == (None, 4.0)
    assert value("curb_saved_usd_total") == 6.0
    assert value("curb_refused_requests_total") == 12.0
    assert value("curb_saving_usd") is None


async def test_what_would_have_been_saved_is_not_counted() -> None:
    memory = Memory(MemoryLog())
    await memory.read(T0)
    plan = a_plan(action="gate-in-shadow")
    await memory.record(an_entry(1, "shadow", plan=plan, saved_usd=5.0))
    assert value("curb_saved_usd_total", "gate-in-shadow") is None
