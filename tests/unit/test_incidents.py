"""One incident, one alert: opened, upgraded, told anew, resolved, joined, followed by another, frozen for a while."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curb.detector.incidents.incidents import AlertSettings, Episode, Incidents
from curb.detector.incidents.knowledge import Knowledge
from curb.detector.rules.table import families
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.rule import Finding
from curb.detector.state.scopes import Scope
from curb.detector.state.view import View
from curb.stream.records.spend import Alert, Cause, Feedback, Silence, Tier
from tests.fakes.spend import T0, FakeHead, bucket
from tests.fakes.views import family

SCOPE = Scope(name="key", group_by=("team", "api_key"), also_by=("job",))
HOUR = 60


def finding(**changes: Any) -> Finding:
    name, _, variant = changes.pop("channel", "unexplained/30min").partition("/")
    told = Finding(0, family(name), "runaway", "notice", 3.0, "11 times what its users explain", variant=variant)
    return told._replace(**changes)


def no_causes(number: int, excess_usd: float) -> list[Cause]:
    return []


class Scene:
    """One series, one bucket a minute."""

    def __init__(self, tags: dict[str, str] | None = None) -> None:
        self.settings = AlertSettings()
        self.registry = SeriesRegistry((SCOPE,), "UTC")
        self.registry.number("key", msgspec.json.encode(tags or {"team": "search", "api_key": "k"}), T0)
        self.knowledge = Knowledge((SCOPE,), "UTC")
        self.incidents = self.fresh()
        self.now = T0

    def fresh(self) -> Incidents:
        return Incidents(self.settings, self.registry, (SCOPE,), "UTC", families(), self.knowledge)

    def view(self, rate: float) -> View:
        none = np.zeros(1, np.bool_)
        return View(bucket(self.now, [rate]), self.registry, self.knowledge, T0 - 1e6, none, none)

    def minutes(self, rate: float, *found: Finding, times: int = 1) -> list[Alert]:
        out: list[Alert] = []
        for _ in range(times):
            out += self.incidents.close(self.view(rate), found, FakeHead().baseline, no_causes)
            self.now += 60
        return out


def test_opens_with_exact_sums_since_the_excess_began() -> None:
    scene = Scene()
    assert scene.minutes(6.0, times=30) == []
    assert scene.minutes(66.0, times=5) == []
    began = scene.now - 5 * 60
    (alert,) = scene.minutes(66.0, finding())
    assert (alert.kind, alert.tier, alert.status, alert.revision) == ("runaway", "notice", "firing", 1)
    assert alert.started_at == began
    assert alert.fired_at == alert.updated_at == scene.now + 30
    assert alert.alert_id == f"{alert.fingerprint}-{scene.now + 30}"
    assert alert.actual_usd == pytest.approx(6 * 66 / 60)
    assert alert.expected_usd == pytest.approx(6 * 6 / 60)
    assert alert.excess_usd == pytest.approx(6.0)
    assert alert.dollars_at_risk == pytest.approx(60 * 8 + 6.0)
    assert (alert.score, alert.channel, alert.requests_per_minute) == (3.0, "unexplained/30min", 3.0)
    assert alert.baseline is not None
    assert alert.baseline.requests_per_minute_p95 == 10.0
    assert "key k (team search) burns $66.00/h, expected $6.00/h" in alert.explanation
    assert "$6.00 over; 11 times what its users explain." in alert.explanation
    assert 0 < alert.confidence < 1


def test_the_loudest_of_several_findings_opens() -> None:
    scene = Scene()
    (alert,) = scene.minutes(
        66.0, finding(score=9.0), finding(channel="errors", tier="page", score=2.0, words="80 % of its requests fail")
    )
    assert (alert.tier, alert.channel, alert.reason) == ("page", "errors", "80 % of its requests fail")


def test_a_page_upgrades_in_place_and_never_falls_back() -> None:
    scene = Scene()
    (first,) = scene.minutes(66.0, finding())
    (second,) = scene.minutes(66.0, finding(tier="page", score=6.5, channel="unexplained/5min"))
    assert (second.tier, second.revision, second.score, second.channel) == ("page", 2, 6.5, "unexplained/5min")
    assert (second.alert_id, second.fired_at, second.baseline) == (first.alert_id, first.fired_at, first.baseline)
    later = scene.minutes(66.0, finding(), times=10)
    assert {each.tier for each in later} == {"page"}


def test_a_digest_line_that_becomes_a_notice_is_a_new_alert_from_then_on() -> None:
    scene = Scene()
    (line,) = scene.minutes(66.0, finding(tier="digest"))
    over, alert = scene.minutes(66.0, finding())
    assert (over.alert_id, over.status) == (line.alert_id, "resolved")
    assert (alert.revision, alert.tier, alert.fired_at) == (1, "notice", scene.now + 30)


def test_told_anew_when_the_rate_moves_or_time_passes() -> None:
    scene = Scene()
    scene.minutes(66.0, finding())
    assert scene.minutes(68.0, finding(), times=4) == []
    assert [each.revision for each in scene.minutes(68.0, finding())] == [2]
    assert [each.usd_per_hour for each in scene.minutes(90.0, finding())] == [90.0]


def test_resolves_when_the_burn_is_back_to_normal_whatever_is_found() -> None:
    scene = Scene()
    scene.minutes(66.0, finding(score=9.0))
    out = scene.minutes(6.0, finding(score=9.0), times=15)
    assert out[-1].status == "resolved"
    assert out[-1].resolved_at == out[-1].updated_at == scene.now + 30
    assert scene.incidents.firing == []


def test_a_lasting_state_does_not_end_at_a_calm_burn_but_when_nothing_is_found() -> None:
    scene = Scene()
    creep = finding(channel="creep", kind="growth", lasting=True)
    scene.minutes(7.0, creep)
    assert "resolved" not in {each.status for each in scene.minutes(7.0, creep, times=120)}
    out = scene.minutes(7.0, times=60)
    assert [each.status for each in out].count("resolved") == 1
    assert out[-1].status == "resolved"


def test_one_finding_starts_the_quiet_hour_again() -> None:
    scene = Scene()
    scene.minutes(66.0, finding())
    scene.minutes(66.0, times=59)
    scene.minutes(66.0, finding())
    assert "resolved" not in {each.status for each in scene.minutes(66.0, times=59)}


def test_firing_again_within_a_day_joins_the_old_alert() -> None:
    scene = Scene()
    (first,) = scene.minutes(66.0, finding())
    done = scene.minutes(6.0, times=15)[-1]
    scene.minutes(6.0, times=20 * HOUR)
    (again,) = scene.minutes(66.0, finding())
    assert (again.alert_id, again.revision, again.status) == (first.alert_id, done.revision + 1, "firing")
    assert again.resolved_at is None
    assert again.started_at == first.started_at
    assert again.actual_usd == pytest.approx((2 * 66 + 15 * 6 + 1200 * 6) / 60)


def test_a_line_for_the_digest_brings_nothing_back_that_is_over() -> None:
    scene = Scene()
    scene.minutes(66.0, finding())
    assert scene.minutes(6.0, times=15)[-1].status == "resolved"
    line = finding(channel="growth", kind="growth", tier="digest", score=2.0)
    assert scene.minutes(6.0, line, times=3) == []


def test_firing_again_after_a_day_is_a_new_alert() -> None:
    scene = Scene()
    (first,) = scene.minutes(66.0, finding())
    scene.minutes(6.0, times=25 * HOUR)
    (again,) = scene.minutes(66.0, finding())
    assert again.fingerprint == first.fingerprint
    assert (again.alert_id != first.alert_id, again.revision) == (True, 1)


def test_a_new_alert_counts_from_what_runs_now_and_not_from_the_alert_before_it() -> None:
    scene = Scene()
    scene.minutes(66.0, finding())
    scene.minutes(6.0, times=25 * HOUR)
    scene.minutes(36.0, times=20)
    (again,) = scene.minutes(36.0, finding())
    assert again.started_at == scene.now - 21 * 60
    assert again.excess_usd == pytest.approx(21 * 30 / 60)


_FOUND = st.sampled_from(
    [
        (),
        (finding(),),
        (finding(tier="page", score=9.0),),
        (finding(channel="errors", tier="page", score=2.0, words="80 % of its requests fail"),),
        (finding(channel="context", kind="unit_cost", lasting=True),),
        (finding(channel="creep", kind="growth", lasting=True),),
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 6.0, 9.0, 66.0, 500.0]), _FOUND, st.integers(1, 30)), max_size=12))
def test_no_dollar_is_told_by_two_alerts(hours: list[tuple[float, tuple[Finding, ...], int]]) -> None:
    scene, newest, over_usd = Scene(), dict[str, Alert](), 0.0
    for rate, found, times in hours:
        newest |= {each.alert_id: each for each in scene.minutes(rate, *found, times=times * 10)}
        over_usd += max(0.0, rate - 6.0) / 6 * times
    assert sum(each.excess_usd for each in newest.values() if each.tier != "digest") <= over_usd + 1e-6


@pytest.mark.parametrize(("tier", "ends"), [("page", True), ("notice", False)])
def test_a_runaway_is_no_later_line_of_what_was_told_as_growth(tier: Tier, ends: bool) -> None:
    scene = Scene()
    (first,) = scene.minutes(8.0, finding(channel="creep", kind="growth", lasting=True))
    out = scene.minutes(66.0, finding(tier=tier, score=9.0))
    assert (out[0].alert_id, out[0].status) == (first.alert_id, "resolved" if ends else "firing")
    assert [(each.kind, each.tier, each.revision) for each in out[1:]] == ([("runaway", "page", 1)] if ends else [])


def test_a_far_larger_burn_on_the_same_series_is_another_incident() -> None:
    scene = Scene()
    (first,) = scene.minutes(16.0, finding())
    scene.minutes(16.0, finding(), times=9 * HOUR)
    out = scene.minutes(500.0, finding(), times=HOUR)
    assert [each.alert_id == first.alert_id for each in out if each.status == "resolved"] == [True]
    assert {each.alert_id for each in out if each.status == "firing"} - {first.alert_id}


def test_what_was_never_heard_before_is_another_incident_after_three_hours() -> None:
    scene = Scene()
    model = finding(channel="new_model", kind="unit_cost", tier="page")
    (first,) = scene.minutes(66.0, finding())
    assert {each.alert_id for each in scene.minutes(66.0, finding(), model, times=5)} <= {first.alert_id}
    scene = Scene()
    (first,) = scene.minutes(66.0, finding())
    scene.minutes(66.0, finding(), times=4 * HOUR)
    over, another = scene.minutes(66.0, finding(), model)
    assert (over.alert_id, over.status) == (first.alert_id, "resolved")
    assert (another.kind, another.revision) == ("unit_cost", 1)


@pytest.mark.parametrize(("channel", "joins"), [("new_principal", True), ("creep", True), ("errors", False)])
def test_a_rule_heard_again_a_night_later_is_another_incident_unless_it_is_slow_or_a_state(
    channel: str, joins: bool
) -> None:
    scene, found = Scene(), finding(channel=channel, kind="abusive")
    (first,) = scene.minutes(66.0, found)
    scene.minutes(6.0, times=10 * HOUR)
    (again,) = scene.minutes(66.0, found)
    assert (again.alert_id == first.alert_id) == joins


def test_what_long_windows_still_remember_does_not_keep_an_alert_open() -> None:
    scene = Scene()
    scene.minutes(600.0, finding(), times=60)
    out = scene.minutes(8.0, finding(channel="unexplained/1440min"), times=6 * HOUR)
    assert "resolved" in {each.status for each in out}


def test_frozen_for_two_days_at_most_unless_people_say_otherwise() -> None:
    scene = Scene()
    (alert,) = scene.minutes(66.0, finding())

    def frozen(at: float) -> list[bool]:
        return scene.incidents.frozen_mask(at, 2).tolist()

    assert frozen(scene.now) == [True, False]
    assert frozen(alert.fired_at + 48 * 3600) == [False, False]
    scene.knowledge.add(Feedback(id="f", at=scene.now, alert_id=alert.alert_id, verdict="not_an_anomaly"))
    assert frozen(scene.now) == [False, False]
    scene.knowledge.add(Feedback(id="g", at=scene.now + 1, alert_id=alert.alert_id, verdict="real"))
    assert frozen(alert.fired_at + 49 * 3600) == [True, False]


def test_a_silence_makes_a_firing_alert_a_line_and_says_so() -> None:
    scene = Scene()
    scene.minutes(66.0, finding(tier="page"))
    scene.knowledge.add(
        Silence(id="s", at=scene.now, matchers={"team": "search"}, until=scene.now + 7200, reason="load test")
    )
    (silenced,) = scene.minutes(66.0, finding(tier="page"))
    assert silenced.tier == "digest"
    assert "load test" in silenced.explanation


def test_a_node_of_a_group_that_ran_away_is_no_news() -> None:
    scopes = (
        Scope(name="node", group_by=("team", "group", "node"), sources=("gpu",), role="node"),
        Scope(name="group", group_by=("team", "group"), sources=("gpu",), role="group"),
    )
    scene = Scene()
    scene.registry = SeriesRegistry(scopes, "UTC")
    group = scene.registry.number("group", b'{"team":"a","group":"g"}', T0)
    node = scene.registry.number("node", b'{"team":"a","group":"g","node":"n"}', T0)
    scene.incidents = scene.fresh()

    def close(*found: Finding) -> list[Alert]:
        none = np.zeros(2, np.bool_)
        view = View(bucket(scene.now, [66.0, 66.0]), scene.registry, scene.knowledge, 0.0, none, none)
        scene.now += 60
        return scene.incidents.close(view, found, FakeHead().baseline, no_causes)

    close(finding(series=group, channel="autoscaler", tier="page"))
    idle = finding(series=node, channel="idle", kind="idle", tier="page")
    assert {each.scope for each in close(idle)} <= {"group"}


def test_a_dump_goes_on_where_it_was() -> None:
    scene = Scene()
    scene.minutes(66.0, finding(), times=7)
    episodes, arrays = scene.incidents.dump()
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(episodes), type=dict[int, Episode])
    again = scene.fresh()
    again.load(saved, {name: array.copy() for name, array in arrays.items()})
    said = again.close(scene.view(90.0), [finding()], FakeHead().baseline, no_causes)
    assert said == scene.minutes(90.0, finding()) != []


def test_hostile_tags_are_data_and_stay_short() -> None:
    scene = Scene({"team": "<b>\n\x1b[31m", "api_key": "x" * 5000})
    (alert,) = scene.minutes(66.0, finding())
    assert "\n" not in alert.explanation
    assert "\x1b" not in alert.explanation
    assert len(alert.explanation) < 500
    assert alert.tags["api_key"] == "x" * 5000


NODES = (
    Scope(name="node", group_by=("team", "group", "node"), sources=("gpu",), role="node"),
    Scope(name="group", group_by=("team", "group"), sources=("gpu",), role="group"),
)


class Machines(Scene):
    """A group, series 0, and four nodes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = SeriesRegistry(NODES, "UTC")
        self.registry.number("group", b'{"team":"a","group":"g"}', T0)
        for node in range(4):
            self.registry.number("node", msgspec.json.encode({"team": "a", "group": "g", "node": f"n{node}"}), T0)
        self.incidents = Incidents(self.settings, self.registry, NODES, "UTC", families(), self.knowledge)

    def close(self, *found: Finding) -> list[Alert]:
        none = np.zeros(5, np.bool_)
        rates = [6 + 4 * 60.0, *[66.0] * 4]
        view = View(bucket(self.now, rates), self.registry, self.knowledge, 0.0, none, none)
        self.now += 60
        return self.incidents.close(view, found, FakeHead().baseline, no_causes)


