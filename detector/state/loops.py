"""Loops: what the newest calls of each principal repeat, by their keyed hashes, and what of it is a habit.

State. Per principal the newest 40 calls of the last quarter of an hour; per kind of loop the most of it on this day,
and on the days before.

Update. Calls wait for their bucket to close and are then taken in by their time, so that the order in which they came
changes nothing. A day counts once it is over, and not what was found while an alert fired.

Score. Of `same` the dollars per hour of the calls that repeat, of `grows` the input tokens of the newest call, of
`fails` the failures in a row. A loop is reported from twice the most of all days before.

Source. Our own, no paper; near duplicates by a simhash (Charikar, "Similarity estimation techniques", 2002).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.state.reader import PartialSum
from curb.stream.records.loops import LoopCall
from curb.stream.records.spend import OTHER
from curb.stream.time import DAY_S, HOUR_S

#: Calls of a principal that are kept, and seconds for which. By hand: "38 of its last 40 calls", and twenty calls of a
#: large context take a quarter of an hour.
CALLS, WINDOW_S = 40, 900.0
LoopKind = Literal["same", "grows", "fails"]
_KINDS: tuple[LoopKind, ...] = get_args(LoopKind)
#: How scope and tags of what stands for many principals show.
_MANY = f'"{OTHER}"'.encode()
#: Scope and raw tags of a principal.
Key = tuple[str, bytes]


class Params(NamedTuple):
    """Unit and meaning of each number."""

    #: Calls that repeat, and their share of those they are counted among. By hand: a menu of suggested questions, and
    #: retries of a few calls, stay below.
    same_least: int = 20
    same_share: float = 0.8
    #: Calls under way at one time, on average, from which equal first questions are a load test or a batch, and no
    #: loop, which waits for its answer; seconds of a call whose length is not known. By hand.
    at_once: float = 3.0
    call_s: float = 1.0
    #: Messages up to which a call is a question by itself. By definition: instructions and a question.
    single: int = 2
    #: Bits of 63 in which near duplicates differ at most. By hand: one word of thirty moves two or three.
    near_bits: int = 3
    #: Calls in a row that grow: from which they are learned, and reported; and times the first, and tokens, of the
    #: newest. By hand: a person's chat has neither.
    grows_learned: int = 5
    grows_least: int = 20
    grows_times: float = 3.0
    grows_tokens: int = 50_000
    #: Failures of a tool in a row: learned, and reported; and newest calls of the conversation that go on with it.
    #: By hand: a few retries are good practice.
    fails_learned: int = 2
    fails_least: int = 8
    fails_calls: int = 3
    #: Times the most of the days before. By hand: as dollars of a key vary from day to day.
    times: float = 2.0
    #: Days in which what is a habit fades to 1/e. By hand: as the highest minute of the fast lane.
    memory_days: float = 28.0
    #: Seconds over which dollars are a rate, at least. By definition of the lane: a minute.
    rate_s: float = 60.0


P = Params()


class Loop(NamedTuple):
    """Calls of one principal that go round."""

    kind: LoopKind
    #: Calls that repeat, calls in a row that grow, or failures in a row; and the calls they are counted among.
    repeats: int
    of: int
    #: Dollars of these calls, and their first and last start, epoch seconds.
    usd: float
    since: float
    until: float
    #: Input tokens of the first and the last.
    first_tokens: int
    last_tokens: int
    #: Whether it is counted within one conversation.
    in_talk: bool
    #: Long enough to be reported; shorter ones only teach what is usual.
    long: bool

    @property
    def usd_per_hour(self) -> float:
        """What it burns."""
        return self.usd * HOUR_S / max(P.rate_s, self.until - self.since)

    @property
    def measure(self) -> float:
        """What habits are made of."""
        return {"same": self.usd_per_hour, "grows": float(self.last_tokens), "fails": float(self.repeats)}[self.kind]

    @property
    def words(self) -> str:
        """What was seen, a clause."""
        if self.kind == "grows":
            grown = f"from {self.first_tokens:,} to {self.last_tokens:,} input tokens"
            return f"a conversation grew at each of its last {self.repeats} calls, {grown}"
        if self.kind == "fails":
            return f"a tool failed {self.repeats} times in a row and is called again"
        calls = "calls of a conversation" if self.in_talk else "calls"
        return f"{self.repeats} of the last {self.of} {calls} were the same as an earlier one"


class LoopHabit(msgspec.Struct, array_like=True):
    """The most of each kind of loop of one principal."""

    #: Days since the epoch: of the first call, and of `today`.
    first: int
    day: int
    before: list[float]
    today: list[float]


class LoopsDump(msgspec.Struct):
    """What `Loops.load` takes."""

    waiting: list[tuple[int, str, bytes, list[LoopCall]]] = []
    recent: list[tuple[str, bytes, list[LoopCall]]] = []
    habits: list[tuple[str, bytes, LoopHabit]] = []


def newest(calls: Iterable[LoopCall]) -> list[LoopCall]:
    """The newest that are kept, by time."""
    return sorted(calls)[-CALLS:]


class Loops:
    """The newest calls and the habits of the principals of a shard."""

    def __init__(self) -> None:
        #: By the start of the bucket with which they are taken in.
        self._waiting: dict[int, dict[Key, list[LoopCall]]] = {}
        self._recent: dict[Key, list[LoopCall]] = {}
        self._habits: dict[Key, LoopHabit] = {}

    def __bool__(self) -> bool:
        return bool(self._recent or self._waiting)

    def take(self, parts: Sequence[PartialSum], due: int) -> None:
        """Keep the calls of partial sums until the bucket at `due`, or their own, closes."""
        for part in parts:
            key = (part.scope, bytes(part.tags))
            if _MANY not in key[1]:
                waiting = self._waiting.setdefault(max(due, part.bucket_start), {})
                waiting[key] = newest([*waiting.get(key, ()), *part.calls])

    def close(
        self, start: int, find: Callable[[str, bytes], int | None], frozen: NDArray[np.bool_], step_s: int
    ) -> dict[int, list[Loop]]:
        """The unusual loops of each series when the bucket of `step_s` seconds from `start` closes; then learn.

        `find` gives the number of the series with a scope and tags; series in `frozen` teach nothing.
        """
        for due in sorted(due for due in self._waiting if due <= start):
            for key, calls in self._waiting.pop(due).items():
                self._recent[key] = newest([*self._recent.get(key, ()), *calls])
        found: dict[int, list[Loop]] = {}
        end, day = start + step_s, int(start // DAY_S)
        for key, kept in list(self._recent.items()):
            calls = self._recent[key] = [call for call in kept if call.at >= end - WINDOW_S]
            number = find(*key)
            if not calls or number is None:
                del self._recent[key]
                continue
            habit = self._habit(key, day)
            loops = loops_in(calls)
            unusual = [loop for loop in loops if _is_unusual(loop, habit)]
            if unusual:
                found[number] = unusual
            if frozen[number]:
                habit.today = [0.0] * len(_KINDS)
            else:
                _learn(habit, loops)
        if end // DAY_S > start // DAY_S:
            oldest = day - 2 * P.memory_days
            self._habits = {key: habit for key, habit in self._habits.items() if habit.day >= oldest}
        return found

    def now(self, key: Key) -> Loop | None:
        """The unusual loop of a principal that costs most, by all calls so far; None without one."""
        calls = [*self._recent.get(key, ()), *(call for of in self._waiting.values() for call in of.get(key, ()))]
        habit = self._habits.get(key)
        if len(calls) < P.same_least or habit is None:
            return None
        calls = newest(calls)
        calls = [call for call in calls if call.at >= calls[-1].at - WINDOW_S]
        unusual = [each for each in loops_in(calls) if each.kind != "grows" and _is_unusual(each, habit)]
        return max(unusual, key=lambda each: each.usd, default=None)

    def _habit(self, key: Key, day: int) -> LoopHabit:
        habit = self._habits.get(key)
        if habit is None:
            habit = self._habits[key] = LoopHabit(day, day, [0.0] * len(_KINDS), [0.0] * len(_KINDS))
        if day > habit.day:
            keep = math.exp(-(day - habit.day) / P.memory_days)
            habit.before = [max(keep * was, today) for was, today in zip(habit.before, habit.today, strict=True)]
            habit.day, habit.today = day, [0.0] * len(_KINDS)
        return habit

    def dump(self) -> LoopsDump:
        """The state, exactly."""
        waiting = [(due, *key, calls) for due, of in sorted(self._waiting.items()) for key, calls in sorted(of.items())]
        recent = [(*key, calls) for key, calls in sorted(self._recent.items())]
        return LoopsDump(waiting, recent, [(*key, self._habits[key]) for key in sorted(self._habits)])

    def load(self, dump: LoopsDump) -> None:
        """Go on where `dump` was made."""
        for due, scope, tags, calls in dump.waiting:
            self._waiting.setdefault(due, {})[scope, tags] = calls
        self._recent = {(scope, tags): calls for scope, tags, calls in dump.recent}
        self._habits = {(scope, tags): habit for scope, tags, habit in dump.habits}


def _is_unusual(loop: Loop, habit: LoopHabit) -> bool:
    known = loop.kind != "grows" or habit.first < habit.day
    return loop.long and known and loop.measure > P.times * habit.before[_KINDS.index(loop.kind)]


def _learn(habit: LoopHabit, loops: Sequence[Loop]) -> None:
    for loop in loops:
        at = _KINDS.index(loop.kind)
        habit.today[at] = max(habit.today[at], loop.measure)


def loops_in(calls: Sequence[LoopCall]) -> list[Loop]:
    """The longest loop of each kind among calls of one principal, which come by time."""
    talks: dict[int, list[LoopCall]] = {}
    singles = []
    for call in calls:
        if call.messages <= P.single:
            singles.append(call)
        else:
            talks.setdefault(call.talk, []).append(call)
    found: dict[LoopKind, Loop] = {}
    for talk in talks.values():
        for loop in (_same_in_talk(talk), _grows(talk), _fails(talk)):
            if loop is not None and (loop.kind not in found or loop.repeats > found[loop.kind].repeats):
                found[loop.kind] = loop
    single = _same_question(singles)
    if single is not None and ("same" not in found or single.repeats > found["same"].repeats):
        found["same"] = single
    return list(found.values())


def _loop(kind: LoopKind, calls: Sequence[LoopCall], count: int, of: int, *, in_talk: bool, long: bool) -> Loop:
    first, last = calls[0], calls[-1]
    usd = sum(call.usd for call in calls)
    return Loop(kind, count, of, usd, first.at, last.at, first.input_tokens, last.input_tokens, in_talk, long)


def _same_question(singles: Sequence[LoopCall]) -> Loop | None:
    """The same question again and again, each after the answer to the one before."""
    if len(singles) < P.same_least:
        return None
    last = Counter(call.last for call in singles).most_common(1)[0][0]
    same = [call for call in singles if call.last == last]
    repeated = same[1:]
    if len(repeated) < P.same_least or len(repeated) < P.same_share * (len(singles) - 1):
        return None
    busy_s = sum(call.seconds or P.call_s for call in same)
    if busy_s / max(1.0, same[-1].at - same[0].at) >= P.at_once:
        return None
    return _loop("same", repeated, len(repeated), len(singles), in_talk=False, long=True)


def _same_in_talk(talk: Sequence[LoopCall]) -> Loop | None:
    """Calls of one conversation that end as an earlier one did, or call the same tools with the same arguments."""
    if len(talk) < P.same_least:
        return None
    repeated = [call for at, call in enumerate(talk) if any(_alike(call, earlier) for earlier in talk[:at])]
    if len(repeated) < P.same_least or len(repeated) < P.same_share * (len(talk) - 1):
        return None
    return _loop("same", repeated, len(repeated), len(talk), in_talk=True, long=True)


def _alike(call: LoopCall, earlier: LoopCall) -> bool:
    if call.last == earlier.last or (call.tools and call.tools == earlier.tools):
        return True
    # A fixed number of messages is a template around many short questions.
    if not (call.sketch and earlier.sketch) or call.messages == earlier.messages:
        return False
    return (call.sketch ^ earlier.sketch).bit_count() <= P.near_bits


def _grows(talk: Sequence[LoopCall]) -> Loop | None:
    """The newest calls, each of which has more messages and tokens than the one before."""
    count = 1
    for earlier, call in zip(talk[-2::-1], talk[::-1], strict=False):
        if call.input_tokens <= earlier.input_tokens or call.messages <= earlier.messages:
            break
        count += 1
    if count < P.grows_learned:
        return None
    run = talk[-count:]
    large = run[-1].input_tokens >= max(P.grows_tokens, P.grows_times * run[0].input_tokens)
    return _loop("grows", run, count, len(talk), in_talk=True, long=count >= P.grows_least and large)


def _fails(talk: Sequence[LoopCall]) -> Loop | None:
    """The conversation goes on with a tool that fails."""
    last = talk[-P.fails_calls :]
    count = talk[-1].failed
    if count < P.fails_learned or len(last) < P.fails_calls or not all(call.failed for call in last):
        return None
    calls = [call for call in talk if call.failed]
    return _loop("fails", calls, count, len(talk), in_talk=True, long=count >= P.fails_least)
