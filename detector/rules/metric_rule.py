"""The rule for any metric that somebody wants watched: the metric head over the series of one scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.rules.metric_tail import VALUE, Index, MetricSettings, MetricTail
from curb.detector.state.columns import Bools, Column, Columns, Floats, Parts
from curb.detector.state.local_time import local_hour
from curb.detector.state.rule import NOT_MEASURED, Family, Finding, Rule, RuleContext
from curb.detector.state.view import View
from curb.stream.settings import Settings

#: What is watched of a series; the season is what is left of a value without the mean of its time of day.
CHANNELS = ("value", "short mean", "middle mean", "volatility", "season", "trend")
#: Rows of the means, beside the quick one at 0. By definition.
_SHORT, _MIDDLE, _LONG = 1, 2, 3


class Params(NamedTuple):
    #: Values are cut off here, so that no sum or product overflows. By definition of 64-bit floats.
    value_max: float = 1e100
    #: Samples since a series fired that never did. By definition: more than there will be.
    long_ago: int = 1099511627776


P = Params()


@dataclass(frozen=True)
class MetricScores:
    """What one step says about every series; arrays of shape (N,)."""

    #: 0 and up, in powers of ten, also while a series holds off.
    surprise: Floats
    #: surprise / (1 + surprise) where the series fires, else 0.
    score: Floats
    fired: Bools
    #: Index into CHANNELS of what says most; meaningless where surprise is 0.
    channel: NDArray[np.intp]


@dataclass(frozen=True)
class _Look:
    """A step as it would change the series that have a sample; arrays of shape (..., M)."""

    index: Index
    seen: NDArray[np.int64]
    warm: Bools
    means: Floats
    volatility: Floats
    learned: Floats
    bins: NDArray[np.intp]
    channels: Floats
    surprise: Floats
    fired: Bools
    best: NDArray[np.intp]


class MetricHead(Parts):
    """Scores with what was known before the step, then learns from it. Pure: same steps, same scores.

    State: means, volatility, season and tails of six channels.
    Update: with every sample, by small steps.
    Score: the root of the sum of squared surprises, with a bonus beyond the whole past range.
    Source: exponential tails beyond moving quantiles, as in peaks over threshold (Siffer et al. 2017).
    """

    def __init__(self, settings: MetricSettings, capacity: int = 64) -> None:
        """`capacity` is the number of series to make room for at first."""
        self._settings = settings
        self._tail = MetricTail(settings, len(CHANNELS), capacity)
        self._series = Columns(
            {
                "warmup": Column(dtype=np.int64),
                "seen": Column(dtype=np.int64),
                "since_fire": Column(dtype=np.int64, fill=P.long_ago),
                "means": Column((4,)),
                "volatility": Column(),
                "greatest": Column(),
                "least": Column(),
                "season": Column((settings.season_bins,)),
                "season_visits": Column((settings.season_bins,), np.uint8),
            },
            capacity,
        )
        lengths = (settings.quick_length, settings.short_length, settings.middle_length, settings.long_length)
        self._shares = 1 / np.array(lengths)[:, None]
        self.parts = {"series": self._series, "tail": self._tail.columns}

    @property
    def n(self) -> int:
        """Number of series in use."""
        return self._series.n

    def grow(self, n: int, warmup_points: int | None = None) -> None:
        """Use `n` series. New ones are watched for `warmup_points`, by default and at most the settings' number.

        Raises ValueError if that is not from 1 to the settings' number.
        """
        most = self._settings.warmup_points
        points = most if warmup_points is None else warmup_points
        if not 1 <= points <= most:
            raise ValueError(f"warmup_points must be from 1 to {most}, not {points}")
        before = self.n
        for part in self.parts.values():
            part.grow(n)
        self._series["warmup"][before:] = points

    def step(self, value: Floats, day_share: float | Floats) -> MetricScores:
        """Score the newest samples, shape (N,), and learn from them.

        NaN (and infinity) is no sample: it scores 0 and changes nothing. `day_share` is the time of day from 0 up to 1,
        of the sample's local business day: one for all or one per series.
        """
        look = self._look(value, day_share)
        scores = self._scores(look)
        self._apply(look)
        return scores

    def score(self, value: Floats, day_share: float | Floats) -> MetricScores:
        """As `step`, without learning."""
        return self._scores(self._look(value, day_share))

    def learn(self, value: Floats, day_share: float | Floats) -> None:
        """As `step`, without the scores."""
        self._apply(self._look(value, day_share))

    def _look(self, value: Floats, day_share: float | Floats) -> _Look:
        present = np.isfinite(value)
        # A slice gives views, which is several times faster than picking series one by one.
        index: Index = slice(None) if present.all() else np.nonzero(present)[0]
        series, settings = self._series, self._settings
        raw = np.clip(value[index], -P.value_max, P.value_max)
        seen = series["seen"][index] + 1
        warm, first = seen > series["warmup"][index], seen == 1
        least, greatest = self._tail.limits(VALUE, index)
        cut = np.where(warm, np.clip(raw, least, np.maximum(least, greatest)), raw)
        means = np.where(first, cut, series["means"][:, index])
        change = np.abs(cut - means[0])
        means = means + self._shares * (cut - means)
        volatility = series["volatility"][index]
        volatility = volatility + (change - volatility) / settings.volatility_length
        bins = self._bins(day_share, index, raw.size)
        expected = self._expected(bins, index, cut)
        channels = np.stack(
            (raw, means[_SHORT], means[_MIDDLE], volatility, cut - expected, means[_MIDDLE] - means[_LONG])
        )
        surprise, best = self._surprise(channels, cut, index)
        surprise = np.where(warm, surprise, 0.0)
        rested = series["since_fire"][index] >= settings.hold_off_share * series["warmup"][index]
        return _Look(
            index=index,
            seen=seen,
            warm=warm,
            means=means,
            volatility=volatility,
            learned=cut,
            bins=bins,
            channels=channels,
            surprise=surprise,
            fired=rested & (surprise >= settings.fire_at),
            best=best,
        )

    def _bins(self, day_share: float | Floats, index: Index, size: int) -> NDArray[np.intp]:
        bins = self._settings.season_bins
        share = np.asarray(day_share, np.float64)
        picked = share[index] if share.ndim else np.broadcast_to(share, (size,))
        return np.clip(bins * picked, 0, bins - 1).astype(np.intp)

    def _at(self, bins: NDArray[np.intp], index: Index) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where in the season's arrays the series of `index` are."""
        return bins, np.arange(self.n)[index]

    def _expected(self, bins: NDArray[np.intp], index: Index, unknown: Floats) -> Floats:
        """What is usual at this time of day, and `unknown` where that is not known yet."""
        at = self._at(bins, index)
        known = self._series["season_visits"][at] > self._settings.season_known
        return np.where(known, self._series["season"][at], unknown)

    def _surprise(self, channels: Floats, cut: Floats, index: Index) -> tuple[Floats, NDArray[np.intp]]:
        """Surprise over all channels and the channel that says most."""
        settings = self._settings
        each = self._tail.surprise(channels, index)
        greatest, least = self._series["greatest"][index], self._series["least"][index]
        above = cut - greatest
        beyond = above if settings.one_sided else np.maximum(above, least - cut)
        spread = greatest - least
        with np.errstate(over="ignore"):  # a range next to nothing: infinitely far beyond it
            share = np.where(spread > 0, beyond / np.where(spread > 0, spread, 1.0), np.where(beyond > 0, np.inf, 0.0))
        extra = settings.extreme_bonus * np.minimum(settings.extreme_full, share) / settings.extreme_full
        total = np.sqrt(np.square(each).sum(axis=0)) + np.where(share > settings.extreme_least, extra, 0.0)
        return total, each.argmax(axis=0)

    def _scores(self, look: _Look) -> MetricScores:
        def spread(picked: NDArray[Any]) -> NDArray[Any]:
            full = np.zeros(self.n, picked.dtype)
            full[look.index] = picked
            return full

        surprise, fired = spread(look.surprise), spread(look.fired)
        score = np.where(fired, surprise / (1 + surprise), 0.0)
        return MetricScores(surprise=surprise, score=score, fired=fired, channel=spread(look.best))

    def _apply(self, look: _Look) -> None:
        series, index, cut = self._series, look.index, look.learned
        first = look.seen == 1
        series["seen"][index] = look.seen
        series["means"][:, index] = look.means
        series["volatility"][index] = look.volatility
        series["greatest"][index] = np.where(first, cut, np.maximum(series["greatest"][index], cut))
        series["least"][index] = np.where(first, cut, np.minimum(series["least"][index], cut))
        since = np.minimum(series["since_fire"][index] + 1, P.long_ago)
        series["since_fire"][index] = np.where(look.fired, 0, since)
        self._learn_season(look)
        self._learn_tail(look)

    def _learn_season(self, look: _Look) -> None:
        at = self._at(look.bins, look.index)
        series = self._series
        visits = np.minimum(series["season_visits"][at] + 1, self._settings.season_memory)
        season = series["season"][at]
        series["season"][at] = season + (look.learned - season) / visits
        series["season_visits"][at] = visits

    def _learn_tail(self, look: _Look) -> None:
        if look.warm.all():
            self._tail.learn(look.channels, look.index)
            return
        every = np.arange(self.n)[look.index]
        cold = ~look.warm
        self._tail.warm(look.channels[:, cold], every[cold], look.seen[cold])
        points = self._series["warmup"][every]
        done = look.seen == points
        if done.any():
            self._tail.settle(every[done], points[done])
        if look.warm.any():
            self._tail.learn(look.channels[:, look.warm], every[look.warm])


