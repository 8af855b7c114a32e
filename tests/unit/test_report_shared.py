"""Shared costs in `curb report`: by rule, to the cent, in every format."""

from __future__ import annotations

import csv
import io
import math
from decimal import Decimal
from typing import Any

import pytest

from curb.connectors.intake.shares import SharedCost
from curb.report import sheets
from curb.stream.records.spend import CostRecord, SpendRecord
from tests.fakes.report_log import a_log, a_report, at, bill, usage

#: (customer, feature, model) → dollars that it spent itself.
OWN = {("acme", "chat", "m1"): 60.0, ("acme", "search", "m1"): 30.0, ("bolt", "chat", "m2"): 10.0}


def fee(id: str, start: float, usd: float, **tags: str) -> CostRecord:
    line = bill(id, start, usd, charge_kind="fee", charge_category="Purchase")
    line.tags = {"provider": "AWS", **tags}
    return line


def a_month() -> list[SpendRecord]:
    """October: what three spent, two fees, calls of a shared cluster; and September."""
    found: list[SpendRecord] = []
    for number, ((customer, feature, model), usd) in enumerate(OWN.items()):
        tags = {"customer": customer, "feature": feature, "model": model, "team": customer}
        found += [usage(f"own-{number}-{n}", at(1 + n, 3.0), usd / 10, tags=tags) for n in range(10)]
        found.append(usage(f"before-{number}", at(3, month=9), 2 * usd, tags=tags))
    found += [usage(f"cluster-{n}", at(4, n), 1.37, tags={"namespace": "shared"}) for n in range(7)]
    found += [
        fee("support", at(1, 0.0), 100.0),
        fee("seats", at(2, 0.0), 33.34),
        fee("september", at(1, month=9), 50.0),
    ]
    return found


def rule(**given: Any) -> SharedCost:
    return SharedCost.model_validate({"name": "fees", "match": {"charge_kind": "fee"}, **given})


WHO = ("customer", "feature", "model")


@pytest.mark.parametrize(
    ("by", "parts"), [("proportional", (0.6, 0.3, 0.1)), ("even", (1 / 3, 1 / 3, 1 / 3))], ids=["proportional", "even"]
)
async def test_fees_are_divided_per_customer_feature_and_model(by: str, parts: tuple[float, ...]) -> None:
    shared = (rule(tags=WHO, by=by), rule(name="cluster", match={"namespace": "shared"}, tags=WHO))
    report, charges = await a_report(await a_log(a_month()), by=WHO, money="both", shared=shared)
    rows = {tuple(row.tags.values()): row for row in report.groups}
    assert rows.keys() == OWN.keys()
    for (who, own), part in zip(OWN.items(), parts, strict=True):
        cluster = 7 * 1.37 * own / 100
        assert rows[who].shared_usd == pytest.approx(133.34 * part + cluster)
        assert rows[who].spend_usd == pytest.approx(own + rows[who].shared_usd)
        assert rows[who].share == pytest.approx(rows[who].spend_usd / (100 + 133.34 + 7 * 1.37))
    assert math.fsum(row.share or 0.0 for row in report.groups) == pytest.approx(1.0)
    assert report.total.shared_usd == pytest.approx(133.34 + 7 * 1.37)
    # As the month before, whose fee is divided by what was spent then.
    assert report.total.before_usd == pytest.approx(250.0)
    assert rows["bolt", "chat", "m2"].before_usd == pytest.approx(20 + 50 * parts[2])
    del charges


@pytest.mark.parametrize("money", ["estimated", "billed", "both"])
async def test_totals_are_those_of_the_log_in_every_format(money: Any) -> None:
    shared = (rule(tags=WHO), rule(name="cluster", match={"namespace": "shared"}, by="fixed", fixed={"a": 3, "b": 1}))
    plain, _ = await a_report(await a_log(a_month()), by=WHO, money=money)
    report, charges = await a_report(await a_log(a_month()), by=WHO, money=money, shared=shared)
    total = Decimal(f"{plain.total.spend_usd:.2f}")
    cent = Decimal("0.01")
    assert report.total.spend_usd == plain.total.spend_usd
    assert [day.spend_usd for day in report.days] == [day.spend_usd for day in plain.days]
    table = csv.DictReader(io.StringIO(sheets.group_csv(report), newline=""))
    assert sum((Decimal(row["spend_usd"]) for row in table), Decimal(0)).quantize(cent) == total
    focus = list(csv.DictReader(io.StringIO(sheets.focus_csv(report, charges), newline="")))
    assert sum((Decimal(row["EffectiveCost"]) for row in focus), Decimal(0)).quantize(cent) == total
    if money != "billed":
        assert sum(int(row["x_Requests"]) for row in focus) == report.total.requests.units
    if money != "billed":
        given = {row["Tags"]: row["x_SharedBy"] for row in focus if "shared" in row["Tags"]}
        assert given == {'{"namespace":"shared","team":"a"}': "cluster", '{"namespace":"shared","team":"b"}': "cluster"}


async def test_a_fee_is_recurring_usage_in_focus() -> None:
    report, charges = await a_report(await a_log(a_month()), money="billed")
    rows = csv.DictReader(io.StringIO(sheets.focus_csv(report, charges), newline=""))
    assert {(row["ChargeCategory"], row["ChargeFrequency"]) for row in rows} == {("Usage", "Recurring")}


async def test_a_shared_cost_without_anybody_stays_whole_and_is_named() -> None:
    records: list[SpendRecord] = [fee("support", at(1, 0.0), 100.0)]
    report, _ = await a_report(await a_log(records), shared=(rule(),))
    assert [(row.tags, row.spend_usd, row.shared_usd) for row in report.groups] == [
        ({"team": "__untagged__"}, 100.0, 0.0)
    ]
    assert "fees: nobody to divide it among" in report.notes


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"by": "fixed"}, "needs weights"),
        ({"fixed": {"a": 1}}, "needs weights"),
        ({"by": "fixed", "fixed": {"a": 0}}, "above 0"),
        ({"by": "fixed", "fixed": {"a": 1}, "tags": ["x", "y"]}, "one tag"),
    ],
)
def test_rules_that_divide_nothing_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        rule(**given)
