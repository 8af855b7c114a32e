"""What keys could burn in an hour: which limit bounds the dollars, what nothing bounds, and the total by team."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from curb.actions.levers.litellm_enforced import budget_left, is_refused, spent_budget
from curb.actions.levers.litellm_keys import GatewayKey
from curb.stream.records.spend import SpendPartial
from curb.views.exposure import Exposure, KeyUse, expose, sentence, total
from tests.fakes.spend import T0

NOW = float(T0)


def use(usd: float = 10.0, requests: int = 100, tokens: int = 10_000) -> KeyUse:
    """Ten cents a request and a tenth of a cent a token."""
    found = KeyUse()
    part = SpendPartial(scope="key", tags={}, bucket_start=T0, effective_cost=usd, events=1)
    part.requests, part.input_tokens = requests, tokens
    found.add(part)
    return found


def key(name: str = "k", **row: Any) -> GatewayKey:
    return GatewayKey(name, name, {}, False, 0.0, bool(row.get("blocked")), row)


def exposed(row: dict[str, Any], *above: dict[str, Any], own: KeyUse | None = None) -> Exposure:
    return expose(key(**row), above, use() if own is None else own, use(50.0), NOW)


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat()


@pytest.mark.parametrize(
    ("row", "above", "usd", "why"),
    [
        ({"rpm_limit": 10}, (), 60.0, "rpm_limit"),
        ({"rpm_limit": 10, "tpm_limit": 100}, (), 6.0, "tpm_limit"),
        ({"rpm_limit": 10, "max_budget": 20.0, "spend": 15.0}, (), 5.0, "budget"),
        ({"max_budget": 20.0, "spend": 25.0}, (), 0.0, "budget"),
        # A limit below 0 lets nothing pass, and pays nothing back.
        ({"rpm_limit": -5}, (), 0.0, "rpm_limit"),
        ({"rpm_limit": 10, "budget_limits": 5, "status": ["odd"]}, (), 60.0, "rpm_limit"),
        ({"rpm_limit": 10, "budget_limits": [5, {"max_budget": "odd"}]}, (), 60.0, "rpm_limit"),
        # A limit of the team, a budget of the user without a team, and a budget that starts again within the hour.
        ({}, ({"team_alias": "ads", "rpm_limit": 5},), 30.0, "rpm_limit"),
        ({"rpm_limit": 10}, ({"max_budget": 8.0, "spend": 1.0},), 7.0, "budget"),
        ({"max_budget": 20.0, "spend": 15.0, "budget_reset_at": iso(1800)}, (), 25.0, "budget"),
        ({"max_budget": 20.0, "spend": 15.0, "budget_reset_at": iso(7200)}, (), 5.0, "budget"),
    ],
)
def test_the_lowest_limit_bounds_the_dollars(row: dict[str, Any], above: Any, usd: float, why: str) -> None:
    found = exposed(row, *above)
    assert (found.bound, found.usd, found.why) == ("limited", pytest.approx(usd), why)


@pytest.mark.parametrize("row", [{}, {"max_parallel_requests": 5}, {"rpm_limit": None}])
def test_without_a_limit_on_dollars_nothing_bounds_them(row: dict[str, Any]) -> None:
    found = exposed(row)
    assert (found.bound, found.usd, found.top_hour_usd) == ("none", None, 10.0)


@pytest.mark.parametrize(("row", "above"), [({"blocked": True}, {}), ({}, {"blocked": True})])
def test_a_blocked_key_burns_nothing(row: dict[str, Any], above: dict[str, Any]) -> None:
    assert exposed(row, above)[2:4] == ("refused", 0.0)


def test_a_key_without_use_is_priced_as_all_keys_are() -> None:
    found = exposed({"rpm_limit": 10}, own=KeyUse())
    assert (found.usd, found.why) == (300.0, "rpm_limit, at the mean price of all keys")


def test_without_any_price_a_rate_bounds_nothing_that_is_known() -> None:
    found = expose(key(rpm_limit=10), [], KeyUse(), KeyUse(), NOW)
    assert (found.bound, found.usd) == ("unknown", None)


def test_keys_of_a_team_share_its_limits_in_the_total() -> None:
    team, row = {"team_alias": "ads", "rpm_limit": 10}, {"team_id": "t1", "rpm_limit": 8}
    found = [exposed(row, team), exposed(row, team), exposed({"rpm_limit": 1})]
    assert [each.usd for each in found] == [48.0, 48.0, 6.0]
    assert total(found)["limited_usd"] == 66.0


def test_teams_of_one_name_share_nothing() -> None:
    team = {"team_alias": "ads", "rpm_limit": 10}
    found = [exposed({"team_id": id, "rpm_limit": 8}, team) for id in ("t1", "t2")]
    assert total(found)["limited_usd"] == 96.0


def test_keys_of_a_user_without_a_team_share_the_budget_in_the_total() -> None:
    user = {"user_id": "u1", "max_budget": 20.0, "spend": 5.0}
    found = [exposed({"user_id": "u1"}, user), exposed({"user_id": "u1"}, user), exposed({"rpm_limit": 1})]
    assert [each.usd for each in found] == [15.0, 15.0, 6.0]
    assert total(found)["limited_usd"] == 21.0


def test_the_sentence_names_what_nothing_stops() -> None:
    said = sentence([exposed({}), exposed({"rpm_limit": 1})])
    assert said == (
        "1 of 2 keys have no limit on dollars (their most expensive hours so far: $10.00). "
        "The other 1 could burn $6.00 in an hour together."
    )


def test_what_is_known_by_the_day_is_no_expensive_hour() -> None:
    found = KeyUse()
    found.add(SpendPartial(scope="key", tags={}, bucket_start=T0, effective_cost=24.0, events=1, covers_s=86_400))
    assert (found.usd, found.top_hour_usd) == (24.0, 1.0)


@pytest.mark.parametrize(
    ("row", "left"),
    [
        ({}, None),
        ({"max_budget": 5.0, "metadata": {"throttle_on_budget_exceeded": True}}, None),
        ({"litellm_budget_table": {"max_budget": 5.0}, "spend": 2.0}, 3.0),
        (
            {
                "max_budget": 5.0,
                "budget_limits": [{"budget_duration": "1d", "max_budget": 2.0}],
                "budget_limits_usage": {"1d": {"current_spend": 0.5}},
            },
            1.5,
        ),
    ],
)
def test_the_budget_that_is_left_is_the_lowest(row: dict[str, Any], left: float | None) -> None:
    assert budget_left(row, NOW) == left


def test_odd_rows_break_nothing() -> None:
    row = {"budget_limits": 5, "status": ["odd"], "spend": "much"}
    assert (is_refused(row), spent_budget(row, NOW), budget_left(row, NOW)) == (False, False, None)
