"""What the gateway's spend logs say of the last days: dollars by team, and the largest hours and days of a key."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

from curb.connectors.connector import Connector
from curb.stream.records.spend import UNTAGGED, SpendRecord
from curb.stream.time import DAY_S, HOUR_S

#: Pages of 1,000 rows that are read. By hand: 50,000 calls show who spends what, in under a minute.
MAX_PAGES = 50


class PastSpend:
    """Sums of records of the past; UTC days and hours. Dollars."""

    def __init__(self) -> None:
        self.records, self.usd = 0, 0.0
        self.first, self.last = math.inf, -math.inf
        self.by_team: dict[str, float] = defaultdict(float)
        self._by_key_hour: dict[tuple[str, int], float] = defaultdict(float)
        self._by_key_day: dict[tuple[str, int], float] = defaultdict(float)
        self._by_day: dict[int, float] = defaultdict(float)
        #: False when there was more than was read.
        self.complete = True

    def add(self, records: Iterable[SpendRecord]) -> None:
        """Count records; a cost that is no number counts as nothing."""
        for record in records:
            at, usd = record.charge_period_start, record.effective_cost
            usd = usd if math.isfinite(usd) else 0.0
            key = record.tags.get("api_key", UNTAGGED)
            self.records += 1
            self.usd += usd
            self.first, self.last = min(self.first, at), max(self.last, at)
            self._by_key_hour[key, int(at // HOUR_S)] += usd
            self._by_key_day[key, int(at // DAY_S)] += usd
            self._by_day[int(at // DAY_S)] += usd
            if team := record.tags.get("team"):
                self.by_team[team] += usd

    @property
    def days(self) -> float:
        """Days from the first record to the last; at least one, so that one busy hour is no month."""
        return max(1.0, (self.last - self.first) / DAY_S) if self.records else 0.0

    @property
    def usd_per_day(self) -> float:
        """Mean dollars of a day."""
        return self.usd / self.days if self.records else 0.0

    @property
    def top_key_hour_usd(self) -> float:
        """Dollars of the most expensive hour of any key."""
        return max(self._by_key_hour.values(), default=0.0)

    @property
    def top_key_day_usd(self) -> float:
        """Dollars of the most expensive day of any key."""
        return max(self._by_key_day.values(), default=0.0)

    @property
    def top_day_usd(self) -> float:
        """Dollars of the most expensive day of all keys."""
        return max(self._by_day.values(), default=0.0)

    @property
    def keys(self) -> int:
        """How many keys spent something or called."""
        return len({key for key, _ in self._by_key_day})


async def read_past(
    connector: Connector, spend: PastSpend, report: Callable[[int], None], max_pages: int = MAX_PAGES
) -> None:
    """Count at most `max_pages` pages of a backfill, oldest first, into `spend`; `report` gets the records so far.

    Raises TransientError or PermanentError; what was counted before stays.
    """
    cursor, more = None, True
    for _ in range(max_pages):
        batch = await connector.read(cursor)
        spend.add(batch.records)
        report(spend.records)
        cursor, more = batch.cursor, batch.more
        if not more:
            break
    spend.complete = not more
