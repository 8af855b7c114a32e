"""Compares estimated with billed dollars, per pair of sources and day, from the sums on the log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from statistics import NormalDist
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from pydantic import Field, model_validator

from curb.detector.state.carry_on import carry_on
from curb.detector.state.scopes import Scope
from curb.stream import metrics
from curb.stream.log.codec import UNREADABLE, encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, RECONCILED
from curb.stream.money import usd
from curb.stream.records.knowledge import LATEST_TIME
from curb.stream.records.reconciliation import Reconciliation
from curb.stream.records.revisions import alert_id_of, fingerprint_of, resolved, revised
from curb.stream.records.spend import Alert, SpendPartial, SpendTick
from curb.stream.settings import Settings
from curb.stream.time import DAY_S, HOUR_S

#: Tags that the intake gives to compared records. The first decides the partition, so both sides of a pair meet.
PAIR, MONEY = "reconcile_pair", "reconcile_money"
SCOPE = Scope(name="reconcile", group_by=(PAIR, MONEY), sources=("usage", "costs", "gpu"), detect=False, role="total")
_EVERY_S = HOUR_S
#: Days kept per pair; corrections of older days are ignored. Chosen by hand: two months and a margin.
_KEEP_DAYS = 70
#: Seconds after which an input without a tick is no longer waited for. Chosen by hand.
_SILENT_S = 2 * DAY_S
_NEEDLES = (b'"reconcile"', b'"tick"')
#: Share of such intervals that hold the true ratio.
CONFIDENCE = 0.9
#: Standard deviations of a normal distribution to each side.
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)

Patterns = Annotated[dict[str, str], Field(min_length=1)]
_decoder = msgspec.json.Decoder(SpendPartial | SpendTick)


class Pair(Settings):
    """Usage that is estimated as it happens, and the bill for the same usage."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=64, description="Unique name, such as openai.")
    estimated: Patterns = Field(
        description="Tag or field → pattern: the usage. Fields as in attribution.rules: `source` is the connector."
    )
    billed: Patterns = Field(
        description="Tag or field → pattern: its bill. By default only charges (`records: costs`) of the category "
        "Usage are "
        "compared, with usage and GPUs."
    )
    lag_hours: float = Field(
        default=48.0, ge=0, le=24 * 30, description="Hours after its end from which a day (UTC) is compared."
    )
    window_days: int = Field(default=7, ge=1, le=31, description="Days that make one ratio.")
    min_days: int = Field(default=3, ge=1, le=31, description="Days that an alert needs.")
    min_usd: float = Field(default=10.0, ge=0, description="Dollars, billed or estimated, that an alert needs.")
    band: tuple[float, float] = Field(
        default=(0.9, 1.1), description="Lowest and highest capture ratio (billed / estimated) without an alert."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Pair:
        if not 0 <= self.band[0] < self.band[1]:
            raise ValueError(f"pair {self.name}: band must be two rising numbers of at least 0")
        if self.min_days > self.window_days:
            raise ValueError(f"pair {self.name}: min_days is more than window_days")
        return self


class ReconcileSettings(Settings):
    """How estimates are compared with bills."""

    pairs: tuple[Pair, ...] = Field(
        default=(), description="Sources to compare; a record counts for the first pair that it matches."
    )
    apply: Literal["shown", "never"] = Field(
        default="shown",
        description="shown: estimates that are not billed yet are also shown as the expected bill, with bounds. Sums, "
        "budgets and alerts are never changed.",
    )

    @model_validator(mode="after")
    def _once(self) -> ReconcileSettings:
        names = [pair.name for pair in self.pairs]
        if len(set(names)) < len(names):
            raise ValueError("two pairs have the same name")
        return self


class Ratio(NamedTuple):
    """A capture ratio (billed / estimated); `low` and `high` are None under three days."""

    value: float
    low: float | None
    high: float | None


def ratio_of(days: Sequence[tuple[float, float]]) -> Ratio | None:
    """The ratio of sums of (estimated, billed) dollars per day; None where nothing was estimated.

    The bounds are the ratio ± t · SE, the standard error of a ratio estimator (Cochran, Sampling Techniques, ch. 6):
    SE² = n / (n - 1) · Σ (billed - ratio · estimated)² / (Σ estimated)², and Student's quantile t with n - 1 degrees.
    """
    estimated, billed = math.fsum(day[0] for day in days), math.fsum(day[1] for day in days)
    if estimated <= 0:
        return None
    value, count = billed / estimated, len(days)
    if count < 3:
        return Ratio(value, None, None)
    spread = math.fsum((b - value * e) ** 2 for e, b in days)
    error = math.sqrt(spread * count / (count - 1)) / estimated
    # Student's quantile from the normal one (Abramowitz and Stegun 26.7.5); within 5 % from three days on.
    free = count - 1
    wide = _Z + (_Z**3 + _Z) / (4 * free) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * free**2)
    return Ratio(value, max(0.0, value - wide * error), value + wide * error)


