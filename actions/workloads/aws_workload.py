"""What the actions on running work in AWS share: which tags select the objects, and calls that do not block."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from curb.actions.workloads.protocol import UNMARKED, WorkloadConfig, carries, says_critical
from curb.stream.clients.aws import AwsClient, AwsSettings
from curb.stream.clock import Clock

Tags = dict[str, str]


class AwsWorkloadConfig(WorkloadConfig):
    """Keys that every action on running work in AWS has."""

    aws: AwsSettings = Field(default_factory=AwsSettings, description="Account, region and credentials.")
    tags: dict[str, str] = Field(
        min_length=1,
        description="Tag of the alert to the AWS tag that carries its value; an object must carry all the alert has.",
    )
    mark_key: str = Field(default="curb:criticality", description="AWS tag that marks work that may be stopped.")
    mark_value: str = Field(default="non-critical", min_length=1, description="What it says then.")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer.")

    def is_marked(self, tags: Mapping[str, str]) -> bool:
        return carries(tags, {self.mark_key: self.mark_value})

    def is_critical(self, tags: Mapping[str, str]) -> bool:
        return says_critical(tags.get(self.mark_key))

    def mark_refusal(self, tags: Mapping[str, str]) -> str:
        return "" if self.is_marked(tags) else UNMARKED


class AwsCalls:
    """One service. Calls raise TransientError or PermanentError."""

    def __init__(self, service: str, config: AwsWorkloadConfig, clock: Clock, *, endpoint_url: str = "") -> None:
        where = config.aws.model_copy(update={"endpoint_url": endpoint_url}) if endpoint_url else config.aws
        self._client = AwsClient(service, where, clock, config.timeout_s)

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """One request, by its boto name such as "stop_instances"."""
        return await asyncio.to_thread(self._client.call, operation, **parameters)

    async def pages(
        self, operation: str, result: str, *, token: str = "NextToken", given: str = "", **parameters: Any
    ) -> list[Any]:
        """All entries of a list that comes in pages; `token` is what the next page is asked with, `given` where the
        answer has it, if not under the same name."""
        entries: list[Any] = []
        while True:
            answer = await self.call(operation, **parameters)
            entries.extend(answer.get(result, ()))
            if not answer.get(given or token):
                return entries
            parameters[token] = answer[given or token]

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)


def tags_of(listed: Iterable[Mapping[str, Any]] | None) -> Tags:
    """Tags as AWS lists them: [{"Key": ..., "Value": ...}]."""
    return {str(each["Key"]): str(each.get("Value", "")) for each in listed or ()}


async def tagged(tagging: AwsCalls, wanted: Tags, types: Iterable[str]) -> dict[str, Tags]:
    """ARN → all its tags, of everything of these types that carries the wanted ones."""
    found = await tagging.pages(
        "get_resources",
        "ResourceTagMappingList",
        token="PaginationToken",
        TagFilters=[{"Key": key, "Values": [value]} for key, value in sorted(wanted.items())],
        ResourceTypeFilters=sorted(types),
    )
    return {str(each["ResourceARN"]): tags_of(each.get("Tags")) for each in found}
