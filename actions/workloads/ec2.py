"""Stops non-critical EC2 instances, keeps Auto Scaling groups from growing, and starts exactly what it stopped."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from curb.actions.action import ActionContext
from curb.actions.target import TargetRate, Verb
from curb.actions.workloads.aws_workload import AwsCalls, AwsWorkloadConfig
from curb.actions.workloads.ec2_groups import Groups
from curb.actions.workloads.ec2_instances import GROUP_TAG, Instance, Instances, is_cluster_owned
from curb.actions.workloads.protocol import Found, Seen, WorkloadAction, carries, wanted_tags
from curb.stream.clock import Clock
from curb.stream.errors import TransientError
from curb.stream.records.spend import Alert, Plan

_INSTANCE, _GROUP = "ec2/instance/", "autoscaling/"
_STARTING_S = 15.0


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
            marked = self._config.is_marked(instance.tags)
            return Seen({"state": instance.settled}, marked, instance.state)
        group = await self._groups.one(plan.target)
        if group is None:
            return None
        members = await self._instances.some([field for field in plan.after if field.startswith("i-")])
        values = {field: self._groups.value(group, members, field) for field in plan.after}
        tags = [self._groups.tags(group), *(each.tags for each in members.values())]
        return Seen(values, all(self._config.is_marked(each) for each in tags))

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
                raise TransientError(f"{', '.join(waiting)} must run before the group goes on", _STARTING_S)
            await self._groups.resume(plan.target, resumed)

    def restores(self, plan: Plan) -> bool:
        """An instance whose local disks were erased is started again all the same."""
        return True

    async def close(self) -> None:
        await self._ec2.close()
        await self._autoscaling.close()
