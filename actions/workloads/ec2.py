"""Stops non-critical EC2 instances, keeps Auto Scaling groups from growing, and starts exactly what it stopped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from curb.actions.action import ActionContext
from curb.actions.target import TargetRate, Verb
from curb.actions.workloads.aws_workload import AwsCalls, AwsWorkloadConfig, Tags, tags_of
from curb.actions.workloads.protocol import Found, Seen, WorkloadAction, carries, wanted_tags
from curb.stream.clock import Clock
from curb.stream.errors import TransientError
from curb.stream.records.spend import Alert, Plan

#: By this tag, which AWS sets, an instance says that it belongs to a group.
GROUP_TAG = "aws:autoscaling:groupName"
_OF_CLUSTERS = ("eks:", "k8s.io/", "kubernetes.io/", "karpenter.sh/")
_THERE = ["pending", "running", "stopping", "stopped"]
#: Seconds until an instance in between two states is read again. By hand: starting takes about a minute.
_AGAIN_S = 15.0
#: Instances named in one call. By hand: EC2 takes 200 values in a filter.
_AT_ONCE = 100


class Instance(NamedTuple):
    """An instance that is there; a terminated instance is not."""

    state: str
    tags: Tags
    type: str
    #: Its root is a local disk: it cannot be stopped, only terminated.
    on_local_disk: bool
    #: Such as "spot" or "capacity-block"; empty when it is paid for by the hour it runs.
    lifecycle: str
    can_hibernate: bool

    @property
    def settled(self) -> str:
        """`running` or `stopped`: where it is going counts."""
        return "running" if self.state in ("pending", "running") else "stopped"


class Instances:
    """Reads and calls by instance id."""

    def __init__(self, ec2: AwsCalls, *, erase_local_disks: bool) -> None:
        self._ec2, self._erase_local_disks = ec2, erase_local_disks
        self._with_disks: dict[str, bool] = {}

    async def all(self) -> dict[str, Instance]:
        return await self._describe([{"Name": "instance-state-name", "Values": _THERE}])

    async def some(self, ids: Sequence[str]) -> dict[str, Instance]:
        """Those of `ids` that are there. By a filter, for a list of ids fails when one of them is not known."""
        found: dict[str, Instance] = {}
        state = {"Name": "instance-state-name", "Values": _THERE}
        for first in range(0, len(ids), _AT_ONCE):
            found |= await self._describe(
                [{"Name": "instance-id", "Values": list(ids[first : first + _AT_ONCE])}, state]
            )
        return found

    async def refusal(self, id_: str, instance: Instance) -> str:
        """Why a running instance must not be stopped, or ""."""
        if instance.on_local_disk:
            return "its root is a local disk, it cannot be stopped"
        if instance.lifecycle:
            return f"its lifecycle is {instance.lifecycle}"
        if await self._attribute(id_, "disableApiStop", "DisableApiStop") is True:
            return "it is protected against stopping"
        if (
            await self._attribute(id_, "instanceInitiatedShutdownBehavior", "InstanceInitiatedShutdownBehavior")
            != "stop"
        ):
            return "it terminates when it shuts down"
        if not self._erase_local_disks and await self.has_local_disks(instance):
            return "stopping erases its local disks"
        return ""

    async def has_local_disks(self, instance: Instance) -> bool:
        """Whether its type has any; asked once per type."""
        if instance.type not in self._with_disks:
            answer = await self._ec2.call("describe_instance_types", InstanceTypes=[instance.type])
            self._with_disks[instance.type] = any(each["InstanceStorageSupported"] for each in answer["InstanceTypes"])
        return self._with_disks[instance.type]

    async def set_state(self, ids: list[str], wanted: str, *, hibernate: bool) -> None:
        """Stop or start. TransientError while one is on its way to the other state."""
        there = await self.some(ids)
        on_the_way = {"running": "stopping", "stopped": "pending"}[wanted]
        if waiting := sorted(id_ for id_, each in there.items() if each.state == on_the_way):
            raise TransientError(f"{', '.join(waiting)} is {on_the_way}", _AGAIN_S)
        if wanted == "running":
            await self._ec2.call("start_instances", InstanceIds=ids)
            return
        sleeping = [id_ for id_ in ids if hibernate and id_ in there and there[id_].can_hibernate]
        if sleeping:
            await self._ec2.call("stop_instances", InstanceIds=sleeping, Hibernate=True)
        if others := [id_ for id_ in ids if id_ not in sleeping]:
            await self._ec2.call("stop_instances", InstanceIds=others)

    async def _describe(self, filters: list[dict[str, Any]]) -> dict[str, Instance]:
        found = await self._ec2.pages("describe_instances", "Reservations", Filters=filters, MaxResults=1000)
        return dict(_instances(found))

    async def _attribute(self, id_: str, name: str, key: str) -> Any:
        answer = await self._ec2.call("describe_instance_attribute", InstanceId=id_, Attribute=name)
        return answer.get(key, {}).get("Value")


def is_cluster_owned(tags: Tags) -> bool:
    """Whether it is, or has, nodes of a Kubernetes cluster: what runs on them is the cluster's to stop."""
    return any(key.startswith(_OF_CLUSTERS) for key in tags)


