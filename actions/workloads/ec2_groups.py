"""Auto Scaling groups: their size and processes, read, held and given back. Curb never makes a group smaller.

A group gets smaller by terminating instances. So to shave, only its maximum comes down to the size it has, and to
pause, its processes rest first, that it does not replace what is stopped, and then its instances are stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from curb.actions.workloads.aws_workload import AwsCalls, Tags, tags_of
from curb.actions.workloads.ec2_instances import Instance

#: Processes that start, end or judge instances.
PROCESSES = (
    "AZRebalance",
    "AlarmNotification",
    "HealthCheck",
    "Launch",
    "ReplaceUnhealthy",
    "ScheduledActions",
    "Terminate",
)
_PROCESS = "process."
_MAX = "max_size"


class Groups:
    """Reads and calls by `autoscaling/<ARN>`."""

    def __init__(self, autoscaling: AwsCalls) -> None:
        self._autoscaling = autoscaling

    async def all(self) -> list[dict[str, Any]]:
        return await self._autoscaling.pages("describe_auto_scaling_groups", "AutoScalingGroups", MaxRecords=100)

    async def one(self, target: str) -> dict[str, Any] | None:
        answer = await self._autoscaling.call("describe_auto_scaling_groups", AutoScalingGroupNames=[name_of(target)])
        groups: list[dict[str, Any]] = answer["AutoScalingGroups"]
        return groups[0] if groups else None

    @staticmethod
    def tags(group: Mapping[str, Any]) -> Tags:
        return tags_of(group.get("Tags"))

    @staticmethod
    def wanted(
        group: Mapping[str, Any], members: Mapping[str, Instance | None], *, pause: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fields before and after; none when there is nothing to hold."""
        if not pause:
            most, size = int(group["MaxSize"]), int(group["DesiredCapacity"])
            return ({_MAX: most}, {_MAX: size}) if size < most else ({}, {})
        ids = sorted(id_ for id_, each in members.items() if each is not None and each.state == "running")
        resting = _suspended(group)
        processes = [f"{_PROCESS}{name}" for name in PROCESSES if name not in resting]
        if not ids:
            return {}, {}
        return (
            dict.fromkeys(processes, "active") | dict.fromkeys(ids, "running"),
            dict.fromkeys(processes, "suspended") | dict.fromkeys(ids, "stopped"),
        )

    @staticmethod
    def value(group: Mapping[str, Any], members: Mapping[str, Instance], field: str) -> Any:
        """A field as it is; None for an instance that is gone."""
        if field == _MAX:
            return int(group["MaxSize"])
        if field.startswith(_PROCESS):
            return "suspended" if field.removeprefix(_PROCESS) in _suspended(group) else "active"
        return members[field].settled if field in members else None

    async def suspend(self, target: str, values: Mapping[str, Any]) -> None:
        """Those processes that `values` says shall rest."""
        names = sorted(field.removeprefix(_PROCESS) for field, value in values.items() if value == "suspended")
        if names:
            await self._autoscaling.call(
                "suspend_processes", AutoScalingGroupName=name_of(target), ScalingProcesses=names
            )

    async def resume(self, target: str, fields: Iterable[str]) -> None:
        names = sorted(field.removeprefix(_PROCESS) for field in fields)
        await self._autoscaling.call("resume_processes", AutoScalingGroupName=name_of(target), ScalingProcesses=names)

    async def set_max(self, target: str, values: Mapping[str, Any]) -> None:
        if _MAX in values:
            await self._autoscaling.call(
                "update_auto_scaling_group", AutoScalingGroupName=name_of(target), MaxSize=values[_MAX]
            )


def name_of(target: str) -> str:
    """The name at the end of a group's ARN."""
    return target.partition(":autoScalingGroupName/")[2]


def _suspended(group: Mapping[str, Any]) -> set[str]:
    return {str(each["ProcessName"]) for each in group.get("SuspendedProcesses", ())}
