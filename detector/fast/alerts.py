"""Soft alerts: opened by the test of the fast lane, ended by themselves, confirmed by what the heads find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.fast.lane import PARAMS, SLOT_S, FastTest, Trip
from curb.detector.state import wording as words
from curb.detector.state.columns import Floats, Ints
from curb.detector.state.loops import Loops, LoopsDump
from curb.detector.state.reader import PartialSum, ScoredSum
from curb.detector.state.registry import Shown
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import PEAKS
from curb.stream.money import usd
from curb.stream.records.peaks import PrincipalPeak
from curb.stream.records.revisions import alert_id_of, fingerprint_of, needs_revision, resolved, revised
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Baseline
from curb.stream.settings import Settings
from curb.stream.time import DAY_S

#: Seconds after a soft alert opened in which the heads may confirm it. By hand: they take 10 to 16 minutes.
_JUDGED_S = 1800.0
#: By definition.
_MINUTE_S = 60
#: Seconds within which the next soft alert of a key belongs to the same burn, and for which a row of them counts.
#: By hand: what was limited for an hour may return; after a quarter of an hour the burn itself shows.
_IN_A_ROW_S, _ROW_COUNTS_S = 5400.0, 900.0
#: Kinds of alerts that confirm a soft one. By definition: those about too much spend.
_CONFIRMS = frozenset({"runaway", "abusive", "unit_cost"})


class Config(Settings):
    """The fast lane: a runaway of a key within its first minute, as a soft alert that ends by itself."""

    enabled: bool = Field(
        default=True,
        description="Whether keys are also judged in slots of 5 seconds. Only sources count that report requests "
        "within a minute; `bucket_s` must be a multiple of 5.",
    )
    min_usd_per_hour: float = Field(
        default=20.0, ge=0, description="Fewer dollars an hour above the mean of the last day raise no soft alert."
    )
    soft_minutes: float = Field(
        default=10.0, gt=0, le=60, description="A soft alert ends after so many minutes, and with it its soft cap."
    )


class Firing(msgspec.Struct):
    """A soft alert that fires or waits to be judged, and the alert that confirmed it, if any."""

    alert: Alert
    confirmed_by: str = ""


class FastDump(msgspec.Struct):
    """State that is not an array: the principals in their order, what fires, and minutes that are not over."""

    keys: list[tuple[str, bytes]] = []
    firing: dict[str, Firing] = {}
    #: The day whose peaks were reported.
    reported: int = -1
    minutes: dict[str, dict[str, list[float]]] = {}
    rows: dict[str, tuple[int, float]] = {}
    loops: LoopsDump = msgspec.field(default_factory=LoopsDump)


class _Slots:
    """Sums of slots of one run of partial sums, before they are added up."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._starts: list[int] = []
        self._received: list[float] = []
        self._amounts: tuple[list[float], list[float], list[float]] = [], [], []

    def add(self, number: int, part: PartialSum) -> None:
        """The slots of a sum of a principal."""
        requests, usd_, users = self._amounts
        slots = part.slots
        if slots is None:
            self._numbers.append(number)
            self._starts.append(part.bucket_start + part.slot)
            self._received.append(part.received_at)
            requests.append(part.requests - part.refused)
            usd_.append(part.effective_cost)
            users.append(part.users)
        else:
            self._numbers += [number] * len(slots.starts)
            self._starts += [part.bucket_start + start for start in slots.starts]
            self._received += slots.received_at
            requests += slots.requests
            usd_ += slots.effective_cost
            users += slots.users

    def sums(self) -> Iterator[tuple[int, float, Ints, Floats]]:
        """By slot, in order: its number, the latest receipt, the principals and their sums; credits are no spend."""
        if not self._numbers:
            return
        slots, numbers = np.array(self._starts, np.int64) // SLOT_S, np.array(self._numbers, np.int64)
        order = np.lexsort((numbers, slots))
        slots, numbers = slots[order], numbers[order]
        amounts, received = np.array(self._amounts, np.float64)[:, order], np.array(self._received)[order]
        begins = np.flatnonzero(np.diff(slots, prepend=-1))
        for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(slots)], strict=True):
            firsts = begin + np.flatnonzero(np.diff(numbers[begin:end], prepend=-1))
            sums = np.add.reduceat(amounts[:, :end], firsts, axis=1)
            yield int(slots[begin]), float(received[begin:end].max()), numbers[firsts], np.maximum(sums, 0.0)


