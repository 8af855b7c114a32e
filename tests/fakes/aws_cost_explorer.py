"""Cost Explorer's GetCostAndUsage over HTTP: charges, grouped and filtered, in pages, with faults on demand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.fakes.aws_json import AwsJson, Refused

KIND = "aws_cost_explorer"


class Charged(NamedTuple):
    """What AWS charged for an hour."""

    at: float
    usd: float
    service: str = "Amazon EC2"
    team: str = "search"
    kind: str = "Usage"


class CostExplorer(AwsJson):
    """`page_groups` is how many groups fit on a page; `repeats` begins a page inside the one before; `stuck` names the
    same next page for ever; `unit` is the currency."""

    def __init__(self) -> None:
        super().__init__({"GetCostAndUsage": self._get})
        self.charged: list[Charged] = []
        self.page_groups = 1000
        self.repeats = False
        self.stuck = False
        self.unit = "USD"

    def _get(self, asked: dict[str, Any]) -> dict[str, Any]:
        if len(asked["GroupBy"]) > 2:
            raise Refused(400, "ValidationException", "at most two groups")
        hourly = asked["Granularity"] == "HOURLY"
        seconds, form = (3600, "%Y-%m-%dT%H:%M:%SZ") if hourly else (86_400, "%Y-%m-%d")
        start, end = (
            datetime.strptime(asked["TimePeriod"][edge], form).replace(tzinfo=UTC).timestamp()
            for edge in ("Start", "End")
        )
        kinds = asked["Filter"].get("Not", asked["Filter"])["Dimensions"]["Values"]
        sums: dict[tuple[float, tuple[str, ...]], float] = {}
        for each in self.charged:
            if start <= each.at < end and (each.kind in kinds) != ("Not" in asked["Filter"]):
                place = each.at // seconds * seconds, tuple(_value(each, group) for group in asked["GroupBy"])
                sums[place] = sums.get(place, 0.0) + each.usd
        groups = sorted(sums.items())
        first = int(asked.get("NextPageToken", "page-0")[5:])
        begin = max(0, first - 1) if self.repeats else first
        by_time: dict[float, list[dict[str, Any]]] = {}
        for (at, keys), usd in groups[begin : first + self.page_groups]:
            amount = {"Amount": repr(usd), "Unit": self.unit}
            metrics = dict.fromkeys(asked["Metrics"], amount)
            by_time.setdefault(at, []).append({"Keys": list(keys), "Metrics": metrics})
        answer: dict[str, Any] = {
            "ResultsByTime": [
                {
                    "TimePeriod": {
                        "Start": datetime.fromtimestamp(at, UTC).strftime(form),
                        "End": datetime.fromtimestamp(at + seconds, UTC).strftime(form),
                    },
                    "Groups": found,
                    "Total": {},
                    "Estimated": True,
                }
                for at, found in by_time.items()
            ]
        }
        if first + self.page_groups < len(groups):
            answer["NextPageToken"] = "page-0" if self.stuck else f"page-{first + self.page_groups}"
        return answer


def _value(each: Charged, group: dict[str, str]) -> str:
    if group["Type"] == "TAG":
        return f"{group['Key']}${each.team}"
    return {"SERVICE": each.service, "RECORD_TYPE": each.kind}[group["Key"]]
