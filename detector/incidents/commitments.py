"""Savings plans and reservations that are used less, or pay for less, than before: one alert each per provider."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.stream.money import usd
from curb.stream.records.revisions import alert_id_of, fingerprint_of, resolved, revised
from curb.stream.records.spend import Alert, BillPart, BillUse, Cause
from curb.stream.settings import Settings
from curb.stream.time import DAY_S, HOUR_S, utc

Floats = NDArray[np.float64]
#: What is watched: the share of commitments that is used, and the share of eligible usage that they pay for.
Watch = Literal["utilisation", "coverage"]
_USES: tuple[BillUse, ...] = ("used", "unused", "on_demand")
#: Days of a usual day's figures, the least of them that must be known, and hours kept. By hand: two whole weeks.
_DAYS, _LEAST_DAYS = 14, 7
_HOURS = 24 * (_DAYS + 4)
#: Share of what commitments usually pay for that must be gone before coverage has fallen. By hand: on demand usage
#: that grows lowers coverage as well, and the past of the series says so.
_GONE = 0.05
#: Share of the fall below which it is over. By hand: half, so that it does not come and go.
_OVER = 0.5
#: Causes named. By hand: a sentence stays short.
_CAUSES = 3
#: An alert is revised after so many seconds at the earliest. By hand: a delivery a day.
_REVISE_S = 20 * 3600.0


class Config(Settings):
    """Savings plans and reservations that are used less, or pay for less, than in the two weeks before."""

    enabled: bool = Field(default=True, description="Whether falling utilisation and coverage are reported.")
    notice_usd_per_day: float = Field(
        default=50.0, gt=0, description="Dollars a day that are unused, or on demand, beyond the usual: a notice."
    )
    page_usd_per_day: float = Field(default=2000.0, gt=0, description="The same for a page.")
    min_fall: float = Field(
        default=0.05, gt=0, lt=1, description="Least fall of the share that is used or covered; 0.05 is 5 points."
    )


class CommittedSpend(NamedTuple):
    """Who is charged for what."""

    provider: str
    account: str
    service: str


class OpenFall(msgspec.Struct):
    """A fall that is reported, against what was usual when it began. Dollars are a day's."""

    usual_share: float
    usual_usd: float
    #: Excess dollars, and the hour (since 1970) until which they are counted.
    excess_usd: float
    counted: int
    alert: Alert | None = None
    #: What of it is on demand instead, by account and service.
    subjects: list[tuple[str, str]] = []


class CommitmentDump(msgspec.Struct):
    """State between two deliveries."""

    newest: int = 0
    first: dict[str, int] = {}
    sums: list[tuple[str, str, str, bytes]] = []
    open: dict[str, dict[str, OpenFall]] = {}
    accepted: dict[str, dict[str, int]] = {}


class _Days(NamedTuple):
    """Figures of whole days, the newest first: a share, and the dollars that should be low."""

    share: Floats
    usd: Floats
    #: Dollars that commitments pay for.
    used: Floats


