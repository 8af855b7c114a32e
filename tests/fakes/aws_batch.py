"""AWS Batch: job queues by name and jobs by id."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.test_utils import TestServer

from curb.actions.target import TargetRate
from curb.stream.records.spend import Alert
from curb.testing.actions import ActionBench
from tests.fakes.alerts import an_alert
from tests.fakes.aws_cloud import ACCOUNT, MARK, REGION, AwsCloud, marked
from tests.fakes.aws_json import SECRET, Refused, aws
from tests.fakes.faults import Faults

KIND = "aws_batch"
PAUSE, BLOCK = TargetRate("pause"), TargetRate("block")


def arn(type_: str, name: str) -> str:
    return f"arn:aws:batch:{REGION}:{ACCOUNT}:{type_}/{name}"


def queue(team: str = "search", **changes: Any) -> dict[str, Any]:
    return {"state": "ENABLED", "status": "VALID", "tags": {"team": team, **MARK}} | changes


def job(of_queue: str, status: str = "RUNNING", team: str = "search", **changes: Any) -> dict[str, Any]:
    return {"jobQueue": arn("job-queue", of_queue), "status": status, "tags": {"team": team, **MARK}} | changes


class BatchCloud:
    def __init__(self, queues: dict[str, dict[str, Any]], jobs: dict[str, dict[str, Any]]) -> None:
        self.queues, self.jobs = queues, jobs
        operations = {
            "DescribeJobQueues": self._describe_queues,
            "UpdateJobQueue": self._update,
            "ListJobs": self._list,
            "DescribeJobs": self._describe_jobs,
            "TerminateJob": self._terminate,
        }
        self.cloud = AwsCloud(KIND, {"batch": operations}, self._affected)

    def _affected(self, action: str, given: dict[str, Any]) -> Iterable[dict[str, str]] | None:
        if action == "batch:UpdateJobQueue":
            return [self.queues[name_of(given["jobQueue"])]["tags"]]
        return [self.jobs[given["jobId"]]["tags"]] if action == "batch:TerminateJob" else None

    def _describe_queues(self, given: dict[str, Any]) -> dict[str, Any]:
        asked = [name_of(each) for each in given.get("jobQueues", sorted(self.queues))]
        found = [
            {"jobQueueName": name, "jobQueueArn": arn("job-queue", name), **self.queues[name]}
            for name in asked
            if name in self.queues
        ]
        return page(given, "jobQueues", found)

    def _update(self, given: dict[str, Any]) -> dict[str, Any]:
        found = self.queues[name_of(given["jobQueue"])]
        if found["status"] != "VALID":
            raise Refused(400, "ClientException", "it is being modified")
        found["state"] = given["state"]
        return {}

    def _list(self, given: dict[str, Any]) -> dict[str, Any]:
        found = [
            {"jobId": id_, "jobName": f"job-{id_}"}
            for id_, each in sorted(self.jobs.items())
            if (each["jobQueue"], each["status"]) == (given["jobQueue"], given["jobStatus"])
        ]
        return page(given, "jobSummaryList", found)

    def _describe_jobs(self, given: dict[str, Any]) -> dict[str, Any]:
        there = [id_ for id_ in given["jobs"] if id_ in self.jobs]
        return {"jobs": [{"jobId": i, "jobName": f"job-{i}", "jobArn": arn("job", i), **self.jobs[i]} for i in there]}

    def _terminate(self, given: dict[str, Any]) -> dict[str, Any]:
        assert given["reason"]
        self.jobs[given["jobId"]]["isTerminated"] = True
        return {}


def page(given: dict[str, Any], result: str, found: list[Any]) -> dict[str, Any]:
    start = int(given.get("nextToken", 0))
    return {result: found[start : start + 1]} | ({"nextToken": str(start + 1)} if start + 1 < len(found) else {})


def name_of(given: str) -> str:
    return given.rpartition("/")[2]


class BatchBench(ActionBench):
    """Queues of two teams; the second one's jobs may be ended too, but for one that is not marked."""

    secret = SECRET

    def __init__(self) -> None:
        queues = {"nightly": queue(), "adhoc": queue("index"), "payroll": queue("finance", tags={"team": "finance"})}
        jobs = {
            "1": job("adhoc", team="index"),
            "2": job("adhoc", "SUCCEEDED", team="index"),
            "3": job("adhoc", tags={"team": "index"}),
            "4": job("payroll", tags={"team": "finance"}),
        }
        self.fake = BatchCloud(queues, jobs)
        self.faults: Faults = self.fake.cloud.faults
        self.cases = [(an_alert(tags={"team": "search"}), PAUSE), (an_alert(tags={"team": "index"}), BLOCK)]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.cloud.app()) as server:
            yield str(server.make_url("/"))

    def config(self, address: str) -> dict[str, Any]:
        config: dict[str, Any] = {"kind": KIND, "name": "batch", "tags": {"team": "team"}, "aws": aws(address)}
        return config | {"terminate_jobs": True, "timeout_s": 2.0}

    def world(self) -> Any:
        return copy.deepcopy([self.fake.queues, self.fake.jobs])

    def change_by_hand(self) -> None:
        """Somebody deletes what is disabled."""
        for each in self.fake.queues.values():
            each["status"] = "DELETING" if each["state"] == "DISABLED" else each["status"]

    def mark_all(self, value: str | None) -> None:
        for each in (*self.fake.queues.values(), *self.fake.jobs.values()):
            each["tags"] = marked(each["tags"], value)

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"team": "nobody"})

    def called(self) -> set[str]:
        return {action for action, _ in self.fake.cloud.calls}
