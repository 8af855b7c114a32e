"""Running work on moto's server, another implementation of AWS than the fakes: held back and given back, as a role."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import boto3
import pytest
from moto.server import ThreadedMotoServer

from curb.actions.action import Action, ActionContext
from curb.actions.target import TargetRate
from curb.actions.workloads import aws_batch, aws_lambda, ec2, sagemaker
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import Plan
from tests.fakes.alerts import NORMAL, an_alert

SEARCH = an_alert(tags={"team": "search"})
PAUSE = TargetRate("pause")
TAGS = {"team": "search", "curb:criticality": "non-critical"}
TAG_LIST = [{"Key": key, "Value": value} for key, value in TAGS.items()]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def client(endpoint: str, service: str) -> Any:
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}
    return boto3.client(service, endpoint_url=endpoint, region_name="us-east-1", **keys)


@asynccontextmanager
async def opened(module: Any, kind: str, endpoint: str, **more: Any) -> AsyncIterator[Action]:
    role = {"role_arn": "arn:aws:iam::123456789012:role/curb", "sts_endpoint_url": endpoint}
    aws = {"endpoint_url": endpoint, "region": "us-east-1", "access_key_id": "k", "secret_access_key": "s", **role}
    config = module.Config.model_validate({"kind": kind, "name": "x", "aws": aws, "tags": {"team": "team"}, **more})
    action: Action = config.build(ActionContext(WallClock(), cast(aiohttp.ClientSession, None)))
    yield action
    await action.close()


async def held_and_given_back(action: Action, plan: Plan, found: Any) -> None:
    """`found()` is the world: other while it is held, and the same again afterwards."""
    before = found()
    await action.apply(plan)
    effect = await action.verify(plan)
    assert effect.in_force, effect
    assert found() != before
    await action.undo(plan, None)
    await action.undo(plan, None)
    assert found() == before


async def test_an_instance(endpoint: str) -> None:
    machines = client(endpoint, "ec2")
    (image,) = machines.describe_images(Owners=["amazon"])["Images"][:1]
    of = {"ImageId": image["ImageId"], "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1}
    marked, other = (
        machines.run_instances(**of, TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])["Instances"][0]
        for tags in (TAG_LIST, TAG_LIST[:1])
    )

    def states() -> list[str]:
        found = machines.describe_instances(InstanceIds=[marked["InstanceId"], other["InstanceId"]])
        return [each["State"]["Name"] for reservation in found["Reservations"] for each in reservation["Instances"]]

    async with opened(ec2, "ec2", endpoint) as action:
        (plan,) = await action.plan(SEARCH, PAUSE)
        assert plan.target == f"ec2/instance/{marked['InstanceId']}"
        assert other["InstanceId"] in plan.warning
        await held_and_given_back(action, plan, states)
        machines.modify_instance_attribute(InstanceId=marked["InstanceId"], Attribute="disableApiStop", Value="true")
        machines.modify_instance_attribute(
            InstanceId=marked["InstanceId"], InstanceInitiatedShutdownBehavior={"Value": "terminate"}
        )
        with pytest.raises(PermanentError, match=r"when it shuts down|protected against"):
            await action.plan(SEARCH, PAUSE)
    machines.terminate_instances(InstanceIds=[marked["InstanceId"], other["InstanceId"]])


async def test_a_group(endpoint: str) -> None:
    groups, machines = client(endpoint, "autoscaling"), client(endpoint, "ec2")
    (image,) = machines.describe_images(Owners=["amazon"])["Images"][:1]
    groups.create_launch_configuration(LaunchConfigurationName="lc", ImageId=image["ImageId"], InstanceType="m5.large")
    tags = [{**each, "PropagateAtLaunch": True} for each in TAG_LIST]
    size = {"MinSize": 0, "MaxSize": 9, "DesiredCapacity": 2}
    zones = ["us-east-1a"]
    groups.create_auto_scaling_group(
        AutoScalingGroupName="workers", LaunchConfigurationName="lc", AvailabilityZones=zones, Tags=tags, **size
    )

    def world() -> Any:
        (group,) = groups.describe_auto_scaling_groups(AutoScalingGroupNames=["workers"])["AutoScalingGroups"]
        ids = [each["InstanceId"] for each in group["Instances"]]
        found = machines.describe_instances(InstanceIds=ids)["Reservations"]
        states = {each["InstanceId"]: each["State"]["Name"] for one in found for each in one["Instances"]}
        resting = sorted(each["ProcessName"] for each in group["SuspendedProcesses"])
        return group["MinSize"], group["MaxSize"], group["DesiredCapacity"], resting, states

    async with opened(ec2, "ec2", endpoint, objects=["groups"]) as action:
        (shave,) = await action.plan(SEARCH, NORMAL)
        assert (shave.before, shave.after) == ({"max_size": 9}, {"max_size": 2})
        await held_and_given_back(action, shave, world)
        (pause,) = await action.plan(SEARCH, PAUSE)
        assert {"process.Launch": "suspended", **dict.fromkeys(world()[4], "stopped")}.items() <= pause.after.items()
        await held_and_given_back(action, pause, world)


async def test_a_function(endpoint: str) -> None:
    roles, functions = client(endpoint, "iam"), client(endpoint, "lambda")
    role = roles.create_role(RoleName="fn", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17"}))
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("x.py", "def f(event, context): return 1")
    functions.create_function(
        FunctionName="rank", Runtime="python3.11", Role=role["Role"]["Arn"], Handler="x.f",
        Code={"ZipFile": code.getvalue()}, Tags=TAGS,
    )  # fmt: skip

    def reserved() -> int | None:
        found: int | None = functions.get_function_concurrency(FunctionName="rank").get("ReservedConcurrentExecutions")
        return found

    async with opened(aws_lambda, "aws_lambda", endpoint, concurrency=3, tagging_endpoint_url=endpoint) as action:
        (plan,) = await action.plan(SEARCH, NORMAL)
        assert plan.after == {"reserved_concurrency": 3}
        await held_and_given_back(action, plan, reserved)
        functions.put_function_concurrency(FunctionName="rank", ReservedConcurrentExecutions=50)
        (block,) = await action.plan(SEARCH, TargetRate("block"))
        assert (block.before, block.after) == ({"reserved_concurrency": 50}, {"reserved_concurrency": 0})
        await held_and_given_back(action, block, reserved)


async def test_a_job_queue(endpoint: str) -> None:
    roles, batch = client(endpoint, "iam"), client(endpoint, "batch")
    role = roles.create_role(RoleName="batch", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17"}))
    environment = batch.create_compute_environment(
        computeEnvironmentName="machines", type="UNMANAGED", state="ENABLED", serviceRole=role["Role"]["Arn"]
    )
    order = [{"order": 1, "computeEnvironment": environment["computeEnvironmentArn"]}]
    batch.create_job_queue(
        jobQueueName="nightly", state="ENABLED", priority=1, computeEnvironmentOrder=order, tags=TAGS
    )

    def state() -> str:
        return str(batch.describe_job_queues(jobQueues=["nightly"])["jobQueues"][0]["state"])

    async with opened(aws_batch, "aws_batch", endpoint, terminate_jobs=True) as action:
        (plan,) = await action.plan(SEARCH, TargetRate("block"))
        await held_and_given_back(action, plan, state)


async def test_an_endpoint(endpoint: str) -> None:
    """moto's tagging API does not know SageMaker, so the plan is made by hand."""
    models = client(endpoint, "sagemaker")
    models.create_model(ModelName="m", ExecutionRoleArn="arn:aws:iam::123456789012:role/x")
    variant = {"VariantName": "all", "ModelName": "m", "InitialInstanceCount": 4, "InstanceType": "ml.g4dn.xlarge"}
    models.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])
    arn = models.create_endpoint(EndpointName="ranker", EndpointConfigName="c", Tags=TAG_LIST)["EndpointArn"]

    def count() -> int:
        return int(models.describe_endpoint(EndpointName="ranker")["ProductionVariants"][0]["DesiredInstanceCount"])

    plan = Plan(action="x", target=f"sagemaker/{arn}", summary="", before={"all": 4}, after={"all": 1})
    async with opened(sagemaker, "sagemaker", endpoint) as action:
        await held_and_given_back(action, plan, count)
        models.delete_endpoint(EndpointName="ranker")
        assert not (await action.verify(plan)).in_force
