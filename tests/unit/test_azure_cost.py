"""Azure's exports: every spelling, form and layout comes to the same dollars, and what is broken is told apart."""

from __future__ import annotations

import gzip
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curb.connectors.bills import azure_cost
from curb.connectors.bills.cells.values import Moments
from curb.connectors.bills.fsspec import open_store
from curb.connectors.kinds import KINDS
from curb.stream.errors import PermanentError, TransientError
from tests.fakes import azure_cost as azure
from tests.fakes import focus_file as focus
from tests.fakes.bills import JUNE, NOW, Told, cents, rows_of, sample, write

DAY = 86_400.0


def config(url: Path | str, **more: Any) -> azure_cost.Config:
    return azure_cost.Config.model_validate({"kind": "azure_cost", "name": "azure", "url": str(url), **more})


def lines(account: str = "enterprise") -> list[dict[str, Any]]:
    """Two days of usage and, where the account is told of it, one charge of every other type."""
    usage = [
        azure.line(JUNE, 10.0, account),
        azure.line(JUNE, 5.0, account, resource="/subscriptions/s1/r2"),
        azure.line(JUNE + DAY, 2.5, account, tags=None, service="Storage"),
    ]
    if account == "pay-as-you-go":
        return usage
    others = {"Purchase": 40.0, "Refund": -3.0, "UnusedReservation": 1.5, "Tax": 7.0, "RoundingAdjustment": 0.01}
    return [
        *usage,
        *(azure.line(JUNE, usd, account, type=kind, service=None) for kind, usd in others.items()),
        azure.line(JUNE, 9.0, account, frequency="Recurring"),
    ]


async def test_the_enterprise_sample_comes_to_the_cent(tmp_path: Path) -> None:
    write(tmp_path / "f" / "details.csv.gz", sample("azure_ea_sample.csv.gz"))
    told = Told(tmp_path / "state", config(tmp_path / "f", usd_per={"CAD": 0.75}, tag_keys={"owner": "tagA"}))
    records = await told.read()
    rows = rows_of("azure_ea_sample.csv.gz")
    by_service, billed = defaultdict[str, float](float), defaultdict[str, Decimal](Decimal)
    for record in records:
        by_service[record.service_name] += record.billed_cost
    for row in rows:
        billed[row["MeterCategory"]] += Decimal(row["CostInBillingCurrency"])
    assert {name: usd / 0.75 for name, usd in by_service.items()} == pytest.approx(
        {name: float(cad) for name, cad in billed.items()}, abs=1e-8
    )
    assert cents(sum(by_service.values()) / 0.75) == cents(sum(billed.values(), Decimal())) == 126
    paid = [row for row in rows if float(row["CostInBillingCurrency"])]
    assert len(records) == len({(row["SubscriptionId"], row["MeterCategory"]) for row in paid})
    assert {record.charge_category for record in records} == {"Usage"}
    assert {record.billing_currency for record in records} == {"CAD"}
    assert {(record.tags["owner"], record.tags["provider"]) for record in records} == {("valueA", "Microsoft")}
    assert {record.charge_period_end - record.charge_period_start for record in records} == {DAY}
    assert told.letters == []


@pytest.mark.parametrize("account", azure.SPELLINGS)
@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("layout", ["runs", "overwrite", "files"])
async def test_every_account_form_and_layout_says_the_same(
    tmp_path: Path, account: str, form: str, layout: str
) -> None:
    export = azure.Export(tmp_path / "daily", layout, form)
    export.deliver(lines(account), at=NOW - 3600)
    told = Told(tmp_path / "state", config(tmp_path / "daily", dimensions=("service", "account", "region")))
    records = await told.read()
    by_category = Counter[str]()
    for record in records:
        assert record.effective_cost == record.billed_cost
        by_category[record.charge_category] += record.effective_cost  # type: ignore[assignment]
    rest = {} if account == "pay-as-you-go" else {"Purchase": 50.5, "Adjustment": -2.99, "Tax": 7.0}
    assert by_category == pytest.approx({"Usage": 17.5, **rest})
    usage = next(r for r in records if r.charge_period_start == JUNE and r.charge_category == "Usage")
    assert (usage.effective_cost, usage.charge_period_end, usage.delta) == (15.0, JUNE + DAY, "new_usage")
    named = {"service": "Virtual Machines", "account": "s1", "region": "westeurope", "provider": "Microsoft"}
    assert usage.tags == {"team": "search", **named}
    # The next day's run: one line restated, one gone, one new.
    export.deliver([*lines(account)[1:], azure.line(JUNE + 19 * DAY, 1.0, account)], at=NOW - 60)
    changes = sorted((r.effective_cost, r.delta) for r in await told.read())
    assert changes == [(-10.0, "restatement"), (1.0, "new_usage")]
    assert await told.read() == []
    assert told.letters == []


