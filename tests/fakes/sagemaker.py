"""SageMaker: endpoints and jobs by ARN, and the tagging API that finds them."""

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

KIND = "sagemaker"
PAUSE = TargetRate("pause")
_LISTS = {
    "ListEndpoints": ("endpoint", "Endpoints", "EndpointArn", "EndpointStatus"),
    "ListTrainingJobs": ("training-job", "TrainingJobSummaries", "TrainingJobArn", "TrainingJobStatus"),
    "ListHyperParameterTuningJobs": (
        "hyper-parameter-tuning-job",
        "HyperParameterTuningJobSummaries",
        "HyperParameterTuningJobArn",
        "HyperParameterTuningJobStatus",
    ),
}


def arn(type_: str, name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{type_}/{name}"


def thing(status: str = "InProgress", team: str = "search", **more: Any) -> dict[str, Any]:
    """A job or an endpoint that is marked; `more` is told when it is described."""
    return {"tags": {"team": team, **MARK}, "status": status, "more": more}


def endpoint(team: str = "search", **counts: int) -> dict[str, Any]:
    variants = [variant(name, count) for name, count in counts.items()]
    return thing("InService", team, ProductionVariants=variants, CreationTime=1_750_000_000)


def variant(name: str, count: int) -> dict[str, Any]:
    return {"VariantName": name, "DesiredInstanceCount": count, "CurrentInstanceCount": count}


class SagemakerCloud:
    """`things` by ARN."""

    def __init__(self, things: dict[str, dict[str, Any]]) -> None:
        self.things = things
        operations: dict[str, Any] = {name: self._lister(name) for name in _LISTS}
        operations |= {
            "ListTags": lambda given: {"Tags": tag_list(self._named(given, "ResourceArn")["tags"])},
            "DescribeEndpoint": self._describer("endpoint", "EndpointName", "EndpointStatus"),
            "DescribeTrainingJob": self._describer("training-job", "TrainingJobName", "TrainingJobStatus"),
            "DescribeHyperParameterTuningJob": self._describer(
                "hyper-parameter-tuning-job", "HyperParameterTuningJobName", "HyperParameterTuningJobStatus"
            ),
            "StopTrainingJob": self._stopper("training-job", "TrainingJobName"),
            "StopHyperParameterTuningJob": self._stopper("hyper-parameter-tuning-job", "HyperParameterTuningJobName"),
            "UpdateEndpointWeightsAndCapacities": self._update,
        }
        tagging = {"GetResources": lambda given: resources(given, {a: t["tags"] for a, t in self.things.items()})}
        self.cloud = AwsCloud(KIND, {"sagemaker": operations, "tagging": tagging}, self._affected)

    def _affected(self, action: str, given: dict[str, Any]) -> Iterable[dict[str, str]] | None:
        if action.startswith(("sagemaker:Stop", "sagemaker:Update")):
            (name,) = (value for key, value in given.items() if key.endswith("Name"))
            return [each["tags"] for found, each in self.things.items() if found.endswith(f"/{name}")]
        return None

    def _named(self, given: dict[str, Any], key: str, type_: str = "") -> dict[str, Any]:
        found = self.things.get(arn(type_, given[key]) if type_ else given[key])
        if found is None:
            raise Refused(400, "ValidationException", f'Could not find {type_} "{given[key]}".')
        return found

    def _lister(self, operation: str) -> Any:
        type_, result, key, state = _LISTS[operation]

        def listed(given: dict[str, Any]) -> dict[str, Any]:
            found = [
                {key: a, state: each["status"]}
                for a, each in sorted(self.things.items())
                if f":{type_}/" in a and each["status"] == given["StatusEquals"]
            ]
            start = int(given.get("NextToken", 0))
            more = {"NextToken": str(start + 1)} if start + 1 < len(found) else {}
            return {result: found[start : start + 1], **more}

        return listed

    def _describer(self, type_: str, key: str, state: str) -> Any:
        def described(given: dict[str, Any]) -> dict[str, Any]:
            found = self._named(given, key, type_)
            return {key: given[key], state: found["status"], **found["more"]}

        return described

    def _stopper(self, type_: str, key: str) -> Any:
        def stopped(given: dict[str, Any]) -> dict[str, Any]:
            found = self._named(given, key, type_)
            if found["status"] != "InProgress":
                raise Refused(400, "ValidationException", "The job is in status Stopped")
            found["status"] = "Stopping"
            return {}

        return stopped

    def _update(self, given: dict[str, Any]) -> dict[str, Any]:
        found = self._named(given, "EndpointName", "endpoint")
        if found["status"] != "InService":
            raise Refused(400, "ValidationException", "Cannot update in-progress endpoint")
        wanted = {each["VariantName"]: each["DesiredInstanceCount"] for each in given["DesiredWeightsAndCapacities"]}
        for each in found["more"]["ProductionVariants"]:
            each["DesiredInstanceCount"] = wanted.get(each["VariantName"], each["DesiredInstanceCount"])
        return {}


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


class SagemakerBench(ActionBench):
    """An endpoint of two variants, and jobs of each kind beside what is not marked."""

    secret = SECRET

    def __init__(self) -> None:
        things = {
            arn("endpoint", "ranker"): endpoint(big=6, small=1),
            arn("endpoint", "critical"): endpoint(only=9) | {"tags": {"team": "search"}},
            arn("training-job", "llama-7"): thing(team="index", CheckpointConfig={"S3Uri": "s3://models/llama-7"}),
            arn("training-job", "llama-6"): thing("Completed", team="index"),
            arn("hyper-parameter-tuning-job", "sweep"): thing(team="index", TrainingJobDefinition={}),
        }
        self.fake = SagemakerCloud(things)
        self.faults: Faults = self.fake.cloud.faults
        self.cases = [(an_alert(tags={"team": "search"}), NORMAL), (an_alert(tags={"team": "index"}), PAUSE)]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.cloud.app()) as server:
            yield str(server.make_url("/"))

    def config(self, address: str) -> dict[str, Any]:
        config: dict[str, Any] = {"kind": KIND, "name": "training", "tags": {"team": "team"}, "aws": aws(address)}
        every = ["endpoints", "training_jobs", "tuning_jobs"]
        return config | {"objects": every, "timeout_s": 2.0, "tagging_endpoint_url": address}

    def world(self) -> Any:
        return copy.deepcopy(self.fake.things)

    def change_by_hand(self) -> None:
        for each in self.fake.things[arn("endpoint", "ranker")]["more"]["ProductionVariants"]:
            each["DesiredInstanceCount"] = 4

    def recreate(self) -> bool:
        """Names of jobs are never used again."""
        self.fake.things[arn("endpoint", "ranker")]["more"]["CreationTime"] += 60
        return True

    def mark_all(self, value: str | None) -> None:
        for each in self.fake.things.values():
            each["tags"] = marked(each["tags"], value)

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"team": "nobody"})

    def called(self) -> set[str]:
        return {action for action, _ in self.fake.cloud.calls}
