"""The figures of `curb report`: every charge once, on its day, per group, and what goes with them."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Scope
from curb.report.kpi import Kpi, read_kpi
from curb.report.span import span_of
from curb.stream.log.codec import encode, encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ACTIONS, ALERTS, COMMANDS, GPU, RECONCILED, SPEND, USAGE
from curb.stream.records.knowledge import knowledge_message
from curb.stream.records.reconciliation import Reconciliation
from curb.stream.records.spend import UNTAGGED, BudgetIncrease, Feedback, SpendMessage, SpendPartial
from tests.fakes.alerts import an_alert, an_entry
from tests.fakes.report_log import BILLED_USD, ESTIMATED_USD, HOSTILE, OCTOBER, a_log, a_report, at, usage

BERLIN, UTC = ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")


# --- the span -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "since", "until", "days", "before"),
    [
        ("month", None, None, ("2026-10-01", "2026-10-31"), ("2026-09-01", "2026-09-30")),
        ("week", None, None, ("2026-10-26", "2026-11-01"), ("2026-10-19", "2026-10-25")),
        ("month", "2026-02-01", None, ("2026-02-01", "2026-02-28"), ("2026-01-01", "2026-01-31")),
        ("month", None, "2026-10-11", ("2026-10-01", "2026-10-10"), ("2026-09-21", "2026-09-30")),
        ("month", "2026-10-03", "2026-10-06", ("2026-10-03", "2026-10-05"), ("2026-09-30", "2026-10-02")),
        ("month", "2026-10-03T12:00+00:00", "2026-10-04", ("2026-10-03", "2026-10-03"), ("2026-10-02", "2026-10-03")),
    ],
)
@pytest.mark.parametrize("zone", [BERLIN, UTC], ids=str)
def test_the_span_and_what_it_is_compared_with(
    period: Any, since: str | None, until: str | None, days: Any, before: Any, zone: ZoneInfo
) -> None:
    span = span_of(period, since, until, at(4, month=11), zone)
    assert (str(span.first_day), str(span.last_day)) == days
    assert (str(span.before.first_day), str(span.before.last_day)) == before
    assert span.before.end == span.start


def test_a_month_with_a_clock_change_has_all_its_days() -> None:
    span = span_of("month", "2026-10-01", None, 0.0, BERLIN)
    assert (len(span.days), span.end - span.start) == (31, 31 * 86400 + 3600)


@pytest.mark.parametrize(
    ("since", "until", "why"),
    [
        ("yesterday", None, "is no date"),
        ("2026-10-02", "2026-10-02", "not before"),
        ("1500-01-01", None, "out of range"),
        (None, "9999-12-31", "out of range"),
    ],
)
def test_spans_that_cannot_be_are_refused(since: str | None, until: str | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        span_of("month", since, until, 0.0, UTC)


# --- totals -------------------------------------------------------------------------------------------------------


async def test_every_charge_of_the_month_counts_once_whenever_it_came() -> None:
    report, _ = await a_report(by=("team", "model"))
    assert report.total.estimated_usd == pytest.approx(ESTIMATED_USD, abs=1e-9)
    assert report.total.billed_usd == pytest.approx(BILLED_USD, abs=1e-9)
    assert report.money == "estimated"
    assert math.fsum(each.spend_usd for each in report.groups) == pytest.approx(ESTIMATED_USD, abs=1e-9)
    assert math.fsum(each.spend_usd for each in report.days) == pytest.approx(ESTIMATED_USD, abs=1e-9)
    assert {each.tags["team"] for each in report.groups} == {*HOSTILE, UNTAGGED, "search", "train"}
    assert report.late_usd == 40.0
    assert report.untagged["team"] == pytest.approx(1.0 / ESTIMATED_USD)
    assert [each.spend_usd for each in report.days if each.day == "2026-10-31"] == [40.0]


async def test_a_tag_that_no_charge_carries_is_named() -> None:
    report, _ = await a_report(by=("team", "taem"))
    assert "no charge has a tag taem" in report.notes
    assert not any("tag team" in note for note in report.notes)


async def test_the_total_is_that_of_the_sums_on_the_log() -> None:
    log, settings = await a_log(), DetectorSettings()
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(SpendMessage)
    found: list[float] = []
    for topic in (USAGE, GPU):
        rollup = Rollup(settings, topic, 1)
        written = [each for message in log.of(topic) for each in rollup.process(message)] + list(rollup.flush(None))
        lines = [line for each in written if each.topic == SPEND for line in decoder.decode_lines(each.value)]
        found += [
            line.effective_cost
            for line in lines
            if isinstance(line, SpendPartial) and line.scope == "team"
            if OCTOBER[0] <= line.bucket_start < OCTOBER[1]
        ]
    report, _ = await a_report(log)
    assert round(math.fsum(found), 2) == round(report.total.spend_usd, 2) != 0


@pytest.mark.parametrize(
    ("money", "total"), [("billed", BILLED_USD), ("both", ESTIMATED_USD + BILLED_USD), ("estimated", ESTIMATED_USD)]
)
async def test_the_money_is_chosen(money: Any, total: float) -> None:
    report, _ = await a_report(money=money)
    assert report.total.spend_usd == pytest.approx(total, abs=1e-9)
    assert any("not added" in note for note in report.notes) == (money != "both")
    assert report.corrections_usd == (0.0 if money == "estimated" else -53.334)


async def test_a_bill_alone_is_the_spend() -> None:
    bills = [each for each in (await a_log()).records("curb.costs") if each.id != "mark"]
    report, _ = await a_report(await a_log(bills), by=("provider", "service"))
    assert (report.money, round(report.total.spend_usd, 6)) == ("billed", BILLED_USD)
    assert [each.tags for each in report.groups] == [{"provider": "AWS", "service": "EC2"}]


async def test_days_are_those_of_the_time_zone() -> None:
    detector = DetectorSettings(time_zone="Europe/Berlin")
    report, _ = await a_report(detector=detector)
    # 23.9 h UTC of 30 September is October in Berlin, 23.99 h of 31 October is November.
    assert report.total.spend_usd == pytest.approx(ESTIMATED_USD + 1000 - 40, abs=1e-9)
    assert report.days[0].spend_usd == pytest.approx(1100.003)


async def test_refused_and_doubled_records_are_named() -> None:
    report, _ = await a_report()
    assert any("2 records were on the log twice" in note for note in report.notes)
    # Negative usage, a record ahead of its receipt, a line that is no record.
    assert any("3 records could not be counted" in note for note in report.notes)


async def test_what_is_missing_at_the_edges_is_said() -> None:
    whole, _ = await a_report()
    assert not any("holds nothing before" in note for note in whole.notes)
    short, _ = await a_report(await a_log([usage("a", at(3), 1.0), usage("b", at(20), 1.0)]))
    assert any("first days are missing" in note for note in short.notes)
    assert any("the newest charge on the log is of 2026-10-20" in note for note in short.notes)
    assert short.total.change is None, "a month that is not whole on the log is no comparison"
    empty, _ = await a_report(await a_log([]))
    assert empty.notes == ["the log holds no charge"]
    assert (empty.groups, empty.total.share) == ([], None)


# --- changes and units --------------------------------------------------------------------------------------------


async def test_changes_are_against_the_month_before() -> None:
    report, _ = await a_report()
    search = next(each for each in report.groups if each.tags == {"team": "search"})
    assert (search.before_usd, search.spend_usd) == (1060.0, pytest.approx(140.003))
    assert search.change == pytest.approx(140.003 / 1060 - 1)
    # $140.003 of 2 requests against $1,060 of 5; a call has 1,000 tokens.
    assert search.requests.usd_each == pytest.approx(70.0015)
    assert search.requests.change == pytest.approx(70.0015 / 212 - 1)
    assert (search.tokens.units, search.tokens.usd_each) == (2.0, pytest.approx(70.0015))
    train = next(each for each in report.groups if each.tags == {"team": "train"})
    assert (train.requests.usd_each, train.before_usd, train.change) == (None, 0.0, None), "GPUs have no requests"


async def test_a_group_of_the_month_before_that_is_gone_is_a_row() -> None:
    gone = usage("gone", at(1, 2.0, 9), 12.0, tags={"team": "gone"})
    report, _ = await a_report(await a_log([gone, usage("here", at(2), 1.0)]))
    row = next(each for each in report.groups if each.tags == {"team": "gone"})
    assert (row.spend_usd, row.change) == (0.0, -1.0)


def kpi_file(tmp_path: Path, text: str, name: str = "orders.csv") -> Kpi:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_kpi(path)


async def test_spend_per_order_and_per_active_user(tmp_path: Path) -> None:
    orders = "day,team,value\n2026-09-30,search,100\n2026-10-02,search,20\n2026-10-03,search,50\n2026-10-04,train,5\n"
    users = "day,level\n2026-10-01,10\n2026-10-02,20\n"
    kpis = kpi_file(tmp_path, orders), kpi_file(tmp_path, users, "users.csv")
    report, _ = await a_report(kpis=kpis)
    rows = {each.tags["team"]: each.kpis for each in report.groups}
    assert (rows["search"]["orders"].units, rows["search"]["orders"].usd_each) == (70.0, pytest.approx(140.003 / 70))
    assert rows["search"]["orders"].change == pytest.approx(140.003 / 70 / (1060 / 100) - 1)
    assert rows["train"]["orders"].usd_each == 2.5
    assert "orders" not in rows[UNTAGGED]
    assert rows["train"]["users"].usd_each == pytest.approx(12.5 / 15), "the whole figure, averaged over days"
    assert report.total.kpis["orders"].units == 75.0


def test_faulty_lines_of_a_kpi_are_named_and_left_out(tmp_path: Path) -> None:
    lines = ["day,team,value", "2026-10-01,a,1", "soon,a,2", "2026-10-01,a", "2026-10-01,a,nan", "2026-10-01,a,-1"]
    found = kpi_file(tmp_path, "\n".join(lines))
    assert found.values == {(date(2026, 10, 1), ("a",)): 1.0}
    assert found.faults[1:] == [
        "orders.csv line 4: 2 cells, not 3",
        "orders.csv line 5: nan is no amount",
        "orders.csv: 1 more lines could not be read",
    ]


@pytest.mark.parametrize("text", ["", "team,value\n", "day,amount\n", "day,value\n\x00"])
def test_a_file_that_is_no_kpi_is_refused(tmp_path: Path, text: str) -> None:
    if "\x00" in text:
        (tmp_path / "orders.csv").write_bytes(b"day,value\n\xff\xfe")
        with pytest.raises(ValueError, match="no CSV in UTF-8"):
            read_kpi(tmp_path / "orders.csv")
        return
    with pytest.raises(ValueError, match="first line must be"):
        kpi_file(tmp_path, text)


# --- what goes with them ------------------------------------------------------------------------------------------


async def test_budgets_in_their_own_periods() -> None:
    budgets = [
        {"name": "org", "scope": "team", "shared": True, "amount_usd": 100, "period": "month"},
        {"name": "team-week", "scope": "team", "match": {"team": "s*"}, "amount_usd": 50, "period": "week"},
        {"name": "quarter", "scope": "team", "match": {"team": "search"}, "amount_usd": 500, "period": "quarter"},
    ]
    detector = DetectorSettings.model_validate({"budgets": budgets})
    log = await a_log()
    increase = BudgetIncrease(
        id="i", at=at(2), budget="org", match={}, amount_usd=25.0, expires_at=at(5, month=11), by="ana"
    )
    await log.append([knowledge_message(increase)])
    report, _ = await a_report(log, detector=detector)
    rows = {each.name: each for each in report.budgets}
    org = rows["org"]
    assert (org.tags, org.periods, org.over, org.amount_usd) == ({}, 1, 1, 125.0)
    assert (org.spent_usd, org.complete) == (pytest.approx(ESTIMATED_USD), True)
    # The week from 28 September ends in October and holds 30 September; that from 26 October ends in November.
    week = rows["team-week"]
    assert (week.periods, week.over, week.amount_usd, week.spent_usd) == (1, 1, 50.0, pytest.approx(1100.003))
    quarter = rows["quarter"]
    assert (quarter.complete, quarter.spent_usd, quarter.amount_usd) == (False, pytest.approx(140.003), 500.0)


async def test_a_budget_whose_period_is_not_whole_on_the_log_is_named() -> None:
    budget = {"name": "org", "scope": "team", "shared": True, "amount_usd": 100, "period": "quarter"}
    detector = DetectorSettings.model_validate({"budgets": [budget]})
    november = span_of("month", "2026-11-01", None, 0.0, UTC)
    records = [usage("a", at(20), 1.0), usage("b", at(2, month=11), 2.0)]
    short, _ = await a_report(await a_log(records), detector=detector, span=november)
    assert short.budgets[0].spent_usd == 3.0
    assert any("count only from then on" in note for note in short.notes)
    whole, _ = await a_report(await a_log([usage("c", at(1, 1.0), 1.0), *records]), detector=detector, span=november)
    assert not any("count only" in note for note in whole.notes)


async def test_a_running_budget_has_a_forecast() -> None:
    budget = {"name": "org", "scope": "team", "shared": True, "amount_usd": 100, "period": "month"}
    detector = DetectorSettings.model_validate(
        {"budgets": [budget], "scopes": [Scope(name="team", group_by=("team",))]}
    )
    log = await a_log()
    sums = [
        SpendPartial(
            scope="team", tags={"team": "a"}, bucket_start=int(at(day, month=10)), effective_cost=3.0, events=1
        )
        for day in range(1, 29)
    ]
    await log.append([Message(SPEND, encode_lines(sums), key=b"")])
    report, _ = await a_report(log, detector=detector)
    (row,) = report.budgets
    assert row.forecast_until == "2026-11-01"
    assert row.forecast_usd == pytest.approx(93.0, rel=0.1)
    assert row.breach_probability is not None


async def test_anomalies_with_verdicts_and_what_actions_saved() -> None:
    log = await a_log()
    alerts = [
        an_alert(alert_id="a1", fired_at=at(5), tags={"team": "search"}, tier="page"),
        an_alert(alert_id="a2", fired_at=at(5, month=9), tags={"team": "search"}),
        an_alert(alert_id="a3", fired_at=at(6), tags={"team": "search"}, kind="budget"),
        an_alert(alert_id="a4", fired_at=at(7), tags={"node": "n1"}),
    ]
    verdict = Feedback(id="f", at=at(6), alert_id="a1", verdict="real")
    entries = [
        an_entry(1, "planned", at=at(5), tags={"team": "search"}),
        an_entry(1, "restored", at=at(6), tags={"team": "search"}, saved_usd=33.0, rejected=70),
        an_entry(2, "restored", at=at(6, month=9), tags={"team": "search"}, saved_usd=500.0),
    ]
    await log.append(
        [
            Message(ALERTS, encode_lines(alerts), key=b""),
            knowledge_message(verdict),
            Message(ACTIONS, encode_lines(entries), key=b""),
            Message(COMMANDS, b"{broken", key=b""),
        ]
    )
    report, _ = await a_report(log)
    assert {(each.alert_id, each.verdict) for each in report.anomalies} == {("a1", "real"), ("a4", None)}
    assert report.budget_alerts == 1
    search = next(each for each in report.groups if each.tags == {"team": "search"})
    assert (search.alerts, search.saved_usd, search.refused) == (1, 33.0, 70)
    assert (report.total.alerts, report.total.saved_usd) == (2, 33.0), "n1 has no team: it counts in the total alone"


async def test_estimated_against_billed_over_the_days_that_were_compared() -> None:
    log = await a_log()
    days = [
        Reconciliation(pair="p", period_start=start, period_end=start + 86400, estimated_usd=10.0, billed_usd=9.0,
                       days=1, at=start)
        for start in (at(30, 0.0, 9), at(1, 0.0), at(2, 0.0))
    ]  # fmt: skip
    await log.append([Message(RECONCILED, encode(each), key=f"p/{each.period_start}".encode()) for each in days])
    await log.append([Message(RECONCILED, encode(days[0]), key=b"p")])
    (row,) = (await a_report(log))[0].pairs
    assert (row.pair, row.days, row.estimated_usd, row.billed_usd, row.ratio) == ("p", 2, 20.0, 18.0, 0.9)
