"""Bills in files: every form and layout comes to the same dollars, and what is broken is told apart."""

from __future__ import annotations

import asyncio
import gzip
import io
import zipfile
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from curb.connectors.bills import aws_cur, focus_file
from curb.connectors.bills.charges import Charge, Dimensions, Snapshot
from curb.connectors.bills.restate import Restater
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from tests.fakes import aws_cur as cur
from tests.fakes import focus_file as focus
from tests.fakes.bills import HOUR, JUNE, NOW, Told, cents, rows_of, sample, write


def cur_config(root: Path, **more: Any) -> aws_cur.Config:
    return aws_cur.Config.model_validate({"kind": "aws_cur", "name": "aws", "url": str(root), **more})


def focus_config(url: Path | str, **more: Any) -> focus_file.Config:
    return focus_file.Config.model_validate({"kind": "focus_file", "name": "bill", "url": str(url), **more})


# --- real extracts ----------------------------------------------------------------------------------------------------


async def test_the_focus_sample_comes_to_the_cent(tmp_path: Path) -> None:
    write(tmp_path / "f" / "focus.csv.gz", sample("focus_1.0_sample.csv.gz"))
    records = await Told(tmp_path / "state", focus_config(tmp_path / "f")).read()
    rows = rows_of("focus_1.0_sample.csv.gz")
    for ours, theirs in (("billed_cost", "BilledCost"), ("effective_cost", "EffectiveCost")):
        told, billed = defaultdict[str, float](float), defaultdict[str, Decimal](Decimal)
        for record in records:
            told[record.service_name] += getattr(record, ours)
        for row in rows:
            billed[row["ServiceName"]] += Decimal(row[theirs])
        assert {name: cents(usd) for name, usd in told.items()}.items() <= {
            k: cents(v) for k, v in billed.items()
        }.items()
        assert cents(sum(told.values())) == cents(sum(billed.values(), Decimal()))
    assert len(records) < len(rows)


async def test_the_aws_sample_comes_to_the_cent(tmp_path: Path) -> None:
    export = cur.Export(tmp_path / "cur", "legacy", "csv.gz")
    manifest = export.deliver([cur.line(JUNE, 1)], "2023-11")
    next((tmp_path / "cur").rglob("*.csv.gz")).write_bytes(sample("aws_cur_sample.csv.gz"))
    assert manifest.is_file()
    told = Told(tmp_path / "state", cur_config(tmp_path / "cur"), now=1_702_000_000)
    records = await told.read()
    rows = rows_of("aws_cur_sample.csv.gz")
    assert cents(sum(record.billed_cost for record in records)) == cents(
        sum(Decimal(r["lineItem/UnblendedCost"]) for r in rows)
    )
    by_type = Counter(record.charge_category for record in records)
    assert by_type["Tax"] > 0
    assert told.letters == []


# --- forms and layouts ------------------------------------------------------------------------------------------------

LINES = [
    cur.line(JUNE, 10.0),
    cur.line(JUNE, 5.0),
    cur.line(JUNE + HOUR, 2.5, resource_tags={}),
    cur.line(JUNE, 4.0, line_item_line_item_type="DiscountedUsage", reservation_effective_cost=2.0),
    cur.line(
        JUNE, 3.0, line_item_line_item_type="SavingsPlanCoveredUsage", savings_plan_savings_plan_effective_cost=1.5
    ),
    cur.line(JUNE, -3.0, line_item_line_item_type="SavingsPlanNegation"),
    cur.line(JUNE, 7.0, line_item_line_item_type="Tax"),
    cur.line(JUNE, -1.0, line_item_line_item_type="Credit"),
    cur.line(JUNE, 9.0, line_item_line_item_type="Fee"),
]


