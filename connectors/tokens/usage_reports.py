"""Reads the bucketed usage and cost reports of model providers, whatever their names: windows, pages, turns, growth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec

from curb.connectors.connector import Batch, Check, Context
from curb.connectors.decode import Letters, Rejected
from curb.connectors.http import JsonClient, Params, tried
from curb.connectors.tokens.grown import Feed, Grown, Row, dump, load
from curb.connectors.tokens.late_usage import counts_at, is_pause
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import CostRecord, SpendRecord
from curb.stream.time import DAY_S

MAX_PAGES = 500
#: Digests of refused rows that are remembered, so that a bucket that is read again reports them once.
MAX_REFUSED = 10_000


class Labelled(NamedTuple):
    """One row of a bucket: its labels and its sums."""

    key: tuple[str, ...]
    numbers: tuple[float, ...]


class Report(NamedTuple):
    """One report of the upstream."""

    name: str
    url: str
    #: Seconds of one bucket.
    bucket_s: int
    #: How far back buckets are read again, and how far back the first reading goes, seconds.
    reread_s: float
    first_s: float
    #: The longest span that is asked for at once, seconds; longer than `reread_s`.
    span_s: float
    #: Query of a span (from, until), without the page.
    params: Callable[[float, float], Params]
    row: Callable[[bytes], Labelled | Rejected]
    #: (growth, id, received at) → record.
    record: Callable[[Grown, str, float], SpendRecord]
    #: Amounts that may shrink.
    signed: bool = False


def daily_costs(
    *,
    source: str,
    url: str,
    days: int,
    tags: dict[str, str],
    service_name: str,
    params: Callable[[float, float], Params],
    row: Callable[[bytes], Labelled | Rejected],
) -> Report:
    """The report of the last days' costs, by project and line item; amounts may shrink."""

    def record(grown: Grown, record_id: str, at: float) -> CostRecord:
        project, item = grown.key
        labels = {"project": project, "line_item": item}
        return CostRecord(
            id=record_id,
            charge_period_start=grown.start,
            charge_period_end=grown.start + DAY_S,
            received_at=at,
            effective_cost=grown.numbers[0],
            billed_cost=grown.numbers[0],
            delta="restatement" if grown.numbers[0] < 0 else "new_usage",
            tags={**tags, **{name: label for name, label in labels.items() if label}},
            source=source,
            service_name=service_name,
            sub_account_id=project,
        )

    again_s = days * float(DAY_S)
    return Report(
        name="costs",
        url=url,
        bucket_s=DAY_S,
        reread_s=again_s,
        first_s=again_s,
        span_s=again_s + 7 * DAY_S,
        params=params,
        row=row,
        record=record,
        signed=True,
    )


class _Bucket(msgspec.Struct):
    results: list[msgspec.Raw]
    start_time: float | None = None
    starting_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class _Page(msgspec.Struct):
    data: list[_Bucket]
    has_more: bool = False
    next_page: str | None = None


_PAGE = msgspec.json.Decoder(_Page)