def test_a_node_speaks_for_itself_while_its_group_has_no_alert_or_only_a_line() -> None:
    idle = finding(series=2, channel="idle", kind="idle", tier="page")
    assert [(each.scope, each.tags["node"]) for each in Machines().close(idle)] == [("node", "n1")]
    scene = Machines()
    scene.close(finding(series=0, channel="autoscaler", kind="growth", tier="digest"))
    assert [each.scope for each in scene.close(idle)] == ["node"]


def test_many_nodes_at_once_are_one_incident_of_the_group() -> None:
    burns = [finding(series=number, tier="page") for number in (1, 2, 3, 4)]
    (alert,) = Machines().close(*burns)
    assert (alert.scope, alert.tags, alert.tier) == ("group", {"team": "a", "group": "g"}, "page")


def test_where_it_came_from_is_kept_when_the_burn_is_over_and_scaled_to_its_dollars() -> None:
    asked: list[float] = []

    def causes(number: int, excess_usd: float) -> list[Cause]:
        asked.append(excess_usd)
        return [Cause(tags={"model": "m"}, share=0.5, excess_usd=excess_usd / 2)]

    scene, state = Scene(), finding(channel="idle", kind="idle", lasting=True)
    (first,) = scene.incidents.close(scene.view(66.0), [state], FakeHead().baseline, causes)
    scene.now += 60
    assert asked == [pytest.approx(1.0)]
    (calm,) = scene.incidents.close(scene.view(6.0), [state], FakeHead().baseline, causes)
    assert len(asked) == 1
    assert [cause.excess_usd for cause in calm.causes] == [pytest.approx(calm.excess_usd / 2)]
    assert first.alert_id == calm.alert_id


