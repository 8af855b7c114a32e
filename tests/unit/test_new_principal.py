"""The rules for the unknown: principals never seen before, and models without a price."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from detector.new_principal import NewPrincipalAlerts
from detector.pricing import PricingAlerts
from detector.scopes import Scope
from detector.series import SeriesRegistry
from detector.settings import DetectorSettings
from stream.records import Alert, PricingHole
from tests.fakes.spend import T0, bucket

DAY = 86400
BORN = T0 + 4 * DAY
SCOPE = Scope(name="key", group_by=("api_key",), also_by=("job",))


class Scene:
    """One series born after the stream's warm-up, one bucket a minute."""

    def __init__(self, born: int = BORN, tags: dict[str, str] | None = None, detect: bool = True) -> None:
        settings = DetectorSettings(scopes=(SCOPE.model_copy(update={"detect": detect}),))
        registry = SeriesRegistry(settings.scopes, "UTC")
        registry.number("key", msgspec.json.encode(tags or {"api_key": "leaked"}), born)
        self.alerts = NewPrincipalAlerts(settings, registry)
        self.now = born

    def minute(self, usd: float, times: int = 1, muted: frozenset[int] = frozenset()) -> list[Alert]:
        out: list[Alert] = []
        for _ in range(times):
            out += self.alerts.close(bucket(self.now, [usd * 60]), T0, set(muted))
            self.now += 60
        return out


def test_a_newcomer_pages_once_over_the_limit() -> None:
    scene = Scene()
    assert scene.minute(5.0, times=10) == []
    (alert,) = scene.minute(5.0)
    assert (alert.kind, alert.tier, alert.status, alert.channel) == (
        "new_principal",
        "page",
        "firing",
        "new_principal/24h",
    )
    assert (alert.started_at, alert.expected_usd) == (BORN, 0.0)
    assert alert.actual_usd == pytest.approx(55)
    assert alert.dollars_at_risk == pytest.approx(55 + 300)
    assert alert.explanation == (
        "key leaked was never seen before and has spent $55.00 in its first 11 min (limit $50.00); it burns $300.00/h."
    )
    more = scene.minute(5.0, times=60)
    assert {each.alert_id for each in more} == {alert.alert_id}
    assert more[-1].actual_usd == pytest.approx(55 + 5 * 60)


def test_it_ends_when_calm_and_does_not_come_again() -> None:
    scene = Scene()
    scene.minute(60.0)
    out = scene.minute(0.0, times=15)
    assert (out[-1].status, out[-1].actual_usd) == ("resolved", 60.0)
    assert scene.alerts.firing == []
    assert scene.minute(60.0, times=5) == []


def test_it_ends_when_statistics_take_over() -> None:
    scene = Scene()
    scene.minute(60.0)
    out = scene.minute(60.0, times=3 * 1440)
    assert out[-1].status == "resolved"
    assert out[-1].updated_at <= BORN + 3 * DAY + 30


@pytest.mark.parametrize(
    "scene",
    [
        {"born": T0 + 2 * DAY},
        {"tags": {"api_key": "k", "job": "nightly"}},
        {"detect": False},
    ],
)
def test_it_is_silent(scene: dict[str, Any]) -> None:
    assert Scene(**scene).minute(60.0, times=3) == []


def test_it_is_silent_after_the_first_day_and_for_muted_series() -> None:
    scene = Scene()
    scene.minute(0.0, times=1440)
    assert scene.minute(60.0, times=3) == []
    assert Scene().minute(60.0, muted=frozenset({0})) == []


def hole(model: str, at: float, tokens: int = 100) -> PricingHole:
    return PricingHole(
        model=model, source="gw", reason="unknown_model", at=at, requests=2, tokens=tokens, fallback_usd=0.5
    )


def test_an_unpriced_model_is_told_once_a_day_and_is_over_a_day_after_it_was_last_seen() -> None:
    pricing = PricingAlerts()
    pricing.note(hole("m1", T0))
    pricing.note(hole("m1", T0 + 1))
    (alert,) = pricing.close(T0 + 90)
    assert (alert.kind, alert.tier, alert.scope, alert.tags) == ("pricing", "notice", "model", {"model": "m1"})
    assert (alert.actual_usd, alert.channel) == (1.0, "pricing/unknown_model")
    assert "200 tokens in 4 requests from gw" in alert.explanation
    for hour in range(1, 24):
        pricing.note(hole("m1", T0 + 3600 * hour))
        assert pricing.close(T0 + 3600 * hour) == []
    pricing.note(hole("m1", T0 + DAY + 90))
    (daily,) = pricing.close(T0 + DAY + 91)
    assert (daily.revision, daily.alert_id) == (2, alert.alert_id)
    assert pricing.close(T0 + 2 * DAY) == []
    (over,) = pricing.close(T0 + 2 * DAY + 90)
    assert (over.status, over.revision) == ("resolved", 3)
    assert pricing.firing == []
