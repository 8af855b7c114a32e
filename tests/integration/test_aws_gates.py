"""API Gateway and WAF on moto's server: another implementation of AWS than the fakes, asked through a role.

What moto does not keep is left to the fakes: throttles of methods, fractions of a rate, quotas as numbers, and the
removal of a stage's throttle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import aiohttp
import boto3
import pytest
from moto.server import ThreadedMotoServer

from curb.actions.action import Action, ActionContext, DriftError
from curb.actions.levers import aws_api_gateway, aws_waf
from curb.actions.target import TargetRate
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Plan
from tests.fakes.alerts import an_alert

#: Two a second.
AIM = TargetRate("shave", requests_per_minute=120.0)
KEYS = {"region_name": "us-east-1", "aws_access_key_id": "k", "aws_secret_access_key": "s"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def configured(module: Any, endpoint: str, **keys: Any) -> Action:
    role = {"role_arn": "arn:aws:iam::123456789012:role/curb", "sts_endpoint_url": endpoint}
    aws = {
        "endpoint_url": endpoint,
        "region": "us-east-1",
        "access_key_id": "key",
        "secret_access_key": "secret",
        **role,
    }
    data = {"kind": module.__name__.rpartition(".")[2], "name": "gate", "aws": aws, **keys}
    built = module.Config.model_validate(data).build(ActionContext(ManualClock(), cast(aiohttp.ClientSession, None)))
    return cast(Action, built)


async def there_and_back(action: Action, plan: Plan) -> None:
    await action.apply(plan)
    await action.apply(plan)
    assert (await action.verify(plan)).in_force
    await action.undo(plan, None)
    await action.undo(plan, None)
    assert not (await action.verify(plan)).in_force
    await action.close()


@pytest.fixture
def gateway(endpoint: str) -> Any:
    return boto3.client("apigateway", endpoint_url=endpoint, **KEYS)


@pytest.mark.parametrize("throttle", [{"rateLimit": 50.0, "burstLimit": 900}, None])
async def test_a_usage_plan(endpoint: str, gateway: Any, throttle: dict[str, Any] | None) -> None:
    key = gateway.create_api_key(name="k", enabled=True)["id"]
    made = gateway.create_usage_plan(name="gold", **({"throttle": throttle} if throttle else {}))["id"]
    gateway.create_usage_plan_key(usagePlanId=made, keyId=key, keyType="API_KEY")
    action = configured(aws_api_gateway, endpoint)
    (plan,) = await action.plan(an_alert(tags={"api_key": key}), AIM)
    assert plan.after == {"/throttle/rateLimit": 2.0, "/throttle/burstLimit": 120}
    await there_and_back(action, plan)
    assert gateway.get_usage_plan(usagePlanId=made).get("throttle") == throttle


async def test_a_key(endpoint: str, gateway: Any) -> None:
    key = gateway.create_api_key(name="k", enabled=True)["id"]
    action = configured(aws_api_gateway, endpoint)
    (plan,) = await action.plan(an_alert(tags={"api_key": key}), TargetRate("block"))
    await there_and_back(action, plan)
    assert gateway.get_api_key(apiKey=key)["enabled"] is True


async def test_a_key_nobody_knows(endpoint: str) -> None:
    action = configured(aws_api_gateway, endpoint)
    for verb in (AIM, TargetRate("block")):
        with pytest.raises(PermanentError):
            await action.plan(an_alert(tags={"api_key": "nobody"}), verb)
    await action.close()


async def test_a_stage(endpoint: str, gateway: Any) -> None:
    api = gateway.create_rest_api(name="api")["id"]
    root = gateway.get_resources(restApiId=api)["items"][0]["id"]
    gateway.put_method(restApiId=api, resourceId=root, httpMethod="GET", authorizationType="NONE")
    gateway.put_integration(restApiId=api, resourceId=root, httpMethod="GET", type="MOCK")
    gateway.create_deployment(restApiId=api, stageName="prod")
    operations = [{"op": "replace", "path": "/*/*/throttling/rateLimit", "value": "500"}]
    stage = gateway.update_stage(restApiId=api, stageName="prod", patchOperations=operations)
    action = configured(aws_api_gateway, endpoint, stage={"rest_api_id": api, "name": "prod"})
    (plan,) = await action.plan(an_alert(), AIM)
    assert plan.after == {"/*/*/throttling/rateLimit": 2.0, "/*/*/throttling/burstLimit": 120}
    await there_and_back(action, plan)
    found = gateway.get_stage(restApiId=api, stageName="prod")
    assert found["methodSettings"] == stage["methodSettings"]


@pytest.fixture
def acl(endpoint: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """A web ACL with one rule that limits each IP address."""
    client = boto3.client("wafv2", endpoint_url=endpoint, **KEYS)
    visible = {"SampledRequestsEnabled": True, "CloudWatchMetricsEnabled": False, "MetricName": "m"}
    rate = {"RateBasedStatement": {"Limit": 2000, "AggregateKeyType": "IP"}}
    rule = {"Name": "floods", "Priority": 0, "Statement": rate, "Action": {"Block": {}}, "VisibilityConfig": visible}
    made = client.create_web_acl(
        Name="front",
        Scope="REGIONAL",
        DefaultAction={"Allow": {}},
        VisibilityConfig=visible,
        Rules=[rule],
        CustomResponseBodies={"no": {"ContentType": "TEXT_PLAIN", "Content": "no"}},
    )["Summary"]
    yield client, {"Name": "front", "Scope": "REGIONAL", "Id": made["Id"]}
    token = client.get_web_acl(Name="front", Scope="REGIONAL", Id=made["Id"])["LockToken"]
    client.delete_web_acl(Name="front", Scope="REGIONAL", Id=made["Id"], LockToken=token)


@pytest.mark.parametrize("how", [{"tag": "team", "header": "x-team"}, {"rule": "floods"}])
async def test_a_web_acl(endpoint: str, acl: tuple[Any, dict[str, str]], how: dict[str, str]) -> None:
    client, named = acl
    before = client.get_web_acl(**named)["WebACL"]
    action = configured(aws_waf, endpoint, web_acl_name="front", web_acl_id=named["Id"], **how)
    (plan,) = await action.plan(an_alert(), AIM)
    assert plan.after["limit"] == 600
    await there_and_back(action, plan)
    assert client.get_web_acl(**named)["WebACL"] == before


async def test_a_subject_blocked_by_a_web_acl(endpoint: str, acl: tuple[Any, dict[str, str]]) -> None:
    client, named = acl
    before = client.get_web_acl(**named)["WebACL"]
    action = configured(aws_waf, endpoint, web_acl_name="front", web_acl_id=named["Id"], tag="team", header="x-team")
    (plan,) = await action.plan(an_alert(), TargetRate("block"))
    await there_and_back(action, plan)
    assert client.get_web_acl(**named)["WebACL"] == before


async def test_a_stale_lock_token_is_read_again(
    endpoint: str, acl: tuple[Any, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, named = acl
    action = configured(aws_waf, endpoint, web_acl_name="front", web_acl_id=named["Id"], rule="floods")
    (plan,) = await action.plan(an_alert(), AIM)
    read = aws_waf.Waf._read

    async def read_and_lose(waf: aws_waf.Waf, target: str) -> Any:
        web_acl, _ = await read(waf, target)
        return web_acl, "00000000-0000-0000-0000-000000000000"

    with monkeypatch.context() as patched:
        patched.setattr(aws_waf.Waf, "_read", read_and_lose)
        with pytest.raises(TransientError, match="WAFOptimisticLockException"):
            await action.apply(plan)
    assert not (await action.verify(plan)).in_force
    await there_and_back(action, plan)


async def test_a_web_acl_nobody_knows(endpoint: str) -> None:
    unknown = "00000000-0000-0000-0000-000000000000"
    action = configured(aws_waf, endpoint, web_acl_name="front", web_acl_id=unknown, rule="floods")
    with pytest.raises(PermanentError, match="WAFNonexistentItem"):
        await action.plan(an_alert(), AIM)
    plan = Plan(action="gate", target=f"wafv2/REGIONAL/front/{unknown}/floods", summary="", before={}, after={})
    with pytest.raises(DriftError):
        await action.undo(plan, None)
    await action.close()