@pytest.mark.parametrize(("rate", "asks"), [(1.2 * 6 + 1.01, 2), (1.2 * 6 - 0.1, 1)])
def test_it_burns_while_it_is_a_fifth_over_the_expected(rate: float, asks: int) -> None:
    asked: list[float] = []

    def causes(number: int, excess_usd: float) -> list[Cause]:
        asked.append(excess_usd)
        return [Cause(tags={"model": "m"}, share=1.0, excess_usd=excess_usd)]

    scene, state = Scene(), finding(channel="idle", kind="idle", lasting=True)
    for each in (66.0, rate):
        scene.incidents.close(scene.view(each), [state], FakeHead().baseline, causes)
        scene.now += 60
    assert len(asked) == asks


def test_growth_that_pages_takes_in_a_runaway() -> None:
    scene = Scene()
    (first,) = scene.minutes(66.0, finding(channel="creep", kind="growth", tier="page", lasting=True))
    out = scene.minutes(66.0, finding(tier="page", score=9.0))
    assert {each.alert_id for each in out} <= {first.alert_id}
    assert "resolved" not in {each.status for each in out}


def test_a_line_that_is_over_comes_back_as_a_line() -> None:
    scene = Scene()
    (line,) = scene.minutes(66.0, finding(tier="digest"))
    over = scene.minutes(6.0, times=2 * HOUR)
    assert [each.status for each in over][-1:] == ["resolved"]
    (again,) = scene.minutes(66.0, finding(tier="digest"))
    assert (again.alert_id, again.status, again.tier) == (line.alert_id, "firing", "digest")


