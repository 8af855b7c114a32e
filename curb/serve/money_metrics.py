"""The metrics of money at /metrics, worked out at each scrape from the shards, the alerts and the budgets.

Of each scope the series that matter most are published one by one; all others are summed under `__rest__`, so that a
scrape stays small however many series there are.
"""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from curb.detector.shard import Shard
from curb.serve.running import Running
from curb.serve.status import is_ready
from curb.stream import metrics
from curb.stream.metrics import REST, ScrapedMetric
from curb.stream.records.spend import Alert, BudgetStatus

#: Characters that the name of a label may not have.
_NO_LABEL = re.compile(r"[^a-zA-Z0-9_]")
#: A series that was published stays until so many times the wanted number would be; its counter is then not summed
#: with the others one day and published the next. By hand.
_STICKY = 2

_Numbers = NDArray[np.int64]
_Dollars = NDArray[np.float64]
_Labels = dict[str, str]


class _Series:
    """All series of some shards in one numbering, by scope."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards
        self._money = [shard.money() for shard in shards]
        self._firsts = np.cumsum([0, *(len(each.charged_usd) for each in self._money)])
        self.charged = self._column("charged_usd")
        self.total = self._column("total_usd")
        self.burn = self._column("usd_per_hour")
        self.expected = self._column("expected_usd_per_hour")
        found: dict[str, list[int]] = defaultdict(list)
        for number, scope in enumerate(chain.from_iterable(each.scopes for each in self._money)):
            found[scope].append(number)
        self.of_scope = {scope: np.array(numbers, np.int64) for scope, numbers in sorted(found.items())}

    def _column(self, name: str) -> _Dollars:
        return np.concatenate([getattr(each, name) for each in self._money]) if self._money else np.zeros(0)

    def place(self, number: int) -> tuple[int, int]:
        """Which shard a series is of, and its number there."""
        shard = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return shard, number - int(self._firsts[shard])

    def number(self, shard: int, own: int) -> int:
        return int(self._firsts[shard]) + own

    def of_shard(self, shard: int, numbers: _Numbers) -> _Numbers:
        """Those of `numbers` that are series of a shard."""
        first, end = int(self._firsts[shard]), int(self._firsts[shard + 1])
        return numbers[(numbers >= first) & (numbers < end)]

    def labels(self, scope: str, number: int) -> _Labels:
        shard, own = self.place(number)
        return {"scope": scope, **tag_labels(self._money[shard].tags[own])}

    def rest_labels(self, scope: str, numbers: _Numbers) -> _Labels:
        """Labels for the sum of the others: every tag of the scope's first series."""
        shard, own = self.place(int(numbers[0]))
        return {"scope": scope, **tag_labels(dict.fromkeys(self._money[shard].tags[own], REST))}


class _Published:
    """The series of one scope and shard that have a counter of their own."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        #: Dollars of the others when they were summed last; None before.
        self.others_usd: float | None = None


class _SpendCounters:
    """`curb_spend_usd_total`: counters that never go back while the process runs, whoever else is published."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: WeakKeyDictionary[Shard, dict[str, _Published]] = WeakKeyDictionary()
        self._rest: dict[str, float] = defaultdict(float)
        #: Newest value of each published counter, by its labels.
        self._values: dict[tuple[tuple[str, str], ...], float] = {}

    def samples(self, series: _Series) -> Iterator[tuple[_Labels, float]]:
        values: dict[tuple[tuple[str, str], ...], float] = {}
        for scope, numbers in series.of_scope.items():
            chosen = self._choose(series, scope, numbers)
            for number in chosen:
                labels = series.labels(scope, number)
                key = tuple(labels.items())
                # Sums of floats in another order, as after a rebuild, differ in the last digit: not a reset.
                values[key] = max(self._values.get(key, 0.0), float(series.charged[number]))
                yield labels, values[key]
            if len(numbers) > len(chosen):
                yield series.rest_labels(scope, numbers), self._rest[scope]
        self._values = values

    def _choose(self, series: _Series, scope: str, numbers: _Numbers) -> list[int]:
        """The series to publish; what the others were charged since the last time is added to their sum."""
        before: set[int] = set()
        kept = [self._of.setdefault(shard, {}).setdefault(scope, _Published()) for shard in series.shards]
        for at, published in enumerate(kept):
            mine = {series.number(at, own) for own in published.numbers}
            before |= mine
            others = _sum_without(series.charged, series.of_shard(at, numbers), mine)
            if published.others_usd is not None:
                self._rest[scope] += max(0.0, others - published.others_usd)
        top = _largest(series.charged, numbers, self._most)
        stay = np.array(sorted(before - set(top)), np.int64)
        chosen = top + _largest(series.charged, stay, (_STICKY - 1) * self._most)
        for at, published in enumerate(kept):
            mine = {each for each in chosen if series.place(each)[0] == at}
            published.numbers = {series.place(each)[1] for each in mine}
            published.others_usd = _sum_without(series.charged, series.of_shard(at, numbers), mine)
        return chosen


