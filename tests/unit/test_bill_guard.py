"""A broken delivery never replaces a good one, and one broken line costs one line."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curb.connectors.bills import aws_cur, azure_cost, focus_file
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import CostRecord
from curb.stream.time import iso
from tests.fakes import aws_cur as cur
from tests.fakes import azure_cost as azure
from tests.fakes import focus_file as focus
from tests.fakes.bills import JUNE, NOW, Told, write

DAY = 86_400.0


def of_file(url: Path, **more: Any) -> focus_file.Config:
    return focus_file.Config.model_validate({"kind": "focus_file", "name": "bill", "url": str(url), **more})


def of_azure(url: Path, **more: Any) -> azure_cost.Config:
    return azure_cost.Config.model_validate({"kind": "azure_cost", "name": "bill", "url": str(url), **more})


def of_aws(url: Path, **more: Any) -> aws_cur.Config:
    return aws_cur.Config.model_validate({"kind": "aws_cur", "name": "bill", "url": str(url), **more})


def day(number: int, usd: float = 100.0, **changes: Any) -> dict[str, Any]:
    return focus.line(JUNE + number * DAY, usd, **changes)


def usd(records: list[CostRecord]) -> float:
    return round(sum(record.effective_cost for record in records), 6)


GOOD = [day(number) for number in range(10)]
Lines = list[dict[str, Any]]
#: What is wrong → the delivery after ten good days, and a part of what the alert says.
BROKEN: dict[str, tuple[Lines, str]] = {
    "no line": ([], "holds no charge"),
    "times in words": ([day(n, ChargePeriodStart="soon") for n in range(11)], "11 of 11 lines cannot be read"),
    "a third of the amounts": (
        [day(n, BilledCost="n/a" if n % 3 == 0 else 100.0) for n in range(12)],
        "4 of 12 lines cannot be read",
    ),
    "half of the currencies": (
        [day(n, BillingCurrency="INR" if n % 2 else "USD") for n in range(12)],
        "a line in INR without dollars of its own: set usd_per for INR",
    ),
    "three days gone": (GOOD[:7], "3 days with $300.00 are no longer in it"),
    "a tenth of every day": ([day(n, 10.0) for n in range(10)], "holds $100.00 of charges"),
    "another account": ([day(n, 30.0, SubAccountId="a2") for n in range(10)], "charges of $1,000.00 are no longer"),
}


def text(lines: Lines) -> bytes:
    return focus.csv_text(lines) if lines else focus.csv_text(GOOD).split(b"\n")[0] + b"\n"


@pytest.mark.parametrize("what", BROKEN)
async def test_the_last_good_delivery_stays_and_an_alert_says_why(tmp_path: Path, what: str) -> None:
    lines, says = BROKEN[what]
    path = write(tmp_path / "june.csv", text(GOOD), NOW - 9000)
    told = Told(tmp_path / "state", of_file(path))
    assert usd(await told.read()) == 1000
    write(path, text(lines), NOW - 8000)
    assert await told.read() == []
    (alert,) = told.alerts
    assert (alert.kind, alert.status, alert.tier) == ("feed", "firing", "notice")
    assert says in alert.explanation
    assert str(path) in alert.explanation
    assert await told.read() == []  # said once
    assert len(told.alerts) == 1
    write(path, text([*GOOD, day(10)]), NOW - 7000)
    assert usd(await told.read()) == 100
    assert [each.status for each in told.alerts] == ["firing", "resolved"]


async def test_a_person_lets_a_refused_delivery_in(tmp_path: Path) -> None:
    path = write(tmp_path / "june.csv", text(GOOD), NOW - 9000)
    told = Told(tmp_path / "state", of_file(path))
    await told.read()
    write(path, text(GOOD[:3]), NOW - 8000)
    assert await told.read() == []
    again = Told(tmp_path / "state", of_file(path, accept=(str(path),)))
    again.cursor = told.cursor
    assert usd(await again.read()) == -700
    assert [each.status for each in again.alerts] == ["resolved"]


@pytest.mark.parametrize("row", [b"12,USD\n", b"Total,,,\n", b"\xff\xf8,x\n"])
async def test_a_cut_row_is_one_dead_letter(tmp_path: Path, row: bytes) -> None:
    path = write(tmp_path / "june.csv", text(GOOD), NOW - 9000)
    told = Told(tmp_path / "state", of_file(path))
    await told.read()
    write(path, text([*GOOD, day(10)]) + row, NOW - 8000)
    assert usd(await told.read()) == 100
    assert len(told.letters) >= 1
    assert told.alerts == []


async def test_the_charge_of_a_row_that_was_cut_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "june.csv", text(GOOD), NOW - 9000)
    told = Told(tmp_path / "state", of_file(path))
    await told.read()
    lines = text([*GOOD, day(10)]).splitlines(keepends=True)
    lines[5] = lines[5][:30] + b"\n"
    write(path, b"".join(lines), NOW - 8000)
    assert usd(await told.read()) == 100
    assert [letter.location.rpartition(":")[2] for letter in told.letters] == ["5"]


async def test_what_shrinks_with_a_cause_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "june.csv", text(GOOD), NOW - 9000)
    told = Told(tmp_path / "state", of_file(path))
    await told.read()
    credit = day(9, -700.0, ChargeCategory="Credit")
    write(path, text([*GOOD, credit]), NOW - 8000)
    assert usd(await told.read()) == -700
    write(path, text([*[day(n, 65.0) for n in range(10)], credit]), NOW - 7000)  # a discount for the whole month
    assert usd(await told.read()) == -350
    assert told.alerts == []


async def test_a_file_that_rolls_on_keeps_the_days_before(tmp_path: Path) -> None:
    path = write(tmp_path / "last-30-days.csv", text([day(n) for n in range(30)]), NOW - 9000)
    told = Told(tmp_path / "state", of_file(path))
    assert usd(await told.read()) == 3000
    write(path, text([day(n) for n in range(2, 32)]), NOW - 8000)
    assert usd(await told.read()) == 200
    write(path, text([day(n) for n in range(40, 50)]), NOW - 7000)
    assert usd(await told.read()) == 1000
    assert told.alerts == []


# --- the same money twice ---------------------------------------------------------------------------------------------


async def test_a_snapshot_in_a_second_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "bill" / "upto-10.csv", text(GOOD), NOW - 9000)
    told = Told(tmp_path / "state", of_file(tmp_path / "bill"))
    assert usd(await told.read()) == 1000
    write(tmp_path / "bill" / "upto-11.csv", text([*GOOD, day(10)]), NOW - 8000)
    assert await told.read() == []
    assert "holds the charges of" in told.alerts[0].explanation
    # Parts of one month, by account, are no copies.
    write(tmp_path / "bill" / "a2.csv", text([day(n, SubAccountId="a2") for n in range(10)]), NOW - 7000)
    assert usd(await told.read()) == 1000


#: A second export of the same money: by the hour, with other names of services, with dollars beside euros.
SECOND: dict[str, Callable[[int, float], Lines]] = {
    "hourly": lambda n, usd: [
        focus.line(at, usd / 24, ChargePeriodEnd=iso(at + 3600))
        for at in (JUNE + n * DAY + hour * 3600 for hour in range(24))
    ],
    "other names": lambda n, usd: [
        day(n, usd * share, ServiceName=name) for name, share in (("AmazonEC2", 0.75), ("AmazonEBS", 0.25))
    ],
    "euros": lambda n, usd: [
        day(n, usd / 1.25, BillingCurrency="EUR", x_BilledCostInUsd=usd, x_EffectiveCostInUsd=usd)
    ],
    "a path of the account": lambda n, usd: [day(n, usd, SubAccountId="/subscriptions/A1", ServiceName="VM")],
}


@pytest.mark.parametrize("second", SECOND)
async def test_the_same_money_in_another_form_is_refused(tmp_path: Path, second: str) -> None:
    usual = [day(n, 100.0 + 7 * n) for n in range(10)]
    write(tmp_path / "bill" / "first.csv", text(usual), NOW - 9000)
    told = Told(tmp_path / "state", of_file(tmp_path / "bill"))
    assert usd(await told.read()) == 1315
    # A day later it has a day more, and more of the last day.
    more = [line for n in range(11) for line in SECOND[second](n, 100.0 + 7 * n + (5 if n == 9 else 0))]
    write(tmp_path / "bill" / "second.csv", text(more), NOW - 8000)
    assert await told.read() == []
    assert "holds the charges of" in told.alerts[0].explanation


async def test_parts_of_a_bill_are_no_copies(tmp_path: Path) -> None:
    write(tmp_path / "bill" / "compute.csv", text(GOOD), NOW - 9000)
    other = [day(n, 100.0, ServiceName="Storage") for n in range(10)]  # a flat fee, by chance as high
    write(tmp_path / "bill" / "storage.csv", text(other), NOW - 8000)
    third = [day(n, 40.0 + n, ServiceName="Network") for n in range(10)]
    write(tmp_path / "bill" / "network.csv", text(third), NOW - 7000)
    told = Told(tmp_path / "state", of_file(tmp_path / "bill"))
    assert usd(await told.read()) == 2445
    assert told.alerts == []


async def test_usage_that_is_gone_is_refused_and_a_fee_is_not(tmp_path: Path) -> None:
    fee = day(0, 250.0, ServiceName="Support", ChargeFrequency="Recurring")
    storage = [day(n, 25.0, ServiceName="Storage") for n in range(10)]
    path = write(tmp_path / "june.csv", text([*GOOD, *storage, fee]), NOW - 9000)
    told = Told(tmp_path / "state", of_file(path))
    await told.read()
    write(path, text([*GOOD, *storage]), NOW - 8000)
    assert usd(await told.read()) == -250
    write(path, text(GOOD), NOW - 7000)
    assert await told.read() == []
    assert "charges of $250.00 are no longer in it" in told.alerts[0].explanation


def cur_export(root: Path, name: str, at: float, count: int = 5) -> None:
    export = cur.Export(root / name, "overwrite", url="s3://bill/exports")
    export.deliver([cur.line(JUNE + n * DAY, 100.0) for n in range(count)], at=at)
    manifest = next((root / name).rglob("*Manifest.json"))
    write(manifest, manifest.read_bytes().replace(b"delivery-1", f"at-{at}".encode()), at)


def azure_export(root: Path, name: str, at: float, count: int = 5) -> None:
    export = azure.Export(root / name)
    export.runs = int(at)
    export.deliver([azure.line(JUNE + n * DAY, 100.0) for n in range(count)], at=at)


@pytest.mark.parametrize(("config", "deliver"), [(of_aws, cur_export), (of_azure, azure_export)])
async def test_a_second_export_beside_the_first_is_refused(
    tmp_path: Path, config: Callable[[Path], Any], deliver: Callable[..., None]
) -> None:
    deliver(tmp_path / "exports", "first", NOW - 9000)
    told = Told(tmp_path / "state", config(tmp_path / "exports"))
    assert usd(await told.read()) == 500
    deliver(tmp_path / "exports", "other", NOW - 8000)
    assert await told.read() == []
    assert "a second export beside first" in told.alerts[0].explanation
    deliver(tmp_path / "exports", "first", NOW - 7000, 6)
    assert usd(await told.read()) == 100
    with pytest.raises(PermanentError, match="more than one export, give the folder of one: first, other"):
        await Told(tmp_path / "new", config(tmp_path / "exports")).read()


async def test_a_run_over_chosen_days_does_not_count_beside_the_month(tmp_path: Path) -> None:
    export = azure.Export(tmp_path / "daily")
    chosen = [azure.line(JUNE, 10.0), azure.line(JUNE + DAY, 20.0)]
    export.deliver(chosen, "20250601-20250602", at=NOW - 9500)
    told = Told(tmp_path / "state", of_azure(tmp_path / "daily"))
    assert usd(await told.read()) == 30  # alone it is all there is
    export.deliver([*chosen, azure.line(JUNE + 2 * DAY, 30.0)], at=NOW - 9000)
    assert usd(await told.read()) == 30
    export.deliver(chosen, "20250602-20250701", at=NOW - 8000)
    assert await told.read() == []
    assert "its days lie in 20250601-20250630 as well" in told.alerts[-1].explanation


async def test_an_empty_manifest_keeps_what_was_known(tmp_path: Path) -> None:
    export = azure.Export(tmp_path / "daily")
    lines = [azure.line(JUNE, 10.0), azure.line(JUNE + DAY, 20.0)]
    export.deliver(lines, at=NOW - 9000)
    told = Told(tmp_path / "state", of_azure(tmp_path / "daily"))
    assert usd(await told.read()) == 30
    content = b'{"manifestVersion": "2024-04-01", "blobCount": 0, "blobs": []}'
    write(tmp_path / "daily" / "20250601-20250630" / "run-0002" / "manifest.json", content, NOW - 8000)
    export.runs = 2
    assert await told.read() == []
    export.deliver([*lines, azure.line(JUNE + 2 * DAY, 30.0)], at=NOW - 7000)
    assert usd(await told.read()) == 30
    assert [each.status for each in told.alerts] == ["firing", "resolved"]


# --- in any order -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_any_order_of_deliveries_and_restarts_ends_at_the_last_good_one(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path, state, cursor = tmp_path / "june.csv", tmp_path / "state", None
    counted, truth, last = 0.0, 0.0, 10
    write(path, text(GOOD), NOW - 90_000)
    truth = 1000.0
    for step in range(8):
        told = Told(state, of_file(path))  # a new process
        told.cursor = cursor
        counted += usd(await told.read())
        cursor = told.cursor
        assert counted == pytest.approx(truth)
        if rng.random() < 0.5:
            write(path, text(rng.choice(list(BROKEN.values()))[0][:9]), NOW - 80_000 + step)
        else:
            last += 1
            write(path, text([day(n) for n in range(last)]), NOW - 80_000 + step)
            truth = 100.0 * last


@pytest.mark.parametrize("amount", [9.5e9, -9.5e9, 1e300, 1.01e8])
async def test_an_amount_that_no_bill_has_costs_its_line(tmp_path: Path, amount: float) -> None:
    """An identifier in the place of an amount; sums of such would not fit, and the bill stood still."""
    write(tmp_path / "x.csv", focus.csv_text([*GOOD, day(3, amount)]))
    told = Told(tmp_path / "state", of_file(tmp_path / "x.csv"))
    assert usd(await told.read()) == 1000
    assert [letter.detail for letter in told.letters] == ["a line of more than $100,000,000.00"]


async def test_a_bill_of_billions_is_refused_and_named(tmp_path: Path) -> None:
    told = Told(tmp_path / "state", of_file(tmp_path / "x.csv"))
    write(tmp_path / "x.csv", focus.csv_text(GOOD), NOW - 7200)
    assert usd(await told.read()) == 1000
    write(tmp_path / "x.csv", focus.csv_text([*GOOD, *(day(n % 10, 9e7, SubAccountId=str(n)) for n in range(60))]))
    assert await told.read() == []
    (alert,) = told.alerts
    assert "its charges come to $5,400,001,000.00, which no bill has" in alert.explanation


@pytest.mark.parametrize("name", ["x.csv.gz", "x.zip", "x.parquet"])
async def test_a_file_cut_off_is_waited_for_and_then_refused_and_named(tmp_path: Path, name: str) -> None:
    """It was waited for as long as it lay there, with no word but an error that counts up."""
    whole = {
        "x.csv.gz": lambda lines: gzip.compress(focus.csv_text(lines)),
        "x.zip": lambda lines: zipped(focus.csv_text(lines)),
        "x.parquet": focus.parquet,
    }[name]
    plain = [{key: value for key, value in each.items() if key != "ChargeClass"} for each in GOOD]
    write(tmp_path / name, whole(plain), NOW - 7200)
    told = Told(tmp_path / "state", of_file(tmp_path / name))
    assert usd(await told.read()) == 1000
    write(tmp_path / name, whole(plain)[:-30], NOW - 3600)
    with pytest.raises(TransientError, match="may still be on its way"):
        await told.read()
    told.clock.jump(6 * 3600)
    assert await told.read() == []
    (alert,) = told.alerts
    assert name in alert.explanation
    # What is whole again counts.
    more = {**plain[0], "ChargePeriodStart": iso(JUNE + 10 * DAY), "ChargePeriodEnd": iso(JUNE + 10 * DAY + 3600)}
    write(tmp_path / name, whole([*plain, more]), NOW)
    assert usd(await told.read()) == 100


def zipped(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("x.csv", content)
    return sink.getvalue()