async def test_each_billing_period_has_its_own_newest_run(tmp_path: Path) -> None:
    export = azure.Export(tmp_path / "daily")
    export.deliver([azure.line(JUNE - DAY, 1.0)], "20250501-20250531", at=NOW - 9 * DAY)
    export.deliver([azure.line(JUNE, 2.0)], at=NOW - 200)
    export.deliver([azure.line(JUNE, 3.0)], at=NOW - 100)
    export.deliver([azure.line(JUNE - 60 * DAY, 50.0)], "20250401-20250430", at=NOW - 50)
    records = await Told(tmp_path / "state", config(tmp_path)).read()
    assert sorted(r.effective_cost for r in records) == [1.0, 3.0]


async def test_focus_exports_of_azure_are_read_as_focus(tmp_path: Path) -> None:
    export = azure.Export(tmp_path / "focus", form="parquet")
    export.deliver([focus.line(JUNE, 4.0, ProviderName="Microsoft")], at=NOW - 60)
    (record,) = await Told(tmp_path / "state", config(tmp_path / "focus")).read()
    assert (record.service_name, record.effective_cost, record.tags["provider"]) == ("Compute", 4.0, "Microsoft")


async def test_parquet_with_real_types_and_csv_with_a_byte_order_mark(tmp_path: Path) -> None:
    typed = pa.table(
        {
            "date": pa.array([int(JUNE)], pa.timestamp("s")),
            "costInBillingCurrency": pa.array([Decimal("1.25")], pa.decimal128(18, 6)),
            "billingCurrency": ["USD"],
            "meterCategory": ["Storage"],
            "SubscriptionId": ["s1"],
        }
    )
    (tmp_path / "bill").mkdir()
    pq.write_table(typed, tmp_path / "bill" / "a.parquet")
    os.utime(tmp_path / "bill" / "a.parquet", (NOW - 60, NOW - 60))
    write(tmp_path / "bill" / "b.csv", b"\xef\xbb\xbf" + focus.csv_text([azure.line(JUNE, 2.0)]))
    records = await Told(tmp_path / "state", config(tmp_path / "bill")).read()
    assert sorted((r.effective_cost, r.charge_period_start) for r in records) == [(1.25, JUNE), (2.0, JUNE)]


def test_days_in_both_spellings() -> None:
    spelled = ("2025-06-01", "06/01/2025", "6/1/2025", "2025-06-01T00:00:00Z", "6/1/2025 12:00:00 AM", "01.06.2025")
    assert set(Moments(month_first=True).seconds(spelled)) == {int(JUNE)}
    assert set(Moments(month_first=True).seconds(("25/12/2025", "soon", "", "2025"))) == {0}


# --- where it lies ----------------------------------------------------------------------------------------------------


@pytest.fixture
def az() -> Iterator[type[azure.Blobs]]:
    with azure.blobs() as found:
        yield found


URL = "az://exports/daily"


async def test_blob_storage_is_looked_at_anew_each_time(tmp_path: Path, az: type[azure.Blobs]) -> None:
    export = azure.Export(tmp_path / "daily", form="csv.gz")
    options = {"options": {"account_name": "acme"}}
    export.deliver([azure.line(JUNE, 2.0)])
    azure.upload(export)
    told = Told(tmp_path / "state", config(URL, storage=options))
    assert [record.effective_cost for record in await told.read()] == [2.0]
    assert await told.read() == []
    export.deliver([azure.line(JUNE, 2.0), azure.line(JUNE + DAY, 1.0)])
    azure.upload(export)
    assert [record.effective_cost for record in await told.read()] == [1.0]
    checks = await told.bill.check()
    assert [(check.ok, check.permission) for check in checks] == [(True, "Storage Blob Data Reader")] * 2