class MoneyMetrics(Collector):
    """What /metrics of one daemon says: its money, and what the process counts beside."""

    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon
        self._most = daemon.config.http.metrics_series
        self._spend = _SpendCounters(self._most)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return bytes(generate_latest(REGISTRY)) + bytes(generate_latest(self))

    def collect(self) -> Iterable[Metric]:
        """The families of this daemon."""
        yield from self._of_process()
        shards = self._daemon.shards()
        if all(self._daemon.caught_up().values()):  # before, a counter would go back to where the snapshot is
            series = _Series(shards)
            yield _metric(metrics.SPEND_USD, self._spend.samples(series))
            yield _metric(metrics.CREDITS_USD, _credits(series))
            yield from self._burn(series)
        yield from self._budgets(shards)
        yield from self._alerts(self._daemon.view.firing())

    def _of_process(self) -> Iterator[Metric]:
        daemon = self._daemon
        info = {"version": version("curbd"), "python": platform.python_version()}
        yield _metric(metrics.BUILD_INFO, [(info, 1.0)])
        yield _metric(metrics.MODE, [({"mode": daemon.config.actions.mode}, 1.0)])
        yield _metric(metrics.READY, [({}, float(is_ready(daemon)))])
        times = [shard.event_time for shard in daemon.shards() if shard.event_time is not None]
        lag: list[tuple[_Labels, float]] = [({}, max(0.0, daemon.clock.now() - min(times)))] if times else []
        yield _metric(metrics.DETECTOR_LAG, lag)

    def _burn(self, series: _Series) -> Iterator[Metric]:
        burn: list[tuple[_Labels, float]] = []
        expected: list[tuple[_Labels, float]] = []
        for scope, numbers in series.of_scope.items():
            # A series that burns nothing and should burn much matters as well.
            top = _largest(np.maximum(series.burn, series.expected), numbers, self._most)
            for into, values in ((burn, series.burn), (expected, series.expected)):
                into += [(series.labels(scope, each), float(values[each])) for each in top]
                if len(numbers) > len(top):
                    into.append((series.rest_labels(scope, numbers), max(0.0, _sum_without(values, numbers, top))))
        yield _metric(metrics.BURN, burn)
        yield _metric(metrics.EXPECTED_BURN, expected)

    def _budgets(self, shards: Sequence[Shard]) -> Iterator[Metric]:
        rows: list[tuple[_Labels, BudgetStatus]] = []
        amounts: dict[tuple[tuple[str, str], ...], float] = defaultdict(float)
        spent: dict[tuple[tuple[str, str], ...], float] = defaultdict(float)
        for shard in shards:
            found, others = shard.fullest_budgets(self._most)
            rows += [({"budget": one.name, "scope": one.scope, **tag_labels(tags)}, one) for tags, one in found]
            for each in others:
                labels = {"budget": each.name, "scope": each.scope, **tag_labels(dict.fromkeys(each.tags, REST))}
                amounts[tuple(labels.items())] += each.amount_usd
                spent[tuple(labels.items())] += each.spent_usd

        def metric(family: ScrapedMetric, field: str, rest: Mapping[tuple[tuple[str, str], ...], float]) -> Metric:
            known = [(labels, value) for labels, one in rows if (value := getattr(one, field)) is not None]
            return _metric(family, [*known, *((dict(labels), value) for labels, value in rest.items())])

        yield metric(metrics.BUDGET_AMOUNT, "amount_usd", amounts)
        yield metric(metrics.BUDGET_SPENT, "spent_usd", spent)
        yield metric(metrics.BUDGET_FORECAST, "forecast_usd", {})
        yield metric(metrics.BUDGET_FORECAST_LOW, "forecast_low_usd", {})
        yield metric(metrics.BUDGET_FORECAST_HIGH, "forecast_high_usd", {})
        yield metric(metrics.BUDGET_BREACH, "breach_at", {})
        yield metric(metrics.BUDGET_BREACH_PROBABILITY, "breach_probability", {})
        yield metric(metrics.BUDGET_PERIOD_END, "period_end", {})

    def _alerts(self, firing: Sequence[Alert]) -> Iterator[Metric]:
        """The alerts with most at risk, and the sums of the others by kind, tier and scope."""
        rows = [(_alert_labels(each, each.alert_id, each.tags), each) for each in firing[: self._most]]
        for each in firing[self._most :]:
            rows.append((_alert_labels(each, REST, dict.fromkeys(each.tags, REST)), each))
        yield _metric(metrics.ALERT_AT_RISK, _summed((labels, each.dollars_at_risk) for labels, each in rows))
        yield _metric(metrics.ALERT_EXCESS, _summed((labels, each.excess_usd) for labels, each in rows))