class Reports:
    """Connector over reports: one span of one report a read, turn by turn.

    The same cursor gives the same ids and amounts. Usage that is still recent is dated by the reading that gives it; so
    when it is given again, its time may differ, and the detector, which knows the id, drops the second.
    """

    def __init__(
        self,
        name: str,
        reports: Sequence[Report],
        client: JsonClient,
        context: Context,
        permission: str,
        poll_interval_s: float,
    ) -> None:
        self._name, self._reports, self._client, self._clock = name, reports, client, context.clock
        self._permission, self._poll_interval_s = permission, poll_interval_s
        self._refused: set[bytes] = set()

    async def read(self, cursor: str | None) -> Batch:
        """What the cursor promises; else what a report has new, which the cursor given back promises."""
        progress, now = load(cursor), self._clock.now()
        for report in self._reports:
            feed = progress.feeds.get(report.name)
            if feed is not None and feed.grown:
                records, locations = self._given(report, feed, now), _locations(report, feed)
                feed.grown = []
                return Batch(records, dump(progress), more=progress.more, locations=locations)
        turn = progress.turn % len(self._reports)
        report = self._reports[turn]
        feed = progress.feeds.setdefault(report.name, Feed(_floor(now - report.first_s, report.bucket_s)))
        end = min(feed.settled + report.span_s, _floor(now, report.bucket_s) + report.bucket_s)
        letters = Letters(self._name, now)
        # A row outside the span would be forgotten at once, and given again with every reading.
        rows = [row for row in await self._rows(report, feed.settled, end, letters) if feed.settled <= row.start < end]
        feed.recent = self._is_recent(feed, rows, now)
        fitted = feed.take(rows, signed=report.signed)
        if fitted:
            feed.settle(min(end, _floor(now - report.reread_s, report.bucket_s)))
        if fitted and end > now:
            feed.current_at = _floor(now, 60)
            turn = (turn + 1) % len(self._reports)
        elif not feed.recent:
            feed.current_at = 0.0  # nor is the rest of it
        progress.more = not fitted or end <= now or turn > 0
        progress.turn = turn
        return Batch((), dump(progress), more=progress.more or bool(feed.grown), dead=letters.messages())

    async def check(self) -> list[Check]:
        """The newest bucket of each report."""
        checks = []
        for report in self._reports:
            start = _floor(self._clock.now(), report.bucket_s)
            call = self._rows(report, start, start + report.bucket_s, Letters(self._name, self._clock.now()))
            checks.append(await tried(f"read {report.name}", call, self._permission))
        return checks

    async def close(self) -> None:
        self._refused.clear()

    def _is_recent(self, feed: Feed, rows: Sequence[Row], now: float) -> bool:
        """Whether what grew did so since just now: neither Curb nor the upstream stood still before."""
        newest = max((row.start for row in feed.seen), default=0.0)
        minutes = len({row.start for row in rows if row.start > newest})
        return not is_pause(max(now - feed.current_at, minutes * 60.0), self._poll_interval_s)

    def _given(self, report: Report, feed: Feed, now: float) -> list[SpendRecord]:
        records = [report.record(grown, grown.id(self._name, report.name), now) for grown in feed.grown]
        for record in records if feed.recent else ():
            if not isinstance(record, CostRecord):  # bills keep their day
                start = record.charge_period_start
                record.charge_period_start = counts_at(start, start + report.bucket_s, now)
        return records

    async def _rows(self, report: Report, start: float, end: float, letters: Letters) -> list[Row]:
        """Every row of a span. Nothing is used when one page fails: a key that expires in between loses nothing."""
        rows: list[Row] = []
        tokens: set[str] = set()
        page: list[tuple[str, str]] = []
        for _ in range(MAX_PAGES):
            answer = await self._client.get(report.url, [*report.params(start, end), *page], _PAGE)
            for bucket in answer.data:
                rows += self._bucket(report, bucket, letters)
            if not answer.has_more:
                return rows
            if not answer.next_page or answer.next_page in tokens:
                raise TransientError(f"{self._name}: {report.name} says there is more and names no new page")
            tokens.add(answer.next_page)
            page = [("page", answer.next_page)]
        raise TransientError(f"{self._name}: {report.name} has no end after {MAX_PAGES} pages")

    def _bucket(self, report: Report, bucket: _Bucket, letters: Letters) -> Iterator[Row]:
        start = bucket.starting_at.timestamp() if bucket.starting_at else bucket.start_time
        if start is None:
            raise PermanentError(f"{self._name}: {report.name}: a bucket without start_time or starting_at")
        sums: dict[tuple[str, ...], tuple[float, ...]] = {}
        for index, raw in enumerate(map(bytes, bucket.results)):
            row = report.row(raw)
            if isinstance(row, Rejected):
                self._refuse(row, f"{report.name} {int(start)} #{index}", raw, letters)
                continue
            known = sums.get(row.key)
            sums[row.key] = tuple(map(sum, zip(known, row.numbers, strict=True))) if known else row.numbers
        for key, numbers in sums.items():
            yield Row(start, key, numbers)

    def _refuse(self, rejected: Rejected, location: str, raw: bytes, letters: Letters) -> None:
        digest = hashlib.sha256(location.encode() + raw).digest()
        if digest in self._refused:
            return
        if len(self._refused) >= MAX_REFUSED:
            self._refused.clear()
        self._refused.add(digest)
        letters.add(rejected, location=location, content=raw)


def label_text(label: object) -> str:
    """A label that no dollars need, as text of any type, so that rows with an odd one are kept, and kept apart."""
    return label if isinstance(label, str) else "" if label is None else str(label)


def counted(numbers: Sequence[float]) -> Rejected | None:
    """Why these are no counts, or None."""
    if any(not 0 <= number <= 2**53 for number in numbers):
        return Rejected("invalid", "a count is not between 0 and 2^53")
    return None


def _locations(report: Report, feed: Feed) -> list[str]:
    return [f"{report.name} {int(grown.start)} #{index}" for index, grown in enumerate(feed.grown)]


def _floor(at: float, step_s: int) -> float:
    return float(at // step_s * step_s)