@pytest.mark.parametrize("layout", ["overwrite", "new", "legacy"])
@pytest.mark.parametrize("form", ["parquet", "csv.gz"])
async def test_every_layout_and_form_of_a_cur_says_the_same(tmp_path: Path, layout: str, form: str) -> None:
    export = cur.Export(tmp_path / "cur", layout, form)
    export.deliver(LINES)
    told = Told(tmp_path / "state", cur_config(tmp_path / "cur"))
    records = await told.read()
    effective, billed = Counter[str](), Counter[str]()
    for record in records:
        effective[record.charge_category] += record.effective_cost  # type: ignore[assignment]
        billed[record.charge_category] += record.billed_cost  # type: ignore[assignment]
    assert effective == {"Usage": 21.0, "Adjustment": 0.0, "Tax": 7.0, "Credit": -1.0, "Purchase": 9.0}
    assert billed == {"Usage": 24.5, "Adjustment": -3.0, "Tax": 7.0, "Credit": -1.0, "Purchase": 9.0}
    usage = next(r for r in records if r.charge_period_start == JUNE and r.effective_cost == 15)
    named = {"service": "AmazonEC2", "account": "111122223333", "provider": "AWS"}
    assert usage.tags == {"team": "search", **named}
    assert (usage.effective_cost, usage.charge_period_end, usage.delta) == (15.0, JUNE + HOUR, "new_usage")
    assert [r.effective_cost for r in records if r.commitment_discount_status == "Used"] == [3.5]
    assert {r.tags.get("team") for r in records if r.charge_period_start == JUNE + HOUR} == {None}
    # Delivered again with one line changed, one new and one gone: only that is told.
    export.deliver([*LINES[1:-1], cur.line(JUNE + 2 * HOUR, 1.0), cur.line(JUNE, 10.5)])
    changed = await told.read()
    assert sorted((r.charge_category, r.effective_cost, r.delta) for r in changed) == [
        ("Purchase", -9.0, "restatement"),
        ("Usage", 0.5, "restatement"),
        ("Usage", 1.0, "late"),
    ]
    assert await told.read() == []


async def test_each_billing_period_has_its_own_newest_delivery(tmp_path: Path) -> None:
    export = cur.Export(tmp_path / "cur")
    export.deliver([cur.line(JUNE - 86_400, 1.0)], "2025-05", at=NOW - 200)
    export.deliver([cur.line(JUNE, 2.0)], "2025-06", at=NOW - 200)
    export.deliver([cur.line(JUNE, 3.0)], "2025-06", at=NOW - 100)
    export.deliver([cur.line(JUNE - 100 * 86_400, 50.0)], "2025-02")
    records = await Told(tmp_path / "state", cur_config(tmp_path / "cur")).read()
    assert sorted(r.effective_cost for r in records) == [1.0, 3.0]


async def test_focus_from_aws_is_read_by_its_manifest(tmp_path: Path) -> None:
    export = cur.Export(tmp_path / "focus")
    export.deliver(LINES)
    next((tmp_path / "focus").rglob("*.parquet")).write_bytes(focus.parquet([focus.line(JUNE, 4.0)]))
    records = await Told(tmp_path / "state", cur_config(tmp_path / "focus")).read()
    assert [(r.service_name, r.effective_cost) for r in records] == [("Compute", 4.0)]


FIXED = {"ChargeFrequency": "Recurring"}


@pytest.mark.parametrize("version", ["1.0", "1.3", "1.4"])
async def test_focus_of_every_version(tmp_path: Path, version: str) -> None:
    lines = [
        focus.line(JUNE, 1.0),
        focus.line(JUNE, 2.0, ChargeCategory="Purchase", ChargeFrequency="One-Time"),
        focus.line(JUNE, 3.0, **FIXED),
        focus.line(JUNE, 4.0, ChargeClass="Correction"),
        focus.line(JUNE, -5.0, ChargeCategory="Credit"),
    ]
    if version != "1.0":
        lines = [{**each, "ServiceProviderName": "AWS"} for each in lines]
    if version == "1.4":
        lines = [{k: v for k, v in each.items() if k != "ProviderName"} for each in lines]
    write(tmp_path / "bill.parquet", focus.parquet(lines))
    records = await Told(tmp_path / "state", focus_config(tmp_path / "bill.parquet")).read()
    assert sorted((r.effective_cost, r.charge_category, r.charge_kind, r.delta) for r in records) == [
        (-5.0, "Credit", "credit", "new_usage"),
        (1.0, "Usage", "usage", "new_usage"),
        (2.0, "Purchase", "purchase", "new_usage"),
        (3.0, "Purchase", "fee", "new_usage"),
        (4.0, "Usage", "usage", "restatement"),
    ]
    assert {r.tags["provider"] for r in records} == {"AWS"}