def test_the_kind_is_in_the_fingerprint_where_people_must_tell_it_apart() -> None:
    kinds = {}
    for kind in ("runaway", "abusive", "idle", "growth"):
        (alert,) = Scene().minutes(66.0, finding(kind=kind))
        kinds[kind] = alert.fingerprint
    assert kinds["idle"] != kinds["runaway"] != kinds["growth"]


@pytest.mark.parametrize(
    ("rate", "tier", "opens"),
    [
        (6.4, "page", "digest"),  # $0.40/h over: $3.20 until somebody sees a notice
        (7.0, "page", "notice"),  # $1/h over: $1 until somebody answers a page, $8 until they see a notice
        (66.0, "page", "page"),
        (6.4, "notice", "digest"),
        (66.0, "notice", "notice"),
    ],
)
def test_a_tier_is_worth_its_dollars_at_risk(rate: float, tier: Tier, opens: Tier) -> None:
    scene = Scene()
    scene.minutes(6.0, times=30)
    (alert,) = scene.minutes(rate, finding(tier=tier, score=9.0))
    assert alert.tier == opens


def test_dollars_that_the_rule_counts_itself_are_at_risk_too() -> None:
    scene = Scene()
    scene.minutes(6.0, times=30)
    (alert,) = scene.minutes(6.0, finding(tier="page", channel="idle_gpu", excess_usd=25.0))
    assert alert.tier == "page"


