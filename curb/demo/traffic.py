"""Sends the trace and the agent loop through a gateway in event time, and counts what came of it minute by minute."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from curb.demo.gateway import Limiter
from curb.demo.incident import AgentLoop, LoopRun
from curb.demo.trace import Request, Trace
from curb.stream.clock import Clock


class Admits(Protocol):
    """A gateway, as far as the driver needs it."""

    def admit(self, request: Request) -> bool: ...


@dataclass
class Minute:
    """The traffic of one key in one minute; dollars are those of admitted requests, `loop_*` the agent loop's part."""

    offered: int = 0
    admitted: int = 0
    rejected: int = 0
    usd: float = 0.0
    loop_offered: int = 0
    loop_admitted: int = 0
    loop_usd: float = 0.0


class LimitChange(NamedTuple):
    """Limits of a key that are set at a time, epoch seconds."""

    at: float
    api_key: str
    limits: Mapping[str, Any]


class Tally:
    """Counts per minute and key alias, from `start` (epoch seconds, on a minute)."""

    def __init__(self, start: float) -> None:
        self.start = start
        self._minutes: dict[tuple[int, str], Minute] = defaultdict(Minute)

    def add(self, request: Request, admitted: bool) -> None:
        minute = self._minutes[int((request.at - self.start) // 60), request.key.alias]
        minute.offered += 1
        minute.loop_offered += request.loop
        if not admitted:
            minute.rejected += 1
            return
        minute.admitted += 1
        minute.usd += request.cost_usd
        if request.loop:
            minute.loop_admitted += 1
            minute.loop_usd += request.cost_usd

    def minute(self, index: int, alias: str) -> Minute:
        """The minute with this number; all zero without traffic."""
        return self._minutes.get((index, alias), Minute())

    def usd_per_minute(self, minutes: int, alias: str | None = None) -> list[float]:
        """Dollars of each of the first `minutes` minutes, of one key or of all."""
        usd = [0.0] * minutes
        for (index, name), minute in self._minutes.items():
            if index < minutes and alias in (None, name):
                usd[index] += minute.usd
        return usd

    def total(self, alias: str | None = None) -> Minute:
        """The sum of everything, of one key or of all."""
        total = Minute()
        for (_, name), minute in self._minutes.items():
            if alias in (None, name):
                for field, value in vars(minute).items():
                    setattr(total, field, getattr(total, field) + value)
        return total


async def drive(
    trace: Trace,
    loop: AgentLoop | None,
    gateway: Admits,
    clock: Clock,
    *,
    start: float,
    end: float,
    stop: asyncio.Event | None = None,
    tally: Tally | None = None,
    tick_s: float = 5.0,
) -> Tally:
    """Send every request of [start, end) when its time has come; returns at `end` or when `stop` is set.

    Wakes every `tick_s` seconds of the clock and sends what is due, in order of time. Give a `tally` to watch it grow.
    """
    tally = tally or Tally(start)
    offers = _Offers(trace, loop, start, end)
    while True:
        now = min(clock.now(), end)
        for request in offers.due(now):
            admitted = gateway.admit(request)
            tally.add(request, admitted)
            offers.answer(request, admitted)
        if now >= end or (stop is not None and stop.is_set()):
            return tally
        await clock.sleep(min(tick_s, end - now))


def counterfactual(
    trace: Trace,
    loop: AgentLoop | None,
    start: float,
    end: float,
    limits: Mapping[str, Mapping[str, Any]] | None = None,
    changes: Sequence[LimitChange] = (),
) -> Tally:
    """The same traffic through a gateway with `limits` at the beginning, of which only `changes` are made."""
    tally, limiter, ahead = Tally(start), Limiter(trace.keys, limits), deque(changes)
    offers = _Offers(trace, loop, start, end)
    for request in offers.due(end):
        while ahead and ahead[0].at <= request.at:
            change = ahead.popleft()
            limiter.update(change.api_key, change.limits)
        admitted = limiter.judge(request).admitted
        tally.add(request, admitted)
        offers.answer(request, admitted)
    return tally


class _Offers:
    """The requests of the clients and of the loop in one order of time; the loop hears what became of its calls."""

    def __init__(self, trace: Trace, loop: AgentLoop | None, start: float, end: float) -> None:
        self._requests: Iterator[Request] = trace.requests_between(start, end)
        self._next = next(self._requests, None)
        self._run = LoopRun(trace, loop) if loop else None

    def due(self, until: float) -> Iterator[Request]:
        """Every request before `until`; each must be answered before the next one is taken."""
        while True:
            run_at = self._run.next_at if self._run else float("inf")
            client_at = self._next.at if self._next else float("inf")
            if min(run_at, client_at) >= until:
                return
            if self._run and run_at < client_at:
                yield self._run.call()
            elif self._next:
                request, self._next = self._next, next(self._requests, None)
                yield request

    def answer(self, request: Request, admitted: bool) -> None:
        if self._run and request.loop:
            self._run.answer(admitted)
