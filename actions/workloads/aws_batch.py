"""Disables AWS Batch job queues, so that nothing new is queued, and terminates running jobs where that is wanted."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from curb.actions.action import ActionContext
from curb.actions.target import TargetRate, Verb
from curb.actions.workloads.aws_workload import AwsCalls, AwsWorkloadConfig
from curb.actions.workloads.protocol import Found, Seen, WorkloadAction, carries, wanted_tags
from curb.stream.clock import Clock
from curb.stream.errors import TransientError
from curb.stream.records.spend import Alert, Plan

_PREFIX = "batch/"
#: Seconds until a queue that is being updated is read again. By hand: an update takes some seconds.
_UPDATING_S = 15.0
_ENDED = frozenset({"SUCCEEDED", "FAILED"})
#: Where jobs that cost something are found. The parent of an array waits while its children run.
_LISTED = ("STARTING", "RUNNING", "PENDING")
_COSTLY = ("STARTING", "RUNNING")
#: Jobs described by one call. By definition of Batch.
_AT_ONCE = 100


class Config(AwsWorkloadConfig):
    """A disabled queue takes no new jobs and starts none; what runs goes on unless `terminate_jobs` is set."""

    kind: Literal["aws_batch"]
    terminate_jobs: bool = Field(
        default=False,
        description="To block, terminate running jobs as well. It cannot be undone, so it needs an approval.",
    )

    def build(self, context: ActionContext) -> AwsBatch:
        return AwsBatch(self, context.clock)


class AwsBatch(WorkloadAction):
    """An action on `batch/<ARN>` of a job queue or a job."""

    permissions: ClassVar[tuple[str, ...]] = (
        "batch:DescribeJobQueues",
        "batch:UpdateJobQueue",
        "batch:ListJobs",
        "batch:DescribeJobs",
        "batch:TerminateJob",
    )
    verbs: ClassVar[frozenset[Verb]] = frozenset({"pause", "block"})

    def __init__(self, config: Config, clock: Clock) -> None:
        super().__init__(config.name, config.at_most)
        self._config = config
        self._batch = AwsCalls("batch", config, clock)

    async def find(self, alert: Alert, rate: TargetRate) -> list[Found] | None:
        wanted = wanted_tags(self._config.tags, alert)
        if wanted is None:
            return None
        queues = await self._pages("describe_job_queues", "jobQueues")
        terminates = self._config.terminate_jobs and rate.verb == "block"
        jobs = [job for queue in queues for job in await self._jobs(queue["jobQueueArn"])] if terminates else []
        population = sum(queue["state"] == "ENABLED" for queue in queues) + len(jobs)
        found = [self._queue(each, population) for each in queues if carries(each.get("tags", {}), wanted)]
        # A job whose queue is the alert's is the alert's, whatever it carries itself; the mark must be its own.
        of_queues = {each["jobQueueArn"] for each in queues if carries(each.get("tags", {}), wanted)}
        mine = [job for job in jobs if carries(job.get("tags", {}), wanted) or job.get("jobQueue") in of_queues]
        return found + [self._job(job, population) for job in mine]

    def _queue(self, queue: dict[str, Any], population: int) -> Found:
        open_ = queue["state"] == "ENABLED"
        return Found(
            f"{_PREFIX}{queue['jobQueueArn']}",
            f"job queue {queue['jobQueueName']}",
            {"state": "ENABLED"} if open_ else {},
            {"state": "DISABLED"} if open_ else {},
            refusal=self._config.mark_refusal(queue.get("tags", {})),
            warning="Jobs that run go on; whoever submits to it is refused.",
            population=population,
        )

    def _job(self, job: dict[str, Any], population: int) -> Found:
        runs = _runs(job)
        return Found(
            f"{_PREFIX}{job['jobArn']}",
            f"job {job['jobName']} {job['jobId']}",
            {"running": True} if runs else {},
            {"running": False} if runs else {},
            refusal=self._config.mark_refusal(job.get("tags", {})),
            reversible=False,
            warning="A terminated job cannot be resumed: what it has not stored is lost, it must be submitted again.",
            population=population,
        )

    async def _jobs(self, queue_arn: str) -> list[dict[str, Any]]:
        """Jobs of a queue that cost something now, with their tags."""
        ids = []
        for status in _LISTED:
            listed = await self._pages("list_jobs", "jobSummaryList", jobQueue=queue_arn, jobStatus=status)
            ids += [str(each["jobId"]) for each in listed]
        found = []
        for first in range(0, len(ids), _AT_ONCE):
            answer = await self._batch.call("describe_jobs", jobs=ids[first : first + _AT_ONCE])
            found += [job for job in answer["jobs"] if _costs(job)]
        return found

    async def read(self, plan: Plan) -> Seen | None:
        arn = plan.target.removeprefix(_PREFIX)
        if is_job(arn):
            answer = await self._batch.call("describe_jobs", jobs=[arn.rpartition("/")[2]])
            jobs = answer["jobs"]
            return Seen({"running": _runs(jobs[0])}, self._config.is_marked(jobs[0].get("tags", {}))) if jobs else None
        answer = await self._batch.call("describe_job_queues", jobQueues=[arn])
        queues = [each for each in answer["jobQueues"] if each.get("status") not in ("DELETING", "DELETED")]
        if not queues:
            return None
        tags, status = queues[0].get("tags", {}), str(queues[0].get("status", ""))
        critical = self._config.is_critical(tags)
        return Seen({"state": queues[0]["state"]}, self._config.is_marked(tags), status, critical=critical)

    async def write(self, plan: Plan, values: dict[str, Any], seen: Seen) -> None:
        arn = plan.target.removeprefix(_PREFIX)
        if is_job(arn):
            reason = f"stopped by curb/{self._name}"
            await self._batch.call("terminate_job", jobId=arn.rpartition("/")[2], reason=reason)
        elif seen.version in ("UPDATING", "CREATING"):
            raise TransientError(f"the job queue {arn.rpartition('/')[2]} is {seen.version}", _UPDATING_S)
        else:
            await self._batch.call("update_job_queue", jobQueue=arn, state=values["state"])

    async def close(self) -> None:
        await self._batch.close()

    async def _pages(self, operation: str, result: str, **parameters: Any) -> list[Any]:
        return await self._batch.pages(operation, result, token="nextToken", maxResults=100, **parameters)


def is_job(arn: str) -> bool:
    return arn.split(":", 5)[5].startswith("job/")


def _runs(job: dict[str, Any]) -> bool:
    """Batch takes a while to end a job that is terminated; it counts as ended at once."""
    return job["status"] not in _ENDED and not job.get("isTerminated")


def _costs(job: dict[str, Any]) -> bool:
    children = job.get("arrayProperties", {}).get("statusSummary", {})
    return job["status"] in _COSTLY or any(children.get(status) for status in _COSTLY)
