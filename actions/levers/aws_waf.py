"""Adds a rate-based rule for one subject to an AWS WAF web ACL, or lowers an existing rule, and takes it back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from curb.actions.action import ActionContext, DriftError, Effect, Outcome, RateConfig
from curb.actions.calls.compare_and_swap import Swap, arrows, swap
from curb.actions.levers.waf_rules import (
    MIN_LIMIT,
    allowing_before,
    fields_of,
    free_priority,
    made,
    match_of,
    rule_name,
    rule_named,
    sent_back,
)
from curb.actions.target import TargetRate, Verb
from curb.stream.clients.aws import AwsClient, AwsRefusal, AwsSettings
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan


class Config(RateConfig):
    """Limits what passes a web ACL: of one header's value, of each IP address, or of a rule that exists."""

    kind: Literal["aws_waf"]
    aws: AwsSettings = Field(default=AwsSettings(), description="Which account is asked, and as whom.")
    web_acl_name: str = Field(pattern=r"^[\w-]{1,128}$", description="Name of the web ACL.")
    web_acl_id: str = Field(pattern=r"^[0-9a-f-]{36}$", description="Id of the web ACL.")
    scope: Literal["REGIONAL", "CLOUDFRONT"] = Field(
        default="REGIONAL", description="CLOUDFRONT for web ACLs of distributions; their region is us-east-1."
    )
    tag: str = Field(default="api_key", description="Tag of the alert whose value the header has.")
    header: str = Field(
        default="", pattern=r"^[A-Za-z0-9-]{0,64}$", description="Header that says who calls, such as x-team."
    )
    per: Literal["subject", "ip"] = Field(
        default="subject", description="The limit is for all requests with the header together, or for each IP address."
    )
    rule: str = Field(
        default="", pattern=r"^[\w-]{0,128}$", description="Lower this rate-based rule instead of adding one."
    )
    window_s: Literal[60, 120, 300, 600] = Field(
        default=300, description="Seconds over which WAF counts for a rule that is added."
    )
    priority: int = Field(default=0, ge=0, description="Priority of a rule that is added, or the next free one.")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer.")

    @model_validator(mode="after")
    def _says_what_to_limit(self) -> Config:
        if not self.header and not self.rule and self.per == "subject":
            raise ValueError("give `header`, or `per: ip`, or the name of a `rule` that exists")
        if self.rule and self.header:
            raise ValueError("a rule that exists says itself what it counts: give either rule or header")
        if self.scope == "CLOUDFRONT" and self.aws.region not in ("", "us-east-1"):
            raise ValueError("web ACLs of CLOUDFRONT are in us-east-1")
        return self

    def build(self, context: ActionContext) -> Waf:
        return Waf(self, context.clock)