def tag_labels(tags: Mapping[str, str]) -> _Labels:
    """A label for each tag. Names that become the same get a number; values are text that UTF-8 can say."""
    found: _Labels = {}
    for tag, value in tags.items():
        name = plain = f"tag_{_NO_LABEL.sub('_', tag)}"
        more = 1
        while name in found:
            more += 1
            name = f"{plain}_{more}"
        found[name] = value.encode("utf-8", "replace").decode()
    return found


def _alert_labels(alert: Alert, alert_id: str, tags: Mapping[str, str]) -> _Labels:
    own = {"alert_id": alert_id, "kind": alert.kind, "tier": alert.tier, "scope": alert.scope}
    return own | tag_labels(tags)


def _metric(family: ScrapedMetric, samples: Iterable[tuple[_Labels, float]]) -> Metric:
    found = Metric(family.name.removesuffix("_total"), family.meaning, family.kind)
    for labels, value in samples:
        found.add_sample(family.name, labels, value)
    return found


def _summed(samples: Iterable[tuple[_Labels, float]]) -> list[tuple[_Labels, float]]:
    """Samples of the same labels as one."""
    found: dict[tuple[tuple[str, str], ...], float] = defaultdict(float)
    for labels, value in samples:
        found[tuple(labels.items())] += value
    return [(dict(labels), value) for labels, value in found.items()]


def _credits(series: _Series) -> list[tuple[_Labels, float]]:
    found = []
    for scope, numbers in series.of_scope.items():
        usd = float((series.charged[numbers] - series.total[numbers]).sum())
        found.append(({"scope": scope}, max(0.0, round(usd, 6))))
    return found


def _sum_without(values: _Dollars, numbers: _Numbers, without: Collection[int]) -> float:
    """The sum of the values of `numbers`, but for those of `without`."""
    return float(values[numbers].sum()) - sum(float(values[each]) for each in without)


def _largest(values: NDArray[Any], numbers: _Numbers, most: int) -> list[int]:
    """The numbers of the largest values, largest first."""
    if len(numbers) > most > 0:
        numbers = numbers[np.argpartition(-values[numbers], most - 1)[:most]]
    order = np.argsort(-values[numbers], kind="stable")
    return [int(each) for each in numbers[order][:most]]
