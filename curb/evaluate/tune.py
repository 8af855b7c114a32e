"""Back-tests a few settings on a stream, as it is and with injected incidents, and picks one: the work of `curb tune`.

The settings are the three that decide what people hear of: the floors in dollars under which nothing counts, and the
dollars at risk that a notice and a page are worth. Everything else stays as configured.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from curb.detector.settings import DetectorSettings
from curb.evaluate.backtest import AlertLife, Backtest, Event, events_file, grid_in, read_events, replay
from curb.evaluate.inject import InjectedIncident, Keys, inject, merged
from curb.evaluate.score import GRACE_S, Fired, Label, LabelledStream, Score, score
from curb.stream.records.spend import Alert, SpendRecord
from curb.stream.time import DAY_S

#: Seconds of a bucket where the stream is finer: five times faster than a minute, and no setting here decides within
#: less. By hand.
_BUCKET_S = 300
#: Days of learning before anything counts: a series settles in seven, in a short stream the first third. By hand.
_LEARNING_DAYS = 7.0
#: Days that a stream must have to say anything, and days to which a long one is cut for time. By hand.
LEAST_DAYS, _CUT_DAYS = 4.0, 14.0
#: Part of the stream's time that is replayed to see how long a back-test takes, and how much slower the rest is
#: than the start, where few series are known. By hand, on five days of 28 keys.
_PROBE, _SLOWER = 0.1, 1.4
#: Runs that a setting needs: the stream as it is, and with incidents.
_RUNS = 2
#: Settings that a search should have the time for before days are cut. By hand.
_WANTED = 6
#: A setting must save this part of the dollars, or catch one incident more, to be worth a change. By hand.
_WORTH = 0.01
#: Alerts that these settings do not decide.
_OTHERS = frozenset({"budget", "feed", "pricing", "commitment", "waste"})


class TunePoint(NamedTuple):
    """One point of the grid. Dollars; `floors` has one for each window."""

    floors_usd: tuple[float, float, float, float, float]
    notice_at_risk_usd: float
    page_at_risk_usd: float

    @classmethod
    def of(cls, settings: DetectorSettings) -> TunePoint:
        """The point that a configuration is at."""
        alerts = settings.alerts
        return cls(settings.score.floors_usd, alerts.notice_at_risk_usd, alerts.page_at_risk_usd)

    def scaled(self, floors: float = 1.0, notice: float = 1.0, page: float = 1.0) -> TunePoint:
        """A point beside it: each setting times a factor."""
        return TunePoint(
            tuple(_round(usd * floors) for usd in self.floors_usd),  # type: ignore[arg-type]
            _round(self.notice_at_risk_usd * notice),
            _round(self.page_at_risk_usd * page),
        )

    def applied(self, settings: DetectorSettings) -> DetectorSettings:
        """The configuration at this point, without budgets: they alert by themselves."""
        changes = {
            "score": settings.score.model_copy(update={"floors_usd": self.floors_usd}),
            "alerts": settings.alerts.model_copy(
                update={"notice_at_risk_usd": self.notice_at_risk_usd, "page_at_risk_usd": self.page_at_risk_usd}
            ),
            "budgets": (),
        }
        return settings.model_copy(update=changes)


def _round(usd: float) -> float:
    """Two digits: nobody configures $2.3999."""
    return float(f"{usd:.2g}")


#: Factors on the current point, in the order in which they are tried: each setting alone, then together. A search
#: that runs out of time has seen the first ones. By hand.
_STEPS: tuple[dict[str, float], ...] = (
    {"floors": 0.4},
    {"floors": 2.5},
    {"notice": 3.0},
    {"floors": 0.4, "notice": 3.0},
    {"page": 3.0},
    {"floors": 0.15},
    {"notice": 0.3},
    {"floors": 0.15, "notice": 3.0, "page": 3.0},
    {"page": 0.3},
    {"notice": 10.0, "page": 3.0},
    {"floors": 0.4, "page": 3.0},
    {"floors": 0.4, "notice": 0.3, "page": 0.3},
)


def grid(current: TunePoint) -> list[TunePoint]:
    """The points to try, the current one first, each once."""
    return list(dict.fromkeys([current, *(current.scaled(**factors) for factors in _STEPS)]))


class TriedSetting(NamedTuple):
    """What one setting came to. Alerts are notices and pages on the untouched stream, after the learning."""

    setting: TunePoint
    #: Share of the injected incidents that raised an alert in time, and by shape: caught, of how many.
    recall: float
    by_shape: dict[str, tuple[int, int]]
    lost_usd: float
    lost_share: float
    alerts_per_day: float
    pages_per_day: float
    #: Alerts by tier on the untouched stream.
    tiers: dict[str, int]
    #: Of the alerts that a person called real: raised again, of how many; and of those called no anomaly or planned.
    real: tuple[int, int] = (0, 0)
    wrong: tuple[int, int] = (0, 0)


class JudgedAlert(NamedTuple):
    """An alert of the past with a person's verdict. Epoch seconds."""

    real: bool
    tags: dict[str, str]
    start: float
    end: float
    usd: float

    @classmethod
    def of(cls, alert: Alert, verdict: str) -> JudgedAlert | None:
        """None where nobody judged it, or the thresholds do not decide its kind."""
        if not verdict or alert.kind in _OTHERS:
            return None
        end = max(alert.resolved_at or alert.updated_at, alert.started_at + 1)
        return cls(verdict == "real", alert.tags, alert.started_at, end, max(alert.excess_usd, 0.0))


