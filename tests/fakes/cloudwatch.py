"""CloudWatch's ListMetrics and GetMetricData over HTTP: samples, summed by period, in pages, with faults on demand."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.fakes.aws_json import AwsJson, Refused

KIND = "cloudwatch"


class Sample(NamedTuple):
    """One value that was put."""

    at: float
    namespace: str
    metric: str
    dimensions: dict[str, str]
    value: float


class CloudWatch(AwsJson):
    """`page_points` is how many values fit on a page; `repeats` gives the last value of a page again on the next;
    `stuck` names the same next page for ever; `status` is what every metric's result says of itself."""

    def __init__(self) -> None:
        super().__init__({"ListMetrics": self._list, "GetMetricData": self._data})
        self.samples: list[Sample] = []
        self.page_points = 10_000
        self.repeats = False
        self.stuck = False
        self.status = "Complete"

    def put(self, at: float, metric: str, value: float, namespace: str = "AWS/Bedrock", **dimensions: str) -> None:
        self.samples.append(Sample(at, namespace, metric, dimensions, value))

    def _list(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = {
            (each.metric, *sorted(each.dimensions.items()))
            for each in self.samples
            if each.namespace == asked["Namespace"] and each.metric == asked.get("MetricName", each.metric)
        }
        metrics = [
            {"MetricName": name, "Dimensions": [{"Name": key, "Value": value} for key, value in of]}
            for name, *of in sorted(found)
        ]
        return self._page(metrics, asked, 3, lambda part: {"Metrics": part})

    def _data(self, asked: dict[str, Any]) -> dict[str, Any]:
        queries, start, end = asked["MetricDataQueries"], asked["StartTime"], asked["EndTime"]
        if start >= end or len(queries) > 500:
            raise Refused(400, "ValidationError", "bad span, or too many queries")
        points = [(query["Id"], at, value) for query in queries for at, value in self._sums(query, start, end)]

        def results(part: list[tuple[str, float, float]]) -> dict[str, Any]:
            by_id: dict[str, dict[str, Any]] = {
                query["Id"]: {
                    "Id": query["Id"],
                    "Label": "x",
                    "Timestamps": [],
                    "Values": [],
                    "StatusCode": self.status,
                }
                for query in queries
            }
            for name, at, value in part:
                by_id[name]["Timestamps"].append(at)
                by_id[name]["Values"].append(value)
            return {"MetricDataResults": list(by_id.values()), "Messages": []}

        return self._page(points, asked, self.page_points, results)

    def _sums(self, query: dict[str, Any], start: float, end: float) -> list[tuple[float, float]]:
        stat = query["MetricStat"]
        metric, period = stat["Metric"], stat["Period"]
        dimensions = {each["Name"]: each["Value"] for each in metric["Dimensions"]}
        sums: dict[float, float] = {}
        for each in self.samples:
            same = (each.namespace, each.metric) == (metric["Namespace"], metric["MetricName"])
            if same and each.dimensions == dimensions and start <= each.at < end:
                slot = each.at // period * period
                sums[slot] = sums.get(slot, 0.0) + (each.value if stat["Stat"] == "Sum" else 1.0)
        return sorted(sums.items())

    def _page(self, all_of_it: list[Any], asked: dict[str, Any], size: int, shape: Any) -> dict[str, Any]:
        first = int(asked.get("NextToken", "token-0")[6:])
        begin = max(0, first - 1) if self.repeats else first
        page: dict[str, Any] = shape(all_of_it[begin : first + size])
        if first + size < len(all_of_it):
            page["NextToken"] = "token-0" if self.stuck else f"token-{first + size}"
        return page
