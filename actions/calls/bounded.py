"""Calls to the outside: bounded in time, and when one failed, when it may be tried again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import TypeVar

from curb.actions.action import Action, Outcome
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Plan
from curb.stream.retry import RetryPolicy

T = TypeVar("T")

#: Things looked at until others have their turn. By hand: milliseconds; counted, so that seeded stories stay the same.
_TURN = 32


class Turns:
    """Lets the other tasks of the loop run in between, however much there is to look at."""

    def __init__(self) -> None:
        self._looked_at = 0

    async def give_way(self) -> None:
        """Call it before each thing that is looked at."""
        self._looked_at += 1
        if self._looked_at % _TURN == 0:
            await asyncio.sleep(0)


async def within(call: Awaitable[T], timeout_s: float, what: str) -> T:
    """The result of `call`; TransientError when it takes longer than `timeout_s` wall-clock seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            return await call
    except TimeoutError:
        raise TransientError(f"{what}: no answer within {timeout_s:g} s") from None


async def undo(action: Action, plan: Plan, outcome: Outcome | None) -> None:
    """Undo and look. TransientError when the target says yes and still holds what was planned, or does not show it.

    It is tried again then; the next undo says what the matter is.
    """
    await action.undo(plan, outcome)
    if not plan.reversible:
        return
    try:
        effect = await action.verify(plan)
    except PermanentError as error:
        raise TransientError(f"{plan.target} took the undo and cannot be read back: {error}") from error
    if effect.in_force:
        raise TransientError(f"{plan.target} took the undo and still reads {effect.values}")


def ended(plan: Plan, why: str) -> str:
    """What the ledger says of an undo that was carried out: why, and what it could not bring back."""
    return why if plan.reversible else f"{why}; not all of it can be brought back: {plan.warning}"


class Backoff:
    """When each thing may be tried again. Nobody waits in place, so one slow target never holds up another.

    It lives in memory only: after a restart everything is tried at once, which every call allows.
    """

    def __init__(
        self,
        clock: Clock,
        policy: RetryPolicy,
        rng: random.Random | None = None,
        *,
        refused: RetryPolicy | None = None,
    ) -> None:
        self._clock, self._policy, self._rng = clock, policy, rng or random.Random()
        #: What holds for a PermanentError: seconds do not help then.
        self._refused = refused or policy
        self._failures: dict[str, int] = {}
        #: On the steady clock: nothing waits longer because somebody set the time of day.
        self._not_before: dict[str, float] = {}

    def is_due(self, key: str) -> bool:
        return self.wait_s(key) <= 0

    def wait_s(self, key: str) -> float:
        """Seconds until it may be tried again; 0 when it may."""
        return max(0.0, self._not_before.get(key, float("-inf")) - self._clock.steady())

    def failed(self, key: str, error: Exception) -> float:
        """Note a failure; returns the seconds until the next try (jittered, at least what the other side asked)."""
        failures = self._failures.get(key, 0)
        asked = error.retry_after if isinstance(error, TransientError) else None
        policy = self._refused if isinstance(error, PermanentError) else self._policy
        wait_s = policy.wait(min(failures, 16), asked, self._rng)
        self._failures[key] = failures + 1
        self._not_before[key] = self._clock.steady() + wait_s
        return wait_s

    def postpone(self, key: str, seconds: float) -> None:
        """Nothing failed, but there is no use in looking again before `seconds` are over."""
        self._not_before[key] = self._clock.steady() + seconds

    def reset(self, key: str) -> None:
        """A person asks: it is due now."""
        self._failures.pop(key, None)
        self._not_before.pop(key, None)

    def succeeded(self, key: str) -> None:
        """Forget the failures; a `postpone` that is still ahead stays."""
        self._failures.pop(key, None)
        if self.is_due(key):
            self._not_before.pop(key, None)
