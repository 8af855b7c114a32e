"""Adds a rate-based rule for one subject to an AWS WAF web ACL, or lowers an existing rule, and takes it back."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from curb.actions.action import ActionContext, DriftError, Effect, Outcome, RateConfig
from curb.actions.calls.compare_and_swap import Swap, arrows, swap
from curb.actions.target import TargetRate, Verb
from curb.stream.clients.aws import AwsClient, AwsRefusal, AwsSettings
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan

#: Requests in one window; WAF counts no fewer. By definition of WAF.
MIN_LIMIT = 10
#: Seconds of the window when a rule does not name it. By definition of WAF.
DEFAULT_WINDOW_S = 300
#: Bytes of the longest value that WAF compares a header with. By definition of WAF.
_MAX_VALUE = 200

#: What an update replaces whole: what is left out of it is gone.
SENT_BACK = (
    "DefaultAction",
    "Description",
    "Rules",
    "VisibilityConfig",
    "DataProtectionConfig",
    "CustomResponseBodies",
    "CaptchaConfig",
    "ChallengeConfig",
    "TokenDomains",
    "AssociationConfig",
    "OnSourceDDoSProtectionConfig",
    "ApplicationConfig",
    "MonetizationConfig",
)
#: What a web ACL says of itself and nobody sets.
REPORTED = (
    "Name",
    "Id",
    "ARN",
    "Capacity",
    "PreProcessFirewallManagerRuleGroups",
    "PostProcessFirewallManagerRuleGroups",
    "ManagedByFirewallManager",
    "LabelNamespace",
    "RetrofittedByFirewallManager",
)


def rule_name(action: str, verb: str, match: str) -> str:
    """The name of the rule Curb makes for a subject: the same each time, of letters WAF allows."""
    return f"curb-{action[:60]}-{verb}-{hashlib.sha256(match.encode()).hexdigest()[:12]}"


def match_of(header: str, value: str) -> str:
    """The field `match`: "header: value". PermanentError for a value WAF cannot compare with."""
    if len(value.encode()) > _MAX_VALUE:
        raise PermanentError(f"WAF compares headers with {_MAX_VALUE} bytes at most; the tag has more")
    return f"{header.lower()}: {value}"


def fields_of(rule: Mapping[str, Any] | None) -> dict[str, Any]:
    """What Curb looks at in a rule; None for what is not there. `action` is "Block", "Count" and so on."""
    if rule is None:
        return dict.fromkeys(("action", "limit", "window_s", "aggregate", "match"))
    statement = rule.get("Statement", {})
    rate = statement.get("RateBasedStatement")
    compared = (rate or {}).get("ScopeDownStatement", {}) if rate else statement
    return {
        "action": next(iter(rule.get("Action") or ()), None),
        "limit": rate["Limit"] if rate else None,
        "window_s": rate.get("EvaluationWindowSec", DEFAULT_WINDOW_S) if rate else None,
        "aggregate": rate["AggregateKeyType"] if rate else None,
        "match": _matched(compared.get("ByteMatchStatement")),
    }


def made(name: str, priority: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The rule that has these fields: rate-based when they have a limit, else it blocks all it matches."""
    statement: dict[str, Any] = {}
    if fields.get("match"):
        header, _, value = fields["match"].partition(": ")
        statement["ByteMatchStatement"] = {
            "SearchString": value.encode(),
            "FieldToMatch": {"SingleHeader": {"Name": header}},
            "TextTransformations": [{"Priority": 0, "Type": "NONE"}],
            "PositionalConstraint": "EXACTLY",
        }
    if fields.get("limit") is not None:
        rate = {"Limit": fields["limit"], "EvaluationWindowSec": fields["window_s"]}
        rate["AggregateKeyType"] = fields["aggregate"]
        statement = {"RateBasedStatement": rate | ({"ScopeDownStatement": statement} if statement else {})}
    visible = {"SampledRequestsEnabled": True, "CloudWatchMetricsEnabled": True, "MetricName": name}
    action: dict[str, Any] = {fields["action"]: {}}
    return {"Name": name, "Priority": priority, "Statement": statement, "Action": action, "VisibilityConfig": visible}


def rule_named(acl: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    return next((rule for rule in acl.get("Rules") or () if rule["Name"] == name), None)


def free_priority(acl: Mapping[str, Any], wanted: int) -> int:
    """The first priority from `wanted` on that no rule has; others' rules keep theirs."""
    taken = {rule["Priority"] for rule in acl.get("Rules") or ()}
    while wanted in taken:
        wanted += 1
    return wanted


def allowing_before(acl: Mapping[str, Any], priority: int) -> list[str]:
    """Names of rules that let requests pass before a rule of that priority sees them."""
    return [
        rule["Name"]
        for rule in acl.get("Rules") or ()
        if rule["Priority"] < priority and "Allow" in (rule.get("Action") or ())
    ]


def sent_back(acl: Mapping[str, Any], rules: list[dict[str, Any]]) -> dict[str, Any]:
    """The parameters of an update that changes nothing but the rules.

    PermanentError for a web ACL with something Curb does not know, which an update would take away.
    """
    unknown = [key for key, value in acl.items() if value is not None and key not in (*SENT_BACK, *REPORTED)]
    if unknown:
        raise PermanentError(f"the web ACL has {', '.join(unknown)}, which Curb does not know and would lose")
    kept = {key: _filled(acl[key]) for key in SENT_BACK if acl.get(key)}
    return kept | {"Rules": [_filled(rule) for rule in rules]}


def _filled(value: Any) -> Any:
    """Without the keys that hold None: they may be answered but not sent."""
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items() if item is not None}
    return [_filled(item) for item in value] if isinstance(value, list) else value


def _matched(compared: Mapping[str, Any] | None) -> str | None:
    if not compared or "SingleHeader" not in compared.get("FieldToMatch", {}):
        return None
    searched = compared["SearchString"]
    text = searched.decode(errors="replace") if isinstance(searched, bytes) else str(searched)
    return f"{compared['FieldToMatch']['SingleHeader']['Name']}: {text}"


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