def test_data_that_do_not_come_are_worth_a_notice_whatever_they_cost() -> None:
    scene = Scene()
    scene.minutes(6.0, times=30)
    (alert,) = scene.minutes(0.0, finding(channel="silent_feed", excess_usd=0.0))
    assert alert.tier == "notice"


def test_a_burn_that_grows_becomes_a_page_in_place() -> None:
    scene = Scene()
    scene.minutes(6.0, times=30)
    (first,) = scene.minutes(7.0, finding(tier="page", score=9.0))
    (second,) = scene.minutes(40.0, finding(tier="page", score=9.0))
    assert (first.tier, second.tier, second.alert_id) == ("notice", "page", first.alert_id)


def test_dollars_that_are_gone_wake_nobody() -> None:
    scene = Scene()
    scene.minutes(66.0, times=60)
    (first,) = scene.minutes(12.0, finding(tier="page", score=9.0))
    assert (first.tier, first.excess_usd) == ("notice", pytest.approx(60.1))


def idle(scene: Scene, hours: float, usd: float, **changes: Any) -> Finding:
    since = scene.now + 60 - 3600 * hours  # the end of the bucket that closes
    words = f"it does nothing, for {hours:g} h"
    return finding(
        channel="idle_gpu/long", kind="idle", lasting=True, excess_usd=usd, since=since, words=words, **changes
    )


