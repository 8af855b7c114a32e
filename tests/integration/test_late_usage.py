"""A runaway that only OpenAI's usage API shows, minutes late: from its answers to the alert, as it comes configured."""

from __future__ import annotations

import random

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestServer

from curb.connectors.connector import Context
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.openai import Config
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.stream.clock import ManualClock
from curb.stream.log.topics import ALERTS, SPEND, USAGE
from curb.stream.records.spend import Alert
from tests.fakes.memory_log import MemoryLog
from tests.fakes.openai import KEY, Call, Organization

NOW = 1_750_000_030.0
LAG_S = 360.0
HOUR = 60
PRICES = PriceBook.load()


def calls_of(minutes: int, *, jump_at: int) -> list[Call]:
    """Two keys, a call a minute; from minute `jump_at` on the first uses ten times as much."""
    rng = random.Random(1)
    calls = []
    for minute in range(minutes):
        for key in ("k0", "k1"):
            tokens = rng.randrange(60_000, 140_000) * (10 if key == "k0" and minute >= jump_at else 1)
            calls.append(Call(NOW + minute * 60 + rng.random() * 60, "p1", key, "gpt-4o", tokens, tokens // 50))
    return calls


NEVER = range(0)


async def alerts_after(
    calls: list[Call], minutes: int, *, unread: range = NEVER, stalled: range = NEVER
) -> list[Alert]:
    """Every alert while calls show in the API `LAG_S` late, but none that is new in the minutes `stalled`.

    The API is asked each minute that is not in `unread`.
    """
    organization, clock, log = Organization(), ManualClock(NOW), MemoryLog(partitions=1)
    rollup, shard, alerts, done = Rollup(DetectorSettings(), USAGE, 1), Shard(DetectorSettings()), list[Alert](), 0
    async with TestServer(organization.app()) as server, aiohttp.ClientSession() as http:
        settings = {"usage": ["completions"], "reread_minutes": 15, "first_hours": 1}
        data = {"kind": "openai", "name": "api", "url": str(server.make_url("/")), "key": KEY, **settings}
        runner = PullRunner(
            Config.model_validate(data).build(Context(clock, http, PRICES)).connector, "api", log, clock
        )
        for minute in range(minutes):
            await clock.advance(60)
            now = clock.now()
            if minute not in stalled:
                organization.calls = [call for call in calls if now - 7200 <= call.at <= now - LAG_S]
            while minute not in unread and await runner.step():
                pass
            messages = log.of(USAGE)
            out = [sums for message in messages[done:] for sums in rollup.process(message)]
            done = len(messages)
            for message in [*out, *rollup.flush(now)]:
                found = shard.process(message) if message.topic == SPEND else ()
                alerts += [msgspec.json.decode(each.value, type=Alert) for each in found if each.topic == ALERTS]
    return alerts


async def test_a_tenfold_jump_is_found() -> None:
    alerts = await alerts_after(calls_of(9 * HOUR, jump_at=8 * HOUR), 9 * HOUR)
    keys = [alert for alert in alerts if alert.scope == "key"]
    assert {(alert.kind, alert.tags["api_key"]) for alert in keys} == {("runaway", "k0")}
    jumped = NOW + 8 * HOUR * 60 + LAG_S
    assert jumped <= keys[0].fired_at <= jumped + 30 * 60
    assert keys[0].expected_usd_per_hour == pytest.approx(18, rel=0.3)
    assert max(alert.usd_per_hour for alert in keys) == pytest.approx(180, rel=0.3)


@pytest.mark.parametrize("pause", ["unread", "stalled"])
@pytest.mark.parametrize("length", [8, 40])
async def test_what_a_pause_gathered_is_no_jump(pause: str, length: int) -> None:
    calls = calls_of(9 * HOUR, jump_at=10 * HOUR)
    window = {pause: range(8 * HOUR, 8 * HOUR + length)}
    assert await alerts_after(calls, 9 * HOUR, **window) == []
