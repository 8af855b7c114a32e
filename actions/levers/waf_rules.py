"""Rules of an AWS WAF web ACL as the few fields Curb sets, and a web ACL as it has to be sent back whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from curb.stream.errors import PermanentError

#: WAF counts no fewer requests in one window.
MIN_LIMIT = 10
#: What WAF takes when a rule does not say.
DEFAULT_WINDOW_S = 300
#: Longest value WAF compares a header with, bytes.
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
