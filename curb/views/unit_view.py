"""Follows the sums on the log and keeps unit costs of the last day as metrics and for the API."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from curb.stream import metrics
from curb.stream.errors import TransientError
from curb.stream.log.protocol import Log, Positions
from curb.stream.log.topics import SPEND
from curb.stream.records.spend import SpendPartial
from curb.views.unit_costs import RecentUnits

logger = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(SpendPartial)
_PUBLISH_EVERY_S = 15.0
#: Values of tags that get a metric, by dollars; all are in /v1/unit-costs.
_MAX_VALUES = 100


class UnitView:
    """Sums since the start of the process, at most one day: nothing is read again and nothing is saved."""

    def __init__(self, recent: RecentUnits) -> None:
        self.recent = recent
        self._needles = tuple(f'"scope":{msgspec.json.encode(name).decode()}'.encode() for name in recent.scopes)

    async def follow(self, log: Log, group: str, stop: asyncio.Event) -> None:
        """Take in what is appended from now on, until `stop`. `group` must be this process's own."""
        positions: Positions | None = None
        while not stop.is_set():
            try:
                positions = await self._follow(log, group, stop, positions)
            except TransientError as error:
                logger.warning("unit costs reconnect", extra={"error": str(error)})
                await asyncio.sleep(1.0)

    async def _follow(self, log: Log, group: str, stop: asyncio.Event, positions: Positions | None) -> Positions:
        reader = await log.reader(group, [SPEND])
        try:
            if positions is None:
                behind = await reader.lag()
                positions = {at: offset + behind.get(at, 0) for at, offset in reader.positions().items()}
            reader.seek(positions)
            loop = asyncio.get_running_loop()
            due = loop.time()
            while not stop.is_set():
                for message in await reader.fetch(500, 0.5):
                    self.take(message.value)
                if loop.time() >= due:
                    self.publish()
                    due = loop.time() + _PUBLISH_EVERY_S
            return reader.positions()
        finally:
            await reader.close()

    def take(self, value: bytes) -> None:
        """Count the sums in one message."""
        for line in value.split(b"\n"):
            if not any(needle in line for needle in self._needles):
                continue
            try:
                self.recent.add(_decoder.decode(line))
            except msgspec.DecodeError:
                continue  # a record of another kind

    def publish(self) -> None:
        """Set the metrics."""
        metrics.UNIT_COST.clear()
        for wanted, rows in self.recent.rows():
            for row in rows[:_MAX_VALUES]:
                if row["usd_per_unit"] is not None:
                    value = "/".join(row["tags"].values())
                    by = "/".join(wanted.by)
                    metrics.UNIT_COST.labels(by=by, value=value, unit=wanted.unit).set(row["usd_per_unit"])