Metric = Literal[
    "cost", "requests", "errors", "users", "input_tokens", "output_tokens", "gpu_utilization", "memory_used"
]


class MetricWatch(Settings):
    """One metric of one scope, watched by the metric head; never a page."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=64, description="Unique name; findings carry it.")
    scope: str = Field(description="Name of the scope whose series are watched.")
    metric: Metric = Field(description="What is watched, per bucket.")
    tier: Literal["digest", "notice"] = Field(default="digest", description="The tier of findings.")
    hold_minutes: int = Field(default=60, ge=1, description="How long a finding is said again after it fired.")
    head: MetricSettings = Field(
        default=MetricSettings(fire_at=12.0, one_sided=True), description="The head's own settings, in samples."
    )


class MetricRule(Rule):
    """Findings where a metric is far outside what its series has shown, for an hour after it was."""

    config = MetricWatch
    settings_at = "metrics"

    def __init__(self, config: MetricWatch, context: RuleContext) -> None:
        self._watch, self._zone = config, ZoneInfo(context.time_zone)
        self.name = f"metric.{config.name}"
        self.families = (Family(f"metric-{config.name}", NOT_MEASURED, by_worth=False),)
        self._head = MetricHead(config.head)
        #: Numbers of the series of the scope, and how far the registry was searched for them.
        self._numbers = np.zeros(0, np.int64)
        self._looked_at = 0
        self._fired = np.zeros(0, np.int64)

    def close(self, view: View) -> list[Finding]:
        """Findings of kind runaway."""
        self._take_in(view)
        if view.bucket.gap or not len(self._numbers):
            return []
        value = self._values(view)
        scores = self._head.step(value, self._day_share(view.start))
        self._fired[scores.fired] = view.start
        holds = view.start - self._fired < 60 * self._watch.hold_minutes
        name = self._watch.metric.replace("_", " ")
        return [
            Finding(
                series=int(self._numbers[row]),
                family=self.families[0],
                kind="runaway",
                tier=self._watch.tier,
                score=float(scores.surprise[row] / self._watch.head.fire_at),
                words=f"its {name} left what it has shown so far: {value[row]:,.6g} in {view.step_s / 60:g} min",
                lasting=True,
            )
            for row in np.flatnonzero(holds).tolist()
        ]

    def _take_in(self, view: View) -> None:
        scopes = view.registry.scopes
        new = [i for i in range(self._looked_at, len(scopes)) if scopes[i] == self._watch.scope]
        self._looked_at = len(scopes)
        if new:
            self._numbers = np.concatenate([self._numbers, np.array(new, np.int64)])
            self._fired = np.concatenate([self._fired, np.full(len(new), -(2**40), np.int64)])
            self._head.grow(len(self._numbers))

    def _values(self, view: View) -> Floats:
        amounts = view.bucket.amounts.of(self._numbers)
        if self._watch.metric in ("gpu_utilization", "memory_used"):
            total = amounts.gpu_percents if self._watch.metric == "gpu_utilization" else amounts.gpu_gib
            return np.where(amounts.gpu_samples > 0, total / np.maximum(amounts.gpu_samples, 1.0), np.nan)
        value: Floats = getattr(amounts, self._watch.metric)
        return value

    def _day_share(self, start: int) -> float:
        hour = local_hour(start, self._zone)
        return (hour.of_day + hour.fraction) / 24

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes."""
        own = {"numbers": self._numbers, "fired": self._fired, "looked_at": np.array([self._looked_at])}
        return {**{f"head.{name}": array for name, array in self._head.dump().items()}, **own}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._numbers, self._fired = np.array(arrays["numbers"]), np.array(arrays["fired"])
        self._looked_at = int(arrays["looked_at"][0])
        self._head.load({name[5:]: array for name, array in arrays.items() if name.startswith("head.")})
