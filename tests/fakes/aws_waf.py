"""AWS WAF's GetWebACL and UpdateWebACL: an update replaces everything, needs the lock token, and is checked."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.test_utils import TestServer

from curb.actions.levers.aws_waf import Waf
from curb.actions.target import TargetRate
from curb.stream.records.spend import Alert
from curb.testing.actions import ActionBench
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.aws_json import SECRET, AwsJson, Refused, aws
from tests.fakes.faults import Faults

KIND = "aws_waf"
ACL_ID = "11111111-2222-3333-4444-555555555555"
_READ_ONLY = {"Name", "Id", "ARN", "Capacity", "LabelNamespace"}


def visible(name: str) -> dict[str, Any]:
    return {"SampledRequestsEnabled": True, "CloudWatchMetricsEnabled": False, "MetricName": name}


def per_address(name: str, priority: int, limit: int, action: str = "Block") -> dict[str, Any]:
    rate = {"RateBasedStatement": {"Limit": limit, "EvaluationWindowSec": 120, "AggregateKeyType": "IP"}}
    common = {"Name": name, "Priority": priority, "VisibilityConfig": visible(name)}
    return common | {"Statement": rate, "Action": {action: {}}}


class WafFake(AwsJson):
    """One web ACL. `interfere`: before the next update somebody else writes."""

    def __init__(self, allowed: set[str]) -> None:
        operations = {"GetWebACL": self._get, "UpdateWebACL": self._update}
        super().__init__(operations)
        self.denied = {name for name in operations if f"wafv2:{name}" not in allowed}
        managed = {"VendorName": "AWS", "Name": "AWSManagedRulesCommonRuleSet"}
        group = {"Statement": {"ManagedRuleGroupStatement": managed}, "OverrideAction": {"None": {}}}
        geo = {"Statement": {"GeoMatchStatement": {"CountryCodes": ["AQ"]}}, "Action": {"Allow": {}}}
        self.acl: dict[str, Any] = {
            "Name": "front",
            "Id": ACL_ID,
            "ARN": f"arn:aws:wafv2:us-east-1:111122223333:regional/webacl/front/{ACL_ID}",
            "Capacity": 700,
            "DefaultAction": {"Allow": {}},
            "Description": "all that comes in",
            "VisibilityConfig": visible("front"),
            "CustomResponseBodies": {"no": {"ContentType": "TEXT_PLAIN", "Content": "no"}},
            "TokenDomains": ["example.com"],
            "Rules": [
                {"Name": "common", "Priority": 0, "VisibilityConfig": visible("common"), **group},
                per_address("floods", 5, 2000),
                {"Name": "penguins", "Priority": 9, "VisibilityConfig": visible("penguins"), **geo},
            ],
        }
        self.token = 1
        self.interfere = False
        self.updates = 0

    def _known(self, asked: dict[str, Any]) -> None:
        if (asked["Name"], asked["Id"], asked["Scope"]) != (self.acl.get("Name"), self.acl.get("Id"), "REGIONAL"):
            raise Refused(400, "WAFNonexistentItemException", "AWS WAF couldn't find the resource.")

    def _get(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._known(asked)
        return {"WebACL": self.acl, "LockToken": f"{self.token:036}"}

    def _update(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._known(asked)
        if self.interfere:
            self.interfere = False
            self.acl["Rules"].append(per_address("from-somebody-else", 30, 500))
            self.token += 1
        if asked["LockToken"] != f"{self.token:036}":
            raise Refused(400, "WAFOptimisticLockException", "Somebody changed the resource since you read it.")
        rules = asked.get("Rules", [])
        priorities, names = [rule["Priority"] for rule in rules], [rule["Name"] for rule in rules]
        if len(set(priorities)) < len(rules) or len(set(names)) < len(rules):
            raise Refused(400, "WAFInvalidParameterException", "Priorities and names of rules are unique.")
        for rule in rules:
            _check(rule)
        kept = {key: value for key, value in self.acl.items() if key in _READ_ONLY}
        given = {key: value for key, value in asked.items() if key not in ("Name", "Id", "Scope", "LockToken")}
        self.acl = kept | copy.deepcopy(given)
        self.token += 1
        self.updates += 1
        return {"NextLockToken": f"{self.token:036}"}


def _check(rule: dict[str, Any]) -> None:
    if ("Action" in rule) == ("OverrideAction" in rule):
        raise Refused(400, "WAFInvalidParameterException", "Either Action or OverrideAction.")
    rate = rule["Statement"].get("RateBasedStatement")
    if rate is None:
        return
    alone = rate["AggregateKeyType"] == "CONSTANT" and "ScopeDownStatement" not in rate
    if rate["Limit"] < 10 or rate.get("EvaluationWindowSec", 300) not in (60, 120, 300, 600) or alone:
        raise Refused(400, "WAFInvalidParameterException", "The rate-based statement is not valid.")


class WafBench(ActionBench):
    """Two subjects to shave and one to block, by their header."""

    secret = SECRET

    def __init__(self) -> None:
        self.fake = WafFake(set(Waf.permissions))
        self.faults: Faults = self.fake.faults
        self.cases = [
            (an_alert(), NORMAL),
            (an_alert(tags={"team": "ü/ads: x"}), NORMAL),
            (an_alert(tags={"team": "lab"}), TargetRate("block")),
        ]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.app()) as server:
            yield str(server.make_url("/"))

    def config(self, address: str) -> dict[str, Any]:
        acl = {"web_acl_name": "front", "web_acl_id": ACL_ID}
        base = {"kind": KIND, "name": "front", "aws": aws(address), "timeout_s": 0.2}
        return base | acl | {"tag": "team", "header": "X-Team"}

    def world(self) -> Any:
        return copy.deepcopy(self.fake.acl)

    def change_by_hand(self) -> None:
        for rule in self.fake.acl["Rules"]:
            rate = rule["Statement"].get("RateBasedStatement")
            if rate:
                rate["Limit"] = 33
            elif rule["Name"].startswith("curb"):
                rule["Action"] = {"Count": {}}

    def about_nothing_known(self) -> Alert:
        """WAF knows no subjects; this one has a name no rule can compare with."""
        return an_alert(tags={"team": "x" * 201})

    def called(self) -> set[str]:
        return {f"wafv2:{name}" for name, _ in self.fake.calls}


class ExistingRuleBench(WafBench):
    """Lowers a rule that is there."""

    def __init__(self) -> None:
        super().__init__()
        self.cases = [(an_alert(), NORMAL)]

    def config(self, address: str) -> dict[str, Any]:
        base = super().config(address)
        return {key: value for key, value in base.items() if key != "header"} | {"rule": "floods"}

    def about_nothing_known(self) -> Alert:
        """The subject is in the web ACL: somebody deleted it."""
        self.fake.acl["Id"] = "gone"
        return an_alert()


class PerAddressBench(WafBench):
    """A limit for each IP address of all that comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.cases = [(an_alert(), NORMAL)]

    def config(self, address: str) -> dict[str, Any]:
        return super().config(address) | {"header": "", "per": "ip"}

    def about_nothing_known(self) -> Alert:
        """The subject is in the web ACL: somebody deleted it."""
        self.fake.acl["Id"] = "gone"
        return an_alert()
