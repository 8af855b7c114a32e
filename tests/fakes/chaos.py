"""A world in which anything goes wrong at any moment, from a seed: a log, a gateway, a channel, people, and kills."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec

from curb.actions.action import DriftError, Effect, GoneError, Outcome
from curb.actions.calls.compare_and_swap import another, is_another
from curb.actions.target import TargetRate, Verb
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Message, OnAssign, OnRevoke, Positions, Reader, TopicPartition
from curb.stream.log.topics import ACTIONS
from curb.stream.records.spend import Alert, LedgerEntry, NoticeEntry, Plan
from tests.fakes.memory_log import MemoryLog


class KilledError(BaseException):
    """The process is gone."""


#: What the other side, or something in between, may say instead of doing what it is asked. All of it may be said before
#: a change and after it: by a second call of several, or by a proxy.
REFUSALS: dict[str, Exception] = {
    "401": PermanentError("HTTP 401: the token has expired"),
    "403": PermanentError("HTTP 403: denied by a policy"),
    "404 of the route": PermanentError("HTTP 404: the API has no such version"),
    "409": TransientError("HTTP 409: somebody was faster"),
    "422": PermanentError("HTTP 422: not valid"),
    "429": TransientError("HTTP 429", retry_after=60.0),
    "429 in a while": TransientError("HTTP 429", retry_after=2.0),
    "500": TransientError("HTTP 500"),
    "time-out": TimeoutError("no answer"),
    "out of reach": TransientError("connection refused"),
    "no JSON": TransientError("the answer is not a JSON object"),
    "defect": RuntimeError("a defect"),
}
#: Seconds for which a gateway refuses everything: a token that is renewed late, a night in which nobody looks.
_LASTING = (57.0, 600.0, 3600.0, 4 * 3600.0)


class Trouble:
    """What goes wrong at each point. `kill_first_at` ends the process the first time it gets there.

    `refuse_first_at` is a point and one of REFUSALS, which is said the first time it gets there. From time to time a
    gateway refuses everything for a while.
    """

    def __init__(self, seed: int, kill_first_at: str = "", refuse_first_at: tuple[str, str] = ("", "")) -> None:
        self.rng = random.Random(seed)
        self.on = True
        self._refuse_first_at = refuse_first_at
        #: Gateway → what it says to everything, and until when on the steady clock.
        self._refusing: dict[str, tuple[str, float]] = {}
        self.steady: Callable[[], float] = lambda: 0.0
        self._kill_first_at = kill_first_at
        self._kills = self.rng.choice([0.0, 0.005, 0.02])
        self._errors = self.rng.choice([0.0, 0.03, 0.15])
        #: (point, what happened there) → how often.
        self.seen: Counter[tuple[str, str]] = Counter()

    async def at(self, point: str) -> None:
        if not self.on:
            return
        await asyncio.sleep(0)
        if point == self._kill_first_at or self.rng.random() < self._kills:
            self._kill_first_at = "" if point == self._kill_first_at else self._kill_first_at
            self.seen[point, "kill"] += 1
            raise KilledError
        if kind := self._refusal(point):
            self.seen[point, kind] += 1
            raise REFUSALS[kind]

    def refuse_for_a_while(self, gateway: str) -> None:
        until = self.steady() + self.rng.choice(_LASTING)
        self._refusing[gateway] = (self.rng.choice(list(REFUSALS)), until)

    def _refusal(self, point: str) -> str:
        if point == self._refuse_first_at[0]:
            kind, self._refuse_first_at = self._refuse_first_at[1], ("", "")
            return kind
        kind, until = self._refusing.get(point.rpartition(" ")[2], ("", 0.0))
        if self.steady() < until and not point.startswith("after"):
            return kind
        if self.rng.random() >= self._errors:
            return ""
        if "append" in point or "commit" in point or "fetch" in point:
            return "500"
        if "gate" in point or "jobs" in point:
            return self.rng.choice(list(REFUSALS))
        kinds = ["429", "429 in a while", "500", "time-out"]
        return self.rng.choice(kinds if point.startswith("after") else [*kinds, *kinds, "403", "defect"])


class ChaoticLog(MemoryLog):
    """Fails before and after what it writes. Commits are atomic, as every log promises."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self.trouble = trouble

    async def append(self, messages: Sequence[Message]) -> None:
        what = _what(messages)
        await self.trouble.at(f"before append {what}")
        await super().append(messages)
        await self.trouble.at(f"after append {what}")

    async def say(self, *messages: Message) -> None:
        """What others append."""
        await super().append(messages)

    async def reader(
        self,
        group: str,
        topics: Sequence[str],
        *,
        on_assign: OnAssign | None = None,
        on_revoke: OnRevoke | None = None,
    ) -> Reader:
        reader = await super().reader(group, topics, on_assign=on_assign, on_revoke=on_revoke)
        return _ChaoticReader(self, reader)


