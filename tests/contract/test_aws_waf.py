"""WAF: what an update keeps, who writes at the same time, limits WAF cannot count, and rules of others."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import botocore
import pytest
from pydantic import ValidationError

from curb.actions.action import ActionContext, DriftError
from curb.actions.levers.aws_waf import REPORTED, SENT_BACK, Config, Waf, fields_of, made, sent_back
from curb.actions.target import TargetRate
from curb.stream.clients.aws import AwsRefusal
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import OTHER, UNTAGGED
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.aws_waf import ACL_ID, ExistingRuleBench, WafBench, WafFake, per_address


@asynccontextmanager
async def acting(bench: WafBench, **changes: Any) -> AsyncIterator[tuple[WafFake, Waf]]:
    async with bench.serve() as address:
        config = Config.model_validate(bench.config(address) | {"timeout_s": 30} | changes)
        action = config.build(ActionContext(ManualClock(), cast(aiohttp.ClientSession, None)))
        yield bench.fake, action
        await action.close()


def rule(fake: WafFake, begin: str) -> dict[str, Any]:
    (found,) = [rule for rule in fake.acl["Rules"] if rule["Name"].startswith(begin)]
    return cast(dict[str, Any], found)


async def test_a_rule_counts_the_requests_of_one_header_value() -> None:
    async with acting(WafBench()) as (fake, action):
        (plan,) = await action.plan(an_alert(tags={"team": "ü/ads: x"}), NORMAL)
        assert plan.target.startswith(f"wafv2/REGIONAL/front/{ACL_ID}/curb-front-shave-")
        assert plan.summary == "WAF front, x-team: ü/ads: x: limit none → 100"
        assert set(plan.before.values()) == {None}
        await action.apply(plan)
        rate = rule(fake, "curb")["Statement"]["RateBasedStatement"]
        assert (rate["Limit"], rate["EvaluationWindowSec"], rate["AggregateKeyType"]) == (100, 300, "CONSTANT")
        compared = rate["ScopeDownStatement"]["ByteMatchStatement"]
        assert base64.b64decode(compared["SearchString"]).decode() == "ü/ads: x"
        assert compared["FieldToMatch"] == {"SingleHeader": {"Name": "x-team"}}
        assert rule(fake, "curb")["Priority"] == 1


async def test_a_blocked_subject_is_blocked_by_a_rule_of_its_own() -> None:
    async with acting(WafBench()) as (_, action):
        (shave,) = await action.plan(an_alert(), NORMAL)
        (block,) = await action.plan(an_alert(), TargetRate("block"))
        assert block.after == {"action": "Block", "match": "x-team: search"}
        assert shave.target != block.target
        await action.apply(shave)
        await action.apply(block)
        await action.undo(block, None)
        assert (await action.verify(shave)).in_force
        assert not (await action.verify(block)).in_force


async def test_an_update_keeps_everything_else() -> None:
    async with acting(WafBench()) as (fake, action):
        others = [rule["Name"] for rule in fake.acl["Rules"]]
        (plan,) = await action.plan(an_alert(), NORMAL)
        kept = {key: value for key, value in fake.acl.items() if key != "Rules"}
        rules = list(fake.acl["Rules"])
        await action.apply(plan)
        assert {key: value for key, value in fake.acl.items() if key != "Rules"} == kept
        assert [rule for rule in fake.acl["Rules"] if rule["Name"] in others] == rules


async def test_a_write_that_came_in_between_is_never_lost() -> None:
    async with acting(WafBench()) as (fake, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        fake.interfere = True
        with pytest.raises(TransientError, match="WAFOptimisticLockException"):
            await action.apply(plan)
        await action.apply(plan)
        assert rule(fake, "from-somebody-else")
        fake.acl["Rules"] = [each for each in fake.acl["Rules"] if each["Name"] != "from-somebody-else"]
        fake.interfere = True
        with pytest.raises(TransientError, match="WAFOptimisticLockException"):
            await action.undo(plan, None)
        await action.undo(plan, None)
        assert rule(fake, "from-somebody-else")
        assert not [each for each in fake.acl["Rules"] if each["Name"].startswith("curb")]


async def test_a_rule_that_somebody_made_meanwhile_is_left_alone() -> None:
    async with acting(WafBench()) as (fake, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        fake.acl["Rules"].append(per_address(plan.target.rpartition("/")[2], 40, 700))
        with pytest.raises(PermanentError, match="left alone"):
            await action.apply(plan)
        assert fake.updates == 0


async def test_a_rule_that_was_deleted_or_whose_web_acl_was() -> None:
    async with acting(WafBench()) as (fake, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        await action.apply(plan)
        fake.acl["Rules"] = [each for each in fake.acl["Rules"] if not each["Name"].startswith("curb")]
        await action.undo(plan, None)
        fake.acl["Id"] = "another"
        with pytest.raises(DriftError, match="no longer exists"):
            await action.undo(plan, None)


@pytest.mark.parametrize(
    ("rpm", "window_s", "limit"), [(20.0, 60, 20), (2.0, 300, 10), (1.0, 600, 10), (1.0, 300, None), (9.0, 60, None)]
)
async def test_a_rate_that_waf_cannot_count_is_refused_and_never_rounded_up(
    rpm: float, window_s: int, limit: int | None
) -> None:
    async with acting(WafBench(), window_s=window_s) as (_, action):
        rate = TargetRate("shave", requests_per_minute=rpm)
        if limit is None:
            with pytest.raises(PermanentError, match=rf"no fewer than 10 requests in {window_s} s.*longer window_s"):
                await action.plan(an_alert(), rate)
        else:
            (plan,) = await action.plan(an_alert(), rate)
            assert plan.after["limit"] == limit


async def test_a_rule_that_exists_is_lowered_in_its_own_window() -> None:
    async with acting(ExistingRuleBench()) as (fake, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        assert (plan.before, plan.after, plan.warning) == ({"limit": 2000}, {"limit": 40}, "")
        assert not await action.plan(an_alert(), TargetRate("block"))
        await action.apply(plan)
        assert rule(fake, "floods") == per_address("floods", 5, 40)
        fake.acl["Rules"] = []
        with pytest.raises(PermanentError, match="left alone"):
            await action.apply(plan)
        with pytest.raises(DriftError):
            await action.undo(plan, None)


async def test_a_rule_that_only_counts_says_so() -> None:
    bench = ExistingRuleBench()
    bench.fake.acl["Rules"] = [per_address("floods", 5, 2000, action="Count")]
    async with acting(bench) as (_, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        assert plan.warning == "The rule does not block, it is set to Count."


async def test_a_rule_to_lower_has_to_be_there() -> None:
    async with acting(ExistingRuleBench(), rule="common") as (_, action):
        with pytest.raises(PermanentError, match="no rate-based rule common"):
            await action.plan(an_alert(), NORMAL)


async def test_rules_that_let_requests_pass_before_are_named() -> None:
    async with acting(WafBench(), priority=9) as (_, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        assert plan.warning == "Requests that these rules allow never reach it: penguins."


@pytest.mark.parametrize("tags", [{}, {"team": UNTAGGED}, {"team": OTHER}])
async def test_nothing_is_asked_without_the_tag(tags: dict[str, str]) -> None:
    async with acting(WafBench()) as (fake, action):
        assert not await action.plan(an_alert(tags=tags), NORMAL)
        assert not fake.calls


async def test_to_block_takes_a_header() -> None:
    async with acting(WafBench(), header="", per="ip") as (fake, action):
        assert not await action.plan(an_alert(), TargetRate("block"))
        assert not fake.calls


async def test_without_the_permission_nothing_is_changed() -> None:
    bench = WafBench()
    bench.fake.denied = {"UpdateWebACL"}
    async with acting(bench) as (_, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        with pytest.raises(AwsRefusal, match="UpdateWebACL"):
            await action.apply(plan)
        assert bench.fake.updates == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "give `header`"),
        ({"header": "x-team", "rule": "floods"}, "either rule or header"),
        ({"header": "x-team", "scope": "CLOUDFRONT", "aws": {"region": "eu-central-1"}}, "us-east-1"),
        ({"header": "x team"}, "pattern"),
        ({"header": "x-team", "window_s": 90}, "60, 120, 300 or 600"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, Any], says: str) -> None:
    base = {"kind": "aws_waf", "name": "front", "web_acl_name": "front", "web_acl_id": ACL_ID}
    with pytest.raises(ValidationError, match=says):
        Config.model_validate(base | changes)


# --- what is sent back --------------------------------------------------------------------------------------------


def test_all_that_an_update_takes_is_sent_back() -> None:
    """The API of the installed botocore: a new part of a web ACL must not get lost."""
    (path,) = (Path(botocore.__file__).parent / "data" / "wafv2").glob("*/service-2.json.gz")
    shapes = json.loads(gzip.decompress(path.read_bytes()))["shapes"]
    addressed = {"Name", "Scope", "Id", "LockToken"}
    assert set(SENT_BACK) == shapes["UpdateWebACLRequest"]["members"].keys() - addressed
    assert {*SENT_BACK, *REPORTED} == shapes["WebACL"]["members"].keys()


def test_a_web_acl_that_cannot_be_sent_back_whole_is_not_touched() -> None:
    with pytest.raises(PermanentError, match="NewThing"):
        sent_back({"Name": "front", "DefaultAction": {"Allow": {}}, "NewThing": {"x": 1}}, [])


def test_what_is_none_or_empty_is_not_sent() -> None:
    acl = {"DefaultAction": {"Allow": {}}, "Description": "", "CaptchaConfig": None, "NewThing": None}
    assert sent_back(acl, [{"Name": "a", "OverrideAction": None, "Action": {"Block": {}}}]) == {
        "DefaultAction": {"Allow": {}},
        "Rules": [{"Name": "a", "Action": {"Block": {}}}],
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "Block", "limit": 10, "window_s": 60, "aggregate": "CONSTANT", "match": "x-team: a: b"},
        {"action": "Block", "limit": 10, "window_s": 60, "aggregate": "IP", "match": None},
        {"action": "Block", "limit": None, "window_s": None, "aggregate": None, "match": "x-team: a"},
    ],
)
def test_a_rule_has_the_fields_it_was_made_of(fields: dict[str, Any]) -> None:
    assert fields_of(made("r", 0, fields)) == fields


def test_fields_of_rules_that_others_made() -> None:
    nothing = dict.fromkeys(("action", "limit", "window_s", "aggregate", "match"))
    uri = {"ByteMatchStatement": {"FieldToMatch": {"UriPath": {}}, "SearchString": b"/"}}
    rate = {"Limit": 50, "AggregateKeyType": "IP", "ScopeDownStatement": {"NotStatement": {"Statement": uri}}}
    assert fields_of(None) == nothing
    assert fields_of({"Statement": uri, "OverrideAction": {"None": {}}}) == nothing
    assert fields_of({"Statement": {"RateBasedStatement": rate}, "Action": {"Count": {}}}) == nothing | {
        "action": "Count",
        "limit": 50,
        "window_s": 300,
        "aggregate": "IP",
    }