def _instances(reservations: list[Any]) -> Iterable[tuple[str, Instance]]:
    for reservation in reservations:
        for each in reservation.get("Instances", ()):
            yield (
                str(each["InstanceId"]),
                Instance(
                    state=str(each["State"]["Name"]),
                    tags=tags_of(each.get("Tags")),
                    type=str(each.get("InstanceType", "")),
                    on_local_disk=each.get("RootDeviceType") == "instance-store",
                    lifecycle=str(each.get("InstanceLifecycle", "")),
                    can_hibernate=bool(each.get("HibernationOptions", {}).get("Configured")),
                ),
            )


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


_INSTANCE, _GROUP = "ec2/instance/", "autoscaling/"


class Config(AwsWorkloadConfig):
    """Stops or hibernates instances, and holds Auto Scaling groups; nothing is ever terminated."""

    kind: Literal["ec2"]
    objects: tuple[Literal["instances", "groups"], ...] = Field(
        default=("instances",), min_length=1, description="Instances outside groups, and Auto Scaling groups."
    )
    hibernate: bool = Field(default=False, description="Hibernate instances that are set up for it, stop the others.")
    erase_local_disks: bool = Field(
        default=False,
        description="Stop instances with local disks too. What is on them is lost, so it needs an approval.",
    )
    autoscaling_endpoint_url: str = Field(default="", description="Another address of EC2 Auto Scaling.")

    def build(self, context: ActionContext) -> Ec2:
        return Ec2(self, context.clock)


