"""Reads a bill to its end with a connector of its kind, as a daemon does, onto a log in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import aiohttp

from curb.connectors.bills import aws_cur, azure_cost, focus_file
from curb.connectors.connector import Context
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import Clock, WallClock
from curb.stream.log.topics import COSTS
from tests.fakes.memory_log import MemoryLog

_KINDS: dict[str, Any] = {"aws_cur": aws_cur, "azure_cost": azure_cost, "focus_file": focus_file}


class BillReader:
    """Another one with the same `state` and `log` goes on where this one stopped, as a new process does."""

    def __init__(
        self,
        kind: str,
        url: str,
        storage: dict[str, Any],
        state: Path,
        *,
        log: MemoryLog | None = None,
        clock: Clock | None = None,
    ) -> None:
        clock, self.log = clock or WallClock(), log or MemoryLog()
        config = _KINDS[kind].Config.model_validate({"kind": kind, "name": "bill", "url": url, "storage": storage})
        context = Context(clock, cast(aiohttp.ClientSession, None), PriceBook.load(), state)
        self.connector = config.build(context).connector
        self._runner = PullRunner(self.connector, "bill", self.log, clock)

    async def all(self) -> list[float]:
        """Until nothing is new: the dollars of all records on the log, in order of size."""
        while await self._runner.step():
            pass
        return sorted(record.effective_cost for record in self.log.records(COSTS))

    async def close(self) -> None:
        await self.connector.close()
