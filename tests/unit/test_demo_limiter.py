"""The demo gateway's limits: exactly so many a minute, merge patch, and every limit that is accepted is enforced."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from curb.demo.gateway import Limiter, LimitError
from curb.demo.trace import Key, Request

KEY = Key("key-1", "agent", "team", "project", "prod", "model", 1.0, 2.0)
OTHER = KEY._replace(api_key="key-2", alias="other")


def request(at: float, key: Key = KEY, tokens: int = 100, usd: float = 0.01) -> Request:
    return Request(f"r{at}", at, key, tokens, 0, usd)


def admitted(limiter: Limiter, times: list[float]) -> list[float]:
    return [at for at in times if limiter.judge(request(at)).admitted]


def test_exactly_n_requests_a_minute_pass_and_the_next_gets_429() -> None:
    limiter = Limiter([KEY, OTHER], {"agent": {"rpm_limit": 7}})
    verdicts = [limiter.judge(request(1000 + i)) for i in range(10)]
    assert [v.admitted for v in verdicts] == [True] * 7 + [False] * 3
    assert (verdicts[7].status, verdicts[7].error_type, verdicts[7].retry_after_s) == (429, "throttling_error", 60)
    assert "7 requests" in verdicts[7].message
    assert limiter.judge(request(1009, OTHER)).admitted


def test_a_window_begins_with_the_first_request_after_the_last_window() -> None:
    limiter = Limiter([KEY], {"agent": {"rpm_limit": 2}})
    assert admitted(limiter, [10, 20, 30, 69.9, 70, 80, 90, 500, 510, 520]) == [10, 20, 70, 80, 500, 510]


def test_over_a_long_time_no_minute_window_holds_more_than_the_limit() -> None:
    limiter = Limiter([KEY], {"agent": {"rpm_limit": 5}})
    passed = admitted(limiter, [i * 1.3 for i in range(2000)])
    starts = passed[::5]
    assert all(b - a >= 60 for a, b in pairwise(starts))
    assert len(passed) == pytest.approx(2000 * 1.3 / 60 * 5, rel=0.05)


def test_calls_already_made_in_the_window_count_when_a_limit_is_set() -> None:
    limiter = Limiter([KEY])
    assert admitted(limiter, [0, 1, 2, 3]) == [0, 1, 2, 3]
    limiter.update("key-1", {"rpm_limit": 3})
    assert admitted(limiter, [4, 59, 60]) == [60]


def test_merge_patch_keeps_what_is_not_named_and_null_clears() -> None:
    limiter = Limiter([KEY])
    limiter.update("key-1", {"rpm_limit": 5, "tpm_limit": 900})
    assert limiter.update("key-1", {"rpm_limit": 6})["tpm_limit"] == 900
    cleared = limiter.update(KEY.secret, {"rpm_limit": None})
    assert (cleared["rpm_limit"], cleared["tpm_limit"]) == (None, 900)
    limiter.update("key-1", {"tpm_limit": None})
    assert len(admitted(limiter, [float(i) for i in range(50)])) == 50


@pytest.mark.parametrize(
    ("limits", "status", "kind"),
    [
        ({"tpm_limit": 250}, 429, "throttling_error"),
        ({"max_budget": 0.03}, 422, "budget_exceeded"),
    ],
)
def test_tokens_and_budget_are_enforced_too(limits: dict[str, Any], status: int, kind: str) -> None:
    limiter = Limiter([KEY], {"agent": limits})
    verdicts = [limiter.judge(request(float(i))) for i in range(4)]
    assert [v.admitted for v in verdicts] == [True, True, True, False]
    assert (verdicts[3].status, verdicts[3].error_type) == (status, kind)


def test_a_blocked_key_gets_401_and_a_rejected_call_costs_nothing() -> None:
    limiter = Limiter([KEY], {"agent": {"blocked": True}})
    assert limiter.judge(request(0)).status == 401
    assert limiter.info("key-1")["spend"] == 0
    limiter.update("key-1", {"blocked": None})
    assert limiter.judge(request(1)).admitted
    assert limiter.info("key-1")["spend"] == 0.01


@pytest.mark.parametrize(
    "changes",
    [
        {"rpm_limit": -1},
        {"rpm_limit": 1.5},
        {"rpm_limit": True},
        {"rpm_limit": "9"},
        {"max_budget": float("nan")},
        {"blocked": 1},
        {"models": []},
    ],
)
def test_a_limit_that_cannot_be_enforced_is_refused_and_changes_nothing(changes: dict[str, Any]) -> None:
    limiter = Limiter([KEY], {"agent": {"rpm_limit": 3}})
    before = limiter.info("key-1")
    with pytest.raises(LimitError):
        limiter.update("key-1", {"tpm_limit": 5, **changes})
    assert limiter.info("key-1") == before


def test_an_unknown_key_is_a_key_error() -> None:
    limiter = Limiter([KEY])
    for call in (
        lambda: limiter.info("key-9"),
        lambda: limiter.update("key-9", {}),
        lambda: Limiter([KEY], {"no": {}}),
    ):
        with pytest.raises(KeyError):
            call()
    assert limiter.find("key-9") is None
