"""Metrics of CloudWatch by name and dimensions: which there are, and their sums by period."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from curb.connectors.decode import Letters, Rejected
from curb.connectors.tokens.cloudwatch_queries import MetricQuery
from curb.connectors.tokens.grown import Row
from curb.stream.clients.aws import AwsClient
from curb.stream.errors import PermanentError, TransientError

#: What GetMetricData takes at most in one request.
MAX_QUERIES, MAX_POINTS = 500, 100_800
MAX_PAGES = 500
MAX_REFUSED = 10_000


class Metric(NamedTuple):
    """One metric with the values of the query's dimensions, in their order, and the place of its sum in a row."""

    name: str
    values: tuple[str, ...]
    statistic: str
    places: tuple[int, ...]


class CloudWatchApi:
    """Two calls. Methods block, and raise TransientError or PermanentError."""

    def __init__(self, name: str, client: AwsClient, period_s: int) -> None:
        self._name, self._client, self._period_s = name, client, period_s
        #: Values that were refused: a period that is read again reports them once.
        self._refused: set[str] = set()

    def combinations(self, query: MetricQuery) -> set[tuple[str, ...]]:
        """The values the query's dimensions have together, in their order."""
        wanted = tuple(query.dimensions.values())
        if not any("*" in value or "?" in value for value in wanted):
            return {wanted}
        found = set()
        for metric in sorted({metric for metrics in query.metrics.values() for metric in metrics}):
            for page in self._pages("list_metrics", Namespace=query.namespace, MetricName=metric):
                for listed in page.get("Metrics", ()):
                    there = {each["Name"]: each["Value"] for each in listed.get("Dimensions", ())}
                    if there.keys() == query.dimensions.keys():
                        values = tuple(there[dimension] for dimension in query.dimensions)
                        if all(fnmatchcase(value, pattern) for value, pattern in zip(values, wanted, strict=True)):
                            found.add(values)
        return found

    def rows(
        self, query: MetricQuery, combinations: set[tuple[str, ...]], start: float, end: float, letters: Letters
    ) -> list[Row]:
        """Sums of the periods from `start` until `end` (epoch seconds); those without any value are left out."""
        metrics = [metric for values in sorted(combinations) for metric in _metrics(query, values)]
        points = max(1, round((end - start) / self._period_s))
        at_once = max(1, min(MAX_QUERIES, MAX_POINTS // points))
        sums: dict[tuple[float, tuple[str, ...]], list[float]] = defaultdict(lambda: [0.0] * len(query.fields))
        for first in range(0, len(metrics), at_once):
            asked = metrics[first : first + at_once]
            for (number, at), value in self._values(query, asked, start, end, letters).items():
                metric = asked[number]
                for place in metric.places:
                    sums[at, metric.values][place] += value
        return [Row(at, values, tuple(numbers)) for (at, values), numbers in sums.items() if any(numbers)]

    def _values(
        self, query: MetricQuery, asked: list[Metric], start: float, end: float, letters: Letters
    ) -> dict[tuple[int, float], float]:
        """(number of the metric, start of the period) → its sum; a page that comes twice counts once."""
        queries = [
            {
                "Id": f"m{number}",
                "MetricStat": {
                    "Metric": {
                        "Namespace": query.namespace,
                        "MetricName": metric.name,
                        "Dimensions": [
                            {"Name": name, "Value": value}
                            for name, value in zip(query.dimensions, metric.values, strict=True)
                        ],
                    },
                    "Period": self._period_s,
                    "Stat": metric.statistic,
                },
            }
            for number, metric in enumerate(asked)
        ]
        span = {"StartTime": datetime.fromtimestamp(start, UTC), "EndTime": datetime.fromtimestamp(end, UTC)}
        found: dict[tuple[int, float], float] = {}
        for page in self._pages("get_metric_data", MetricDataQueries=queries, ScanBy="TimestampAscending", **span):
            for result in page.get("MetricDataResults", ()):
                self._judge(result)
                number = int(result["Id"][1:])
                for moment, value in zip(result.get("Timestamps", ()), result.get("Values", ()), strict=True):
                    at = moment.timestamp()
                    if not start <= at < end:
                        continue
                    if math.isfinite(value) and value >= 0:
                        found[number, at] = value
                    else:
                        self._refuse(f"{query.name} {asked[number].name} {int(at)} {asked[number].values}", letters)
        return found

    def _refuse(self, location: str, letters: Letters) -> None:
        if location not in self._refused:
            if len(self._refused) >= MAX_REFUSED:
                self._refused.clear()
            self._refused.add(location)
            letters.add(Rejected("invalid", "a sum is below 0 or no number"), location=location, content=b"")

    def _judge(self, result: dict[str, Any]) -> None:
        status = result.get("StatusCode", "Complete")
        if status == "InternalError":
            raise TransientError(f"{self._name}: CloudWatch could not compute a metric")
        if status == "Forbidden":
            raise PermanentError(
                f"{self._name}: cloudwatch:GetMetricData is not allowed for a metric that was asked for"
            )

    def _pages(self, operation: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        tokens: set[str] = set()
        more: dict[str, str] = {}
        for _ in range(MAX_PAGES):
            page = self._client.call(operation, **parameters, **more)
            yield page
            token = page.get("NextToken")
            if not token:
                return
            if token in tokens:
                raise TransientError(f"{self._name}: {operation} names a page again that was read")
            tokens.add(token)
            more = {"NextToken": token}
        raise TransientError(f"{self._name}: {operation} has no end after {MAX_PAGES} pages")


def _metrics(query: MetricQuery, values: tuple[str, ...]) -> list[Metric]:
    """Each metric of the query once, with the fields it counts to."""
    if query.record == "gpu":
        names = query.metrics["gpu_utilization"]
        return [
            Metric(name, values, statistic, (place,))
            for name in names
            for place, statistic in enumerate(("SampleCount", "Sum"))
        ]
    places: dict[str, list[int]] = defaultdict(list)
    for field, names in query.metrics.items():
        for name in names:
            places[name].append(query.fields.index(field))
    return [Metric(name, values, "Sum", tuple(of)) for name, of in places.items()]