def test_of_what_does_nothing_all_dollars_are_over() -> None:
    scene = Scene()
    assert scene.minutes(6.0, times=30) == []
    (alert,) = scene.minutes(6.0, idle(scene, 12, 72.0))
    assert (alert.expected_usd, alert.actual_usd, alert.excess_usd) == (0.0, 72.0, 72.0)
    assert (alert.usd_per_hour, alert.expected_usd_per_hour) == (6.0, 0.0)
    assert alert.started_at == alert.fired_at - 30 - 12 * 3600
    assert alert.dollars_at_risk == pytest.approx(72 + 8 * 6.0)
    assert "burns $6.00/h, expected $0.00/h" in alert.explanation
    assert "(12.0 h): $72.00 over; it does nothing, for 12 h." in alert.explanation


def test_waste_grows_with_its_words_and_stays_as_it_was_when_the_work_begins() -> None:
    scene = Scene()
    (alert,) = scene.minutes(6.0, idle(scene, 12, 72.0))
    found = [each for _ in range(60) for each in scene.minutes(6.0, idle(scene, 13, 78.0))]
    assert (found[-1].excess_usd, found[-1].reason) == (78.0, "it does nothing, for 13 h")
    assert found[-1].alert_id == alert.alert_id
    works = scene.minutes(6.0, times=200)
    assert works[-1].status == "resolved"
    assert {(each.excess_usd, each.dollars_at_risk) for each in works} == {(78.0, 78.0)}
    assert {each.expected_usd_per_hour for each in works} == {6.0}, "busy, it costs what it costs"


def test_idle_nodes_of_a_group_that_grew_are_measured_against_what_the_group_usually_costs() -> None:
    scene = Scene()
    (alert,) = scene.minutes(66.0, idle(scene, 12, 72.0)._replace(since=None))
    assert alert.expected_usd > 0