class Waf:
    """An action on `wafv2/<scope>/<web ACL>/<id>/<rule>`. Every other rule is sent back as it was read.

    A write that lost against another one (the lock token is stale) is a TransientError: the next try reads again.
    """

    permissions: ClassVar[tuple[str, ...]] = ("wafv2:GetWebACL", "wafv2:UpdateWebACL")

    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "block"})

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._client = AwsClient("wafv2", config.aws, clock, config.timeout_s)

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        """Nothing without the tag, or when a rule has such a limit; to block, nothing without a header.

        PermanentError when the limit is below what WAF can count, or the rule to lower does not exist.
        """
        config, value = self._config, alert.tags.get(self._config.tag, "")
        if config.header and value in ("", UNTAGGED, OTHER):
            return ()
        if rate.verb == "block" and not config.header:
            return ()
        match = match_of(config.header, value) if config.header else None
        name = config.rule or rule_name(config.name, rate.verb, match or "")
        acl, _ = await self._read(f"{config.scope}/{config.web_acl_name}/{config.web_acl_id}")
        found = fields_of(rule_named(acl, name))
        if config.rule and found["limit"] is None:
            raise PermanentError(f"the web ACL has no rate-based rule {config.rule}")
        wanted = self._wanted(rate, match, found)
        if found["action"] is None:
            after = wanted
        else:
            after = {"limit": wanted["limit"]} if found["limit"] and found["limit"] > wanted.get("limit", 0) else {}
        if not after:
            return ()
        before = {field: found[field] for field in after}
        shown = arrows(before, {"limit": after["limit"]}) if "limit" in after else "block"
        plan = Plan(
            action=config.name,
            target=f"wafv2/{config.scope}/{config.web_acl_name}/{config.web_acl_id}/{name}",
            summary=f"WAF {config.web_acl_name}, {match or config.rule or 'each IP address'}: {shown}",
            before=before,
            after=after,
            warning=self._warning(acl, found),
        )
        return (plan,)

    async def apply(self, plan: Plan) -> Outcome:
        acl, token = await self._read(plan.target)
        if self._found(acl, plan) != plan.after:
            await self._set(plan, acl, token, plan.after)
        return Outcome(values=dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        acl, _ = await self._read(plan.target)
        values = self._found(acl, plan)
        return Effect(in_force=values == plan.after, values=values)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        try:
            acl, token = await self._read(plan.target)
        except AwsRefusal as error:
            if error.code != "WAFNonexistentItemException":
                raise
            raise DriftError("the web ACL no longer exists", found={}) from error
        swapped = _whole(plan, swap(plan, self._found(acl, plan)))
        if swapped.back:
            await self._set(plan, acl, token, swapped.back)
        swapped.raise_drift("somebody changed the rule since")

    async def close(self) -> None:
        self._client.close()

    def _wanted(self, rate: TargetRate, match: str | None, found: dict[str, Any]) -> dict[str, Any]:
        matched = {} if match is None else {"match": match}
        if rate.verb == "block":
            return {"action": "Block", **matched}
        window_s = found["window_s"] or self._config.window_s
        rpm = self._config.rpm_for(rate)
        limit = math.ceil(rpm * window_s / 60)
        if limit < MIN_LIMIT:
            raise PermanentError(
                f"WAF counts no fewer than {MIN_LIMIT} requests in {window_s} s, "
                f"{MIN_LIMIT * 60 / window_s:g} a minute, and {rpm} are to be left: "
                "set a longer window_s or a higher floor_rpm"
            )
        aggregate = "IP" if self._config.per == "ip" else "CONSTANT"
        return {"action": "Block", "limit": limit, "window_s": window_s, "aggregate": aggregate, **matched}

    def _warning(self, acl: dict[str, Any], found: dict[str, Any]) -> str:
        if found["action"] not in (None, "Block"):
            return f"The rule does not block, it is set to {found['action']}."
        passing = allowing_before(acl, free_priority(acl, self._config.priority)) if found["action"] is None else []
        return f"Requests that these rules allow never reach it: {', '.join(passing)}." if passing else ""

    @staticmethod
    def _found(acl: dict[str, Any], plan: Plan) -> dict[str, Any]:
        found = fields_of(rule_named(acl, plan.target.rpartition("/")[2]))
        return {field: found[field] for field in plan.after}

    async def _set(self, plan: Plan, acl: dict[str, Any], token: str, values: dict[str, Any]) -> None:
        """Make, change or (where every value is None) delete the rule of a plan."""
        name = plan.target.rpartition("/")[2]
        rules = list(acl.get("Rules") or ())
        rule = rule_named(acl, name)
        if all(value is None for value in values.values()):
            rules = [each for each in rules if each["Name"] != name]
        elif rule is None and "action" in values:
            rules.append(made(name, free_priority(acl, self._config.priority), values))
        elif rule is not None and values.keys() == {"limit"} and "RateBasedStatement" in rule["Statement"]:
            rate = rule["Statement"]["RateBasedStatement"] | {"Limit": values["limit"]}
            changed = rule | {"Statement": {"RateBasedStatement": rate}}
            rules = [changed if each["Name"] == name else each for each in rules]
        else:
            raise PermanentError(f"the rule {name} is not what it was when this was planned; it is left alone")
        _, scope, acl_name, acl_id, _ = plan.target.split("/")
        whole = sent_back(acl, rules)
        await self._call("update_web_acl", Name=acl_name, Scope=scope, Id=acl_id, LockToken=token, **whole)

    async def _read(self, target: str) -> tuple[dict[str, Any], str]:
        scope, name, acl_id = target.removeprefix("wafv2/").split("/")[:3]
        answer = await self._call("get_web_acl", Name=name, Scope=scope, Id=acl_id)
        return answer["WebACL"], answer["LockToken"]

    async def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self._client.call, operation, **parameters)


def _whole(plan: Plan, swapped: Swap) -> Swap:
    """A rule that Curb made is deleted or left alone, never taken apart."""
    if swapped.drifted and all(value is None for value in plan.before.values()):
        return Swap(plan.after, {}, swapped.drifted)
    return swapped
