"""EC2 instances: what they are, what a stop would cost them, and stopping and starting them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from curb.actions.workloads.aws_workload import AwsCalls, Tags, tags_of
from curb.stream.errors import TransientError

#: By this tag, which AWS sets, an instance says that it belongs to a group.
GROUP_TAG = "aws:autoscaling:groupName"
_OF_CLUSTERS = ("eks:", "k8s.io/", "kubernetes.io/", "karpenter.sh/")
_THERE = ["pending", "running", "stopping", "stopped"]
_AGAIN_S = 15.0
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