class TooShortError(ValueError):
    """The stream cannot be tuned on; the message says why."""


class TimeUp(Exception):
    """A back-test was ended because its time was over."""


@dataclass
class Bench:
    """A stream, its injected incidents, and how long one back-test of it takes (seconds)."""

    path: Path
    settings: DetectorSettings
    since: float
    start: float
    end: float
    counts_from: float
    bucket_s: int
    incidents: list[InjectedIncident]
    judged: Sequence[JudgedAlert] = ()
    run_s: float = 0.0
    #: How far the running back-test is, epoch seconds: bytes read run ahead of the work by megabytes.
    at: float = -math.inf
    #: Points that fit into the time.
    points: list[TunePoint] = field(default_factory=list)

    @property
    def counted_days(self) -> float:
        return (self.end - self.counts_from) / DAY_S

    @property
    def share(self) -> float:
        """The part of the stream that the running back-test has done, 0 to 1."""
        return min(1.0, max(0.0, (self.at - self.start) / max(1.0, self.end - self.start)))

    def stream(self, *, injected: bool) -> Callable[[Iterator[Event]], Iterator[Event]]:
        """What is done to the events as they are read."""
        extra = merged(self.incidents) if injected else []

        def change(events: Iterator[Event]) -> Iterator[Event]:
            for event in with_extra((each for each in events if _known_at(each) >= self.since), extra):
                self.at = _known_at(event)
                yield event

        return change

    def run(self, setting: TunePoint, *, injected: bool, progress: Callable[[int], None]) -> Backtest:
        """One back-test. Whatever `progress` raises ends it."""
        self.at = self.start
        return replay(
            self.path, setting.applied(self.settings), self.bucket_s, progress, change=self.stream(injected=injected)
        )


def _known_at(event: Event) -> float:
    return event.received_at if isinstance(event, SpendRecord) else event.at


def with_extra(events: Iterable[Event], extra: Sequence[Event]) -> Iterator[Event]:
    """Events in order of receipt with more between them."""
    waiting = iter(extra)
    following = next(waiting, None)
    for event in events:
        while following is not None and _known_at(following) <= _known_at(event):
            yield following
            following = next(waiting, None)
        yield event
    if following is not None:
        yield following
        yield from waiting