async def test_each_file_stands_for_itself_or_for_its_period(tmp_path: Path) -> None:
    for number, day in enumerate(("01", "02")):
        lines = [focus.line(JUNE, 1.0 + number)]
        write(tmp_path / f"focus/20250601-20250630/{day}/part.csv", focus.csv_text(lines), NOW - 1000 + number)
    alone = await Told(tmp_path / "a", focus_config(tmp_path / "focus")).read()
    assert sorted(r.effective_cost for r in alone) == [1.0, 2.0]
    config = focus_config(tmp_path / "focus", period_pattern=r"/(\d{8}-\d{8})/")
    assert [r.effective_cost for r in await Told(tmp_path / "b", config).read()] == [2.0]


async def test_dimensions_days_currencies_and_a_first_day(tmp_path: Path) -> None:
    eur = {"BillingCurrency": "EUR", "ResourceId": "r1", "RegionId": "eu-west-1"}
    lines = [focus.line(JUNE - HOUR, 8.0, **eur), focus.line(JUNE, 1.0, **eur), focus.line(JUNE + HOUR, 2.0, **eur)]
    write(tmp_path / "bill.csv", focus.csv_text(lines))
    config = focus_config(
        tmp_path / "bill.csv",
        dimensions=("resource", "region"),
        granularity="day",
        usd_per={"EUR": 2.0},
        since="2025-06-01",
        tags={"cloud": "aws"},
    )
    (record,) = await Told(tmp_path / "state", config).read()
    assert (record.effective_cost, record.billing_currency, record.resource_id) == (6.0, "EUR", "r1")
    assert record.charge_period_end - record.charge_period_start == 86_400
    named = {"region": "eu-west-1", "provider": "AWS", "resource": "r1"}
    assert record.tags == {"cloud": "aws", "team": "search", **named}
    assert (record.region_id, record.provider_name) == ("eu-west-1", "AWS")


async def test_a_record_says_what_it_is_for(tmp_path: Path) -> None:
    covered = {"line_item_line_item_type": "DiscountedUsage", "reservation_effective_cost": 2.0}
    told = {"line_item_usage_type": "USE1-Box", "product_region_code": "us-east-1"}
    lines = [
        cur.line(JUNE, 4.0, **covered, **told),
        cur.line(JUNE, 9.0, line_item_line_item_type="Refund", **dict.fromkeys(told)),
    ]
    cur.Export(tmp_path / "cur").deliver(lines)
    config = cur_config(tmp_path / "cur", dimensions=("service", "region", "usage_type"))
    usage, refund = sorted(await Told(tmp_path / "state", config).read(), key=lambda each: each.effective_cost)
    assert (usage.usage_type, usage.region_id, usage.tags["usage_type"]) == (
        "USE1-Box",
        "us-east-1",
        "USE1-Box",
    )
    assert (usage.charge_kind, usage.commitment_discount_status) == ("usage", "Used")
    assert (refund.charge_kind, refund.charge_category, refund.usage_type) == ("refund", "Adjustment", "")