class FastLane:
    """Judges the slots in partial sums. Its principals are numbered as they come."""

    def __init__(self, settings: Config, scopes: Sequence[Scope], bucket_s: int, shown: Shown) -> None:
        """`shown` gives the tags of a series of a scope as people see them."""
        self._settings, self._scopes, self._shown = settings, {scope.name: scope for scope in scopes}, shown
        #: Scopes whose minutes teach where they do not come in slots: longer buckets hide how high a minute was.
        self._taught = {
            each.name for each in scopes if each.role == "principal" and each.detect and bucket_s == _MINUTE_S
        }
        self._test = FastTest(settings.min_usd_per_hour)
        #: What the newest calls of principals repeat.
        self.loops = Loops()
        self._keys: list[tuple[str, bytes]] = []
        #: The number of each principal; None for a principal that no limit can be put on.
        self._numbers: dict[tuple[str, bytes], int | None] = {}
        self._firing: dict[int, Firing] = {}
        #: The day whose peaks were reported.
        self._reported = -1
        #: The principal of each alert of the heads that fires; None where it is about no principal of the lane.
        self._spoils: dict[str, int | None] = {}
        #: Soft alerts of a principal in a row, and when the last of them opened.
        self._rows: dict[int, tuple[int, float]] = {}
        #: Sums of minutes that do not come in slots, by start and principal, until they are over.
        self._minutes: dict[int, dict[int, list[float]]] = {}

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of the soft alerts that fire."""
        return [each.alert for each in self._firing.values() if each.alert.status == "firing"]

    def take(self, parts: Sequence[PartialSum]) -> list[Alert]:
        """Count the slots of partial sums; returns soft alerts that open."""
        if not self._settings.enabled:
            return []
        found, numbers = _Slots(), self._numbers
        for part in parts:
            in_slots = part.slot >= 0 or part.slots is not None
            if not in_slots and not self._teaches(part):
                continue
            key = part.scope, bytes(part.tags)
            number = numbers[key] if key in numbers else self._number(key)
            if number is None:
                continue
            if in_slots:
                found.add(number, part)
            else:
                sums = self._minutes.setdefault(part.bucket_start, {}).setdefault(number, [0.0] * 3)
                sums[0] += part.requests - part.refused
                sums[1] += part.effective_cost
                sums[2] += part.users
        self._test.loop_of = self._loop_of if self.loops else None
        return [
            self._open(trip, max(received_at, trip.since))
            for slot, received_at, index, amounts in found.sums()
            for trip in self._test.step(slot, index, amounts)
        ]

    def _loop_of(self, number: int) -> str:
        loop = self.loops.now(self._keys[number])
        return "" if loop is None else loop.words

    def in_a_row(self, at: float, find: Callable[[str, bytes], int | None]) -> dict[int, int]:
        """How many soft alerts of a series opened in a row, the last within the quarter of an hour before `at`.

        `find` gives the number of the series with a scope and tags.
        """
        self._rows = {number: row for number, row in self._rows.items() if at - row[1] <= _IN_A_ROW_S}
        recent = {number: count for number, (count, last) in self._rows.items() if at - last <= _ROW_COUNTS_S}
        found = {find(*self._keys[number]): count for number, count in recent.items()}
        return {series: count for series, count in found.items() if series is not None}

    def close(self, at: float, incidents: Sequence[Alert]) -> list[Alert]:
        """A bucket has closed at `at` (epoch seconds), with these alerts of the heads firing."""
        for start in sorted(start for start in self._minutes if start < at):
            self._test.learn(start // SLOT_S, *_columns(self._minutes.pop(start)))
        revisions = []
        self._spoil([each for each in incidents if _is_loud(each)])
        for number, firing in list(self._firing.items()):
            by = firing.confirmed_by or next((each.alert_id for each in incidents if _confirms(each, firing.alert)), "")
            was_known, firing.confirmed_by = firing.confirmed_by == by, by
            if firing.alert.status == "firing" and (
                revision := self._revision(number, firing, at, confirmed_now=not was_known)
            ):
                firing.alert = revision
                revisions.append(revision)
            if firing.alert.status == "resolved" and (by or at >= firing.alert.fired_at + _JUDGED_S):
                self._test.judge(number, confirmed=bool(by))
                del self._firing[number]
        return revisions

    def _spoil(self, incidents: Sequence[Alert]) -> None:
        """What these alerts are about is no honest spend: it raises no ceiling."""
        self._spoils = {each.alert_id: self._spoils.get(each.alert_id, -1) for each in incidents}
        for alert in incidents:
            if self._spoils[alert.alert_id] == -1:
                self._spoils[alert.alert_id] = self._number_of(alert)
            if (number := self._spoils[alert.alert_id]) is not None:
                self._test.spoil([number], int(alert.started_at // DAY_S))

    def _number_of(self, alert: Alert) -> int | None:
        known = self._numbers.get((alert.scope, msgspec.json.encode(alert.tags)))
        if known is not None:
            return known
        shown = (
            number
            for number, (scope, raw) in enumerate(self._keys)
            if scope == alert.scope
            and self._shown(scope, msgspec.json.decode(raw, type=dict[str, str])).items() <= alert.tags.items()
        )
        return next(shown, None)

    def peaks(self, at: float) -> list[Message]:
        """What is new about the highest minutes of principals at `at` (epoch seconds), for the log."""
        if not self._keys:
            return []
        day = int(at // DAY_S)
        self._test.begin_day(day)
        new_day, self._reported = day > self._reported, max(day, self._reported)
        messages = []
        for peak in self._test.new_peaks(new_day=new_day):
            scope, raw = self._keys[peak.number]
            record = PrincipalPeak(
                scope=scope,
                tags=self._shown(scope, msgspec.json.decode(raw, type=dict[str, str])),
                at=at,
                highest_per_minute=peak.before,
                today_per_minute=peak.today,
                known_days=round(peak.known_days, 3),
                usd_per_request=peak.usd_per_request,
            )
            messages.append(Message(PEAKS, encode(record), key=scope.encode() + b" " + raw))
        return messages

    def _revision(self, number: int, firing: Firing, at: float, *, confirmed_now: bool) -> Alert | None:
        """The next revision of a soft alert, if one is due."""
        alert, by, soft_s = firing.alert, firing.confirmed_by, self._settings.soft_minutes * 60
        now, rate = max(at, alert.updated_at), self._usd_per_hour(number, at)
        if now >= alert.fired_at + soft_s:
            self._test.end(number)
            why = f"Confirmed by {by}." if by else "It ended by itself: no other rule has confirmed it."
            return resolved(alert, now, usd_per_hour=rate, explanation=f"{alert.explanation} {why}")
        if confirmed_now or needs_revision(alert, now, rate, soft_s):
            return revised(alert, now, usd_per_hour=rate)
        return None

    def _usd_per_hour(self, number: int, at: float) -> float:
        """$/h of the fuller of the two running minutes; 0 where both are over."""
        columns, slot = self._test.columns, int(at // SLOT_S)
        running = columns["minute"][:, number] >= (slot * SLOT_S - 120) // 60
        return float(np.where(running, columns["sum"][:, 1, number], 0.0).max()) * 60

    def _teaches(self, part: PartialSum) -> bool:
        """Whether a sum without slots is about one minute of a principal."""
        return part.scope in self._taught and not isinstance(part, ScoredSum) and part.covers_s <= _MINUTE_S

    def _number(self, key: tuple[str, bytes]) -> int | None:
        """Number a principal that is seen for the first time."""
        scope, raw_tags = key
        tags, known = msgspec.json.decode(raw_tags, type=dict[str, str]), self._scopes.get(scope)
        # Planned work, and what stands for many, has no key to limit.
        limited = known is not None and set(tags) == set(known.group_by)
        if not limited or OTHER in tags.values() or all(tag == UNTAGGED for tag in tags.values()):
            self._numbers[key] = None
        else:
            self._add(key)
        return self._numbers[key]

    def _add(self, key: tuple[str, bytes]) -> None:
        self._numbers[key] = len(self._keys)
        self._keys.append(key)
        self._test.grow(len(self._keys))

    def _open(self, trip: Trip, at: float) -> Alert:
        scope, raw_tags = self._keys[trip.number]
        tags = self._shown(scope, msgspec.json.decode(raw_tags, type=dict[str, str]))
        columns = self._test.columns
        slot, number = int(trip.until // SLOT_S), np.array([trip.number], np.int64)
        mean = float(self._test.mean_usd_per_hour(number, slot)[0])
        length_s = max(SLOT_S, trip.until - trip.since)
        rate, limit = trip.usd * 3600 / length_s, self._test.limit_per_minute(trip.number, trip)
        peak_requests, peak_usd = columns["peak"][:, trip.number].tolist()
        expected_usd = mean * length_s / 3600
        known_days = (slot - int(columns["first"][trip.number])) * SLOT_S / DAY_S
        fingerprint = fingerprint_of("fast", scope, sorted(tags.items()))
        reason = (
            f"{trip.requests:,.0f} requests for {usd(trip.usd)} in {length_s:.0f} s; its highest minute of 28 days had "
            f"{peak_requests:,.0f} for {usd(peak_usd)}"
        ) + (f"; {trip.loop}, which lowers its limit to {PARAMS.loop_times:g} times its mean" if trip.loop else "")
        alert = Alert(
            fingerprint=fingerprint,
            alert_id=alert_id_of(fingerprint, at),
            revision=1,
            status="firing",
            kind="runaway",
            tier="soft",
            scope=scope,
            tags=tags,
            fired_at=at,
            updated_at=at,
            started_at=trip.since,
            expected_usd=expected_usd,
            actual_usd=trip.usd,
            excess_usd=max(0.0, trip.usd - expected_usd),
            usd_per_hour=rate,
            expected_usd_per_hour=mean,
            requests_per_minute=trip.requests * 60 / length_s,
            dollars_at_risk=max(0.0, rate - mean) * self._settings.soft_minutes / 60,
            score=trip.score,
            channel=f"fast/{trip.kind}",
            baseline=Baseline(expected_usd_per_hour=mean, requests_per_minute_p95=limit, known_days=known_days),
            reason=reason,
            explanation=(
                f"{words.subject(scope, tags)} burns {usd(rate)}/h, {usd(mean)}/h over the last day: {reason}. "
                f"The test of its {'minute' if trip.loop else trip.kind} in {SLOT_S}-second slots stands at "
                f"{trip.score:.1f} times its threshold. "
                f"A soft cap is {limit:,.0f} requests a minute for {self._settings.soft_minutes:g} minutes."
            ),
        )
        self._firing[trip.number] = Firing(alert)
        count, last = self._rows.get(trip.number, (0, at))
        self._rows[trip.number] = (count + 1 if at - last <= _IN_A_ROW_S else 1, at)
        return alert

    def dump(self) -> tuple[FastDump, dict[str, NDArray[Any]]]:
        """What `load` takes."""
        firing = {str(number): each for number, each in self._firing.items()}
        minutes = {str(start): {str(at): list(each) for at, each in of.items()} for start, of in self._minutes.items()}
        rows = {str(number): row for number, row in self._rows.items()}
        return FastDump(self._keys, firing, self._reported, minutes, rows, self.loops.dump()), self._test.dump()

    def load(self, dump: FastDump, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made."""
        for scope, tags in dump.keys:
            self._add((scope, tags))
        if dump.keys:
            self._test.load(arrays)
        self._firing = {int(number): each for number, each in dump.firing.items()}
        self._reported = dump.reported
        self._rows = {int(number): row for number, row in dump.rows.items()}
        self.loops.load(dump.loops)
        self._minutes = {int(start): {int(at): each for at, each in of.items()} for start, of in dump.minutes.items()}


def _columns(sums: Mapping[int, list[float]]) -> tuple[Ints, Floats]:
    """Numbers of principals, and their sums in columns; credits are no spend."""
    return np.array(list(sums), np.int64), np.maximum(np.array(list(sums.values())).T, 0.0)


def _is_loud(alert: Alert) -> bool:
    """Whether an alert of the heads says that spend is not as it should be."""
    return alert.tier in ("notice", "page") and alert.kind in _CONFIRMS


def _confirms(alert: Alert, soft: Alert) -> bool:
    """Whether an alert of the heads is about the same principal."""
    return _is_loud(alert) and alert.scope == soft.scope and soft.tags.items() <= alert.tags.items()
