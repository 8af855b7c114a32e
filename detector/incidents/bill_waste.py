"""Waste on a bill: a line of the digest each, with dollars a month and what to do. Nobody acts on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.stream.money import usd
from curb.stream.records.revisions import alert_id_of, fingerprint_of, resolved, revised
from curb.stream.records.spend import Alert, BillPart, BillUse
from curb.stream.settings import Settings
from curb.stream.time import DAY_S

Floats = NDArray[np.float64]
Waste = Literal["storage", "volumes", "snapshots", "spot"]
WASTES: tuple[Waste, ...] = ("storage", "volumes", "snapshots", "spot")
_USES: tuple[BillUse, ...] = ("storage", "reads", "volumes", "snapshots", "machines", "spot", "spot_starts")
#: Days of the two weeks that are compared, how far apart they begin, and days that are kept. By hand: four weeks apart
#: a month's rhythm is the same.
_WEEK, _APART, _DAYS = 7, 28, 42
#: Days of a month, by which a week's dollars are said. By definition: 365 / 12.
_MONTH_DAYS = 30.4
#: Growth of storage and snapshots within four weeks that is worth a line. By hand: faster than a business.
_GROWTH = 1.2
#: Storage is not read where reads are below this share of its dollars, and not more than before. By hand.
_READS = 0.005
#: Spot work runs again where a start stands for fewer dollars by this factor, and the whole costs more. By hand.
_SHORTER, _MORE = 0.5, 1.15
#: Seconds between two revisions of a line. By hand: a week.
_REVISE_S = 7 * DAY_S


class Config(Settings):
    """Waste on a bill, a line in the digest with dollars a month. The bill needs `usage_type` in its `dimensions`."""

    enabled: bool = Field(default=True, description="Whether waste on bills is reported.")
    min_usd_per_month: float = Field(default=50.0, gt=0, description="Dollars a month from which it is a line.")


class WastePlace(NamedTuple):
    """Where something is charged: who provides it, the account and the region."""

    provider: str
    account: str
    region: str


class WasteDump(msgspec.Struct):
    """State between two deliveries."""

    newest: int = 0
    first: dict[str, int] = {}
    sums: list[tuple[str, str, str, bytes]] = []
    open: list[tuple[str, str, str, str, Alert]] = []
    #: Ids of what a person accepted, by place and kind.
    accepted: list[tuple[str, str, str, str]] = []


class _Found(NamedTuple):
    usd_per_month: float
    words: str


class BillWaste:
    """Daily dollars of storage, its reads, volumes, snapshots, machines and spot capacity, by place."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        self._sums: dict[WastePlace, Floats] = {}
        #: The day after the newest that is known, and the first of each provider, since 1970; the last that was judged.
        self._newest = self._judged = 0
        self._first: dict[str, int] = {}
        self._open: dict[tuple[WastePlace, Waste], Alert] = {}
        self._accepted: set[tuple[WastePlace, Waste]] = set()

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of what fires now."""
        return list(self._open.values())

    def add(self, part: BillPart) -> None:
        """Count a part of a bill in its days."""
        if part.use not in _USES:
            return
        first = part.start // DAY_S
        days = max(1, round(part.seconds / DAY_S))
        self._come_to(first + days)
        place = WastePlace(part.provider, part.account, part.region)
        sums = self._sums.get(place)
        if sums is None:
            sums = self._sums[place] = np.zeros((len(_USES), _DAYS))
        self._first[part.provider] = min(first, self._first.get(part.provider, first))
        kept = np.arange(max(first, self._newest - _DAYS), first + days)
        sums[_USES.index(part.use), kept % _DAYS] += part.effective_cost / days

    def accept(self, alert_id: str) -> None:
        """A person says that it is no waste: nothing more is said of it."""
        self._accepted |= {key for key, alert in self._open.items() if alert.alert_id == alert_id}

    def close(self, until: float, at: float) -> list[Alert]:
        """New lines, revisions and ends when the bill is complete up to `until`, once a day, said at `at`."""
        day, revisions = int(until) // DAY_S, list[Alert]()
        if day <= self._judged or not self._settings.enabled:
            return []
        self._judged = day
        for place in sorted(self._sums):
            if day - self._first[place.provider] < _APART + _WEEK:
                continue
            for waste, found in self._wastes(place, day):
                alert = self._report((place, waste), found, day, at)
                revisions += [alert] if alert is not None else []
        return revisions

    def _report(self, key: tuple[WastePlace, Waste], found: _Found | None, day: int, at: float) -> Alert | None:
        opened = self._open.get(key)
        over = found is None or found.usd_per_month < self._settings.min_usd_per_month or key in self._accepted
        if over:
            self._open.pop(key, None)
            return resolved(opened, at) if opened is not None else None
        assert found is not None
        fields = _fields(found)
        if opened is None:
            self._open[key] = _opened(*key, day, at, fields)
        elif at - opened.updated_at >= _REVISE_S:
            self._open[key] = revised(opened, at, **fields)
        else:
            return None
        return self._open[key]

    def _wastes(self, place: WastePlace, day: int) -> Iterator[tuple[Waste, _Found | None]]:
        """Of each kind what there is at a place, None for nothing."""
        now, before = self._week(place, day), self._week(place, day - _APART)
        month = _MONTH_DAYS / _WEEK
        where = f"account {place.account} in {place.region}" if place.region else f"account {place.account}"
        yield "storage", _storage(now, before, month, where)
        yield "volumes", _volumes(now, before, month, where)
        yield "snapshots", _snapshots(now, before, month, where)
        yield "spot", _spot(now, before, month, where)

    def _week(self, place: WastePlace, end: int) -> dict[BillUse, float]:
        """Dollars by use of the week before the day `end`."""
        days = np.arange(end - _WEEK, end)
        known = (days >= self._newest - _DAYS) & (days < self._newest)
        sums = np.where(known, self._sums[place][:, days % _DAYS], 0.0).sum(axis=1)
        return dict(zip(_USES, sums.tolist(), strict=True))

    def _come_to(self, end: int) -> None:
        """The days before `end` begin, with nothing in them."""
        new = np.arange(max(self._newest, end - _DAYS), end)
        for sums in self._sums.values():
            sums[:, new % _DAYS] = 0.0
        self._newest = max(self._newest, end)

    # --- saved and restored ---------------------------------------------------------------------------------------

    def dump(self) -> WasteDump:
        """What `load` takes."""
        return WasteDump(
            self._newest,
            {**self._first, "": self._judged},
            [(*place, sums.tobytes()) for place, sums in self._sums.items()],
            [(*place, waste, alert) for (place, waste), alert in self._open.items()],
            [(*place, waste) for place, waste in sorted(self._accepted)],
        )

    def load(self, saved: WasteDump) -> None:
        """Take over what was saved."""
        self._newest, self._first = saved.newest, dict(saved.first)
        self._judged = self._first.pop("", 0)
        shape = (len(_USES), _DAYS)
        self._sums = {WastePlace(*names): np.frombuffer(data).reshape(shape).copy() for *names, data in saved.sums}
        of = {waste: waste for waste in WASTES}
        self._open = {(WastePlace(p, a, r), of[kind]): alert for p, a, r, kind, alert in saved.open if kind in of}
        self._accepted = {(WastePlace(p, a, r), of[kind]) for p, a, r, kind in saved.accepted if kind in of}


def _storage(now: dict[BillUse, float], before: dict[BillUse, float], month: float, where: str) -> _Found | None:
    more = now["storage"] - before["storage"]
    unread = now["reads"] <= _READS * now["storage"] and now["reads"] <= _GROWTH * before["reads"]
    if not unread or before["storage"] <= 0 or now["storage"] < _GROWTH * before["storage"]:
        return None
    return _Found(
        more * month,
        f"Storage of {where} costs {usd(now['storage'] * month)} a month, {usd(more * month)} more than four weeks ago,"
        f" and is hardly read: reads cost {usd(now['reads'] * month)} a month. Let lifecycle rules move it to a colder "
        "class or delete it.",
    )


def _volumes(now: dict[BillUse, float], before: dict[BillUse, float], month: float, where: str) -> _Found | None:
    if now["machines"] + now["spot"] > 0 or before["volumes"] <= 0:
        return None
    return _Found(
        now["volumes"] * month,
        f"Volumes of {where} cost {usd(now['volumes'] * month)} a month, and no machine ran there for a week. Take a "
        "snapshot of what may be needed, and delete them.",
    )


def _snapshots(now: dict[BillUse, float], before: dict[BillUse, float], month: float, where: str) -> _Found | None:
    orphaned = now["volumes"] + now["machines"] + now["spot"] <= 0
    more = now["snapshots"] - before["snapshots"]
    grows = before["snapshots"] > 0 and now["snapshots"] >= _GROWTH * before["snapshots"]
    if not grows and not (orphaned and before["snapshots"] > 0):
        return None
    why = "and there is no volume or machine that they are of" if orphaned else f"{usd(more * month)} more than before"
    return _Found(
        (now["snapshots"] if orphaned else more) * month,
        f"Snapshots of {where} cost {usd(now['snapshots'] * month)} a month, {why}. Delete old ones, or let a policy "
        "do it.",
    )


def _spot(now: dict[BillUse, float], before: dict[BillUse, float], month: float, where: str) -> _Found | None:
    starts, started = now["spot_starts"], before["spot_starts"]
    if min(starts, started, before["spot"]) <= 0 or now["spot"] < _MORE * before["spot"]:
        return None
    each, was = now["spot"] / starts, before["spot"] / started
    if each > _SHORTER * was:
        return None
    more = now["spot"] - before["spot"]
    return _Found(
        more * month,
        f"Spot machines of {where} cost {usd(more * month)} a month more than four weeks ago, in {starts:.0f} starts a "
        f"week instead of {started:.0f}: a start lasts for {usd(each)}, {usd(was)} before. Interrupted work seems to "
        "run again: save checkpoints, allow more types of machines, or take what is long on demand.",
    )


def _fields(found: _Found) -> dict[str, Any]:
    return {
        "actual_usd": found.usd_per_month,
        "excess_usd": found.usd_per_month,
        "dollars_at_risk": found.usd_per_month,
        "usd_per_hour": found.usd_per_month / _MONTH_DAYS / 24,
        "explanation": found.words,
    }


def _opened(place: WastePlace, waste: Waste, day: int, at: float, fields: dict[str, Any]) -> Alert:
    fingerprint = fingerprint_of("waste", waste, *place)
    return Alert(
        fingerprint=fingerprint,
        alert_id=alert_id_of(fingerprint, at),
        revision=1,
        status="firing",
        kind="waste",
        tier="digest",
        scope="waste",
        tags={tag: value for tag, value in place._asdict().items() if value},
        fired_at=at,
        updated_at=at,
        started_at=float((day - _WEEK) * DAY_S),
        expected_usd=0.0,
        expected_usd_per_hour=0.0,
        score=1.0,
        channel=f"waste/{waste}",
        money="billed",
        **fields,
    )
