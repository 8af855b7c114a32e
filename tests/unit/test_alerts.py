"""The life of a runaway alert: opened, upgraded, told anew, resolved, opened again, frozen for a while."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from detector.alerts import Episode, RunawayAlerts
from detector.dollars import DollarsHead
from detector.scopes import Scope
from detector.series import SeriesRegistry
from detector.settings import DetectorSettings
from stream.records import Alert
from tests.fakes.spend import T0, FakeHead, bucket

SCOPE = Scope(name="key", group_by=("team", "api_key"), also_by=("job",))


class Scene:
    """One series, one bucket a minute."""

    def __init__(self, tags: dict[str, str] | None = None, detect: bool = True) -> None:
        scope = SCOPE.model_copy(update={"detect": detect})
        self.settings = DetectorSettings(scopes=(scope,))
        self.registry = SeriesRegistry(self.settings.scopes, "UTC")
        self.registry.number("key", msgspec.json.encode(tags or {"team": "search", "api_key": "k"}), T0)
        self.alerts = self.fresh()
        self.now = T0
        self.muted: set[int] = set()

    def fresh(self) -> RunawayAlerts:
        return RunawayAlerts(self.settings, self.registry, cast(DollarsHead, FakeHead()))

    def minute(self, rate: float, *, times: int = 1, **scores: Any) -> list[Alert]:
        out: list[Alert] = []
        for _ in range(times):
            out += self.alerts.close(bucket(self.now, [rate], **scores), self.muted)
            self.now += 60
        return out


def test_opens_with_exact_sums_since_the_excess_began() -> None:
    scene = Scene()
    assert scene.minute(6.0, times=30) == []
    assert scene.minute(66.0, times=5, notice=1.0) == []
    began = scene.now - 5 * 60
    (alert,) = scene.minute(66.0, notice=2.5)
    assert (alert.kind, alert.tier, alert.status, alert.revision) == ("runaway", "notice", "firing", 1)
    assert alert.started_at == began
    assert alert.fired_at == alert.updated_at == scene.now + 30
    assert alert.alert_id == f"{alert.fingerprint}-{scene.now + 30}"
    assert alert.actual_usd == pytest.approx(6 * 66 / 60)
    assert alert.expected_usd == pytest.approx(6 * 6 / 60)
    assert alert.excess_usd == pytest.approx(6.0)
    assert alert.dollars_at_risk == pytest.approx(60 * 8 + 6.0)
    assert (alert.score, alert.channel, alert.requests_per_minute) == (2.5, "dollars/30min", 3.0)
    assert alert.baseline is not None
    assert alert.baseline.requests_per_minute_p95 == 10.0
    assert alert.explanation == (
        "key k (team search) burns $66.00/h, expected $6.00/h, for 6 min: $6.00 over expected; "
        "decided by the 30-minute window."
    )


def test_a_page_upgrades_in_place_and_never_falls_back() -> None:
    scene = Scene()
    (first,) = scene.minute(66.0, notice=3.0)
    (second,) = scene.minute(66.0, notice=3.0, page=6.5)
    assert (second.tier, second.revision, second.score) == ("page", 2, 6.5)
    assert (second.alert_id, second.fired_at, second.baseline) == (first.alert_id, first.fired_at, first.baseline)
    later = scene.minute(66.0, times=10, notice=3.0)
    assert {each.tier for each in later} == {"page"}


def test_told_anew_when_the_rate_moves_or_time_passes() -> None:
    scene = Scene()
    scene.minute(66.0, notice=3.0)
    assert scene.minute(68.0, times=4, notice=3.0) == []
    assert [each.revision for each in scene.minute(68.0, notice=3.0)] == [2]
    assert [each.usd_per_hour for each in scene.minute(90.0, notice=3.0)] == [90.0]


def test_resolves_when_the_burn_is_back_to_normal() -> None:
    scene = Scene()
    scene.minute(66.0, notice=9.0)
    out = scene.minute(6.0, times=15, notice=9.0)
    assert [each.status for each in out][-1] == "resolved"
    assert out[-1].resolved_at == out[-1].updated_at == scene.now + 30
    assert scene.alerts.firing == []
    assert scene.minute(6.0, times=60, notice=9.0) == []


def test_resolves_when_the_score_is_quiet_for_an_hour() -> None:
    scene = Scene()
    scene.minute(66.0, notice=3.0)
    out = scene.minute(66.0, times=60, notice=-0.5)
    assert [each.status for each in out].count("resolved") == 1
    assert out[-1].status == "resolved"


def test_one_bucket_at_the_margin_starts_the_hour_again() -> None:
    scene = Scene()
    scene.minute(66.0, notice=3.0)
    scene.minute(66.0, times=59, notice=-0.5)
    scene.minute(66.0, notice=0.5)
    assert "resolved" not in {each.status for each in scene.minute(66.0, times=59, notice=-0.5)}


def test_firing_again_within_six_hours_joins_the_old_finding() -> None:
    scene = Scene()
    (first,) = scene.minute(66.0, notice=3.0)
    done = scene.minute(6.0, times=15)[-1]
    scene.minute(6.0, times=5 * 60)
    (again,) = scene.minute(66.0, notice=3.0)
    assert (again.alert_id, again.revision, again.status) == (first.alert_id, done.revision + 1, "firing")
    assert again.resolved_at is None
    assert again.started_at == first.started_at
    assert again.actual_usd == pytest.approx((2 * 66 + 15 * 6 + 300 * 6) / 60)


def test_firing_again_after_six_hours_is_a_new_finding() -> None:
    scene = Scene()
    (first,) = scene.minute(66.0, notice=3.0)
    scene.minute(6.0, times=15)
    scene.minute(6.0, times=6 * 60 + 1)
    (again,) = scene.minute(66.0, notice=3.0)
    assert again.fingerprint == first.fingerprint
    assert (again.alert_id != first.alert_id, again.revision) == (True, 1)
    assert again.actual_usd == pytest.approx(1.1)


def test_frozen_while_firing_for_two_days_at_most() -> None:
    scene = Scene()
    scene.minute(66.0, notice=3.0)
    fired_at = scene.alerts.firing[0].fired_at
    assert scene.alerts.frozen(scene.now, 2).tolist() == [True, False]
    assert not scene.alerts.frozen(fired_at + 48 * 3600, 1).any()
    scene.minute(6.0, times=15)
    assert not scene.alerts.frozen(scene.now, 1).any()


def test_planned_work_is_a_digest_until_it_is_large() -> None:
    scene = Scene({"team": "a", "api_key": "k", "job": "nightly"})
    (alert,) = scene.minute(66.0, notice=9.0, page=9.0)
    assert alert.tier == "digest"
    out = scene.minute(60_000.0, times=6, notice=9.0, page=9.0)
    assert out[-1].tier == "notice"
    assert out[-1].excess_usd > 5000


def test_scopes_that_do_not_detect_and_muted_series_open_nothing() -> None:
    assert Scene(detect=False).minute(66.0, notice=9.0) == []
    scene = Scene()
    scene.muted = {0}
    assert scene.minute(66.0, notice=9.0) == []


def test_a_high_score_without_a_burn_opens_nothing() -> None:
    assert Scene().minute(7.5, notice=9.0) == []


def test_a_pause_of_the_excess_does_not_forget_it_but_a_long_one_does() -> None:
    scene = Scene()
    began = scene.now
    scene.minute(66.0, times=3)
    scene.minute(6.0, times=14)
    scene.minute(66.0, times=2)
    assert scene.minute(66.0, notice=3.0)[0].started_at == began
    scene = Scene()
    scene.minute(66.0, times=3)
    scene.minute(6.0, times=15)
    began = scene.now
    assert scene.minute(66.0, notice=3.0)[0].started_at == began


def test_a_dump_goes_on_where_it_was() -> None:
    scene = Scene()
    scene.minute(66.0, times=7, notice=3.0)
    dump = scene.alerts.dump()
    episodes = msgspec.msgpack.decode(msgspec.msgpack.encode(dump["episodes"]), type=dict[int, Episode])
    again = scene.fresh()
    again.load(episodes, dump["arrays"])
    assert again.close(bucket(scene.now, [90.0], notice=3.0), ()) == scene.minute(90.0, notice=3.0) != []


def test_hostile_tags_are_data_and_stay_short() -> None:
    scene = Scene({"team": "<b>\n\x1b[31m", "api_key": "x" * 5000})
    (alert,) = scene.minute(66.0, notice=3.0)
    assert "\n" not in alert.explanation
    assert "\x1b" not in alert.explanation
    assert len(alert.explanation) < 300
    assert alert.tags["api_key"] == "x" * 5000
