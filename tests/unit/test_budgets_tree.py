"""The tree of budgets: a parent counts what its children count, says who used it, and speaks for them."""

from __future__ import annotations

from tests.fakes.budgets import DAY, HOUR, Fed, a_budget, brief, settings_of
from tests.fakes.spend import T0

ORG = a_budget(name="org", shared=True, amount_usd=200)
EACH_TEAM = a_budget(name="each-team", parent="org", amount_usd=100)
EACH_KEY = a_budget(name="each-key", scope="key", parent="each-team", amount_usd=60)


def a_tree(**key: object) -> Fed:
    """Series: team a, team b, key a/k1, key a/k2, key b/k3. A key's dollars are its team's as well."""
    series = (("team", "a"), ("team", "b"), ("key", "a", "k1"), ("key", "a", "k2"), ("key", "b", "k3"))
    return Fed(settings_of(ORG, EACH_TEAM, {**EACH_KEY, **key}), *series)


def spend(fed: Fed, start: int, k1: float, k2: float, k3: float) -> list[tuple[str, str, str]]:
    return brief(fed.spend(start, k1 + k2, k3, k1, k2, k3))


def test_a_shared_budget_counts_all_its_series_once() -> None:
    fed = a_tree()
    spend(fed, T0, 10.0, 20.0, 5.0)
    spent = {(status.name, *tags.values()): status.spent_usd for tags, status in fed.budgets.status()}
    assert spent == {
        ("org",): 35.0,
        ("each-team", "a"): 30.0,
        ("each-team", "b"): 5.0,
        ("each-key", "a", "k1"): 10.0,
        ("each-key", "a", "k2"): 20.0,
        ("each-key", "b", "k3"): 5.0,
    }


def test_rows_name_the_row_above() -> None:
    fed = a_tree()
    spend(fed, T0, 10.0, 20.0, 5.0)
    rows = {status.id: status for _, status in fed.budgets.status()}
    above = sorted((status.name, rows[status.parent_id].name) for status in rows.values() if status.parent_id)
    assert above == [*[("each-key", "each-team")] * 3, *[("each-team", "org")] * 2]
    assert sum(status.spent_in_parent_usd or 0.0 for status in rows.values() if status.name == "each-key") == 35.0


def test_one_alert_at_the_root_of_what_crosses_at_one_moment() -> None:
    fed = a_tree()
    alerts = fed.spend(T0, 101.0, 0.0, 101.0)
    # The team crosses 100 % and the key too: the team tells. The org crosses 50 % only, which is no page.
    assert brief(alerts) == [
        ("", "50", "firing"),
        ("a", "100", "firing"),
    ]
    team = alerts[-1]
    assert "Crossed with it: key k1 (team a) (100 %)." in team.explanation
    assert team.causes[0].tags == {"team": "a", "api_key": "k1"}
    assert (team.causes[0].excess_usd, team.causes[0].share) == (101.0, 1.0)
    # What was told through the team is told: it does not fire later.
    assert all(alert.revision > 1 for alert in fed.spend(T0 + HOUR, 1.0, 0.0, 1.0))


def test_a_louder_child_tells_for_itself() -> None:
    fed = a_tree()
    assert spend(fed, T0, 61.0, 0.0, 0.0) == [
        ("a", "50", "firing"),
        ("a k1", "100", "firing"),
    ]


def test_a_hard_cap_always_tells_for_itself() -> None:
    fed = a_tree(hard=True)
    told = spend(fed, T0, 101.0, 0.0, 0.0)
    assert ("a k1", "100", "firing") in told
    assert ("a", "100", "firing") in told


def test_the_root_says_who_used_it() -> None:
    fed = a_tree()
    (alert,) = [a for a in fed.spend(T0, 30.0, 80.0, 30.0, 0.0, 80.0) if not a.tags]
    assert alert.explanation.startswith("everything has spent $110.00 of the $200.00 of budget org for this day")
    assert "Used by team b $80.00 (73%) and team a $30.00 (27%)." in alert.explanation


def test_a_shared_budget_without_children_names_its_series() -> None:
    fed = Fed(settings_of(ORG), ("team", "a"), ("team", "b"))
    (alert,) = fed.spend(T0, 30.0, 80.0)
    assert [(cause.tags["team"], cause.excess_usd) for cause in alert.causes] == [("b", 80.0), ("a", 30.0)]


def test_children_with_another_period_count_for_the_parents() -> None:
    week = Fed(settings_of({**ORG, "period": "week"}, EACH_TEAM), ("team", "a"))
    week.spend(T0, 40.0)
    week.spend(T0 + DAY, 30.0)
    (org, team) = week.budgets.status()
    assert (org[1].spent_usd, team[1].spent_usd, team[1].spent_in_parent_usd) == (70.0, 30.0, 70.0)
    week.spend(T0 + 7 * DAY, 5.0)
    assert week.status(1).spent_in_parent_usd == 5.0


def test_a_row_whose_parent_does_not_match_is_a_root() -> None:
    fed = Fed(settings_of({**ORG, "match": {"team": "a*"}}, EACH_TEAM), ("team", "a1"), ("team", "b1"))
    fed.spend(T0, 1.0, 2.0)
    parents = {tags.get("team"): status.parent_id for tags, status in fed.budgets.status() if tags}
    assert parents["a1"] is not None
    assert parents["b1"] is None
    assert fed.status().spent_usd == 1.0


def test_many_children_are_named_in_short() -> None:
    teams = [f"t{number}" for number in range(9)]
    fed = Fed(settings_of({**ORG, "amount_usd": 900}, EACH_TEAM), *(("team", team) for team in teams))
    (alert,) = [a for a in fed.spend(T0, *[100.0] * 9) if a.channel == "budget/100"]
    assert "and 4 more." in alert.explanation
    assert len(alert.causes) == 5