class _ChaoticReader:
    def __init__(self, log: ChaoticLog, reader: Reader) -> None:
        self._log, self._reader = log, reader

    async def fetch(self, max_messages: int = 500, timeout_s: float = 1.0) -> list[Message]:
        await self._log.trouble.at("fetch")
        return await self._reader.fetch(max_messages, timeout_s)

    def positions(self) -> Positions:
        return self._reader.positions()

    def seek(self, positions: Positions) -> None:
        self._reader.seek(positions)

    async def lag(self) -> dict[TopicPartition, int]:
        return await self._reader.lag()

    async def commit(self, appends: Sequence[Message] = ()) -> None:
        await self._log.trouble.at("before commit")
        was, self._log.trouble.on = self._log.trouble.on, False
        await self._reader.commit(appends)
        self._log.trouble.on = was
        await self._log.trouble.at("after commit")

    async def close(self) -> None:
        await self._reader.close()


def _what(messages: Sequence[Message]) -> str:
    """The state of the ledger entry or notice that is written, such as "planned" or "sent"."""
    for message in messages:
        if message.topic == ACTIONS:
            return str(msgspec.json.decode(message.value, type=LedgerEntry | NoticeEntry).state)
    return "other"


class Change(NamedTuple):
    """One time that a subject's value became another by Curb's hand."""

    verb: str
    plan: Plan
    found: int | None


class Gate:
    """Subjects with one number each, such as a key's requests per minute or a job's replicas. None is no limit.

    `of` says which subjects an alert means. `people` holds what people set last, which is what must be there in the
    end. Subjects in `deaf` answer 200 and change nothing.
    """

    permissions: ClassVar[tuple[str, ...]] = ()
    verbs: ClassVar[frozenset[Verb]] = frozenset()

    def __init__(
        self, name: str, verb: Verb, subjects: dict[str, int | None], to: int, of: Callable[[Alert], list[str]]
    ) -> None:
        self.name, self.to, self._of = name, to, of
        self.verbs = frozenset({verb})  # type: ignore[misc]
        self.values, self.people = dict(subjects), dict(subjects)
        #: How often each was made again under its name.
        self.made = dict.fromkeys(subjects, 1)
        self.deaf: set[str] = set()
        self.trouble = Trouble(0)
        self.changes: list[Change] = []
        #: Called when Curb begins to apply a plan, with what is there.
        self.watch: Callable[[Plan, int | None], None] = lambda plan, found: None

    def set_by_a_person(self, subject: str, value: int | None) -> None:
        self.values[subject] = self.people[subject] = value

    def make_again(self, subject: str) -> None:
        """Somebody deletes it and makes another one, with the very values that are there now."""
        self.made[subject] += 1
        self.people[subject] = self.values[subject]

    def delete(self, subject: str) -> None:
        self.values.pop(subject, None)
        self.people.pop(subject, None)

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        await self.trouble.at(f"before plan {self.name}")
        subjects = [subject for subject in self._of(alert) if subject in self.values]
        to = int(rate.requests_per_minute or 0) if rate.standing else self.to
        plans = tuple(self._plan(subject, len(subjects), to) for subject in subjects if self._is_above(subject, to))
        await self.trouble.at(f"after plan {self.name}")
        return plans

    def _is_above(self, subject: str, to: int) -> bool:
        found = self.values[subject]
        return found is None or found > to

    def _plan(self, subject: str, population: int, to: int) -> Plan:
        before, after = {"n": self.values[subject]}, {"n": to}
        target = f"{self.name}/{subject}"
        return Plan(
            action=self.name,
            target=target,
            summary=f"limit {subject}",
            before=before,
            after=after,
            population=population,
            identity=self._identity(subject),
        )

    def _identity(self, subject: str) -> str:
        return f"{self.name}-{subject}-{self.made[subject]}"

    async def apply(self, plan: Plan) -> Outcome:
        if subject_of(plan) not in self.values:
            raise PermanentError("404")
        if is_another(plan, self._identity(subject_of(plan))):
            raise PermanentError("another one")
        self.watch(plan, self.values[subject_of(plan)])
        await self._set("apply", plan, plan.after["n"])
        return Outcome(dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        await self.trouble.at(f"verify {self.name}")
        if subject_of(plan) not in self.values:
            raise GoneError("404")
        if is_another(plan, self._identity(subject_of(plan))):
            return Effect(False, {})
        values = {"n": self.values[subject_of(plan)]}
        return Effect(values == plan.after, values)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        if subject_of(plan) not in self.values:
            raise DriftError("gone", {})
        if is_another(plan, self._identity(subject_of(plan))):
            raise another(plan)
        found = self.values[subject_of(plan)]
        if found == plan.after["n"]:
            await self._set("undo", plan, plan.before["n"])
        elif found != plan.before["n"]:
            raise DriftError("changed by hand", {"n": found})

    async def close(self) -> None: ...

    async def _set(self, verb: str, plan: Plan, value: int | None) -> None:
        await self.trouble.at(f"before {verb} {self.name}")
        subject = subject_of(plan)
        found = self.values[subject]
        if found != value and subject not in self.deaf:
            self.values[subject] = value
            self.changes.append(Change(verb, plan, found))
        await self.trouble.at(f"after {verb} {self.name}")


def subject_of(plan: Plan) -> str:
    return plan.target.partition("/")[2]


def decoded(log: MemoryLog) -> list[Any]:
    """The ledger as it is on the log."""
    return [msgspec.json.decode(message.value, type=LedgerEntry | NoticeEntry) for message in log.of(ACTIONS)]
