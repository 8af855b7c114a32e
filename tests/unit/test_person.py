"""An end user's id, in the forms that applications send → the person."""

from __future__ import annotations

import json

import pytest

from curb.connectors.tokens.litellm_events.person import person

ACCOUNT = "0b5e9f5e-6a51-4c39-9a5d-1f2d3c4b5a69"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ana", "ana"),
        ("", ""),
        (f"user_{'a1' * 32}_account_{ACCOUNT}_session_{ACCOUNT}", ACCOUNT),
        (f"user_{'a1' * 32}_account__session_{ACCOUNT}", "a1" * 32),
        (json.dumps({"device_id": "d1", "account_uuid": ACCOUNT, "session_id": "s1"}), ACCOUNT),
        (json.dumps({"device_id": "d1", "account_uuid": "", "session_id": "s1"}), "d1"),
        (json.dumps({"user": {"id": 42, "plan": "pro"}, "sessionId": "s1"}), "42"),
        (json.dumps({"User-Email": "ana@example.com"}), "ana@example.com"),
        (json.dumps(json.dumps({"user_id": "ana", "session_id": "s1"})), "ana"),
        (json.dumps({"session_id": "s1"}), ""),
        ("{}", ""),
        ('{"not json', '{"not json'),
        ("[1]", "[1]"),
    ],
)
def test_the_person(given: str, expected: str) -> None:
    assert person(given) == expected


def test_json_without_a_known_name_is_the_same_in_every_session() -> None:
    first, second = (person(json.dumps({"seat": "x", "session_id": n, "request_time": n})) for n in (1, 2))
    assert first == second == '{"seat": "x"}'
