"""AWS Lambda: functions by name with their reserved concurrency, and the tagging API that finds them."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.test_utils import TestServer

from curb.actions.target import TargetRate
from curb.stream.records.spend import Alert
from curb.testing.actions import ActionBench
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.aws_cloud import ACCOUNT, MARK, REGION, AwsCloud, marked
from tests.fakes.aws_json import SECRET, Refused, aws
from tests.fakes.faults import Faults
from tests.fakes.tagging import resources

KIND = "aws_lambda"


def arn(name: str) -> str:
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"


def function(reserved: int | None = None, team: str = "search", **changes: Any) -> dict[str, Any]:
    return {"reserved": reserved, "tags": {"team": team, **MARK}} | changes


class LambdaCloud:
    def __init__(self, functions: dict[str, dict[str, Any]]) -> None:
        self.functions = functions
        operations = {
            "ListFunctions": self._list,
            "ListTags": lambda given: {"Tags": self._named(given["Resource"])["tags"]},
            "GetFunctionConcurrency": self._get,
            "PutFunctionConcurrency": self._put,
            "DeleteFunctionConcurrency": self._delete,
        }
        by_arn = lambda: {arn(name): each["tags"] for name, each in self.functions.items()}  # noqa: E731
        tagging = {"GetResources": lambda given: resources(given, by_arn())}
        self.cloud = AwsCloud(KIND, {"lambda": operations, "tagging": tagging}, self._affected)

    def _affected(self, action: str, given: dict[str, Any]) -> Iterable[dict[str, str]] | None:
        if action in ("lambda:PutFunctionConcurrency", "lambda:DeleteFunctionConcurrency"):
            return [self._named(given["FunctionName"])["tags"]]
        return None

    def _named(self, given: str) -> dict[str, Any]:
        found = self.functions.get(given.rpartition(":")[2])
        if found is None:
            raise Refused(404, "ResourceNotFoundException", f"Function not found: {given}")
        return found

    def _list(self, given: dict[str, Any]) -> dict[str, Any]:
        names, start = sorted(self.functions), int(given.get("Marker", 0))
        found = [{"FunctionName": name, "FunctionArn": arn(name)} for name in names[start : start + 1]]
        return {"Functions": found} | ({"NextMarker": str(start + 1)} if start + 1 < len(names) else {})

    def _get(self, given: dict[str, Any]) -> dict[str, Any]:
        reserved = self._named(given["FunctionName"])["reserved"]
        return {} if reserved is None else {"ReservedConcurrentExecutions": reserved}

    def _put(self, given: dict[str, Any]) -> dict[str, Any]:
        self._named(given["FunctionName"])["reserved"] = given["ReservedConcurrentExecutions"]
        return {"ReservedConcurrentExecutions": given["ReservedConcurrentExecutions"]}

    def _delete(self, given: dict[str, Any]) -> dict[str, Any]:
        self._named(given["FunctionName"])["reserved"] = None
        return {}


class LambdaBench(ActionBench):
    """Functions with and without a reservation, beside one that is not marked."""

    secret = SECRET

    def __init__(self) -> None:
        functions = {
            "rank": function(100),
            "embed": function(),
            "pay": function(tags={"team": "search"}),
            "crawl": function(team="index"),
        }
        self.fake = LambdaCloud(functions)
        self.faults: Faults = self.fake.cloud.faults
        self.cases = [
            (an_alert(tags={"team": "search"}), NORMAL),
            (an_alert(tags={"team": "index"}), TargetRate("block")),
        ]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.cloud.app()) as server:
            yield str(server.make_url("/"))

    def config(self, address: str) -> dict[str, Any]:
        config: dict[str, Any] = {"kind": KIND, "name": "functions", "tags": {"team": "team"}, "aws": aws(address)}
        return config | {"seconds_per_call": 6, "timeout_s": 2.0, "tagging_endpoint_url": address}

    def world(self) -> Any:
        return copy.deepcopy(self.fake.functions)

    def change_by_hand(self) -> None:
        for each in self.fake.functions.values():
            each["reserved"] = 33 if each["reserved"] in (0, 2) else each["reserved"]

    def mark_all(self, value: str | None) -> None:
        for each in self.fake.functions.values():
            each["tags"] = marked(each["tags"], value)

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"team": "nobody"})

    def called(self) -> set[str]:
        return {action for action, _ in self.fake.cloud.calls}