async def test_the_last_page_of_a_delivery_says_until_when_it_is_complete(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    restater = Restater(tmp_path / "bill.sqlite", "bill", clock, page_records=2)
    charges = [Charge(int(JUNE) + 3600 * n, 3600, 1.0, 1.0, Dimensions()) for n in range(3)]
    restater.take(charges, Snapshot("2025-06", "v1", NOW))
    first = restater.resume(None)
    assert first is not None
    last = restater.resume(first.cursor)
    assert last is not None
    assert [record.complete_until for record in first.records] == [None, None]
    assert [record.complete_until for record in last.records] == [NOW - 2 * 86_400]
    restater.close()


# --- bad input --------------------------------------------------------------------------------------------------------


async def test_a_half_written_manifest_waits(tmp_path: Path) -> None:
    manifest = cur.Export(tmp_path / "cur").deliver(LINES)
    whole = manifest.read_text()
    manifest.write_text(whole[: len(whole) // 2])
    told = Told(tmp_path / "state", cur_config(tmp_path / "cur"))
    with pytest.raises(TransientError, match="not a whole manifest") as error:
        await told.read()
    assert error.value.retry_after == 300
    manifest.write_text(whole)
    assert await told.read()


async def test_a_period_that_is_not_whole_keeps_no_other_waiting(tmp_path: Path) -> None:
    export = cur.Export(tmp_path / "cur")
    export.deliver([cur.line(JUNE - 86_400, 1.0)], "2025-05").write_text("{")
    export.deliver([cur.line(JUNE, 2.0)], "2025-06")
    told = Told(tmp_path / "state", cur_config(tmp_path / "cur"))
    batch = await told.bill.read(None)
    assert [record.effective_cost for record in batch.records] == [2.0]
    with pytest.raises(TransientError):
        await told.bill.read(batch.cursor)
    await told.bill.close()


async def test_a_manifest_before_its_data_waits(tmp_path: Path) -> None:
    cur.Export(tmp_path / "cur").deliver(LINES)
    next((tmp_path / "cur").rglob("*.parquet")).unlink()
    with pytest.raises(TransientError, match="is not there yet"):
        await Told(tmp_path / "state", cur_config(tmp_path / "cur")).read()


@pytest.mark.parametrize("form", ["parquet", "csv.gz"])
async def test_a_truncated_file_tells_nothing_until_it_is_whole(tmp_path: Path, form: str) -> None:
    cur.Export(tmp_path / "cur", form=form).deliver(LINES * 200)
    file = next((tmp_path / "cur" / "data").rglob("cur-*"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    told = Told(tmp_path / "state", cur_config(tmp_path / "cur"))
    with pytest.raises(TransientError, match="cur-00001"):
        await told.read()
    file.write_bytes(whole)
    assert round(sum(record.billed_cost for record in await told.read()), 6) == 36.5 * 200


async def test_a_missing_column_is_named(tmp_path: Path) -> None:
    lines = [{k: v for k, v in cur.line(JUNE, 1.0).items() if k != "line_item_product_code"}]
    cur.Export(tmp_path / "cur").deliver(lines)
    with pytest.raises(PermanentError, match="column line_item_product_code is missing"):
        await Told(tmp_path / "a", cur_config(tmp_path / "cur")).read()
    lines = [{k: v for k, v in focus.line(JUNE, 1.0).items() if k not in ("BilledCost", "ServiceName")}]
    write(tmp_path / "bill.csv", focus.csv_text(lines))
    with pytest.raises(PermanentError, match="column BilledCost, ServiceName is missing"):
        await Told(tmp_path / "b", focus_config(tmp_path / "bill.csv")).read()


async def test_a_currency_that_changes_within_the_month(tmp_path: Path) -> None:
    export = cur.Export(tmp_path / "cur")
    export.deliver([cur.line(JUNE, 10.0), cur.line(JUNE + HOUR, 10.0)])
    told = Told(tmp_path / "state", cur_config(tmp_path / "cur"))
    await told.read()
    export.deliver([cur.line(JUNE, 10.0), cur.line(JUNE + HOUR, 8.0, line_item_currency_code="EUR")])
    assert await told.read() == []
    assert "set usd_per for EUR" in told.alerts[-1].explanation
    again = Told(tmp_path / "state", cur_config(tmp_path / "cur", usd_per={"EUR": 1.25}))
    again.cursor = told.cursor
    changes = {(r.billing_currency, r.effective_cost) for r in await again.read()}
    assert changes == {("USD", -10.0), ("EUR", 10.0)}


async def test_a_bill_in_a_currency_without_a_rate_is_an_error(tmp_path: Path) -> None:
    cur.Export(tmp_path / "cur").deliver([cur.line(JUNE, 10.0, line_item_currency_code="EUR")])
    with pytest.raises(PermanentError, match="set usd_per for EUR"):
        await Told(tmp_path / "state", cur_config(tmp_path / "cur")).read()


async def test_tags_that_are_not_json_lose_no_dollar(tmp_path: Path) -> None:
    tags = ['{"team": "a"}', '"team": "b"', "{team: ?", "[1, 2]", '[{"key": "Team", "value": "c"}]', None]
    lines = [focus.line(JUNE, 1.0, Tags=each) for each in tags]
    write(tmp_path / "bill.csv", focus.csv_text(lines))
    told = Told(tmp_path / "state", focus_config(tmp_path / "bill.csv"))
    by_team = {record.tags.get("team"): record.effective_cost for record in await told.read()}
    assert by_team == {"a": 1.0, "b": 1.0, "c": 1.0, None: 3.0}
    assert [(letter.reason, letter.size_bytes) for letter in told.letters] == [("not_json", 8), ("not_json", 6)]


async def test_lines_that_are_no_charge_become_dead_letters(tmp_path: Path) -> None:
    lines = [
        focus.line(JUNE, 1.0),
        focus.line(JUNE, 2.0, ChargePeriodStart="soon"),
        focus.line(JUNE, 4.0, BilledCost="much"),
        focus.line(JUNE, 8.0, EffectiveCost="nan"),
    ]
    write(tmp_path / "bill.csv", focus.csv_text(lines))
    told = Told(tmp_path / "state", focus_config(tmp_path / "bill.csv"))
    assert [record.effective_cost for record in await told.read()] == [1.0]
    assert [letter.location.rpartition(":")[2] for letter in told.letters] == ["2", "3", "4"]


async def test_a_file_on_disk_that_was_just_written_waits(tmp_path: Path) -> None:
    write(tmp_path / "bill.csv", focus.csv_text([focus.line(JUNE, 1.0)]), NOW - 1)
    told = Told(tmp_path / "state", focus_config(tmp_path / "bill.csv"))
    with pytest.raises(TransientError, match="being written"):
        await told.read()
    await told.clock.advance(60)
    assert len(await told.read()) == 1


async def test_a_file_written_over_while_it_is_read_is_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "bill.csv", focus.csv_text([focus.line(JUNE, 1.0)]))
    told = Told(tmp_path / "state", focus_config(path))
    find = told.bill._find

    def find_then_change(reading: str) -> Any:
        found = find(reading)
        write(path, focus.csv_text([focus.line(JUNE, 1.0), focus.line(JUNE, 2.0)]))
        return found

    monkeypatch.setattr(told.bill, "_find", find_then_change)
    with pytest.raises(TransientError, match="changed while it was read"):
        await told.read()
    monkeypatch.undo()
    assert [record.effective_cost for record in await told.read()] == [3.0]


async def test_what_a_file_is_shows_in_its_bytes_and_not_in_its_name(tmp_path: Path) -> None:
    text = focus.csv_text([focus.line(JUNE, 1.0)])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bill.csv", text)
    named = {
        "a.zip": packed.getvalue(),
        "b.csv": gzip.compress(focus.csv_text([focus.line(JUNE, 2.0)])),
        "c.csv.gz": focus.csv_text([focus.line(JUNE, 4.0)]),
        "d.csv": focus.parquet([focus.line(JUNE, 8.0)]),
    }
    for name, content in named.items():
        write(tmp_path / "bill" / name, content)
    told = Told(tmp_path / "state", focus_config(tmp_path / "bill"))
    assert sum(record.effective_cost for record in await told.read()) == 15.0


async def test_other_forms_and_unknown_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="nosuch"):
        await Told(tmp_path / "state", focus_config("nosuch://x/y")).read()
    manifest = cur.Export(tmp_path / "cur").deliver(LINES)
    file = next((tmp_path / "cur").rglob("*.parquet"))
    file.rename(file.with_suffix(".orc"))
    manifest.write_text(manifest.read_text().replace(".parquet", ".orc"))
    with pytest.raises(PermanentError, match=r"only \.parquet"):
        await Told(tmp_path / "other", cur_config(tmp_path / "cur")).read()


def test_a_pattern_needs_a_group() -> None:
    for pattern in ("[0-9]+", "("):
        with pytest.raises(ValidationError):
            focus_config("x", period_pattern=pattern)


async def test_check_says_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    write(tmp_path / "bill.csv", focus.csv_text([focus.line(JUNE, 1.0)]))
    checks = await Told(tmp_path / "state", focus_config(tmp_path / "bill.csv")).bill.check()
    assert [check.ok for check in checks] == [True, True]
    write(tmp_path / "bill.csv", b"a,b\n1,2\n")
    checks = await Told(tmp_path / "state", focus_config(tmp_path / "bill.csv")).bill.check()
    assert [check.ok for check in checks] == [True, False]
    assert "ChargePeriodStart" in checks[1].detail
    assert await asyncio.to_thread(lambda: not (tmp_path / "state").exists())
