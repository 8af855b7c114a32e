"""River's stock detectors used whole, as somebody would who has nothing else: one model per key, node or group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from river import anomaly, preprocessing

from curb.stream.records.spend import GpuRecord, SpendRecord

NAME = "River HalfSpaceTrees"

Alerts = list[tuple[float, dict[str, str]]]

#: Nodes that serve or are somebody's own are watched one by one, all others as their group.
_SINGLE_NODES = ("infer", "serv", "dev")
_Z, _FOREST_SCORE, _FOREST_STEP_S = 6.0, 0.95, 900
#: HalfSpaceTrees finds small change as odd as anything; nobody would be told about less than this in an hour.
_FOREST_USD_PER_HOUR = 2.0
#: A subject that fired is told again after six hours of calm, or when it has gone on for thirty.
_CALM_S, _AGAIN_S = 6 * 3600, 30 * 3600


class Subject(NamedTuple):
    """What one model watches: a name, and the tags its alerts carry."""

    name: str
    tags: tuple[tuple[str, str], ...]


class Detector(Protocol):
    """Sees one value per step and says whether it fires."""

    def step(self, value: float) -> bool: ...


class Gaussian:
    """Dollars of a step over 6 standard deviations above the mean of all the past, for `hold` steps."""

    def __init__(self, hold: int) -> None:
        self._hold, self._run = hold, 0
        self._model = anomaly.GaussianScorer()

    def step(self, value: float) -> bool:
        known = self._model.gaussian
        ready = known.n_samples >= self._model.grace_period and known.sigma > 0
        self._run = self._run + 1 if ready and (value - known.mu) / known.sigma > _Z else 0
        self._model.learn_one({}, value)
        return self._run >= self._hold


class Forest:
    """HalfSpaceTrees over the dollars of a step and of the last hour, scaled to 0…1. Only more than the mean counts."""

    def __init__(self, steps_per_hour: int) -> None:
        self._scale = preprocessing.MinMaxScaler()
        self._model = anomaly.HalfSpaceTrees(seed=1)
        self._hour = [0.0] * steps_per_hour
        self._mean, self._steps = 0.0, 0

    def step(self, value: float) -> bool:
        self._hour = [*self._hour[1:], value]
        x = {"now": value, "hour": sum(self._hour)}
        self._scale.learn_one(x)
        scaled = self._scale.transform_one(x)
        fires = (
            self._model.score_one(scaled) > _FOREST_SCORE and value > self._mean and x["hour"] > _FOREST_USD_PER_HOUR
        )
        self._model.learn_one(scaled)
        self._steps += 1
        self._mean += (value - self._mean) / self._steps
        return fires


def detect(events: Iterable[SpendRecord], step_s: int) -> Alerts:
    """HalfSpaceTrees over quarters of an hour."""
    del step_s
    return _run(events, _FOREST_STEP_S, lambda: Forest(3600 // _FOREST_STEP_S))


def detect_gaussian(events: Iterable[SpendRecord], step_s: int) -> Alerts:
    """z over 6 in one step."""
    return _run(events, step_s, lambda: Gaussian(1))


def detect_gaussian_held(events: Iterable[SpendRecord], step_s: int) -> Alerts:
    """z over 6 in four steps one after another."""
    return _run(events, step_s, lambda: Gaussian(4))


#: Every way of this module by its name in tables.
PEERS: dict[str, Callable[[Iterable[SpendRecord], int], Alerts]] = {
    "River GaussianScorer, z > 6": detect_gaussian,
    "River GaussianScorer, z > 6 for 4 steps": detect_gaussian_held,
    NAME: detect,
}


def subject_of(event: SpendRecord) -> Subject:
    """The key of a language-model row; the node or group of a GPU row."""
    tags = event.tags
    if not isinstance(event, GpuRecord):
        names = ("team", "project", "api_key")
    elif any(part in tags.get("group", "") for part in _SINGLE_NODES):
        names = ("team", "group", "node")
    else:
        names = ("team", "group")
    found = tuple((name, tags[name]) for name in names if name in tags)
    return Subject("/".join(value for _, value in found), found)


def _run(events: Iterable[SpendRecord], step_s: int, make: Callable[[], Detector]) -> Alerts:
    """Sums per subject and step of event time, late rows in their place, then one model per subject from its birth."""
    spend, last = _sums(events, step_s)
    alerts: Alerts = []
    for subject, sums in spend.items():
        for at in _told(sums, last, step_s, make()):
            alerts.append((at, dict(subject.tags)))
    return sorted(alerts, key=lambda alert: alert[0])


def _sums(events: Iterable[SpendRecord], step_s: int) -> tuple[dict[Subject, dict[int, float]], int]:
    seen: set[str] = set()
    spend: dict[Subject, dict[int, float]] = {}
    last = 0
    for event in events:
        if event.id in seen:
            continue
        seen.add(event.id)
        step = int(event.charge_period_start // step_s)
        sums = spend.setdefault(subject_of(event), {})
        sums[step] = sums.get(step, 0.0) + event.effective_cost
        last = max(last, step)
    return spend, last


def _told(sums: dict[int, float], last: int, step_s: int, model: Detector) -> Iterator[float]:
    told = fired = float("-inf")
    for step in range(min(sums), last + 1):
        at = (step + 1.0) * step_s
        if not model.step(sums.get(step, 0.0)):
            continue
        if at - fired >= _CALM_S or at - told >= _AGAIN_S:
            told = at
            yield at
        fired = at