class Ec2(WorkloadAction):
    """An action on `ec2/instance/<id>` and `autoscaling/<ARN of the group>`."""

    permissions: ClassVar[tuple[str, ...]] = (
        "ec2:DescribeInstances",
        "ec2:DescribeInstanceAttribute",
        "ec2:DescribeInstanceTypes",
        "ec2:StopInstances",
        "ec2:StartInstances",
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:SuspendProcesses",
        "autoscaling:ResumeProcesses",
        "autoscaling:UpdateAutoScalingGroup",
    )
    verbs: ClassVar[frozenset[Verb]] = frozenset({"pause", "shave"})

    def __init__(self, config: Config, clock: Clock) -> None:
        super().__init__(config.name, config.at_most)
        self._config = config
        self._ec2 = AwsCalls("ec2", config, clock)
        endpoint = config.autoscaling_endpoint_url
        self._autoscaling = AwsCalls("autoscaling", config, clock, endpoint_url=endpoint)
        self._instances = Instances(self._ec2, erase_local_disks=config.erase_local_disks)
        self._groups = Groups(self._autoscaling)

    async def find(self, alert: Alert, rate: TargetRate) -> list[Found] | None:
        wanted = wanted_tags(self._config.tags, alert)
        groups_too = "groups" in self._config.objects
        if wanted is None or (rate.verb == "shave" and not groups_too):
            return None
        instances = await self._instances.all()
        groups = await self._groups.all() if groups_too else []
        running = sum(each.state == "running" and GROUP_TAG not in each.tags for each in instances.values())
        population = running + sum(bool(group["Instances"]) for group in groups)
        found: list[Found] = []
        mine = [group for group in groups if carries(self._groups.tags(group), wanted)]
        able = 0
        for group in sorted(mine, key=lambda each: str(each["AutoScalingGroupARN"])):
            if able < self._at_most:  # to look closely at all of many takes too long
                found.append(await self._group(group, instances, rate, population))
                able += 0 if found[-1].refusal else len(found[-1].after)
        if "instances" in self._config.objects and rate.verb == "pause":
            alone = {id_: each for id_, each in instances.items() if carries(each.tags, wanted)}
            found += await self._alone(alone, population, skip_grouped=groups_too)
        return found

    async def _alone(self, mine: dict[str, Instance], population: int, *, skip_grouped: bool) -> list[Found]:
        """Instances that may be stopped are looked at closely, and no more of them than will be planned."""
        found, able = [], 0
        for id_, instance in sorted(mine.items()):
            grouped = GROUP_TAG in instance.tags
            if (grouped and skip_grouped) or able >= self._at_most:
                continue
            refusal = self._config.mark_refusal(instance.tags)
            if grouped:
                refusal = refusal or "its Auto Scaling group would end it: use groups"
            if is_cluster_owned(instance.tags):
                refusal = refusal or "a Kubernetes cluster decides on it"
            runs = instance.state == "running"
            if runs and not refusal:
                refusal = await self._instances.refusal(id_, instance)
            able += runs and not refusal
            erases = not refusal and runs and await self._instances.has_local_disks(instance)
            found.append(
                Found(
                    f"{_INSTANCE}{id_}",
                    f"instance {instance.tags.get('Name', '')} {id_}".replace("  ", " "),
                    {"state": "running"} if runs else {},
                    {"state": "stopped"} if runs else {},
                    refusal=refusal,
                    identity=id_,
                    reversible=not erases,
                    warning=self._warning(instance, erases),
                    population=population,
                )
            )
        return found

    def _warning(self, instance: Instance, erases: bool) -> str:
        if erases:
            return "What is on its local disks is lost and cannot be brought back."
        if self._config.hibernate and instance.can_hibernate:
            return "It hibernates; its public address changes, unless it is an Elastic IP."
        return "What it holds in memory is lost; its public address changes, unless it is an Elastic IP."

    async def _group(
        self, group: dict[str, Any], instances: dict[str, Instance], rate: TargetRate, population: int
    ) -> Found:
        tags = self._groups.tags(group)
        members = {each["InstanceId"]: instances.get(each["InstanceId"]) for each in group["Instances"]}
        refusal = self._config.mark_refusal(tags)
        if is_cluster_owned(tags) or any(each is not None and is_cluster_owned(each.tags) for each in members.values()):
            refusal = refusal or "a Kubernetes cluster decides on it"
        if rate.verb == "pause" and len(members) > self._config.at_most:
            refusal = refusal or "it has more instances than at_most"
        before, after = self._groups.wanted(group, members, pause=rate.verb == "pause")
        erases = False
        for id_, instance in sorted(members.items()):
            if rate.verb == "pause" and not refusal and instance is not None and id_ in after:
                why = self._config.mark_refusal(instance.tags) or await self._instances.refusal(id_, instance)
                refusal = f"{id_}: {why}" if why else ""
                erases = erases or (not why and await self._instances.has_local_disks(instance))
        lost = "What its instances hold in memory is lost." if rate.verb == "pause" else ""
        return Found(
            f"{_GROUP}{group['AutoScalingGroupARN']}",
            f"Auto Scaling group {group['AutoScalingGroupName']}",
            before,
            after,
            refusal=refusal,
            identity=str(group["AutoScalingGroupARN"]),
            reversible=not erases,
            warning="What is on its instances' local disks is lost and cannot be brought back." if erases else lost,
            population=population,
        )

    async def read(self, plan: Plan) -> Seen | None:
        if plan.target.startswith(_INSTANCE):
            id_ = plan.target.removeprefix(_INSTANCE)
            instance = (await self._instances.some([id_])).get(id_)
            if instance is None:
                return None
            marked, critical = self._config.is_marked(instance.tags), self._config.is_critical(instance.tags)
            return Seen({"state": instance.settled}, marked, instance.state, id_, critical)
        group = await self._groups.one(plan.target)
        if group is None:
            return None
        members = await self._instances.some([field for field in plan.after if field.startswith("i-")])
        values = {field: self._groups.value(group, members, field) for field in plan.after}
        tags = [self._groups.tags(group), *(each.tags for each in members.values())]
        marked, critical = all(map(self._config.is_marked, tags)), any(map(self._config.is_critical, tags))
        return Seen(values, marked, identity=str(group["AutoScalingGroupARN"]), critical=critical)

    async def write(self, plan: Plan, values: dict[str, Any], seen: Seen) -> None:
        """Of a group: its processes rest before its instances stop, and go on only when they run again."""
        if plan.target.startswith(_INSTANCE):
            await self._instances.set_state(
                [plan.target.removeprefix(_INSTANCE)], values["state"], hibernate=self._config.hibernate
            )
            return
        await self._groups.suspend(plan.target, values)
        await self._groups.set_max(plan.target, values)
        for state in ("stopped", "running"):
            if ids := sorted(field for field, value in values.items() if value == state):
                await self._instances.set_state(ids, state, hibernate=False)
        resumed = [field for field, value in values.items() if value == "active"]
        if resumed:
            members = await self._instances.some([field for field in plan.after if field.startswith("i-")])
            if waiting := sorted(id_ for id_, each in members.items() if each.state != "running"):
                # A health check that finds them starting would call them unhealthy, and the group would end them.
                raise TransientError(f"{', '.join(waiting)} must run before the group goes on", _AGAIN_S)
            await self._groups.resume(plan.target, resumed)

    def restores(self, plan: Plan) -> bool:
        """An instance whose local disks were erased is started again all the same."""
        return True

    async def close(self) -> None:
        await self._ec2.close()
        await self._autoscaling.close()