async def test_what_blob_storage_refuses_is_permanent(
    tmp_path: Path, az: type[azure.Blobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    exceptions = ModuleType("azure.core.exceptions")
    exceptions.AzureError = type("AzureError", (Exception,), {})  # type: ignore[attr-defined]
    for name, module in (("azure", ModuleType("azure")), ("azure.core", ModuleType("azure.core"))):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "azure.core.exceptions", exceptions)
    told = Told(tmp_path / "state", config(URL, storage={"options": {"account_name": "acme"}}))

    def says(text: str) -> None:
        def info(*_args: Any, **_options: Any) -> None:
            raise exceptions.AzureError(text)

        monkeypatch.setattr(az, "info", info)

    says("This request is not authorized. ErrorCode:AuthorizationPermissionMismatch")
    with pytest.raises(PermanentError, match="AuthorizationPermissionMismatch"):
        await told.read()
    (check,) = await told.bill.check()
    assert (check.ok, check.permission) == (False, "Storage Blob Data Reader")
    says("The server is busy.")
    with pytest.raises(TransientError, match="busy"):
        await told.read()


async def test_a_container_that_is_not_there_is_told(tmp_path: Path, az: type[azure.Blobs]) -> None:
    options = {"options": {"account_name": "acme"}}
    with pytest.raises(PermanentError, match=r"there is no /?nobody"):
        await Told(tmp_path / "a", config("az://nobody/daily/*.csv", storage=options)).read()


def test_a_scheme_without_its_package_or_its_options_says_so(az: type[azure.Blobs]) -> None:
    with pytest.raises(PermanentError, match="Protocol not known"):
        open_store("nosuch://x/y", {})
    with pytest.raises(PermanentError, match="account_name"):
        open_store(URL, {})


# --- bad input --------------------------------------------------------------------------------------------------------


async def test_several_exports_at_once_would_count_twice(tmp_path: Path) -> None:
    for name in ("actual", "amortized"):
        azure.Export(tmp_path / name).deliver(lines(), at=NOW - 60)
    with pytest.raises(PermanentError, match="more than one export, give the folder of one: actual, amortized"):
        await Told(tmp_path / "a", config(tmp_path)).read()
    assert await Told(tmp_path / "b", config(tmp_path / "actual")).read()


#: Columns of a localised export, its delimiter and amounts of $0.075 and $1,234.50.
LOCALISED = {
    "german": (
        "Abonnement-GUID (SubscriptionGuid),UsageDateTime (UsageDateTime),Kategorie (MeterCategory),PreTaxCost "
        "(PreTaxCost),Tags (Tags),Currency",
        ",",
        ("0.075", "1234.50"),
    ),
    "french": (
        "Id d\u2019abonnement (SubscriptionId);Date (Date);Cat\u00e9gorie (MeterCategory);Co\u00fbt "
        "(CostInBillingCurrency);Balises (Tags);Devise (BillingCurrencyCode)",
        ";",
        ("0,075", "1.234,50"),
    ),
    "japanese": (
        "\u8cfc\u8aad\uff08SubscriptionId\uff09,\u65e5\u4ed8\uff08Date\uff09,\u533a\u5206\uff08MeterCategory"
        "\uff09,\u8cbb\u7528\uff08CostInBillingCurrency\uff09,\u30bf\u30b0\uff08Tags\uff09,\u901a\u8ca8"
        "\uff08BillingCurrency\uff09",
        ",",
        ("0.075", "1234.50"),
    ),
    "spanish": (
        "Suscripci\u00f3n [SubscriptionGuid];Fecha [UsageDateTime];Categor\u00eda [MeterCategory];Coste "
        "[PreTaxCost];Etiquetas [Tags];Moneda [Currency]",
        ";",
        ("0,075", "1.234,50"),
    ),
}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("language", LOCALISED)
async def test_names_in_brackets_of_localised_exports_count(tmp_path: Path, language: str, encoding: str) -> None:
    head, delimiter, (low, high) = LOCALISED[language]
    rows = [
        delimiter.join(("s-1", day, "VM", usd, "", "USD")) for day, usd in (("2025-06-02", low), ("2025-06-03", high))
    ]
    write(tmp_path / "bill.csv", "\r\n".join([head, *rows, ""]).encode(encoding))
    records = await Told(tmp_path / "state", config(tmp_path / "bill.csv")).read()
    assert sum(record.effective_cost for record in records) == pytest.approx(1234.575)


async def test_a_missing_column_is_named(tmp_path: Path) -> None:
    without = [{name: value for name, value in each.items() if name != "CostInBillingCurrency"} for each in lines()]
    azure.Export(tmp_path / "daily").deliver(without, at=NOW - 60)
    with pytest.raises(PermanentError, match="column CostInBillingCurrency or Cost or PreTaxCost is missing"):
        await Told(tmp_path / "state", config(tmp_path / "daily")).read()


@pytest.mark.parametrize("form", ["parquet", "csv.gz"])
async def test_a_truncated_file_tells_nothing_until_it_is_whole(tmp_path: Path, form: str) -> None:
    export = azure.Export(tmp_path / "daily", form=form)
    export.deliver([azure.line(JUNE, 1.0)] * 400, at=NOW - 60)
    part = sorted(export.root.rglob("part_*"))[1]
    whole = part.read_bytes()
    write(part, whole[: len(whole) * 2 // 3])
    told = Told(tmp_path / "state", config(tmp_path / "daily"))
    with pytest.raises(TransientError, match="part_1_0001"):
        await told.read()
    write(part, whole)
    assert sum(record.billed_cost for record in await told.read()) == pytest.approx(400)


async def test_a_run_without_its_manifest_or_with_half_of_it_waits_behind_the_one_before(tmp_path: Path) -> None:
    export = azure.Export(tmp_path / "daily")
    first = export.deliver([azure.line(JUNE, 1.0)], at=NOW - 7200)
    first_content = first.read_bytes()
    first.unlink()
    told = Told(tmp_path / "state", config(tmp_path / "daily"))
    with pytest.raises(TransientError, match="no manifest yet") as raised:
        await told.read()
    assert raised.value.retry_after == 300
    write(first, first_content)
    assert [record.effective_cost for record in await told.read()] == [1.0]
    second = export.deliver([azure.line(JUNE, 2.0)], at=NOW - 60)
    content = second.read_bytes()
    second.unlink()
    assert await told.read() == []
    write(second, content[:-9], NOW - 60)
    with pytest.raises(TransientError, match="not a whole manifest yet"):
        await told.read()
    write(second, content, NOW - 60)
    assert [record.effective_cost for record in await told.read()] == [1.0]
    (second.parent / "part_0_0001.csv").unlink()
    write(second, content, NOW - 50)
    with pytest.raises(TransientError, match=r"part_0_0001\.csv is not there yet"):
        await told.read()


async def test_a_currency_without_a_rate_leaves_the_last_run_standing(tmp_path: Path) -> None:
    export = azure.Export(tmp_path / "daily", "files")
    export.deliver([azure.line(JUNE, 10.0), azure.line(JUNE + DAY, 10.0)], at=NOW - 7200)
    told = Told(tmp_path / "state", config(tmp_path / "daily"))
    await told.read()
    export.deliver([azure.line(JUNE, 10.0), azure.line(JUNE + DAY, 8.0, currency="EUR")], at=NOW - 60)
    assert await told.read() == []
    assert "1 of 2 lines cannot be read: a line in EUR" in told.alerts[-1].explanation
    again = Told(tmp_path / "state", config(tmp_path / "daily", usd_per={"EUR": 1.25}))
    again.cursor = told.cursor
    changes = {(r.billing_currency, r.effective_cost) for r in await again.read()}
    assert changes == {("USD", -10.0), ("EUR", 10.0)}
    assert [alert.status for alert in again.alerts] == ["resolved"]


async def test_tags_days_and_amounts_that_are_none_lose_no_other_dollar(tmp_path: Path) -> None:
    bad = [
        azure.line(JUNE, 1.0, tags="team=search"),
        azure.line(JUNE, 2.0, tags='"team": "ads","x": "y"'),
        azure.line(JUNE, 4.0, date="25/12/2025"),
        azure.line(JUNE, 8.0, cost="much"),
    ]
    write(tmp_path / "details.csv.gz", gzip.compress(focus.csv_text(bad)))
    told = Told(tmp_path / "state", config(tmp_path / "details.csv.gz"))
    assert {r.tags.get("team"): r.effective_cost for r in await told.read()} == {None: 1.0, "ads": 2.0}
    reasons = [(letter.reason, letter.location.rpartition(":")[2]) for letter in told.letters]
    assert reasons[:2] == [("invalid", "3"), ("invalid", "4")]
    assert [reason for reason, _ in reasons[2:]] == ["not_json"]


async def test_a_file_on_disk_that_was_just_written_waits(tmp_path: Path) -> None:
    azure.Export(tmp_path / "daily", "files").deliver([azure.line(JUNE, 1.0)], at=NOW - 1)
    told = Told(tmp_path / "state", config(tmp_path / "daily"))
    with pytest.raises(TransientError, match="being written"):
        await told.read()
    await told.clock.advance(60)
    assert len(await told.read()) == 1


def test_the_kind_is_known() -> None:
    assert KINDS["azure_cost"] == "curb.connectors.bills.azure_cost:Config"
