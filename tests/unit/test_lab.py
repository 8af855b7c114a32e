"""The notebook module: the log as arrays, seasons, past forecasts, other policies, idle GPUs, and its tables."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb import lab, wiring
from curb.config.file import CurbConfig, load_file
from curb.lab.history import HourlySums, wait_for
from curb.lab.policies import _excess, _lost
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, COMMANDS, COSTS, GPU, USAGE
from curb.stream.records.spend import Alert, CostRecord, Feedback, GpuRecord, UsageRecord
from tests.fakes.alerts import an_alert

#: Monday 2026-03-23, 00:00 UTC.
T0 = 1774224000
HOUR, DAY = 3600, 86400


def usage(id: str, at: float, usd: float, end: float = 0.0, **tags: str) -> UsageRecord:
    return UsageRecord(
        id=id,
        charge_period_start=at,
        charge_period_end=end,
        received_at=at + 1,
        effective_cost=usd,
        requests=1,
        tags=tags,
    )


def logged(directory: Path, *messages: Message, text: str = "") -> Path:
    """The configuration of an embedded log that holds `messages`."""
    config = directory / "curb.yaml"
    config.write_text(f"log: {{kind: embedded, directory: {directory / 'data'}}}\n{text}", encoding="utf-8")

    async def fill() -> None:
        async with wiring.open_log(load_file(config), WallClock()) as log:
            await log.append(messages)

    wait_for(fill())
    return config


def history(days: int = 14, **usd: Any) -> lab.History:
    """One key per keyword, with its dollars per hour: an array, or a number for every hour."""
    hours = days * 24
    none = np.zeros(hours)
    sums = {
        ("usage", (("api_key", name),)): HourlySums(np.broadcast_to(np.asarray(each, float), hours), none, none, none)
        for name, each in usd.items()
    }
    return lab.History(CurbConfig(), T0, hours, sums, [])  # type: ignore[arg-type]


# --- the log as arrays --------------------------------------------------------------------------------------------


def test_every_record_counts_once_in_the_hours_that_it_covers(tmp_path: Path) -> None:
    lines = [
        usage("a", T0 + 10, 1.0, team="x"),
        usage("a", T0 + 20, 9.0, team="x"),  # again
        usage("b", T0 + HOUR, 4.0, end=T0 + 3 * HOUR, team="x"),
        usage("c", T0 + 3 * HOUR + 1800, 3.0, end=T0 + 5 * HOUR, team="y"),
        usage("nan", T0, math.nan, team="y"),
    ]
    config = logged(tmp_path, Message(USAGE, encode_lines(lines)), Message(USAGE, encode_lines(lines[:1])))
    found = lab.from_log(config)
    assert (found.start, found.hours) == (T0, 5)
    assert found.by("team")["x"].tolist() == [1.0, 2.0, 2.0, 0.0, 0.0]
    assert found.total(team="y").tolist() == pytest.approx([0, 0, 0, 1.0, 2.0])
    assert found.total().sum() == pytest.approx(8.0)


def test_a_record_with_an_impossible_time_or_end_does_not_stop_the_others(tmp_path: Path) -> None:
    lines = [usage(str(at), at, 5.0, team="x") for at in (1e300, -1e15, 0.0, T0 + 900 * DAY)]
    lines[-1] = msgspec.structs.replace(lines[-1], received_at=T0 + 1.0)
    lines += [usage("a", T0, 1.0, team="x"), usage("long", T0, 2.0, end=1e300, team="x")]
    found = lab.from_log(logged(tmp_path, Message(USAGE, encode_lines(lines))))
    assert found.start == T0
    assert found.total().sum() == pytest.approx(3.0)


NAMES = ("_hidden", "__untagged__", "$a_{$", "two\nlines", "z" * 500, "\\frac{")


def test_hostile_names_are_short_labels_of_a_legend_and_no_formulas() -> None:
    many = history(1, **dict.fromkeys(NAMES, 1.0))
    nodes = [lab.NodeUse(name, np.zeros(24), 0.0, 0.0, 0, 0) for name in NAMES]
    figures = [lab.spend_chart(many, "api_key", most=9), lab.money_chart(many, "api_key", most=9)]
    for figure in [*figures, lab.idle_chart(many, nodes)]:
        figure.savefig(io.BytesIO())  # raises ValueError for a formula that is none
    for figure in figures:
        shown = [each.get_text() for each in figure.axes[0].get_legend().get_texts()]
        assert len([each for each in shown if each != "all others"]) == len(NAMES)
        assert all(len(each) <= 44 and "\n" not in each for each in shown)


@pytest.mark.parametrize("usd", [{"a": 0.0}, {"a": 1.0, "b": -1.0}, {"a": -1.0}])
def test_shares_of_nothing_are_not_shown(usd: dict[str, float]) -> None:
    assert "| – |" in lab.spend_table(history(3, **usd), "api_key")


def test_the_three_kinds_stay_apart_and_the_mark_of_a_bill_is_no_charge(tmp_path: Path) -> None:
    bill = CostRecord(id="b", charge_period_start=T0, received_at=T0, effective_cost=7.0, tags={}, service_name="EC2")
    mark = CostRecord(id="m", charge_period_start=T0, received_at=T0, effective_cost=99.0, tags={}, delta="mark")
    gpu = GpuRecord(
        id="g", charge_period_start=T0, received_at=T0, effective_cost=2.0, tags={"node": "n"}, gpu_utilization=40.0
    )
    unknown = GpuRecord(id="h", charge_period_start=T0, received_at=T0, effective_cost=2.0, tags={"node": "n"})
    config = logged(
        tmp_path,
        Message(USAGE, encode_lines([usage("a", T0, 1.0)])),
        Message(COSTS, encode_lines([bill, mark])),
        Message(GPU, encode_lines([gpu, unknown])),
    )
    found = lab.from_log(config)
    assert [float(found.total(kind).sum()) for kind in ("usage", "costs", "gpu")] == [1.0, 7.0, 4.0]  # type: ignore[arg-type]
    assert list(found.by("service", kind="costs")) == ["EC2"], "a field stands for a tag that is not there"
    (node,) = lab.node_use(found)
    assert node.busy.tolist() == [40.0], "a sample without a value is no 0 %"


def test_days_are_local_and_an_unfinished_one_is_left_out(tmp_path: Path) -> None:
    lines = [usage(f"r{hour}", T0 + hour * HOUR, 1.0) for hour in range(40)]
    config = logged(tmp_path, Message(USAGE, encode_lines(lines)), text="detector: {time_zone: Europe/Berlin}\n")
    found = lab.from_log(config)
    assert str(found.times[0]) == "2026-03-23T01:00:00"
    days = found.daily(found.total())
    assert days.usd.tolist() == [23.0], "from one o'clock on; the second day ends at 17:00"


def test_alerts_carry_the_newest_verdict(tmp_path: Path) -> None:
    said = [
        Feedback(id=f"f{number}", at=T0 + number, alert_id="a1", verdict=verdict)  # type: ignore[arg-type]
        for number, verdict in enumerate(["real", "planned"])
    ]
    alerts = [an_alert(alert_id=name, fingerprint=name, fired_at=T0 + 60.0) for name in ("a1", "a2")]
    config = logged(
        tmp_path,
        Message(USAGE, encode_lines([usage("a", T0, 1.0)])),
        *(Message(ALERTS, encode_lines([each])) for each in alerts),
        *(Message(COMMANDS, encode_lines([each])) for each in said),
    )
    assert [(each.alert.alert_id, each.verdict) for each in lab.from_log(config).alerts] == [
        ("a1", "planned"),
        ("a2", ""),
    ]


def test_an_empty_log_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="curb backfill"):
        lab.from_log(logged(tmp_path))
    with pytest.raises(ValueError, match="no spend"):
        lab.from_log(logged(tmp_path, Message(USAGE, encode_lines([usage("a", T0, 1.0)]))), days=1)


def test_a_log_is_not_made_by_reading(tmp_path: Path) -> None:
    config = tmp_path / "curb.yaml"
    config.write_text(f"log: {{kind: embedded, directory: {tmp_path / 'none'}}}\n", encoding="utf-8")
    with pytest.raises((ValueError, PermanentError)):
        lab.from_log(config)


# --- seasons ------------------------------------------------------------------------------------------------------


def test_an_hour_over_trend_and_season_is_found_and_the_rhythm_is_not() -> None:
    hour = np.arange(14 * 24)
    noise = np.random.default_rng(1).normal(0, 0.02, 14 * 24)
    usd = 2 + np.sin(hour % 24 / 24 * 2 * np.pi) + noise
    usd[200] += 5
    mine = history(k=usd)
    (odd, *_) = lab.odd_hours(mine, usd)
    assert odd.at == mine.times[200]
    assert odd.usd - odd.expected_usd == pytest.approx(5, abs=0.3)
    assert odd.sigmas > 50
    assert [each for each in lab.odd_hours(mine, usd) if each.sigmas > 20] == [odd]


def test_seasons_need_three_days() -> None:
    with pytest.raises(ValueError, match=r"2\.0 days"):
        lab.seasons(np.ones(48))


# --- forecasts ----------------------------------------------------------------------------------------------------


def test_forecasts_of_an_even_spend_come_true() -> None:
    mine = history(21, k=0.5)
    made = lab.forecasts_of(mine, mine.total())
    assert {each.actual_usd for each in made} == {84.0}
    assert all(each.is_inside and abs(each.error) < 0.01 for each in made)
    assert [each.spent_usd for each in made][-7:] == pytest.approx([12.0 * day for day in range(7)])
    assert "18 of 18 outcomes lie in the interval" in lab.calibration_table(made)


def test_a_forecast_sees_only_the_days_before_it() -> None:
    usd = np.full(21 * 24, 0.5)
    made = lab.forecasts_of(history(21, k=usd), usd)
    jump = usd.copy()
    jump[-24:] = 50.0
    again = lab.forecasts_of(history(21, k=jump), jump)
    assert [each.forecast_usd for each in again] == [each.forecast_usd for each in made]
    assert not again[-1].is_inside


# --- other policies -----------------------------------------------------------------------------------------------

BURNS = st.lists(st.tuples(st.floats(0, 500), st.floats(0, 50)), min_size=2, max_size=30)


def judged(fired_at: float = T0 + 600.0, **changes: Any) -> lab.LoggedAlert:
    alert: Alert = an_alert(fired_at=fired_at, tier="page", **changes)
    return lab.LoggedAlert(alert, "", [])


def steps(burn: list[tuple[float, float]]) -> list[tuple[float, float, float]]:
    return [(T0 + 300.0 * (at + 1), *each) for at, each in enumerate(burn)]


def test_a_limit_saves_what_is_over_it_while_it_holds() -> None:
    burn = steps([(12.0, 2.0)] * 12)  # an hour at ten times $2 over
    assert _excess(burn) == pytest.approx(10.0)
    at_once = lab.Policy("x", after_minutes=0, keeps=1.0)
    assert _lost(burn, judged(), at_once) == pytest.approx(10 * 10 / 60), "ten minutes until the alert"
    assert _lost(burn, judged(), lab.Policy("x", keeps=2.0)) == pytest.approx(10 / 6 + 2 * 50 / 60)
    short = lab.Policy("x", keeps=1.0, lease_minutes=20)
    assert _lost(burn, judged(), short) == pytest.approx(10 * 40 / 60)
    assert _lost(burn, judged(), lab.Policy("x", tiers=("notice",))) == pytest.approx(10.0)


@given(BURNS, st.floats(0, 300), st.floats(0, 10), st.floats(1, 600))
def test_no_policy_saves_more_than_there_was_or_makes_it_worse(
    burn: list[tuple[float, float]], after: float, keeps: float, lease: float
) -> None:
    points, alert = steps(burn), judged()
    lost = _lost(points, alert, lab.Policy("x", after_minutes=after, keeps=keeps, lease_minutes=lease))
    later = _lost(points, alert, lab.Policy("x", after_minutes=after + 5, keeps=keeps, lease_minutes=1e9))
    sooner = _lost(points, alert, lab.Policy("x", after_minutes=after, keeps=keeps, lease_minutes=1e9))
    assert -1e-9 <= lost <= _excess(points) + 1e-9
    assert sooner <= later + 1e-9


def test_refused_honest_spend_is_counted_apart() -> None:
    wrong = lab.PolicyOutcome("p", judged(), 10.0, 4.0)
    honest = lab.PolicyOutcome("p", judged()._replace(verdict="planned"), 8.0, 3.0)
    (row,) = lab.policy_table([wrong, honest]).splitlines()[2:]
    assert [each.strip() for each in row.split("|")[1:-1]] == [
        "p", r"\$10.00", r"\$4.00", r"\$6.00", r"\$5.00", "2 of 2",
    ]  # fmt: skip


# --- GPUs ---------------------------------------------------------------------------------------------------------


def test_idle_hours_cost_and_an_off_node_is_not_idle() -> None:
    busy, samples = np.array([80.0, 0.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0, 1.0])
    sums = {("gpu", (("node", "n"),)): HourlySums(np.array([4.0, 4.0, 0.0, 4.0]), np.zeros(4), busy, samples)}
    (node,) = lab.node_use(lab.History(CurbConfig(), T0, 4, sums, []))  # type: ignore[arg-type]
    assert (node.usd, node.idle_usd, node.idle_hours, node.idle_since_hours) == (12.0, 8.0, 2, 1)
    assert np.isnan(node.busy[2])
    (strict,) = lab.node_use(lab.History(CurbConfig(), T0, 4, sums, []), idle_pct=90)  # type: ignore[arg-type]
    assert strict.idle_hours == 3


# --- tables -------------------------------------------------------------------------------------------------------


def test_the_values_of_tags_are_no_markup() -> None:
    hostile = "a|b\n[x](http://evil) <img src=x> `$c$`"
    text = lab.spend_table(history(**{hostile: 1.0}), "api_key")
    assert len(text.splitlines()) == 3
    row = text.splitlines()[2]
    assert row.count("|") - row.count(r"\|") == 6
    assert "<img" not in row.replace(r"\<", "")
    assert "$" not in row.replace(r"\$", "")


def test_the_week_is_compared_with_the_week_before() -> None:
    usd = np.r_[np.full(7 * 24, 1.0), np.full(7 * 24, 1.5)]
    row = lab.spend_table(history(k=usd), "api_key").splitlines()[2]
    assert row == r"| k | \$420.00 | 100% | \$252.00 | +50% |"


def test_the_capture_ratio_is_that_of_curb_reconcile() -> None:
    mine = history(k=1.0)
    sums = dict(mine.sums)
    none = np.zeros(mine.hours)
    sums["costs", (("api_key", "k"),)] = HourlySums(np.full(mine.hours, 0.9), none, none, none)
    row = lab.capture_table(lab.History(mine.config, T0, mine.hours, sums, []), "api_key").splitlines()[2]
    assert row == r"| k | \$336.00 | \$302.40 | 0.90 | 0.90 to 0.90 |"


def test_verdicts_per_tier_and_kind() -> None:
    alerts = [
        judged(alert_id=str(number), kind="runaway")._replace(verdict=verdict)
        for number, verdict in enumerate(["real", "real", "planned", ""])
    ]
    found = lab.History(CurbConfig(), T0, 14 * 24, {}, alerts)
    assert lab.verdict_table(found).splitlines()[2] == "| page | runaway | 4 | 2.0 | 2 | 0 | 1 | 1 | 67% |"