class Commitments:
    """Hourly dollars that commitments pay, that nobody uses of them, and that are on demand where they pay."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        self._sums: dict[CommittedSpend, Floats] = {}
        #: The hour after the newest that is known, and the first of each provider, since 1970.
        self._newest = 0
        self._first: dict[str, int] = {}
        self._open: dict[str, dict[Watch, OpenFall]] = {}
        #: The hour from which on a level counts that a person accepted.
        self._accepted: dict[str, dict[Watch, int]] = {}

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of what fires now."""
        return [each.alert for of in self._open.values() for each in of.values() if each.alert is not None]

    def add(self, part: BillPart) -> None:
        """Count a part of the bill, spread evenly over its hours."""
        if part.use not in _USES:
            return
        first = part.start // HOUR_S
        hours = max(1, round(part.seconds / HOUR_S))
        self._come_to(first + hours)
        subject = CommittedSpend(part.provider, part.account, part.service)
        sums = self._sums.get(subject)
        if sums is None:
            sums = self._sums[subject] = np.zeros((len(_USES), _HOURS))
        self._first[part.provider] = min(first, self._first.get(part.provider, first))
        kept = np.arange(max(first, self._newest - _HOURS), first + hours)
        sums[_USES.index(part.use), kept % _HOURS] += part.effective_cost / hours

    def accept(self, alert_id: str) -> None:
        """A person says that what an alert reports is no anomaly: it is the usual from now on."""
        for provider, of in self._open.items():
            for watch, each in of.items():
                if each.alert is not None and each.alert.alert_id == alert_id:
                    self._accepted.setdefault(provider, {})[watch] = each.counted

    def close(self, until: float, at: float, taken: frozenset[tuple[str, str]] = frozenset()) -> list[Alert]:
        """Alerts and revisions when the bill is complete up to `until`, said at `at` (epoch seconds).

        `taken` are accounts and services on whose dollars another alert fires.
        """
        hour, revisions = int(until) // HOUR_S, list[Alert]()
        if not self._settings.enabled:
            return []
        for provider in sorted(self._first):
            for watch in ("utilisation", "coverage"):
                alert = self._judge(provider, watch, hour, at, taken)
                revisions += [alert] if alert is not None else []
        return revisions

    def covers(self, alert: Alert) -> bool:
        """Whether an alert on spend is about dollars that a commitment paid before."""
        account, service = alert.tags.get("account"), alert.tags.get("service")
        found = (each.subjects for of in self._open.values() for each in of.values() if each.alert is not None)
        return any((account, service) in subjects for subjects in found)

    # --- judging --------------------------------------------------------------------------------------------------

    def _judge(
        self, provider: str, watch: Watch, hour: int, at: float, taken: frozenset[tuple[str, str]]
    ) -> Alert | None:
        known = (hour - max(self._first[provider], hour - _HOURS + 1)) // 24 - 1
        known = min(known, (hour - self._accepted.get(provider, {}).get(watch, 0)) // 24)
        opened = self._open.get(provider, {}).get(watch)
        days = self._days(provider, watch, hour)
        if opened is not None:
            return self._go_on(provider, watch, opened, days, hour, at)
        if known < _LEAST_DAYS:
            return None
        past = slice(1, 1 + min(known, _DAYS))
        share, spent = float(np.median(days.share[past])), float(np.median(days.usd[past]))
        same = days.share[7 : 1 + min(known, _DAYS) : 7]  # the same day of the weeks before, such as a weekend's
        spent = max([spent, *days.usd[7 : 1 + min(known, _DAYS) : 7].tolist()])
        if watch == "coverage" and days.used[0] > (1 - _GONE) * np.median(days.used[past]):
            return None
        falls = min([share, *same.tolist()]) - days.share[0]
        more = float(days.usd[0] - spent)
        if falls < self._settings.min_fall or more < self._settings.notice_usd_per_day:
            return None
        subjects = self._gone(provider, hour) if watch == "coverage" else []
        if taken.intersection(subjects):
            return None
        opened = OpenFall(share, spent, 0.0, self._began(provider, watch, hour, spent / 24), subjects=subjects)
        self._open.setdefault(provider, {})[watch] = opened
        start = opened.counted
        self._count(provider, watch, opened, hour)
        fields = self._fields(provider, watch, opened, days, hour)
        opened.alert = _first(provider, watch, start * HOUR_S, at, fields)
        return opened.alert

    def _go_on(self, provider: str, watch: Watch, opened: OpenFall, days: _Days, hour: int, at: float) -> Alert | None:
        alert = opened.alert
        assert alert is not None
        is_accepted = watch in self._accepted.get(provider, {})
        self._count(provider, watch, opened, hour)
        fields = self._fields(provider, watch, opened, days, hour)
        low = self._settings
        falls, more = opened.usual_share - days.share[0], days.usd[0] - opened.usual_usd
        if is_accepted or falls < _OVER * low.min_fall or more < _OVER * low.notice_usd_per_day:
            del self._open[provider][watch]
            return resolved(alert, at, **{name: fields[name] for name in _SUMS})
        if at - alert.updated_at < _REVISE_S:
            return None
        opened.alert = revised(alert, at, **fields)
        return opened.alert

    def _days(self, provider: str, watch: Watch, hour: int) -> _Days:
        used, unused, on_demand = self._hours(provider, hour, watch).reshape(len(_USES), -1, 24).sum(axis=2)
        low = unused if watch == "utilisation" else on_demand
        whole = used + low
        return _Days(np.where(whole > 0, used / np.where(whole > 0, whole, 1.0), 1.0), low, used)

    def _hours(self, provider: str, hour: int, watch: Watch) -> Floats:
        """Dollars by use and hour before `hour`, the newest first, shape (uses, whole days of hours)."""
        at = np.arange(hour - 1, hour - 1 - 24 * (_DAYS + 1), -1)
        known = (at < self._newest) & (at >= self._newest - _HOURS)
        total = np.zeros((len(_USES), len(at)))
        for sums in self._of(provider).values():
            if watch == "utilisation" or sums[0].any():  # on demand matters where commitments pay
                total += np.where(known, sums[:, at % _HOURS], 0.0)
        return total

    def _began(self, provider: str, watch: Watch, hour: int, usual: float) -> int:
        """The first of the last hours in a row that are over by half of what the last three are, within two days."""
        low = self._hours(provider, hour, watch)[1 if watch == "utilisation" else 2][:48] - usual
        least = 0.5 * float(low[:3].mean())
        inside = low > max(least, 0.0)
        return hour - (int(inside.argmin()) if not inside.all() else len(inside))

    def _count(self, provider: str, watch: Watch, opened: OpenFall, hour: int) -> None:
        """Add what the hours until now cost beyond the usual."""
        new = min(hour - opened.counted, 24 * (_DAYS + 1))
        if new > 0:
            _, unused, on_demand = self._hours(provider, hour, watch)[:, :new]
            low = unused if watch == "utilisation" else on_demand
            opened.excess_usd += float((low - opened.usual_usd / 24).sum())
            opened.counted = hour

    def _gone(self, provider: str, hour: int) -> list[tuple[str, str]]:
        """Accounts and services of which commitments pay less than usual, the most dollars first."""
        return [
            (subject.account, subject.service)
            for subject, gone in self._changes(provider, hour, "coverage")
            if gone > 0
        ]

    def _changes(self, provider: str, hour: int, watch: Watch) -> list[tuple[CommittedSpend, float]]:
        """By subject, the dollars of the last day beyond the day before the fall, the most first."""
        at = np.arange(hour - 24 * (_DAYS + 1), hour)
        known = (at < self._newest) & (at >= self._newest - _HOURS)
        found = []
        for subject, sums in self._of(provider).items():
            row = 1 if watch == "utilisation" else 2
            by_day = np.where(known, sums[row, at % _HOURS], 0.0).reshape(-1, 24).sum(axis=1)
            if watch == "utilisation" or sums[0].any():
                found.append((subject, float(by_day[-1] - np.median(by_day[:-1]))))
        return sorted(found, key=_most)

    def _of(self, provider: str) -> dict[CommittedSpend, Floats]:
        return {subject: sums for subject, sums in self._sums.items() if subject.provider == provider}

    def _fields(self, provider: str, watch: Watch, opened: OpenFall, days: _Days, hour: int) -> dict[str, Any]:
        more = float(days.usd[0] - opened.usual_usd)
        start = opened.alert.started_at if opened.alert is not None else 0.0
        changes = [(subject, change) for subject, change in self._changes(provider, hour, watch) if change > 0]
        whole = sum(change for _, change in changes)
        causes = [
            Cause(tags=subject._asdict(), excess_usd=opened.excess_usd * change / whole, share=change / whole)
            for subject, change in changes[:_CAUSES]
        ]
        length = (hour * HOUR_S - start) / DAY_S if start else 0.0
        usual = opened.usual_usd * length
        return {
            "tier": "page" if more >= self._settings.page_usd_per_day else "notice",
            "expected_usd": usual,
            "actual_usd": usual + opened.excess_usd,
            "excess_usd": opened.excess_usd,
            "dollars_at_risk": opened.excess_usd,
            "usd_per_hour": float(days.usd[0]) / 24,
            "expected_usd_per_hour": opened.usual_usd / 24,
            "score": more / self._settings.notice_usd_per_day,
            "causes": causes,
            "reason": _reason(watch, opened, float(days.share[0])),
            "explanation": _words(provider, watch, opened, days, causes, more),
        }

    def _come_to(self, end: int) -> None:
        """The hours before `end` begin, with nothing in them."""
        new = np.arange(max(self._newest, end - _HOURS), end)
        for sums in self._sums.values():
            sums[:, new % _HOURS] = 0.0
        self._newest = max(self._newest, end)

    # --- saved and restored ---------------------------------------------------------------------------------------

    def dump(self) -> CommitmentDump:
        """What `load` takes."""
        return CommitmentDump(
            self._newest,
            dict(self._first),
            [(*subject, sums.tobytes()) for subject, sums in self._sums.items()],
            {provider: {str(watch): each for watch, each in of.items()} for provider, of in self._open.items()},
            {provider: {str(watch): hour for watch, hour in of.items()} for provider, of in self._accepted.items()},
        )

    def load(self, saved: CommitmentDump) -> None:
        """Take over what was saved."""
        self._newest, self._first = saved.newest, dict(saved.first)
        shape = (len(_USES), _HOURS)
        self._sums = {CommittedSpend(*names): np.frombuffer(data).reshape(shape).copy() for *names, data in saved.sums}
        self._open = {provider: dict(_by_watch(of)) for provider, of in saved.open.items()}
        self._accepted = {provider: dict(_by_watch(of)) for provider, of in saved.accepted.items()}


_SUMS = ("expected_usd", "actual_usd", "excess_usd", "dollars_at_risk")


def _by_watch(of: Mapping[str, Any]) -> Iterator[tuple[Watch, Any]]:
    watches: Sequence[Watch] = ("utilisation", "coverage")
    return ((watch, of[watch]) for watch in watches if watch in of)


def _most(change: tuple[CommittedSpend, float]) -> float:
    return -change[1]


def _first(provider: str, watch: Watch, start: float, at: float, fields: Mapping[str, Any]) -> Alert:
    fingerprint = fingerprint_of("commitment", provider, watch)
    return Alert(
        fingerprint=fingerprint,
        alert_id=alert_id_of(fingerprint, at),
        revision=1,
        status="firing",
        kind="commitment",
        scope="commitments",
        tags={"provider": provider},
        fired_at=at,
        updated_at=at,
        started_at=float(start),
        channel=f"commitment/{watch}",
        money="billed",
        **{**fields, "explanation": f"{fields['explanation']} It began at {utc(start)}."},
    )


def _reason(watch: Watch, opened: OpenFall, share: float) -> str:
    what = "are used" if watch == "utilisation" else "pay for what they could"
    return f"{share:.0%} of savings plans and reservations {what}, usually {opened.usual_share:.0%}"


def _words(provider: str, watch: Watch, opened: OpenFall, days: _Days, causes: Sequence[Cause], more: float) -> str:
    named = ", ".join(f"{each.tags['service']} of account {each.tags['account']}" for each in causes)
    mostly = f", mostly {named}" if named else ""
    if watch == "utilisation":
        return (
            f"Of the savings plans and reservations of {provider}, {days.share[0]:.0%} were used in the last day, "
            f"usually {opened.usual_share:.0%}: {usd(more)} a day more is paid for nothing{mostly}. Since it began: "
            f"{usd(opened.excess_usd)}."
        )
    return (
        f"Savings plans and reservations of {provider} paid for {days.share[0]:.0%} of the usage of the services that "
        f"they cover in the last day, usually {opened.usual_share:.0%}: {usd(more)} a day more is on demand{mostly}. "
        f"Since it began: {usd(opened.excess_usd)}. See whether one has expired, or pays for something else now."
    )
