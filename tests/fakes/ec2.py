"""EC2 and Auto Scaling: instances and groups by name, in boto's shapes."""

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

KIND = "ec2"
PAUSE = TargetRate("pause")


def instance(**changes: Any) -> dict[str, Any]:
    """A running one of the team `search` that may be stopped."""
    base = {"state": "running", "type": "c7i.large", "root": "ebs", "spot": False, "can_hibernate": False}
    attributes = {"protected": False, "on_shutdown": "stop", "tags": {"team": "search", **MARK}, "hibernated": False}
    return base | attributes | changes


def group(*members: str, **changes: Any) -> dict[str, Any]:
    base = {
        "max": 10,
        "min": 0,
        "desired": max(1, len(members)),
        "suspended": [],
        "members": list(members),
        "uuid": "u-u-i-d",
    }
    return base | {"tags": {"team": "index", **MARK}} | changes


class Ec2Cloud:
    """`instances` by id and `groups` by name. Starting and stopping take no time unless `slow`."""

    def __init__(self, instances: dict[str, dict[str, Any]], groups: dict[str, dict[str, Any]]) -> None:
        self.instances, self.groups = instances, groups
        self.slow = False
        self.with_disks = {"g6.xlarge"}
        names = ["DescribeInstances", "DescribeInstanceAttribute", "DescribeInstanceTypes"]
        ec2 = {name: getattr(self, name) for name in [*names, "StopInstances", "StartInstances"]}
        names = ["DescribeAutoScalingGroups", "SuspendProcesses", "ResumeProcesses", "UpdateAutoScalingGroup"]
        self.cloud = AwsCloud(KIND, {"ec2": ec2, "autoscaling": {n: getattr(self, n) for n in names}}, self._affected)

    def _affected(self, action: str, given: dict[str, Any]) -> Iterable[dict[str, str]] | None:
        if ids := given.get("InstanceIds"):
            return [self.instances[each]["tags"] for each in ids]
        if action.startswith("autoscaling:") and "AutoScalingGroupName" in given:
            return [self.groups[given["AutoScalingGroupName"]]["tags"]]
        return None

    def DescribeInstances(self, given: dict[str, Any]) -> dict[str, Any]:
        filters = {each["Name"]: each["Values"] for each in given["Filters"]}
        found = [
            self._described(id_, each)
            for id_, each in sorted(self.instances.items())
            if each["state"] in filters["instance-state-name"] and id_ in filters.get("instance-id", [id_])
        ]
        start = int(given.get("NextToken", 0))
        page = {"Reservations": [{"Instances": [each]} for each in found[start : start + 2]]}
        return page | ({"NextToken": str(start + 2)} if start + 2 < len(found) else {})

    def _described(self, id_: str, each: dict[str, Any]) -> dict[str, Any]:
        groups = [name for name, each_group in self.groups.items() if id_ in each_group["members"]]
        of_group = {"aws:autoscaling:groupName": groups[0]} if groups else {}
        found = {
            "InstanceId": id_,
            "InstanceType": each["type"],
            "State": {"Name": each["state"]},
            "RootDeviceType": each["root"],
            "HibernationOptions": {"Configured": each["can_hibernate"]},
            "Tags": tag_list(each["tags"] | of_group),
        }
        return found | ({"InstanceLifecycle": "spot"} if each["spot"] else {})

    def DescribeInstanceAttribute(self, given: dict[str, Any]) -> dict[str, Any]:
        each = self.instances[given["InstanceId"]]
        if given["Attribute"] == "disableApiStop":
            return {"DisableApiStop": {"Value": each["protected"]}}
        assert given["Attribute"] == "instanceInitiatedShutdownBehavior"
        return {"InstanceInitiatedShutdownBehavior": {"Value": each["on_shutdown"]}}

    def DescribeInstanceTypes(self, given: dict[str, Any]) -> dict[str, Any]:
        found = [{"InstanceType": n, "InstanceStorageSupported": n in self.with_disks} for n in given["InstanceTypes"]]
        return {"InstanceTypes": found}

    def StopInstances(self, given: dict[str, Any]) -> dict[str, Any]:
        for id_ in given["InstanceIds"]:
            each = self.instances[id_]
            if each["state"] == "pending" or each["protected"] or each["root"] != "ebs":
                raise Refused(400, "IncorrectInstanceState")
            each["state"] = "stopping" if self.slow else "stopped"
            each["hibernated"] = given.get("Hibernate", False)
        return {"StoppingInstances": []}

    def StartInstances(self, given: dict[str, Any]) -> dict[str, Any]:
        for id_ in given["InstanceIds"]:
            each = self.instances[id_]
            if each["state"] == "stopping":
                raise Refused(400, "IncorrectInstanceState")
            each["state"] = "pending" if self.slow else "running"
            each["hibernated"] = False
        return {"StartingInstances": []}

    def DescribeAutoScalingGroups(self, given: dict[str, Any]) -> dict[str, Any]:
        names = given.get("AutoScalingGroupNames") or sorted(self.groups)
        found = [self._group(name) for name in names if name in self.groups]
        start = int(given.get("NextToken", 0))
        page = {"AutoScalingGroups": found[start : start + 1]}
        return page | ({"NextToken": str(start + 1)} if start + 1 < len(found) else {})

    def _group(self, name: str) -> dict[str, Any]:
        each = self.groups[name]
        where = f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:{each['uuid']}:autoScalingGroupName/{name}"
        return {
            "AutoScalingGroupName": name,
            "AutoScalingGroupARN": where,
            "MinSize": each["min"],
            "MaxSize": each["max"],
            "DesiredCapacity": each["desired"],
            "Instances": [{"InstanceId": id_} for id_ in each["members"]],
            "SuspendedProcesses": [{"ProcessName": process} for process in each["suspended"]],
            "Tags": tag_list(each["tags"]),
        }

    def SuspendProcesses(self, given: dict[str, Any]) -> dict[str, Any]:
        each = self.groups[given["AutoScalingGroupName"]]
        each["suspended"] = sorted({*each["suspended"], *given["ScalingProcesses"]})
        return {}

    def ResumeProcesses(self, given: dict[str, Any]) -> dict[str, Any]:
        each = self.groups[given["AutoScalingGroupName"]]
        states = {self.instances[id_]["state"] for id_ in each["members"]}
        assert states <= {"running", "terminated"}, "the group would end what does not run"
        each["suspended"] = sorted({*each["suspended"]} - {*given["ScalingProcesses"]})
        return {}

    def UpdateAutoScalingGroup(self, given: dict[str, Any]) -> dict[str, Any]:
        each = self.groups[given["AutoScalingGroupName"]]
        assert given["MaxSize"] >= each["desired"], "the group would end instances"
        each["max"] = given["MaxSize"]
        return {}


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