class _Day(msgspec.Struct):
    estimated: float = 0.0
    billed: float = 0.0
    reported: bool = msgspec.field(default=False, name="told")


class _State(msgspec.Struct):
    ticks: dict[str, float] = {}
    evaluated_at: float = 0.0
    #: Time of the first tick: a bill also holds days before Curb ran.
    since: float = 0.0
    #: Pair → number of the day since 1970 → sums.
    days: dict[str, dict[int, _Day]] = {}
    alerts: dict[str, Alert] = {}


class Reconciler:
    """The state of one partition of the spend topic; a `PartitionState`."""

    def __init__(self, settings: ReconcileSettings) -> None:
        self._pairs = {pair.name: pair for pair in settings.pairs}
        self._state = _State()

    @property
    def time(self) -> float:
        """The time that every input has reached, epoch seconds."""
        ticks = self._state.ticks.values()
        newest = max(ticks, default=0.0)
        return min((at for at in ticks if at >= newest - _SILENT_S), default=0.0)

    def process(self, message: Message) -> Sequence[Message]:
        """Count the sums of a message; once an hour of event time, return new ratios and alerts."""
        for line in message.value.split(b"\n"):
            if not any(needle in line for needle in _NEEDLES):
                continue
            try:
                record = _decoder.decode(line)
            except UNREADABLE:
                continue  # another kind of record; the detector reports lines that cannot be read
            if isinstance(record, SpendTick):
                if record.at > LATEST_TIME:
                    continue  # a dead letter of the detector
                self._state.ticks[record.source] = max(record.at, self._state.ticks.get(record.source, 0.0))
                self._state.since = self._state.since or record.at
            elif record.scope == SCOPE.name:
                self._add(record)
        at = self.time
        if at // _EVERY_S <= self._state.evaluated_at // _EVERY_S:
            return []
        self._state.evaluated_at = at
        return [*self._end_others(at), *(each for pair in self._pairs.values() for each in self._evaluate(pair, at))]

    def flush(self, now: float | None) -> Sequence[Message]:
        """Nothing: every output follows from a message."""
        return []

    def snapshot(self) -> bytes:
        """The state."""
        return msgspec.msgpack.encode(self._state)

    def restore(self, data: bytes) -> None:
        """Bring a fresh state to `data`."""
        self._state = msgspec.msgpack.decode(data, type=_State)

    def continue_alerts(self, sent: Sequence[Message]) -> Sequence[Message]:
        """Go on with alerts that were sent before this state was made again from the log."""
        own = {_fingerprint(name) for name in self._pairs}
        firing = list(self._state.alerts.values())
        alerts = carry_on(firing, sent, lambda alert: alert.fingerprint in own, self.time)
        return [Message(ALERTS, encode(each), key=each.fingerprint.encode()) for each in alerts]

    def summaries(self) -> list[Reconciliation]:
        """The newest ratio of every pair of this partition."""
        at = self._state.evaluated_at
        found = (self._summary(pair, at) for name, pair in self._pairs.items() if name in self._state.days)
        return [summary for summary in found if summary is not None]

    def _add(self, part: SpendPartial) -> None:
        name, money = part.tags.get(PAIR, ""), part.tags.get(MONEY)
        if name not in self._pairs or money not in ("estimated", "billed"):
            return
        days = self._state.days.setdefault(name, {})
        day = days.setdefault(part.bucket_start // DAY_S, _Day())
        setattr(day, money, getattr(day, money) + part.effective_cost)
        day.reported = False
        if len(days) > _KEEP_DAYS:
            del days[min(days)]

    def _evaluate(self, pair: Pair, at: float) -> Iterable[Message]:
        days = self._state.days.get(pair.name)
        if days is None:
            return  # the pair belongs to another partition, or has no record yet
        for number in self._settled(pair, at, len(days)):
            day = days[number]
            if not day.reported:
                day.reported = True
                start = float(number * DAY_S)
                yield _message(_record(pair, start, start + DAY_S, [day], at), f"{pair.name}/{_date(start)}")
        summary = self._summary(pair, at)
        if summary is None:
            return
        yield _message(summary, pair.name)
        _publish(summary)
        alert = self._judge(pair, summary, at)
        if alert is not None:
            yield Message(ALERTS, encode(alert), key=alert.fingerprint.encode())

    def _end_others(self, at: float) -> list[Message]:
        """Resolve alerts of pairs that are no longer configured."""
        ended = [self._state.alerts.pop(name) for name in self._state.alerts.keys() - self._pairs.keys()]
        return [Message(ALERTS, encode(resolved(each, at)), key=each.fingerprint.encode()) for each in ended]

    def _settled(self, pair: Pair, at: float, most: int) -> list[int]:
        """The newest `most` days (since 1970) that are over for `lag_hours` and that the bill has reached, in order.

        They start with the first day that was estimated, or on which Curb ran.
        """
        days = self._state.days[pair.name]
        first = min([int(self._state.since // DAY_S), *(number for number, day in days.items() if day.estimated)])
        reached = max((number for number, day in days.items() if day.billed), default=-1)
        last = min(reached, int((at - pair.lag_hours * 3600) // DAY_S) - 1)
        return sorted(number for number in days if first <= number <= last)[-most:]

    def _summary(self, pair: Pair, at: float) -> Reconciliation | None:
        days = self._state.days[pair.name]
        numbers = self._settled(pair, at, pair.window_days)
        if not numbers:
            return None
        start, end = float(numbers[0] * DAY_S), float((numbers[-1] + 1) * DAY_S)
        found = _record(pair, start, end, [days[number] for number in numbers], at)
        found.open_usd = sum(day.estimated for number, day in days.items() if number > numbers[-1])
        return found

    def _judge(self, pair: Pair, summary: Reconciliation, at: float) -> Alert | None:
        """A revision when the ratio leaves its band or returns to it, and once a day while it is outside."""
        low, high = pair.band
        ratio = summary.ratio
        enough = summary.days >= pair.min_days and max(summary.estimated_usd, summary.billed_usd) >= max(
            pair.min_usd, 1e-9
        )
        wrong = enough and not (ratio is not None and low <= ratio <= high)
        alert = self._state.alerts.get(pair.name)
        if alert is None:
            if wrong:
                self._state.alerts[pair.name] = alert = _open(pair, summary, at)
                metrics.ALERTS.labels(kind=alert.kind, tier=alert.tier).inc()
                return alert
        elif not wrong:
            del self._state.alerts[pair.name]
            return resolved(alert, at, **_figures(pair, summary))
        elif at - alert.updated_at >= DAY_S:
            self._state.alerts[pair.name] = alert = revised(alert, at, **_figures(pair, summary))
            return alert
        return None


def expected(summary: Reconciliation) -> tuple[float, float, float] | None:
    """Expected bill for `open_usd` with its bounds, in dollars; None without a ratio."""
    if summary.ratio is None:
        return None
    low = summary.ratio if summary.ratio_low is None else summary.ratio_low
    high = summary.ratio if summary.ratio_high is None else summary.ratio_high
    return summary.open_usd * summary.ratio, summary.open_usd * low, summary.open_usd * high


def _record(pair: Pair, start: float, end: float, days: list[_Day], at: float) -> Reconciliation:
    ratio = ratio_of([(day.estimated, day.billed) for day in days]) or Ratio(0.0, None, None)
    estimated = sum(day.estimated for day in days)
    return Reconciliation(
        pair=pair.name,
        period_start=start,
        period_end=end,
        estimated_usd=estimated,
        billed_usd=sum(day.billed for day in days),
        days=len(days),
        ratio=ratio.value if estimated > 0 else None,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        at=at,
    )


def _message(record: Reconciliation, key: str) -> Message:
    return Message(RECONCILED, encode(record), key=key.encode())


def _publish(summary: Reconciliation) -> None:
    if summary.ratio is None:
        return
    metrics.CAPTURE_RATIO.labels(pair=summary.pair).set(summary.ratio)
    if summary.ratio_low is not None and summary.ratio_high is not None:
        metrics.CAPTURE_RATIO_LOW.labels(pair=summary.pair).set(summary.ratio_low)
        metrics.CAPTURE_RATIO_HIGH.labels(pair=summary.pair).set(summary.ratio_high)


def _fingerprint(pair: str) -> str:
    return fingerprint_of("reconcile", pair)


def _open(pair: Pair, summary: Reconciliation, at: float) -> Alert:
    fingerprint = _fingerprint(pair.name)
    return Alert(
        fingerprint=fingerprint,
        alert_id=alert_id_of(fingerprint, at),
        revision=1,
        status="firing",
        kind="pricing",
        tier="notice",
        scope=SCOPE.name,
        tags={PAIR: pair.name},
        fired_at=at,
        updated_at=at,
        started_at=summary.period_start,
        usd_per_hour=0.0,
        expected_usd_per_hour=0.0,
        score=0.0,
        channel="pricing/capture_ratio",
        money="billed",
        **_figures(pair, summary),
    )


def _figures(pair: Pair, summary: Reconciliation) -> dict[str, Any]:
    difference = summary.billed_usd - summary.estimated_usd
    bounds = "" if summary.ratio_low is None else f" ({summary.ratio_low:.2f} to {summary.ratio_high:.2f})"
    said = "nothing was estimated" if summary.ratio is None else f"a capture ratio of {summary.ratio:.2f}{bounds}"
    words = (
        f"{pair.name}: {usd(summary.billed_usd)} billed and {usd(summary.estimated_usd)} estimated for "
        f"{_date(summary.period_start)} to {_date(summary.period_end - 1)}, {said}; "
        f"in order is {pair.band[0]:.2f} to {pair.band[1]:.2f}."
    )
    return {
        "expected_usd": summary.estimated_usd,
        "actual_usd": summary.billed_usd,
        "excess_usd": difference,
        "dollars_at_risk": abs(difference),
        "explanation": words,
    }


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()
