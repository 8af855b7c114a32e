"""Ladders that cannot be what was meant are errors of the configuration."""

from __future__ import annotations

import pytest

from curb.config.file import ConfigErrors, load_text

_ACTIONS = """
actions:
  actions:
    - {kind: litellm_limits, name: limits, base_url: "http://x:1", api_key: sk-1}
  routes:
    - match: MATCH
      ladder:
        - {do: notify}
        - {do: shave_to_normal, act: [limits]}
        - {do: LAST, act: [limits]}
"""


def load(last: str = "block", match: str = "{}", more: str = "") -> None:
    load_text(_ACTIONS.replace("LAST", last).replace("MATCH", match) + more)


def test_a_rung_that_asks_for_what_the_action_cannot_do_is_an_error() -> None:
    load()
    with pytest.raises(ConfigErrors, match=r"actions\.routes\[0\]\.ladder\[2\].*limits cannot pause") as caught:
        load(last="pause")
    assert "it can: block, shave" in str(caught.value)


def test_an_environment_that_no_alert_carries_is_an_error() -> None:
    with pytest.raises(ConfigErrors, match="no scope has the tag env"):
        load(match="{environment: [dev]}")
    scopes = "\n    - {name: key, group_by: [team, project, api_key, env], also_by: [job]}"
    load(match="{environment: [dev]}", more=f"detector:\n  scopes:{scopes}\n")
