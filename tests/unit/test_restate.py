"""Snapshots → deltas: for any history of a bill and any crash, what is on the log adds up to the last snapshot."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curb.connectors.bills.charges import Charge, Dimensions, Snapshot
from curb.connectors.bills.restate import Restater
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import CostRecord

DAY = 86_400
T0 = 1_760_000_000 // DAY * DAY
SERVICES = [Dimensions(service_name=name, tags=(("team", name),)) for name in ("ec2", "s3", "sagemaker")]
Key = tuple[float, str]


class OnTheLog:
    """The log: every record by id, and the last cursor; and a restater that can be killed."""

    def __init__(self, directory: Path, page_records: int = 3) -> None:
        self.path, self.page_records = directory / "bill.sqlite", page_records
        self.clock = ManualClock(T0)
        self.records: dict[str, CostRecord] = {}
        self.cursor: str | None = None
        self.restart()

    def restart(self) -> None:
        self.restater = Restater(self.path, "bill", self.clock, page_records=self.page_records)

    def read(self, charges: list[Charge], snapshot: Snapshot, crash: str = "") -> bool:
        """One read as a kind and the runner do it; whether there is more. `crash`: "taken", "appended" or none."""
        batch = self.restater.resume(self.cursor)
        if batch is None and self.restater.version(snapshot.period) != snapshot.version:
            self.restater.take(charges, snapshot)
            batch = self.restater.resume(self.cursor)
        batch = batch or self.restater.idle(self.cursor)
        if crash != "taken":
            for record in cast("list[CostRecord]", batch.records):
                assert self.records.setdefault(record.id, record) == record  # the same again, or new
        if crash:
            self.restater.close()
            self.restart()
            return True
        self.cursor = batch.cursor
        return batch.more

    def sums(self) -> dict[Key, tuple[float, float]]:
        found: dict[Key, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for record in self.records.values():
            sums = found[record.charge_period_start, record.service_name]
            sums[0] += record.effective_cost
            sums[1] += record.billed_cost
        return {key: (effective, billed) for key, (effective, billed) in found.items()}


def charge(day: int, of: int, usd: float, billed: float | None = None) -> Charge:
    return Charge(T0 + day * DAY, DAY, usd, usd if billed is None else billed, SERVICES[of])


def snapshot(version: int, as_of_day: float, period: str = "2025-10") -> Snapshot:
    return Snapshot(period, str(version), T0 + as_of_day * DAY)


def labels(log: OnTheLog, since: set[str]) -> dict[Key, tuple[str, float]]:
    new = [record for name, record in log.records.items() if name not in since]
    return {(r.charge_period_start, r.service_name): (r.delta, r.effective_cost) for r in new}


def take(log: OnTheLog, charges: list[Charge], at: Snapshot) -> dict[Key, tuple[str, float]]:
    """Read to the end; label and dollars of what was told."""
    before = set(log.records)
    while log.read(charges, at):
        pass
    return labels(log, before)


usd = st.floats(-1e6, 1e6, allow_nan=False)
bills = st.lists(
    st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 2)), st.tuples(usd, usd), max_size=12),
    min_size=1,
    max_size=6,
)
crashes = st.lists(st.sampled_from(["", "", "taken", "appended"]), max_size=30)


@settings(deadline=None, max_examples=60)
@given(bills, crashes)
def test_the_sum_of_all_deltas_is_the_last_snapshot_whatever_crashes(
    bills: list[dict[tuple[int, int], tuple[float, float]]], crashes: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = OnTheLog(Path(directory))
        for version, bill in enumerate(bills):
            charges = [charge(day, of, *amounts) for (day, of), amounts in bill.items()]
            while log.read(charges, snapshot(version, 6 + version), crashes.pop() if crashes else ""):
                pass
        sums = log.sums()
        expected = {(float(T0 + day * DAY), SERVICES[of].service_name): a for (day, of), a in bills[-1].items()}
        for key in sums.keys() | expected.keys():
            for told, amount in zip(sums.get(key, (0, 0)), expected.get(key, (0, 0)), strict=True):
                assert told == pytest.approx(amount, abs=1e-8)
        assert log.restater.total("2025-10")[0] == pytest.approx(sum(a for a, _ in bills[-1].values()), abs=1e-7)
        log.restater.close()


@settings(deadline=None, max_examples=30)
@given(bills, st.integers(0, 5))
def test_totals_stay_exact_when_the_state_file_is_lost(
    bills: list[dict[tuple[int, int], tuple[float, float]]], lost_before: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = OnTheLog(Path(directory))
        for version, bill in enumerate(bills):
            if version == lost_before:
                log.restater.close()
                for file in Path(directory).iterdir():
                    file.unlink()
                log.restart()
            take(log, [charge(day, of, *a) for (day, of), a in bill.items()], snapshot(version, 6 + version))
        told = sum(record.effective_cost for record in log.records.values())
        assert told == pytest.approx(sum(a for a, _ in bills[-1].values()), abs=1e-6)
        log.restater.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OnTheLog]:
    log = OnTheLog(tmp_path / "state")
    yield log
    log.restater.close()


def copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def test_labels_follow_what_was_complete_at_the_last_snapshot(log: OnTheLog) -> None:
    first = take(log, [charge(0, 0, 10), charge(1, 0, 10), charge(4, 0, 3)], snapshot(1, 5))
    assert {label for label, _ in first.values()} == {"new_usage"}
    # Two days of lag: on day 5, charges of days 0 to 2 were complete.
    charges = [charge(0, 0, 10), charge(1, 0, 12.5), charge(2, 1, 7), charge(4, 0, 10), charge(5, 0, 1)]
    changed = take(log, charges, snapshot(2, 6))
    assert changed == {
        (T0 + 1 * DAY, "ec2"): ("restatement", 2.5),
        (T0 + 2 * DAY, "s3"): ("late", 7.0),
        (T0 + 4 * DAY, "ec2"): ("new_usage", 7.0),
        (T0 + 5 * DAY, "ec2"): ("new_usage", 1.0),
    }


def test_a_key_that_vanished_is_taken_back(log: OnTheLog) -> None:
    take(log, [charge(0, 0, 10), charge(0, 1, 4, 5)], snapshot(1, 5))
    assert take(log, [charge(0, 0, 10)], snapshot(2, 6)) == {(T0, "s3"): ("restatement", -4.0)}
    assert log.sums()[T0, "s3"] == (0.0, 0.0)


def test_a_snapshot_speaks_only_for_what_it_covers(log: OnTheLog) -> None:
    take(log, [charge(0, 0, 10), charge(3, 0, 4)], snapshot(1, 5))
    part = snapshot(2, 6)._replace(covers=(T0 + 2 * DAY, T0 + 9 * DAY))
    assert take(log, [charge(3, 0, 5)], part) == {(T0 + 3 * DAY, "ec2"): ("new_usage", 1.0)}
    assert log.restater.total("2025-10") == (15.0, 15.0)


def test_the_same_snapshot_in_another_order_tells_nothing(log: OnTheLog) -> None:
    parts = [charge(0, 0, 0.1 + n / 7) for n in range(1000)]
    take(log, parts, snapshot(1, 5))
    assert take(log, parts[::-1], snapshot(2, 6)) == {}
    assert log.sums()[T0, "ec2"][0] == pytest.approx(sum(part.effective_cost for part in parts), abs=1e-8)


def test_corrections_of_invoiced_periods_are_restatements_at_once(log: OnTheLog) -> None:
    of = Dimensions(service_name="ec2", correction=True)
    assert take(log, [Charge(T0, DAY, -3, -3, of)], snapshot(1, 1)) == {(T0, "ec2"): ("restatement", -3.0)}


def test_billing_periods_are_apart(log: OnTheLog) -> None:
    take(log, [charge(0, 0, 10)], snapshot(1, 5, "2025-10"))
    take(log, [charge(0, 0, 2)], snapshot(1, 5, "2025-11"))
    assert log.sums()[T0, "ec2"] == (12.0, 12.0)
    assert log.restater.total("2025-11") == (2.0, 2.0)


def test_what_fails_half_way_changes_nothing(log: OnTheLog) -> None:
    take(log, [charge(0, 0, 10)], snapshot(1, 5))

    def broken() -> list[Charge]:
        raise OSError("truncated")

    with pytest.raises(OSError, match="truncated"):
        log.restater.take((each for _ in range(2) for each in [charge(0, 0, 99), *broken()]), snapshot(2, 6))
    assert log.restater.version("2025-10") == "1"
    assert take(log, [charge(0, 0, 11)], snapshot(3, 6)) == {(T0, "ec2"): ("restatement", 1.0)}


def test_an_amount_that_is_no_number_is_refused(log: OnTheLog) -> None:
    with pytest.raises(ValueError, match="not finite"):
        log.restater.take([charge(0, 0, float("nan"))], snapshot(1, 5))


def test_taking_before_all_is_told_is_a_mistake(log: OnTheLog) -> None:
    log.restater.take([charge(0, 0, 1)], snapshot(1, 5))
    with pytest.raises(RuntimeError):
        log.restater.take([charge(0, 0, 2)], snapshot(2, 6))


def test_a_new_log_is_told_everything_again(log: OnTheLog) -> None:
    for version in (1, 2):
        take(log, [charge(0, 0, 10 * version)], snapshot(version, 5))
    log.records, log.cursor = {}, None
    assert take(log, [charge(0, 0, 20)], snapshot(2, 5)) == {(T0, "ec2"): ("new_usage", 20.0)}


def test_a_state_file_that_was_set_back_is_noticed(log: OnTheLog, tmp_path: Path) -> None:
    take(log, [charge(0, 0, 10), charge(1, 0, 1)], snapshot(1, 5))
    backup = tmp_path / "backup.sqlite"
    copy(log.path, backup)
    take(log, [charge(0, 0, 15), charge(1, 0, 1)], snapshot(2, 6))
    log.restater.close()
    for file in log.path.parent.iterdir():
        file.unlink()
    copy(backup, log.path)
    log.restart()
    told = take(log, [charge(0, 0, 15), charge(1, 0, 2)], snapshot(3, 7))
    assert [label for label, _ in told.values()] == ["restatement"]
    assert sum(record.effective_cost for record in log.records.values()) == 17.0


def test_a_cursor_of_another_kind_is_told(log: OnTheLog) -> None:
    with pytest.raises(PermanentError, match="cursor"):
        log.restater.resume("17")


def test_the_batch_says_what_is_complete(log: OnTheLog) -> None:
    assert log.restater.complete_until is None
    take(log, [charge(0, 0, 10)], snapshot(1, 5))
    assert log.restater.idle(log.cursor).complete_until == T0 + 3 * DAY
    take(log, [charge(0, 0, 10)], snapshot(2, 4.5))  # an older delivery takes nothing back
    assert log.restater.complete_until == T0 + 3 * DAY
