"""What thousands of alerts that fire at once cost the runner of actions: `python -m benchmarks.actions_pass`.

An embedded log, one action that answers at once and the default limits, so that nearly every alert is refused an action
and looked at again while it fires. It prints the CPU time until every alert was considered once, that of a second
afterwards, in which nothing is due, and for how long the loop stood still at most in each.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
from rich.console import Console

from curb.actions.action import Action, ActionConfig, ActionContext, Effect, Outcome
from curb.actions.lifecycle.runner import ActionsRunner
from curb.actions.settings import ActionsSettings
from curb.actions.target import TargetRate, Verb
from curb.stream.clock import WallClock
from curb.stream.log.codec import encode
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message, TopicPartition
from curb.stream.log.topics import ACTIONS, ALERTS
from curb.stream.records.spend import Alert, LedgerEntry, Plan
from curb.testing.alerts import an_alert

_SECONDS = 20.0


class BenchGate:
    """A gateway that has every key, with a limit of its own."""

    permissions: ClassVar[tuple[str, ...]] = ()
    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave"})

    def __init__(self) -> None:
        self._set: dict[str, int] = {}
        self.planned = 0

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        self.planned += 1
        key = alert.tags["api_key"]
        return [Plan(action="gate", target=key, summary="limit", before={"rpm": 500}, after={"rpm": 5})]

    async def apply(self, plan: Plan) -> Outcome:
        self._set[plan.target] = plan.after["rpm"]
        return Outcome(dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        values = {"rpm": self._set.get(plan.target, 500)}
        return Effect(values == plan.after, values)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        self._set.pop(plan.target, None)

    async def close(self) -> None: ...


class BenchGateConfig(ActionConfig):
    """Only its name counts."""

    def build(self, context: ActionContext) -> Action:
        raise AssertionError("it is built already")


class _Stalls:
    """The longest time for which other tasks of the loop had to wait."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            self.longest_s = max(self.longest_s, time.perf_counter() - began - 0.005)


async def measure(alerts: int, console: Console) -> None:
    """Run it on a log of its own, and print."""
    settings = ActionsSettings.model_validate(
        {
            "mode": "auto",
            "actions": [BenchGateConfig(kind="x", name="gate")],
            "routes": [{"act": ["gate"]}],
            "limits": {"criticality": [{"match": {}, "is": "non_critical"}]},
        }
    )
    with tempfile.TemporaryDirectory() as home:
        log, clock = EmbeddedLog(Path(home), WallClock()), WallClock()
        await log.open()
        for first in range(0, alerts, 500):
            await log.append([_message(number, clock.now()) for number in range(first, min(alerts, first + 500))])
        runner, stop, stalls = (
            ActionsRunner(log, clock, settings, {"gate": BenchGate()}, {}),
            asyncio.Event(),
            _Stalls(),
        )
        began, running = time.process_time(), asyncio.create_task(runner.run(stop))
        watching = asyncio.create_task(stalls.watch())
        known: set[str] = set()
        offset = 0
        while len(known) < alerts:
            await asyncio.sleep(0.2)
            async for message in log.scan(ACTIONS, {TopicPartition(ACTIONS, 0): offset}):
                known.add(msgspec.json.decode(message.value, type=LedgerEntry).alert_id)
                offset = message.offset + 1
        console.print(f"{alerts:,} alerts considered: {time.process_time() - began:.1f} s of CPU, ", end="")
        console.print(f"the loop stood still for {1000 * stalls.longest_s:.0f} ms at most")
        await asyncio.sleep(1.0)
        stalls.longest_s, began = 0.0, time.process_time()
        await asyncio.sleep(_SECONDS)
        console.print(f"afterwards: {(time.process_time() - began) / _SECONDS:.3f} s of CPU a second, ", end="")
        console.print(f"{1000 * stalls.longest_s:.0f} ms at most")
        watching.cancel()
        stop.set()
        await running
        await log.close()


def _message(number: int, now: float) -> Message:
    tags = {"team": "t", "api_key": f"k{number}"}
    alert = an_alert(
        alert_id=f"a{number}", fingerprint=f"f{number}", tags=tags, fired_at=now, updated_at=now, started_at=now - 300
    )
    return Message(ALERTS, encode(alert), key=alert.fingerprint.encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.actions_pass", description=__doc__)
    parser.add_argument("--alerts", type=int, default=5000)
    asyncio.run(measure(parser.parse_args(arguments).alerts, Console()))


if __name__ == "__main__":
    main()