class Ec2Bench(ActionBench):
    """A team with one machine and one that is not marked, and one with a group."""

    secret = SECRET

    def __init__(self) -> None:
        own = {"tags": {"team": "index", **MARK}}
        grouped = {"i-3": instance(**own), "i-4": instance(**own)}
        alone = {"i-1": instance(can_hibernate=True), "i-2": instance(tags={"team": "search"})}
        groups = {"workers": group("i-3", "i-4", suspended=["AZRebalance"]), "others": group("i-9", tags={})}
        shaved = {"builders": group(tags={"team": "build", **MARK})}
        self.fake = Ec2Cloud(alone | grouped | {"i-9": instance(tags={})}, groups | shaved)
        self.faults: Faults = self.fake.cloud.faults
        self.cases = [
            (an_alert(tags={"team": "search"}), PAUSE),
            (an_alert(tags={"team": "index"}), PAUSE),
            (an_alert(tags={"team": "build"}), NORMAL),
        ]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.cloud.app()) as server:
            yield str(server.make_url("/"))

    def config(self, address: str) -> dict[str, Any]:
        config: dict[str, Any] = {"kind": KIND, "name": "machines", "tags": {"team": "team"}, "aws": aws(address)}
        more = {"objects": ["instances", "groups"], "hibernate": True, "timeout_s": 2.0}
        return config | more | {"autoscaling_endpoint_url": address}

    def world(self) -> Any:
        return copy.deepcopy([self.fake.instances, self.fake.groups])

    def change_by_hand(self) -> None:
        """Somebody ends what is stopped and lets its group go on, and sets another maximum where Curb set one."""
        for each in self.fake.instances.values():
            each["state"] = "terminated" if each["state"] == "stopped" else each["state"]
        for each in self.fake.groups.values():
            each["max"] = 7 if each["max"] == each["desired"] else each["max"]
            if "Launch" in each["suspended"]:
                each["suspended"] = ["AZRebalance"]

    def recreate(self) -> bool:
        """An instance that is terminated never comes back; a group has another ARN."""
        for each in self.fake.instances.values():
            each["state"] = "terminated" if each["state"] == "stopped" else each["state"]
        for each in self.fake.groups.values():
            each["uuid"] += "-2"
        return True

    def mark_all(self, value: str | None) -> None:
        for each in (*self.fake.instances.values(), *self.fake.groups.values()):
            each["tags"] = marked(each["tags"], value)

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"team": "nobody"})

    def called(self) -> set[str]:
        return {action for action, _ in self.fake.cloud.calls}