def prepare(
    path: Path,
    settings: DetectorSettings,
    *,
    per_shape: int,
    seed: int,
    minutes: float,
    judged: Sequence[JudgedAlert] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> Bench:
    """Read the stream once, inject incidents, see how long a back-test takes, and choose the points that fit.

    `minutes` are for this as well as for the back-tests. A stream that is too long for six points is cut to its newest
    days, but to no fewer than two weeks. Raises TooShortError for a stream that cannot be tuned on, OSError and
    ValueError for an unreadable stream.
    """
    file, begun = events_file(path), clock()
    keys = _keys(file, settings)
    if keys.scope is None:
        raise TooShortError("no scope of principals may raise alerts on usage: there is nothing to tune")
    if not keys.known:
        raise TooShortError("the stream holds no usage to inject incidents into")
    days = (keys.last - keys.first) / DAY_S
    if days < LEAST_DAYS:
        raise TooShortError(f"the stream has {days:.1f} days; tuning needs {LEAST_DAYS:g}, and 14 to be worth it")
    bucket_s = max(_BUCKET_S, grid_in(file).step_s)
    bench = Bench(path, settings, -math.inf, keys.first, keys.last, 0.0, bucket_s, [], judged)
    full_s = _probe(bench, clock)
    left_s = max(0.0, minutes * 60 - (clock() - begun))
    fitting = left_s / (full_s * _RUNS)
    if fitting < _WANTED and days > _CUT_DAYS:
        kept = max(_CUT_DAYS, days * fitting / _WANTED)
        bench.since = bench.start = keys.last - kept * DAY_S
        full_s *= kept / days
        fitting = left_s / (full_s * _RUNS)
    days = (bench.end - bench.start) / DAY_S
    bench.counts_from = bench.start + min(_LEARNING_DAYS, days / 3) * DAY_S
    bench.run_s = full_s
    bench.incidents = inject(keys, per_shape, seed, bench.counts_from, bucket_s)
    if not bench.incidents:
        raise TooShortError("no key spends enough after the days of learning to inject an incident")
    bench.points = grid(TunePoint.of(settings))[: max(1, int(fitting))]
    return bench


def _keys(file: Path, settings: DetectorSettings) -> Keys:
    keys, seen = Keys(settings.scopes), Backtest()
    with file.open("rb") as raw:
        for event in read_events(raw, file, seen, 0):
            if isinstance(event, SpendRecord):
                keys.add(event)
    return keys


def _probe(bench: Bench, clock: Callable[[], float]) -> float:
    """Seconds that a back-test of the whole stream takes, from its first part."""
    started = clock()

    def look(_: int) -> None:
        if bench.share >= _PROBE and clock() - started >= 1.0:
            raise TimeUp

    try:
        bench.run(TunePoint.of(bench.settings), injected=False, progress=look)
    except TimeUp:
        return (clock() - started) / bench.share * _SLOWER
    return clock() - started


def measure(
    bench: Bench, deadline: float, progress: Callable[[float], None], clock: Callable[[], float] = time.perf_counter
) -> Iterator[TriedSetting]:
    """Try the points one after the other until `deadline` (by `clock`); an unfinished point is dropped.

    `progress` gets the number of back-tests done, with the part of the running one.
    """
    done = 0

    def look(_: int) -> None:
        progress(done + bench.share)
        if clock() > deadline:
            raise TimeUp

    for point in bench.points:
        try:
            lives: list[list[AlertLife]] = []
            for injected in (False, True):
                lives.append(list(bench.run(point, injected=injected, progress=look).alerts.values()))
                done += 1
        except TimeUp:
            return
        yield judge(bench, point, *lives)


def judge(
    bench: Bench, point: TunePoint, untouched: Sequence[AlertLife], injected: Sequence[AlertLife]
) -> TriedSetting:
    """The figures of one point, from the alerts on the stream as it is and with the incidents."""
    found = _score(bench, [each.label for each in bench.incidents], injected)
    pooled = found.all_kinds
    counted = [each for each in untouched if each.first.kind not in _OTHERS and _counts(each, bench.counts_from)]
    tiers = Counter(each.tier for each in counted)
    per_day = 1 / bench.counted_days
    loud = tiers["notice"] + tiers["page"]
    return TriedSetting(
        setting=point,
        recall=pooled.recall or 0.0,
        by_shape={name: (kind.caught, kind.incidents) for name, kind in found.kinds.items()},
        lost_usd=pooled.lost_usd,
        lost_share=pooled.lost_share or 0.0,
        alerts_per_day=loud * per_day,
        pages_per_day=tiers["page"] * per_day,
        tiers={tier: tiers[tier] for tier in ("page", "notice", "digest")},
        real=_raised(bench, untouched, real=True),
        wrong=_raised(bench, untouched, real=False),
    )


def _counts(life: AlertLife, since: float) -> bool:
    return life.first.fired_at >= since and life.tier != "soft"


def _score(bench: Bench, labels: Sequence[Label], lives: Sequence[AlertLife]) -> Score:
    alerts = [
        Fired(each.noticed_at, each.last.tags, each.paged_at)
        for each in lives
        if each.noticed_at is not None and each.first.kind not in _OTHERS
    ]
    warmup = (bench.counts_from - bench.start) / DAY_S
    return score(LabelledStream(bench.start, bench.end, bench.bucket_s, tuple(labels)), alerts, warmup, GRACE_S)


def _raised(bench: Bench, lives: Sequence[AlertLife], *, real: bool) -> tuple[int, int]:
    """How many of the judged alerts of the past would be raised, of how many."""
    labels = [
        Label(f"judged {n}", "judged", "incident", each.tags, each.start, each.end, each.usd, (), None, np.zeros(0))
        for n, each in enumerate(bench.judged)
        if each.real == real and bench.counts_from <= each.start < bench.end
    ]
    pooled = _score(bench, labels, lives).all_kinds
    return pooled.caught, pooled.incidents


# --- the choice ---------------------------------------------------------------------------------------------------


def frontier(tried: Sequence[TriedSetting]) -> list[TriedSetting]:
    """The settings that no other beats: fewer dollars lost, more incidents found or fewer alerts a day."""

    def beaten(each: TriedSetting) -> bool:
        mine = (each.alerts_per_day, each.lost_share, -each.recall)
        others = ((one.alerts_per_day, one.lost_share, -one.recall) for one in tried)
        return any(one != mine and all(a <= b for a, b in zip(one, mine, strict=True)) for one in others)

    return [each for each in tried if not beaten(each)]


def recommend(tried: Sequence[TriedSetting], alerts_per_day: float | None) -> TriedSetting:
    """The setting that loses the fewest dollars within the alerts a day that people accept; else the quietest.

    `tried` has the current setting first. Without `alerts_per_day` it may be as loud as now, or one alert a day. What
    drops an alert that a person called real is left out. The current one stays where nothing is clearly better.
    """
    current = tried[0]
    accepted = max(1.0, current.alerts_per_day) if alerts_per_day is None else alerts_per_day
    kept = [each for each in tried if each.real[0] >= current.real[0]]
    quiet = [each for each in kept if each.alerts_per_day <= accepted + 1e-9]
    if not quiet:
        return min(kept, key=lambda each: (each.alerts_per_day, each.lost_share))
    best = min(quiet, key=lambda each: (round(each.lost_share, 3), each.wrong[0], each.alerts_per_day))
    stays = current in quiet and best.lost_share > current.lost_share - _WORTH and best.recall <= current.recall
    quieter = best.alerts_per_day < 0.8 * current.alerts_per_day and best.recall >= current.recall
    return current if stays and not quieter else best


def patch(current: TriedSetting, best: TriedSetting, days: float) -> str:
    """YAML to merge into curb.yaml: the settings that change, and why in comments."""
    why = (
        f"# curb tune, {days:.0f} days: {best.recall:.0%} of the injected incidents found (now {current.recall:.0%}),\n"
        f"# {best.lost_share:.1%} of their dollars lost (now {current.lost_share:.1%}), "
        f"{best.alerts_per_day:.2f} alerts a day (now {current.alerts_per_day:.2f}).\n"
    )
    now, then = current.setting, best.setting
    if now == then:
        return why + "# Nothing to change: no other setting was clearly better.\n{}\n"
    lines = ["detector:\n"]
    if then.floors_usd != now.floors_usd:
        lines += ["  score:\n", f"    floors_usd: {json.dumps(list(then.floors_usd))}\n"]
    alerts = [
        f"    {name}: {getattr(then, name):g}\n"
        for name in ("notice_at_risk_usd", "page_at_risk_usd")
        if getattr(then, name) != getattr(now, name)
    ]
    return why + "".join([*lines, *(["  alerts:\n"] if alerts else []), *alerts])


def as_data(tried: TriedSetting) -> dict[str, Any]:
    """For JSON."""
    return {**tried._asdict(), "setting": tried.setting._asdict()}
