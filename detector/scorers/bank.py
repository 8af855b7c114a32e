"""Runs one configured scorer over the series of a shard: which are watched, what is learned and found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from curb.detector.scorers.protocol import Scorer, ScorerSettings
from curb.detector.state.columns import Floats
from curb.detector.state.pickles import NotAModelError, dump, load
from curb.stream.time import DAY_S

#: Seconds after which a suspicious level is the new normal: it is learned and no longer a finding. Chosen by hand.
RELEARN_S = DAY_S
#: Errors of a scorer that end it for one series; all other series go on.
_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
#: The usual value moves by at most this multiple of itself in a bucket. Chosen by hand.
_USUAL_CLIP = 5.0


class ScorerFinding(NamedTuple):
    """A series whose every bucket of the last `hold_minutes` was suspicious."""

    series: int
    #: Lowest score of those buckets.
    score: float
    #: Start of the first suspicious bucket, epoch seconds.
    since: int
    metric: str
    #: Per hour, in the metric's own unit: now, and the mean of the last day without suspicion.
    value: float
    usual: float


@dataclass
class Watch:
    """One watched series. Times are bucket starts, epoch seconds."""

    scorer: Scorer
    active_at: int
    usual: float = 0.0
    buckets: int = 0
    suspicious_since: int | None = None
    least: float = 1.0
    #: The reason it is no longer scored; empty while it is.
    failure: str = ""


class ScorerBank:
    """Pure: same buckets, same findings. At most `max_series` scorers are held."""

    def __init__(self, settings: ScorerSettings, bucket_s: int) -> None:
        self._settings, self._bucket_s = settings, bucket_s
        self._watched: dict[int, Watch] = {}
        self._numbers: list[int] = []
        self._looked_at = 0
        #: Buckets of series that were not watched because the bank was full.
        self.refused = 0
        #: Scorers that have failed since the state began.
        self.failed = 0

    @property
    def name(self) -> str:
        """Name of the scorer in the configuration."""
        return self._settings.name

    def __len__(self) -> int:
        return len(self._watched)

    @property
    def failures(self) -> dict[int, str]:
        """Series that are no longer scored, with the reason."""
        return {number: watch.failure for number, watch in self._watched.items() if watch.failure}

    def close(
        self, start: int, sums: Mapping[str, Floats], scopes: Sequence[str], name_of: Callable[[int], str], gap: bool
    ) -> list[ScorerFinding]:
        """Score and learn the bucket that began at `start`.

        `sums` holds an array of shape (N,) for every feature, `scopes` the scope of each of the N series, `name_of` a
        series' name that never changes. In a gap nothing is scored or learned.
        """
        wanted = set(self._settings.scopes)
        self._numbers += [i for i in range(self._looked_at, len(scopes)) if scopes[i] in wanted]
        self._looked_at = max(self._looked_at, len(scopes))
        if gap or not self._numbers:
            return []
        numbers = np.array(self._numbers)
        hours = self._bucket_s / 3600
        rates: dict[str, Floats] = {feature: sums[feature][numbers] / hours for feature in self._settings.features}
        active = np.any([rate != 0 for rate in rates.values()], axis=0)
        self._watch(numbers[active].tolist(), start, name_of)
        found = []
        place = {number: at for at, number in enumerate(self._numbers)}
        for number, watch in self._watched.items():
            at = place[number]
            if watch.failure:
                continue
            x = {feature: float(rate[at]) for feature, rate in rates.items()}
            finding = self._score(number, watch, start, x)
            if finding is not None:
                found.append(finding)
        return found

    def dump(self) -> bytes:
        """The state as pickled models, stamped with the versions that made it; only for `load`."""
        state = (self._looked_at, self._numbers, self._watched, self.refused, self.failed)
        return dump(self._settings.stamp(), state)

    def load(self, data: bytes) -> str:
        """Load what `dump` gave. Returns an empty text, or the reason why the models learn again from nothing."""
        try:
            state = load(self._settings.stamp(), data)
        except NotAModelError as error:
            return f"scorer {self.name} learns again from nothing: {error}"
        self._looked_at, self._numbers, self._watched, self.refused, self.failed = state
        return ""

    def _watch(self, active: Sequence[int], start: int, name_of: Callable[[int], str]) -> None:
        for number in active:
            watch = self._watched.get(number)
            if watch is not None:
                watch.active_at = start
            elif len(self._watched) < self._settings.max_series or self._drop_silent(start):
                self._watched[number] = Watch(self._settings.build(name_of(number)), start)
            else:
                self.refused += 1

    def _drop_silent(self, start: int) -> bool:
        longest = min(self._watched, key=lambda number: self._watched[number].active_at)
        if start - self._watched[longest].active_at < DAY_S:
            return False
        del self._watched[longest]
        return True

    def _score(self, number: int, watch: Watch, start: int, x: dict[str, float]) -> ScorerFinding | None:
        metric = self._settings.features[0]
        usual, value = watch.usual, x[metric]
        try:
            score = float(watch.scorer.score_one(x))
            if not 0 <= score <= 1:
                raise ValueError(f"the score was {score}")
            counts = self._settings.direction == "both" or value > usual
            suspicious = counts and score >= self._settings.threshold
            since = watch.suspicious_since if watch.suspicious_since is not None else start
            lasting = start + self._bucket_s - since
            if not suspicious or lasting > RELEARN_S:
                watch.scorer.learn_one(x)
                self._learn_usual(watch, value)
        except _FAILURES as error:
            watch.failure = f"{type(error).__name__}: {error}"
            watch.suspicious_since = None
            self.failed += 1
            return None
        if not suspicious:
            watch.suspicious_since, watch.least = None, 1.0
            return None
        watch.suspicious_since, watch.least = since, min(watch.least, score)
        if lasting < 60 * self._settings.hold_minutes or lasting > RELEARN_S:
            return None
        return ScorerFinding(number, watch.least, since, metric, value, usual)

    def _learn_usual(self, watch: Watch, value: float) -> None:
        watch.buckets += 1
        settled = watch.buckets * self._bucket_s > 3600 and watch.usual > 0
        limit = _USUAL_CLIP * watch.usual if settled else math.inf
        watch.usual += (min(value, limit) - watch.usual) / min(watch.buckets, DAY_S // self._bucket_s)
