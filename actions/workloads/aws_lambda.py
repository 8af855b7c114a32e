"""Limits how many instances of a Lambda function run at once: to a few, or to none."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from curb.actions.action import ActionContext
from curb.actions.target import TargetRate, Verb
from curb.actions.workloads.aws_workload import AwsCalls, AwsWorkloadConfig, Tags, tagged
from curb.actions.workloads.protocol import Found, Seen, WorkloadAction, wanted_tags
from curb.stream.clients.aws import AwsRefusal
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import Alert, Plan

_PREFIX = "lambda/"
_FIELD = "reserved_concurrency"


class Config(AwsWorkloadConfig):
    """Sets the reserved concurrency of functions: 0 to pause or block, a number to shave."""

    kind: Literal["aws_lambda"]
    concurrency: int | None = Field(
        default=None, ge=1, description="To shave: so many calls at once. Default: worked out from `seconds_per_call`."
    )
    seconds_per_call: float | None = Field(
        default=None,
        gt=0,
        le=900,
        description="How long one call takes; with the requests per minute to leave it makes the calls at once.",
    )
    tagging_endpoint_url: str = Field(default="", description="Another address of the tagging API.")

    def build(self, context: ActionContext) -> AwsLambda:
        return AwsLambda(self, context.clock)


class AwsLambda(WorkloadAction):
    """An action on `lambda/<ARN of the function>`. Without a reservation before, undo takes it away."""

    permissions: ClassVar[tuple[str, ...]] = (
        "tag:GetResources",
        "lambda:ListFunctions",
        "lambda:ListTags",
        "lambda:GetFunctionConcurrency",
        "lambda:PutFunctionConcurrency",
        "lambda:DeleteFunctionConcurrency",
    )
    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "pause", "block"})

    def __init__(self, config: Config, clock: Clock) -> None:
        super().__init__(config.name, config.at_most)
        self._config = config
        self._lambda = AwsCalls("lambda", config, clock)
        endpoint = config.tagging_endpoint_url
        self._tagging = AwsCalls("resourcegroupstaggingapi", config, clock, endpoint_url=endpoint)

    async def find(self, alert: Alert, rate: TargetRate) -> list[Found] | None:
        """PermanentError for a shave when neither configuration nor alert say to how much."""
        wanted = wanted_tags(self._config.tags, alert)
        if wanted is None:
            return None
        level = self._level(rate)
        functions = await self._lambda.pages("list_functions", "Functions", token="Marker", given="NextMarker")
        there = {str(each["FunctionArn"]) for each in functions}
        mine = await tagged(self._tagging, wanted, ["lambda:function"])
        found: list[Found] = []
        able = 0
        for arn, tags in sorted(mine.items()):
            if arn in there and able < self._at_most:  # to look closely at all of many takes too long
                found.append(await self._function(arn, tags, level, len(there)))
                able += bool(found[-1].after) and not found[-1].refusal
        return found

    def _level(self, rate: TargetRate) -> int:
        of = self._config
        if rate.verb != "shave":
            return 0
        if of.concurrency is not None:
            return of.concurrency
        if of.seconds_per_call is None or rate.requests_per_minute is None:
            raise PermanentError(
                "nothing says how much to leave: set concurrency, or seconds_per_call for usage alerts"
            )
        return max(1, math.ceil(rate.requests_per_minute * of.seconds_per_call / 60.0))

    async def _function(self, arn: str, tags: Tags, level: int, population: int) -> Found:
        refusal = self._config.mark_refusal(tags)
        found = None if refusal else await self._reserved(arn)
        changes = found is None or found > level
        return Found(
            f"{_PREFIX}{arn}",
            f"function {arn.rpartition(':')[2]}",
            {_FIELD: found} if changes else {},
            {_FIELD: level} if changes else {},
            refusal=refusal,
            warning="Calls beyond it are refused with 429; events that wait in a queue are done later.",
            population=population,
        )

    async def read(self, plan: Plan) -> Seen | None:
        arn = plan.target.removeprefix(_PREFIX)
        try:
            reserved = await self._reserved(arn)
            answer = await self._lambda.call("list_tags", Resource=arn)
        except AwsRefusal as refusal:
            if refusal.code == "ResourceNotFoundException":
                return None
            raise
        tags = answer.get("Tags", {})
        return Seen({_FIELD: reserved}, self._config.is_marked(tags), critical=self._config.is_critical(tags))

    async def write(self, plan: Plan, values: dict[str, Any], seen: Seen) -> None:
        arn = plan.target.removeprefix(_PREFIX)
        if values[_FIELD] is None:
            await self._lambda.call("delete_function_concurrency", FunctionName=arn)
        else:
            await self._lambda.call(
                "put_function_concurrency", FunctionName=arn, ReservedConcurrentExecutions=values[_FIELD]
            )

    async def close(self) -> None:
        await self._lambda.close()
        await self._tagging.close()

    async def _reserved(self, arn: str) -> int | None:
        answer = await self._lambda.call("get_function_concurrency", FunctionName=arn)
        reserved: int | None = answer.get("ReservedConcurrentExecutions")
        return reserved
