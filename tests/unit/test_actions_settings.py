"""Routes, names and limits of the actions room."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from curb.actions.notify.console import Config
from curb.actions.policy.routing import decide, tags_match
from curb.actions.settings import ActionsSettings
from tests.fakes.actions_house import NamedAction, NamedNotifier
from tests.fakes.alerts import an_alert


def settings(**changes: Any) -> ActionsSettings:
    base: dict[str, Any] = {
        "actions": [NamedAction(kind="x", name="limits"), NamedAction(kind="x", name="other")],
        "notifiers": [NamedNotifier(kind="x", name="chat"), NamedNotifier(kind="x", name="screen")],
    }
    return ActionsSettings.model_validate(base | changes)


def test_shadow_is_the_default_and_limits_are_on() -> None:
    empty = ActionsSettings()
    assert empty.mode == "shadow"
    assert (empty.limits.max_open_actions, empty.limits.max_actions_per_hour) == (5, 10)


def test_without_routes_everybody_is_told_and_nothing_is_done() -> None:
    decision = decide(an_alert(), settings())
    assert (decision.notify, decision.act) == (("chat", "screen"), ())


def test_names_are_read_from_configurations_that_are_validated_already() -> None:
    screen = Config.model_validate({"kind": "console", "name": "screen"})
    config = ActionsSettings.model_validate({"notifiers": [screen]})
    assert decide(an_alert(), config).notify == ("screen",)
    with pytest.raises(ValidationError, match="known names: screen"):
        ActionsSettings.model_validate({"notifiers": [screen], "routes": [{"notify": ["typo"]}]})


@pytest.mark.parametrize("section", ["notify", "act"])
def test_a_route_to_nowhere_is_an_error_that_names_what_exists(section: str) -> None:
    with pytest.raises(ValidationError, match=r"'typo'; known names: (chat, screen|limits, other)"):
        settings(routes=[{section: ["typo"]}])


def test_a_route_with_nothing_configured_says_so() -> None:
    with pytest.raises(ValidationError, match="the list `actions` is empty"):
        ActionsSettings.model_validate({"routes": [{"act": ["limits"]}]})


def test_names_are_unique() -> None:
    with pytest.raises(ValidationError, match="two notifiers are named 'chat'"):
        settings(notifiers=[NamedNotifier(kind="x", name="chat")] * 2)


def test_the_first_route_that_matches_decides() -> None:
    config = settings(
        routes=[
            {"match": {"tier": ["digest"]}, "notify": ["screen"]},
            {"match": {"kind": ["runaway"], "tags": {"team": "sea*"}}, "notify": ["chat"], "act": ["limits"]},
            {"notify": ["screen"], "act": ["other"]},
        ]
    )
    assert decide(an_alert(tier="digest"), config).notify == ("screen",)
    assert decide(an_alert(), config).notify == ("chat",)
    assert [act.name for act in decide(an_alert(), config).act] == ["limits"]
    assert [act.name for act in decide(an_alert(kind="budget"), config).act] == ["other"]


def test_continue_adds_and_the_first_route_naming_an_action_decides_about_it() -> None:
    config = settings(
        mode="auto",
        routes=[
            {"notify": ["chat"], "act": ["limits"], "mode": "shadow", "lease_minutes": 5, "continue": True},
            {"notify": ["chat", "screen"], "act": ["limits", "other"]},
        ],
    )
    decision = decide(an_alert(), config)
    assert decision.notify == ("chat", "screen")
    assert [(act.name, act.mode, act.lease_s) for act in decision.act] == [
        ("limits", "shadow", 300.0),
        ("other", "auto", 3600.0),
    ]


def test_no_route_matches_then_nobody_is_told() -> None:
    decision = decide(an_alert(), settings(routes=[{"match": {"scope": "team"}, "notify": ["chat"]}]))
    assert decision == ((), ())


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        ({}, True),
        ({"team": "search"}, True),
        ({"team": "s*"}, True),
        ({"team": "S*"}, False),
        ({"team": "s*", "env": "*"}, False),
        ({"team": "[!s]*"}, False),
    ],
)
def test_all_tags_of_a_matcher_must_be_there_and_fit(matcher: dict[str, str], expected: bool) -> None:
    assert tags_match(matcher, {"team": "search"}) is expected
