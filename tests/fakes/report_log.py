"""A log with awkward charges of October 2026: untagged, negative, late, doubled, refused, and hostile tags."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from curb.connectors.intake.shares import SharedCost
from curb.detector.settings import DetectorSettings
from curb.report.charges import Charges, Money
from curb.report.figures import SpendReport, assemble, read_recorded
from curb.report.kpi import Kpi
from curb.report.span import ReportSpan, span_of
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COSTS, GPU, USAGE
from curb.stream.records.spend import CostRecord, GpuRecord, SpendRecord, UsageRecord
from tests.fakes.memory_log import MemoryLog

#: Tags that would run in a spreadsheet, in a browser, in a terminal, or break a line.
HOSTILE = ('=HYPERLINK("http://x")', "+1", "@SUM(A1)", "<script>alert(1)</script>", 'a";b,c', "\x1b[31mred", "x\ny")
OCTOBER = (datetime(2026, 10, 1, tzinfo=UTC).timestamp(), datetime(2026, 11, 1, tzinfo=UTC).timestamp())
NOW = OCTOBER[1] + 5 * 86400
#: Of the estimated and of the billed charges in October; by hand from `charges`.
ESTIMATED_USD = 100.003 + 0.333 + 0.333 + 0.334 + 7 * 1.11 + 40.0 + 12.5
BILLED_USD = 500.0 - 33.334 - 20.0 + 19.0


def at(day: int, hour: float = 12.0, month: int = 10) -> float:
    """Epoch seconds of an hour of a day in 2026, UTC."""
    return datetime(2026, month, day, tzinfo=UTC).timestamp() + 3600 * hour


def usage(id: str, start: float, usd: float, *, tags: dict[str, str] | None = None, **more: Any) -> UsageRecord:
    """A call, received a minute after it was made."""
    more = {"received_at": start + 60, "requests": 1, "input_tokens": 900, "output_tokens": 100, **more}
    given = {"team": "search", "model": "m1"} if tags is None else tags
    return UsageRecord(id=id, charge_period_start=start, effective_cost=usd, tags=given, source="gateway", **more)


def bill(id: str, start: float, usd: float, **more: Any) -> CostRecord:
    """A line of a bill, read two days later; its own tags say the provider only."""
    more = {"received_at": start + 2 * 86400, "charge_period_end": start + 86400, "billed_cost": usd, **more}
    tags = {"team": "search", "provider": "AWS"}
    return CostRecord(
        id=id, charge_period_start=start, effective_cost=usd, tags=tags, source="cur", service_name="EC2", **more
    )


def charges() -> list[SpendRecord]:
    """Every charge on the log."""
    found: list[SpendRecord] = [
        usage("first", at(1, 0.0), 100.003),
        *(usage(f"third-{n}", at(2, n), usd, tags={}) for n, usd in enumerate((0.333, 0.333, 0.334))),
        *(usage(f"odd-{n}", at(3, n), 1.11, tags={"team": team, "model": team}) for n, team in enumerate(HOSTILE)),
        # Arrived in November, and still October's.
        usage("late", at(31, 23.99), 40.0, received_at=at(2, 1.0, 11)),
        GpuRecord(
            id="gpu", charge_period_start=at(4), received_at=at(4, 12.1), effective_cost=12.5, gpu_seconds=7200.0,
            tags={"team": "train", "node": "n1"},
        ),
        bill("ec2", at(5, 0.0), 500.0),
        bill("restated", at(5, 0.0), -33.334, delta="restatement"),
        bill("credit", at(6, 0.0), -20.0, charge_category="Credit", charge_kind="credit"),
        bill("tax", at(6, 0.0), 19.0, charge_category="Tax", charge_kind="tax"),
        # Of other months.
        usage("september", at(30, 23.9, 9), 1000.0),
        usage("september-1", at(1, 1.0, 9), 60.0, requests=4),
        usage("november", at(1, 0.0, 11), 3000.0),
    ]  # fmt: skip
    # What the rollup refuses, and what is on the log twice.
    refused = [usage("negative", at(7), -5.0), usage("ahead", at(20), 7.0, received_at=at(7))]
    return [*found, *refused, *(each for each in found if each.id in ("first", "ec2"))]


async def a_log(records: list[SpendRecord] | None = None) -> MemoryLog:
    """The charges on a log, each topic in messages of two, with a mark of the bill and a line that is none."""
    log = MemoryLog(partitions=1)
    found = charges() if records is None else records
    kinds = ((USAGE, UsageRecord), (COSTS, CostRecord), (GPU, GpuRecord))
    messages = []
    for topic, kind in kinds:
        own = [each for each in found if isinstance(each, kind)]
        messages += [Message(topic, encode_lines(own[n : n + 2]), key=b"") for n in range(0, len(own), 2)]
    mark = bill("mark", at(6, 0.0), 0.0, delta="mark", complete_until=at(7, 0.0))
    messages += [Message(COSTS, encode_lines([mark]), key=b""), Message(USAGE, b"{broken", key=b"")]
    await log.append(messages)
    return log


async def a_report(
    log: MemoryLog | None = None,
    *,
    by: tuple[str, ...] = ("team",),
    money: Money | None = None,
    kpis: tuple[Kpi, ...] = (),
    detector: DetectorSettings | None = None,
    span: ReportSpan | None = None,
    shared: tuple[SharedCost, ...] = (),
) -> tuple[SpendReport, Charges]:
    """The report of October."""
    log, detector = log or await a_log(), detector or DetectorSettings()
    span = span or span_of("month", None, None, NOW, ZoneInfo(detector.time_zone))
    read = await Charges(span, by, detector, shared, lines=True).read(log)
    return assemble(read, await read_recorded(log, detector), detector, kpis, money, NOW), read
