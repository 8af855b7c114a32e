"""Waste on a bill is a line in the digest with dollars a month: storage, volumes, snapshots, spot work run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from curb.detector.bills.parts import use_of
from curb.detector.incidents.bill_waste import BillWaste, Config
from curb.stream.records.spend import Alert, BillPart, BillUse
from curb.stream.time import DAY_S

#: Dollars (of starts their number) of a day by use, and the day.
Day = Callable[[int], Mapping[BillUse, float]]
#: Days of the bill: the week that is judged begins four weeks after the first, and ends with it.
ALL, LAST = 35, 28


@pytest.mark.parametrize(
    ("meter", "use"),
    [
        ("USW2-TimedStorage-ByteHrs", "storage"),
        ("EUC1-TimedStorage-SIA-ByteHrs", "storage"),
        ("Requests-Tier2", "reads"),
        ("EU-Requests-SIA-Tier2", "reads"),
        ("USE1-DataTransfer-Out-Bytes", "reads"),
        ("Requests-Tier1", None),
        ("EU-EBS:VolumeUsage.gp3", "volumes"),
        ("EBS:SnapshotUsage", "snapshots"),
        ("USW2-BoxUsage:m5.large", "machines"),
        ("SpotUsage:p5.48xlarge", "spot"),
        ("Hot LRS Data Stored", "storage"),
        ("Hot Read Operations", "reads"),
        ("P10 LRS Disk", "volumes"),
        ("Standard Storage Europe Multi-region", "storage"),
        ("Storage PD Capacity", "volumes"),
        ("Spot Preemptible A2 Instance Core", "spot"),
        ("N1 Predefined Instance Core running in EMEA", "machines"),
        ("Input tokens", None),
    ],
)
def test_meters_say_what_they_are_for(meter: str, use: BillUse | None) -> None:
    assert use_of(meter) == use


class Billed:
    """A bill by the day of one account, judged each day."""

    def __init__(self, day: Day) -> None:
        self.waste, self.alerts, self._day, self._until = BillWaste(Config()), list[Alert](), day, 0

    def read(self, until: int = ALL) -> list[Alert]:
        for day in range(self._until, until):
            for use, usd in self._day(day).items():
                self.waste.add(
                    BillPart(
                        source="bill",
                        use=use,
                        provider="AWS",
                        account="1",
                        service="",
                        region="eu-west-1",
                        start=day * DAY_S,
                        seconds=DAY_S,
                        effective_cost=usd,
                    )
                )
            self.alerts += self.waste.close((day + 1) * DAY_S, (day + 1) * DAY_S + 6 * 3600)
        self._until = until
        return self.alerts


@pytest.mark.parametrize(
    ("waste", "usd_per_month", "day"),
    [
        ("storage", 30.4 * 10, lambda day: {"storage": 30 if day >= LAST else 20, "reads": 0.05}),
        ("volumes", 30.4 * 15, lambda day: {"volumes": 15, "machines": 0 if day >= LAST else 40}),
        ("snapshots", 30.4 * 8, lambda day: {"snapshots": 16 if day >= LAST else 8, "volumes": 1, "machines": 9}),
        ("snapshots", 30.4 * 16, lambda day: {"snapshots": 16, "machines": 0 if day >= LAST else 9}),
        ("spot", 30.4 * 50, lambda day: {"spot": 150 if day >= LAST else 100, "spot_starts": 60 if day >= LAST else 5}),
    ],
)
def test_each_kind_is_one_line_with_dollars_a_month(waste: str, usd_per_month: float, day: Day) -> None:
    (line,) = Billed(day).read()
    assert (line.kind, line.tier, line.channel) == ("waste", "digest", f"waste/{waste}")
    assert line.excess_usd == pytest.approx(usd_per_month, rel=1e-9)
    assert line.tags == {"provider": "AWS", "account": "1", "region": "eu-west-1"}
    assert "a month" in line.explanation


@pytest.mark.parametrize(
    "day",
    [
        lambda day: {"storage": 30 if day >= LAST else 20, "reads": 5},  # grows and is read
        lambda day: {"storage": 22 if day >= LAST else 20},  # grows as businesses do
        lambda day: {"volumes": 15, "machines": 0.5},
        lambda day: {"volumes": 1, "machines": 0},  # $30 a month
        lambda day: {"snapshots": 16, "volumes": 1, "machines": 9},
        lambda day: {"spot": 150 if day >= LAST else 100, "spot_starts": 8 if day >= LAST else 5},  # more work
        lambda day: {"spot": 100, "spot_starts": 60 if day >= LAST else 5},  # shorter, for no more dollars
    ],
)
def test_what_is_used_is_no_waste(day: Day) -> None:
    assert not Billed(day).read()


def test_a_line_is_said_once_and_ends_when_it_is_over() -> None:
    bill = Billed(lambda day: {"volumes": 15, "machines": 40 if day < LAST or day > 50 else 0})
    bill.read(50)
    restored = BillWaste(Config())
    restored.load(bill.waste.dump())
    bill.waste = restored
    bill.read(60)
    assert len({alert.alert_id for alert in bill.alerts}) == 1
    assert [alert.status for alert in bill.alerts] == [*["firing"] * (len(bill.alerts) - 1), "resolved"]
    assert len(bill.alerts) <= 4


def test_what_a_person_accepts_is_not_said_again() -> None:
    bill = Billed(lambda day: {"volumes": 15, "machines": 40 if day < LAST else 0})
    (line,) = bill.read()
    bill.waste.accept(line.alert_id)
    bill.read(80)
    assert [alert.status for alert in bill.alerts] == ["firing", "resolved"]
