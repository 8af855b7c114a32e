"""What tests of bills in files have in common: a bill that is read to its end, and the real extracts."""

from __future__ import annotations

import csv
import functools
import gzip
import os
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec

from curb.connectors.bills.bill import Bill
from curb.connectors.connector import Context
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import ManualClock
from curb.stream.records.spend import Alert, CostRecord, DeadLetter

DATA = Path(__file__).parents[1] / "data"
JUNE = 1_748_736_000.0  # 2025-06-01
NOW = JUNE + 20 * 86_400
HOUR = 3600.0


@functools.cache
def prices() -> PriceBook:
    """The shipped book, read once."""
    return PriceBook.load()


class Told:
    """A bill that is read, with all it told."""

    def __init__(self, state: Path, config: Any, now: float = NOW) -> None:
        self.clock = ManualClock(now)
        context = Context(self.clock, cast(aiohttp.ClientSession, None), prices(), state)
        self.bill: Bill = config.build(context).connector
        self.cursor: str | None = None
        self.letters: list[DeadLetter] = []
        self.alerts: list[Alert] = []

    async def read(self) -> list[CostRecord]:
        """Everything new; the bill is closed then, and its file opened again by the next read."""
        records: list[CostRecord] = []
        more = True
        try:
            while more:
                batch = await self.bill.read(self.cursor)
                records += cast("list[CostRecord]", batch.records)
                self.letters += [msgspec.json.decode(letter.value, type=DeadLetter) for letter in batch.dead]
                self.alerts += batch.alerts
                self.cursor, more = batch.cursor, batch.more
        finally:
            await self.bill.close()
        return records


def write(path: Path, content: bytes, at: float = NOW - 3600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (at, at))
    return path


def sample(name: str) -> bytes:
    """One of the real extracts."""
    return (DATA / name).read_bytes()


def rows_of(name: str) -> list[dict[str, str]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cents(usd: Decimal | float) -> int:
    return round(Decimal(usd) * 100)
