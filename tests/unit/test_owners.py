"""Owners in alerts: whose channel is told, and what is never acted on."""

from __future__ import annotations

import pytest

from curb.actions.policy.limits import criticality
from curb.actions.policy.routing import decide
from curb.config.file import ConfigErrors, CurbConfig, load_text
from tests.fakes.alerts import an_alert

SLACK = """
  notifiers:
    - {kind: slack, name: on-call, token: xoxb-1, channel: C0000000001}
    - {kind: console, name: screen}
"""
OWNERS = """
attribution:
  owners:
    - {match: {project: checkout}, team: pay*, slack_channel: C0000000002, criticality: critical}
    - {match: {cost_center: "7*"}, team: search, slack_channel: C0000000003}
    - {match: {team: ads}, slack_channel: C0000000002}
"""


def told(config: CurbConfig, tier: str = "page", **tags: str) -> set[str]:
    return set(decide(an_alert(tier=tier, tags=tags), config.actions).notify)


def test_the_owners_channel_is_told_beside_what_routes_say() -> None:
    routes = "  routes:\n    - {match: {tier: [page]}, notify: [on-call]}\n"
    config = load_text(f"{OWNERS}\nactions:{SLACK}{routes}")
    assert told(config, project="checkout", team="x") == {"on-call", "on-call-c0000000002"}
    assert told(config, team="search") == {"on-call", "on-call-c0000000003"}
    assert told(config, team="ads", tier="notice") == {"on-call-c0000000002"}
    assert told(config, team="ads", tier="digest") == set()
    channels = {each.name: getattr(each, "channel", "") for each in config.actions.notifiers}
    assert channels == {
        "on-call": "C0000000001",
        "screen": "",
        "on-call-c0000000002": "C0000000002",
        "on-call-c0000000003": "C0000000003",
    }


def test_without_routes_everybody_is_still_told() -> None:
    config = load_text(f"{OWNERS}\nactions:{SLACK}")
    assert told(config, team="search") == {"on-call", "screen", "on-call-c0000000003"}
    assert told(config, team="nobody") == {"on-call", "screen"}


def test_what_is_critical_is_never_touched() -> None:
    limits = load_text(f"{OWNERS}\nactions:{SLACK}").actions.limits
    touched = [
        tags
        for tags in ({"project": "checkout"}, {"team": "pay*"}, {"team": "payroll"}, {"team": "search"})
        if criticality(tags, limits) != "critical"
    ]
    assert touched == [{"team": "payroll"}, {"team": "search"}]


def test_a_scope_by_criticality_is_heeded() -> None:
    scopes = "detector: {scopes: [{name: key, group_by: [project, criticality]}]}"
    owners = "attribution: {owners: [{match: {project: a}, criticality: critical}]}"
    limits = load_text(f"{scopes}\n{owners}").actions.limits
    tags = ({"project": "a", "criticality": "low"}, {"criticality": "critical"}, {"criticality": "low"}, {})
    assert [criticality(each, limits) for each in tags] == ["critical", "critical", "non_critical", None]


def test_only_what_an_owner_names_is_less_than_critical_not_the_whole_team() -> None:
    owners = "{match: {project: toys}, team: labs, criticality: low}, {match: {team: ads}, criticality: normal}"
    limits = load_text(f"attribution: {{owners: [{owners}]}}").actions.limits
    tags = ({"project": "toys", "team": "labs"}, {"project": "core", "team": "labs"}, {"team": "ads"})
    assert [criticality(each, limits) for each in tags] == ["non_critical", None, "important"]


def test_without_owners_nothing_changes() -> None:
    config = load_text("attribution: {owners: [{match: {project: a}, team: b}]}")
    assert config.actions == CurbConfig().actions


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ("{match: {project: a}, slack_channel: C0000000002}", "there is no Slack notifier"),
        ("{match: {cost_center: a}, criticality: critical}", "no scope has the tags cost_center"),
    ],
)
def test_an_owner_that_no_alert_can_reach_is_an_error(owner: str, message: str) -> None:
    with pytest.raises(ConfigErrors, match=message):
        load_text(f"attribution: {{owners: [{owner}]}}")
