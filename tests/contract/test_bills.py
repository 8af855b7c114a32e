"""What connectors of bills promise: resumed after any failure, the log adds up to the last bill, nothing twice."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from curb.connectors.bills import aws_cur, azure_cost, focus_file
from curb.connectors.connector import Batch, Connector, Context
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.log.topics import COSTS, CURSORS
from tests.fakes import aws_cur as cur
from tests.fakes import azure_cost as azure
from tests.fakes import focus_file as focus
from tests.fakes.memory_log import MemoryLog

JUNE, NOW = 1_748_736_000.0, 1_750_000_000.0
#: Charges by key: (hour or, of Azure, day; team) → dollars.
Month = dict[tuple[int, str], float]


def deliver_cur(root: Path, month: Month, at: float) -> None:
    lines = [
        cur.line(JUNE + 3600 * hour, usd, resource_tags={"user_team": team}) for (hour, team), usd in month.items()
    ]
    export = cur.Export(root, "overwrite")
    export.deliver(lines, at=at)
    manifest = next(root.rglob("*Manifest.json"))
    manifest.write_text(manifest.read_text().replace("delivery-1", f"delivery-{at}"))
    os.utime(manifest, (at, at))


def deliver_focus(root: Path, month: Month, at: float) -> None:
    lines = [focus.line(JUNE + 3600 * hour, usd, Tags=f'{{"team": "{team}"}}') for (hour, team), usd in month.items()]
    root.mkdir(exist_ok=True)
    (root / "june.csv").write_bytes(focus.csv_text(lines))
    os.utime(root / "june.csv", (at, at))


def deliver_azure(root: Path, month: Month, at: float) -> None:
    lines = [
        azure.line(JUNE + 86_400 * day, usd, "customer", tags=f'{{"team": "{team}"}}')
        for (day, team), usd in month.items()
    ]
    export = azure.Export(root)
    export.runs = int(at)
    export.deliver(lines, at=at)


Case = tuple[Any, Callable[[Path, Month, float], None], int]
#: Kind → its configuration, how it delivers, and the seconds of a charge period.
CASES: dict[str, Case] = {
    "aws_cur": (aws_cur.Config, deliver_cur, 3600),
    "azure_cost": (azure_cost.Config, deliver_azure, 86_400),
    "focus_file": (focus_file.Config, deliver_focus, 3600),
}


class Faulty:
    """A connector whose reads fail half of the time, before or after their work."""

    def __init__(self, inner: Connector, rng: random.Random) -> None:
        self._inner, self._rng = inner, rng

    async def read(self, cursor: str | None) -> Batch:
        if self._rng.random() < 0.3:
            raise TransientError("HTTP 429", retry_after=7)
        batch = await self._inner.read(cursor)
        if self._rng.random() < 0.3:
            raise TransientError("HTTP 500, or a timeout")
        return batch

    async def close(self) -> None:
        await self._inner.close()


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("seed", range(3))
async def test_resume_after_any_failure_loses_and_doubles_nothing(tmp_path: Path, kind: str, seed: int) -> None:
    config, deliver, slot_s = CASES[kind]
    rng, log, clock = random.Random(seed), MemoryLog(), ManualClock(NOW)
    settings = config.model_validate({"kind": kind, "name": "bill", "url": str(tmp_path / "bill")})
    context = Context(clock, cast(aiohttp.ClientSession, None), PriceBook.load(), tmp_path / "state")
    month: Month = {}
    for delivery in range(4):
        month |= {
            (rng.randrange(300 * 3600 // slot_s), rng.choice("abc")): round(rng.uniform(-5, 50), 6) for _ in range(40)
        }
        for key in rng.sample(sorted(month), 3):
            del month[key]
        deliver(tmp_path / "bill", month, NOW - 4000 + 1000 * delivery)
        more = True
        while more:
            inner = settings.build(
                context
            ).connector  # a new process each time: all it knows is on the log and in its file
            runner = PullRunner(Faulty(inner, rng), "bill", log, clock)
            log.fail_next, log.fail_after = rng.choice([(0, 0), (0, 0), (1, 0), (0, 1)])
            try:
                for _ in range(rng.randint(1, 3)):
                    more = await runner.step()
            except TransientError:
                more = True
            await inner.close()
    told: dict[tuple[int, str], float] = {}
    for record in {record.id: record for record in log.records(COSTS)}.values():
        key = (int(record.charge_period_start - JUNE) // slot_s, record.tags["team"])
        told[key] = told.get(key, 0.0) + record.effective_cost
    for key in told.keys() | month.keys():
        assert told.get(key, 0.0) == pytest.approx(month.get(key, 0.0), abs=1e-9)
    assert log.dead_letters() == []
    assert {message.key for message in log.of(CURSORS)} == {b"bill"}
    assert all(len(message.value) < 300 for message in log.of(CURSORS))
