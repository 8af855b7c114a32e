"""What LiteLLM's push lost, pulled from its own spend logs: pages of a window that overlaps the one before it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
from pydantic import Field, HttpUrl, SecretStr

from curb.connectors.connector import Batch, Check, Context
from curb.connectors.decode import Letters, Rejected
from curb.connectors.http import JsonClient, tried
from curb.connectors.tokens.late_usage import counts_at, is_pause
from curb.stream.errors import TransientError
from curb.stream.records.spend import UsageRecord
from curb.stream.settings import Settings
from curb.stream.time import HOUR_S

#: Ids that were given before are not given again; forgetting one costs a duplicate that the detector drops.
MAX_REMEMBERED = 500_000


class BackfillSettings(Settings):
    """Reading LiteLLM's spend logs, so that a post Curb never got is not lost. Needs a database behind the proxy."""

    url: HttpUrl = Field(description="Address of the proxy.")
    key: SecretStr = Field(description="A key that may read all spend logs: the master key or an admin's.")
    poll_interval_s: float = Field(60.0, gt=0, le=3600, description="How often the logs are read.")
    overlap_minutes: float = Field(
        15.0, ge=1, le=1440, description="How far each reading goes back behind the one before: longest call and flush."
    )
    first_hours: float = Field(
        6.0, gt=0, le=168, description="How far back the first reading goes; not beyond what detector.dedupe remembers."
    )
    max_hours: float = Field(168.0, gt=0, le=744, description="No reading goes back further, even after a long stop.")
    page_size: int = Field(500, ge=1, le=1000, description="Rows of one answer.")
    timeout_s: float = Field(30.0, gt=0, le=100, description="Longest wait for one answer.")


class _Cursor(msgspec.Struct, omit_defaults=True):
    """Rows that began before `since` are done with; `page` of the window up to `until` is next, 0 for a new window."""

    since: float
    until: float = 0.0
    page: int = 0


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]
    page: int
    total_pages: int


class _Offered(NamedTuple):
    """Ids of the last batch; asked to go on from its cursor, the runner has them on the log."""

    cursor: str
    ids: dict[str, float]


class Backfill:
    """Pull side of a LiteLLM source: one page of `/spend/logs/v2` a read, oldest first.

    Rows that are still recent are dated by the reading that gives them, under the id they would be pushed with. So a
    repeat may differ in its time, and from the push as well; the detector keeps whichever came first.
    """

    def __init__(
        self,
        settings: BackfillSettings,
        name: str,
        context: Context,
        records: Callable[[bytes, float], list[UsageRecord] | Rejected],
    ) -> None:
        self._settings, self._name, self._clock, self._records_of = settings, name, context.clock, records
        self._url = f"{str(settings.url).rstrip('/')}/spend/logs/v2"
        headers = {"Authorization": f"Bearer {settings.key.get_secret_value()}"}
        self._client = JsonClient(context.http, context.clock, headers, settings.timeout_s)
        self._decoder = msgspec.json.Decoder(_Page)
        self._given: dict[str, float] = {}
        self._offered: _Offered | None = None
        self._last_page: frozenset[str] = frozenset()

    async def read(self, cursor: str | None) -> Batch:
        """One page of rows. Raises TransientError also when the proxy answers another page than it was asked for."""
        now = self._clock.now()
        place = self._window(cursor, now)
        self._settle(cursor, place.since)
        page = await self._page(place)
        batch, ids = self._records(page, place, now)
        # A window holds what is new since the one before it, unless that is long ago or there was none.
        since_last_s = place.until - place.since - self._settings.overlap_minutes * 60
        for record in () if is_pause(since_last_s, self._settings.poll_interval_s) else batch.records:
            start = record.charge_period_start
            record.charge_period_start = counts_at(start, start, now)
        if place.page >= page.total_pages:
            next_place = _Cursor(max(place.since, place.until - self._settings.overlap_minutes * 60))
        else:
            next_place = _Cursor(place.since, place.until, place.page + 1)
        next_cursor = msgspec.json.encode(next_place).decode()
        self._offered = _Offered(next_cursor, ids)
        return batch._replace(cursor=next_cursor, more=next_place.page > 0)

    async def check(self) -> list[Check]:
        """One row of the last hour."""
        now = self._clock.now()
        params = [*_between(now - HOUR_S, now), ("page", "1"), ("page_size", "1")]
        call = self._client.get(self._url, params, self._decoder)
        return [await tried("read /spend/logs/v2", call, "an admin's key, and a database behind the proxy")]

    async def close(self) -> None:
        self._given.clear()

    def _window(self, cursor: str | None, now: float) -> _Cursor:
        if cursor is None:
            place = _Cursor(now - self._settings.first_hours * HOUR_S)
        else:
            place = msgspec.json.decode(cursor, type=_Cursor)
        if place.page:
            return place
        since = max(place.since, now - self._settings.max_hours * HOUR_S)
        # The API takes whole seconds and includes both ends.
        return _Cursor(float(int(since)), float(int(now)), 1)

    def _settle(self, cursor: str | None, since: float) -> None:
        """Remember what is on the log, forget what no window will show again."""
        if self._offered is not None and self._offered.cursor == cursor:
            self._given |= self._offered.ids
        self._offered = None
        if len(self._given) > MAX_REMEMBERED:
            self._given.clear()
        self._given = {each: start for each, start in self._given.items() if start >= since}

    async def _page(self, place: _Cursor) -> _Page:
        settings = self._settings
        params = [
            *_between(place.since, place.until),
            ("page", str(place.page)),
            ("page_size", str(settings.page_size)),
            ("sort_by", "startTime"),
            ("sort_order", "asc"),
        ]
        page = await self._client.get(self._url, params, self._decoder)
        if page.page != place.page:
            raise TransientError(f"{self._name}: asked for page {place.page} of the spend logs, got {page.page}")
        return page

    def _records(self, page: _Page, place: _Cursor, now: float) -> tuple[Batch, dict[str, float]]:
        records: list[UsageRecord] = []
        locations: list[str] = []
        letters = Letters(self._name, now)
        seen = set()
        for index, raw in enumerate(map(bytes, page.data)):
            location = f"/spend/logs/v2 {_text(place.since)} to {_text(place.until)} page {place.page}#{index}"
            found = self._records_of(raw, now)
            if isinstance(found, Rejected):
                letters.add(found, location=location, content=raw)
                continue
            for record in found:
                seen.add(record.id)
                if record.id not in self._given:
                    records.append(record)
                    locations.append(location)
        if place.page > 1 and seen and seen == self._last_page:
            self._last_page = frozenset()
            raise TransientError(f"{self._name}: page {place.page} of the spend logs repeats the page before it")
        self._last_page = frozenset(seen)
        ids = {record.id: record.charge_period_start for record in records}
        return Batch(records, "", dead=letters.messages(), locations=locations), ids


def _between(start: float, end: float) -> list[tuple[str, str]]:
    return [("start_date", _text(start)), ("end_date", _text(end))]


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
