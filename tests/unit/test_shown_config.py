"""The configuration on the page: what is in force, and no secret in any form."""

from __future__ import annotations

import pytest
import yaml

from curb.config.file import load_text
from curb.serve.pages.history import shown_config

TEXT = """
http:
  token: ${HTTP_TOKEN}
  tokens: [{name: on-call, token: plain-token-1, roles: [operate]}]
connectors:
  - {kind: litellm, name: gateway, token: plain-token-2}
actions:
  notifiers:
    - {kind: webhook, name: hook, url: "https://user:plain-token-3@hooks.example/plain-token-4"}
"""


@pytest.fixture
def shown() -> str:
    return shown_config(load_text(TEXT, {"HTTP_TOKEN": "plain-token-0"}))


def test_no_secret_is_shown(shown: str) -> None:
    assert "plain-token" not in shown
    assert "${HTTP_TOKEN}" in shown


def test_it_is_yaml_with_defaults_and_what_was_set(shown: str) -> None:
    found = yaml.safe_load(shown)
    assert found["http"]["port"] == 8088
    assert found["connectors"][0]["name"] == "gateway"
    assert found["actions"]["notifiers"][0]["url"].endswith("@hooks.example/**********")
