"""What every kind of action promises, held against its fake over real HTTP."""

from __future__ import annotations

import pkgutil

import pytest

from curb.actions.kinds import ACTIONS
from curb.testing.actions import ACTION_PROMISES, ActionBench

#: kind → "module:Bench": its fake, what to plan for, and how to look at its world. A kind that can be set up in
#: several ways has one for each, as kind/way.
BENCHES = {
    "litellm_limits": "tests.fakes.litellm_admin:LitellmBench",
    "litellm_limits/team": "tests.fakes.litellm_admin:LitellmTeamBench",
    "litellm_limits/user": "tests.fakes.litellm_admin:LitellmUserBench",
    "litellm_limits/customer": "tests.fakes.litellm_admin:LitellmCustomerBench",
    "litellm_models": "tests.fakes.litellm_admin:LitellmModelsBench",
    "envoy": "tests.fakes.envoy:EnvoyBench",
    "haproxy": "tests.fakes.haproxy:HaproxyBench",
    "kubernetes": "tests.fakes.kubernetes_objects:KubernetesBench",
    "ec2": "tests.fakes.ec2:Ec2Bench",
    "sagemaker": "tests.fakes.sagemaker:SagemakerBench",
    "aws_batch": "tests.fakes.aws_batch:BatchBench",
    "aws_lambda": "tests.fakes.aws_lambda:LambdaBench",
    "http": "tests.fakes.http_gateway:HttpBench",
    "aws_api_gateway": "tests.fakes.aws_api_gateway:ApiGatewayBench",
    "aws_api_gateway/stage": "tests.fakes.aws_api_gateway:StageBench",
    "aws_waf": "tests.fakes.aws_waf:WafBench",
    "aws_waf/existing": "tests.fakes.aws_waf:ExistingRuleBench",
    "aws_waf/address": "tests.fakes.aws_waf:PerAddressBench",
    "kong": "tests.fakes.kong:KongBench",
    "kong/service": "tests.fakes.kong:KongServiceBench",
    "kong/route": "tests.fakes.kong:KongRouteBench",
    "openai_project": "tests.fakes.openai_admin:OpenaiProjectBench",
}


def bench_of(name: str) -> type[ActionBench]:
    found: type[ActionBench] = pkgutil.resolve_name(BENCHES[name])
    return found


@pytest.mark.parametrize("kind", sorted(ACTIONS))
def test_every_kind_has_a_bench(kind: str) -> None:
    missing = f"the action {kind} has no bench: write an ActionBench in tests/fakes/{kind}.py and name it in BENCHES"
    assert kind in BENCHES, missing
    assert bench_of(kind)().config("http://127.0.0.1:1/")["kind"] == kind


@pytest.mark.parametrize("promise", ACTION_PROMISES)
@pytest.mark.parametrize("bench", sorted(BENCHES))
async def test_promise(bench: str, promise: str) -> None:
    await ACTION_PROMISES[promise](bench_of(bench))
