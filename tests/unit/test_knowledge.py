"""What people told, as scoring asks for it: plans and their caps, silences, verdicts, annotations."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from curb.detector.incidents import knowledge as module
from curb.detector.incidents.knowledge import Knowledge, KnowledgeDump
from curb.detector.incidents.planned import covers
from curb.detector.state.scopes import DEFAULT_SCOPES, Scope
from curb.stream.records.spend import Annotation, BudgetIncrease, Feedback, PlannedActivity, Silence

#: A Monday, midnight UTC.
T0 = 1_750_032_000.0
HOUR = 3600.0
KEY = Scope(name="key", group_by=("team", "project", "api_key"), also_by=("job",))
NODE = Scope(name="node", group_by=("team", "group", "node"), sources=("gpu",))
GROUP = Scope(name="group", group_by=("team", "group"), sources=("gpu",))
TEAM = Scope(name="team", group_by=("team",))
MAIN = {"team": "a", "project": "p", "api_key": "k"}
JOB = {**MAIN, "job": "backfill"}


def store() -> Knowledge:
    return Knowledge(DEFAULT_SCOPES, "Europe/Berlin")


def plan(id: str = "p", *, tags: dict[str, str] = JOB, at: float = T0, max_usd: float = 10.0, **more: Any) -> Any:
    span = {"start": T0 + 2 * HOUR, "end": T0 + 4 * HOUR, **more}
    return PlannedActivity(id=id, at=at, tags=tags, max_usd=max_usd, **span)


def verdict(verdict: Any, at: float = T0, alert_id: str = "fp-1") -> Feedback:
    return Feedback(id=f"{at}", at=at, alert_id=alert_id, verdict=verdict)


def silence(id: str, until: float, *, at: float = T0, **matchers: str) -> Silence:
    return Silence(id=id, at=at, matchers=matchers or {"team": "a"}, until=until)


def deploy(id: str, at: float, **tags: str) -> Annotation:
    return Annotation(id=id, at=at, kind="deploy", tags=tags, text=f"release {id}")


# --- which series a plan is about ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "scope", "tags", "covered"),
    [
        ({"team": "a"}, KEY, MAIN, True),
        ({"team": "a"}, KEY, JOB, True),
        ({"team": "b"}, KEY, MAIN, False),
        (JOB, KEY, JOB, True),
        (JOB, KEY, MAIN, False),
        (JOB, KEY, {**JOB, "job": "other"}, False),
        ({**JOB, "env": "dev"}, KEY, JOB, True),
        ({**JOB, "env": "dev"}, TEAM, {"team": "a"}, True),
        ({"team": "a", "env": "dev"}, KEY, MAIN, False),
        ({"project": "p"}, TEAM, {"team": "a"}, False),
        ({"team": "a", "group": "g", "job": "run"}, GROUP, {"team": "a", "group": "g"}, True),
        ({"team": "a", "group": "g", "job": "run"}, NODE, {"team": "a", "group": "g", "node": "n"}, True),
        ({"team": "a", "job": "run"}, NODE, {"team": "a", "group": "g", "node": "n"}, False),
        ({"team": "a", "job": "run"}, GROUP, {"team": "a", "group": "g"}, False),
        ({"team": "a"}, None, MAIN, True),
        ({"team": "a", "env": "dev"}, None, MAIN, False),
    ],
)
def test_which_series_a_plan_is_about(named: dict[str, str], scope: Scope, tags: dict[str, str], covered: bool) -> None:
    assert covers(named, scope, tags) is covered


# --- plans ----------------------------------------------------------------------------------------------------------


def take(subject: Knowledge, at: float, cost: list[float], expected: list[float] | None = None) -> list[float]:
    series = [MAIN, JOB, {"team": "a"}]
    usual = np.array(expected or [0.0] * 3)
    return subject.planned_usd(at, np.array(cost), usual, ["key", "key", "team"], series).tolist()


def test_a_plan_explains_what_is_over_the_expected_up_to_its_cap_in_each_scope() -> None:
    subject, at = store(), T0 + 2 * HOUR
    subject.add(plan())
    assert take(subject, at, [3.0, 7.0, 10.0], [3.0, 1.0, 4.0]) == [0.0, 6.0, 6.0]
    assert take(subject, at + 300, [3.0, 7.0, 10.0], [3.0, 1.0, 4.0]) == [0.0, 4.0, 4.0]
    assert take(subject, at + 600, [3.0, 7.0, 10.0]) == [0.0, 0.0, 0.0]
    assert [(use.plan.id, use.used_usd) for use in subject.plans_for("key", JOB, at)] == [("p", 10.0)]


def test_a_cap_that_is_too_small_is_shared() -> None:
    subject = store()
    subject.add(plan(tags={"team": "a"}, max_usd=6.0))
    assert take(subject, T0 + 2 * HOUR, [9.0, 3.0, 5.0]) == [4.5, 1.5, 5.0]


def test_two_plans_add_up_and_nothing_is_explained_twice() -> None:
    subject = store()
    subject.add(plan("p"))
    subject.add(plan("q", max_usd=4.0))
    assert take(subject, T0 + 2 * HOUR, [0.0, 20.0, 0.0]) == [0.0, 14.0, 0.0]
    subject = store()
    subject.add(plan("p"))
    subject.add(plan("q"))
    assert take(subject, T0 + 2 * HOUR, [0.0, 8.0, 0.0]) == [0.0, 8.0, 0.0]


@pytest.mark.parametrize(("at", "planned"), [(0.99, 0.0), (1.0, 1.0), (5.99, 1.0), (6.0, 0.0)])
def test_a_plan_holds_from_an_hour_before_to_two_hours_after(at: float, planned: float) -> None:
    subject = store()
    subject.add(plan())
    assert take(subject, T0 + at * HOUR, [0.0, 1.0, 0.0]) == [0.0, planned, 0.0]


def test_series_that_come_later_are_found_and_a_new_version_of_a_plan_goes_on_with_its_use() -> None:
    subject, at = store(), T0 + 2 * HOUR
    subject.add(plan(tags={"team": "a"}))
    known = ["key"], [MAIN]
    assert subject.planned_usd(at, np.ones(1), np.zeros(1), *known).tolist() == [1.0]
    assert take(subject, at, [0.0, 5.0, 0.0]) == [0.0, 5.0, 0.0]
    subject.add(plan(tags=JOB, at=T0 + 1, max_usd=8.0))
    subject.add(plan(tags={"team": "b"}, at=T0))  # an older version that came late
    assert take(subject, at, [9.0, 5.0, 0.0]) == [0.0, 2.0, 0.0]
    subject.add(plan(at=T0 + 2, max_usd=0.0))
    assert take(subject, at, [9.0, 5.0, 0.0]) == [0.0, 0.0, 0.0]


def test_a_record_that_comes_twice_changes_nothing() -> None:
    subject, at = store(), T0 + 2 * HOUR
    for record in (plan(), plan(), verdict("not_an_anomaly"), verdict("not_an_anomaly")):
        subject.add(record)
    assert take(subject, at, [0.0, 20.0, 0.0]) == [0.0, 10.0, 0.0]
    assert subject.rises(T0) == {"fp": 3.0}


# --- silences -------------------------------------------------------------------------------------------------------


def test_a_silence_holds_until_its_end_for_alerts_that_match_all() -> None:
    subject = store()
    subject.add(silence("s", T0 + HOUR, team="a", project="chat-*"))
    assert subject.silenced({"team": "a", "project": "chat-1"}, T0) == silence(
        "s", T0 + HOUR, team="a", project="chat-*"
    )
    assert subject.silenced({"team": "a", "project": "search"}, T0) is None
    assert subject.silenced({"team": "a"}, T0) is None
    assert subject.silenced({"team": "a", "project": "chat-1"}, T0 + HOUR) is None


def test_a_silence_is_lifted_by_one_of_its_id_that_is_over() -> None:
    subject = store()
    subject.add(silence("s", T0 + HOUR))
    subject.add(silence("t", T0 + 2 * HOUR))
    subject.add(silence("t", T0 + 10, at=T0 + 10))
    found = subject.silenced(MAIN, T0 + 10)
    assert found is not None
    assert found.id == "s"


# --- verdicts -------------------------------------------------------------------------------------------------------


def test_not_an_anomaly_raises_the_threshold_for_a_while_and_unfreezes() -> None:
    subject, day = store(), 86400.0
    subject.add(verdict("not_an_anomaly"))
    assert subject.verdict("fp-1") == "not_an_anomaly"
    assert subject.rises(T0 + 14 * day) == {"fp": pytest.approx(1.5)}
    for number in range(5):
        subject.add(verdict("not_an_anomaly", alert_id=f"fp-{number}"))
    subject.add(verdict("not_an_anomaly", alert_id="other-1"))
    assert subject.rises(T0) == {"fp": 9.0, "other": 3.0}


def test_the_newest_verdict_on_an_alert_counts() -> None:
    subject = store()
    subject.add(verdict("not_an_anomaly"))
    subject.add(verdict("real", at=T0 + 5))
    subject.add(verdict("planned", at=T0 + 1))
    assert subject.verdict("fp-1") == "real"
    assert subject.rises(T0) == {}
    assert subject.real_fingerprints() == {"fp"}
    assert subject.verdict("fp-2") is None


def test_planned_excuses_for_the_rest_of_the_local_day() -> None:
    subject = store()
    assert subject.excused_until("fp") == 0.0
    subject.add(verdict("planned", at=T0 + 10 * HOUR))
    # Midnight in Berlin is 22:00 UTC in summer.
    assert subject.excused_until("fp") == T0 + 22 * HOUR
    subject.add(verdict("planned", at=T0 + 21 * HOUR, alert_id="fp-2"))
    assert subject.excused_until("fp") == T0 + 27 * HOUR
    assert subject.excused_until("other") == 0.0


# --- annotations and words -------------------------------------------------------------------------------------------


def test_annotations_near_the_start_with_the_same_tags() -> None:
    subject = store()
    for each in (
        deploy("far", T0 - 2 * HOUR - 1, team="a"),
        deploy("before", T0 - HOUR, team="a", env="prod"),
        deploy("after", T0 + HOUR / 2, project="p"),
        deploy("all", T0 - 2 * HOUR),
        deploy("other team", T0, team="b", project="p"),
        deploy("unrelated", T0, service="x"),
    ):
        subject.add(each)
    assert [each.id for each in subject.annotations_near(MAIN, T0)] == ["after", "before", "all"]


def test_what_people_told_is_said_in_sentences() -> None:
    subject = store()
    assert subject.words("key", JOB, T0, T0) == ""
    subject.add(msgspec.structs.replace(deploy("1", T0 - 720, team="a"), by="ana"))
    subject.add(plan(start=T0, reason="month end", by="bo"))
    subject.add(Silence(id="s", at=T0, matchers={"team": "a"}, until=T0 + HOUR, reason="release", by="cy"))
    take(subject, T0, [0.0, 4.0, 0.0])
    assert subject.words("key", JOB, T0, T0) == (
        "12 min before it began: deploy release 1 by ana. Planned (month end) by bo: $4.00 of $10.00 used. "
        "Silenced until 2025-06-16 01:00 UTC by cy: release."
    )


# --- bounds and saving --------------------------------------------------------------------------------------------


def everything() -> Knowledge:
    subject = store()
    subject.add(plan())
    subject.add(silence("s", T0 + HOUR))
    subject.add(verdict("not_an_anomaly"))
    subject.add(deploy("d", T0))
    subject.add(BudgetIncrease(id="b", at=T0, budget="team", match={}, amount_usd=1.0, expires_at=T0 + 1))
    return subject


def test_saved_and_loaded_it_answers_the_same() -> None:
    subject, at = everything(), T0 + 2 * HOUR
    take(subject, at, [0.0, 4.0, 0.0])
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(subject.dump()), type=KnowledgeDump)
    again = store()
    again.load(saved)
    assert again.dump() == subject.dump()
    assert take(again, at, [0.0, 9.0, 0.0]) == take(subject, at, [0.0, 9.0, 0.0]) == [0.0, 6.0, 0.0]


def test_what_is_over_is_forgotten() -> None:
    subject = everything()
    subject.expire(T0)
    assert all(msgspec.structs.astuple(subject.dump()))
    subject.expire(T0 + 200 * 86400)
    assert subject.dump() == KnowledgeDump()


def test_the_oldest_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_RECORDS", 3)
    monkeypatch.setattr("curb.detector.incidents.planned._MAX_PLANS", 3)
    subject = store()
    for number in range(5):
        subject.add(deploy(str(number), T0 + number))
        subject.add(silence(str(number), T0 + HOUR, at=T0 + number))
        subject.add(verdict("real", at=T0 + number, alert_id=f"fp-{number}"))
        subject.add(plan(str(number), end=T0 + (4 + number) * HOUR))
    dump = subject.dump()
    assert [each.id for each in dump.annotations] == [each.id for each in dump.silences] == ["2", "3", "4"]
    assert [each.alert_id for each in dump.feedback] == ["fp-2", "fp-3", "fp-4"]
    assert [use.plan.id for use in dump.plans] == ["2", "3", "4"]
