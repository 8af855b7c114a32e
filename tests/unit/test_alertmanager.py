"""The body of Alertmanager's webhook: shape, identity and labels."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.actions.notify.alertmanager import digest_payload, label, payload
from curb.actions.notify.protocol import DayDigest, Notice, NotifyConfig
from tests.fakes.alerts import T0, an_alert
from tests.unit.test_slack_desk import entry

#: The fields that receivers of version 4 read.
GROUP = {
    "version", "groupKey", "truncatedAlerts", "status", "receiver", "groupLabels", "commonLabels", "commonAnnotations",
    "externalURL", "alerts",
}  # fmt: skip
ALERT = {"status", "labels", "annotations", "startsAt", "endsAt", "generatorURL", "fingerprint"}
TELLING = NotifyConfig(dashboard_url="https://curb.example")


def body(*args: Any, **named: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(payload(Notice(*args, **named), "desk")))
    return found


def test_it_has_the_shape_of_version_4() -> None:
    found = body("k", an_alert(), (entry(),), telling=TELLING)
    assert set(found) == GROUP
    assert found["version"] == "4"
    (one,) = found["alerts"]
    assert set(one) == ALERT
    assert one["labels"] == {
        "alertname": "CurbRunaway",
        "severity": "critical",
        "incident": "a1",
        "scope": "key",
        "team": "search",
        "project": "rank",
        "api_key": "k1",
    }
    assert one["fingerprint"] == "f1"
    assert (one["startsAt"], one["endsAt"]) == ("2025-06-15T15:06:40.000Z", "0001-01-01T00:00:00Z")
    assert "Throttled k1 to 20" in one["annotations"]["actions"]
    assert all(isinstance(value, str) for part in ("labels", "annotations") for value in one[part].values())
    assert found["externalURL"] == "https://curb.example"


def test_what_identifies_a_group_and_its_alerts_stays_the_same_to_the_end() -> None:
    other = an_alert(alert_id="a2", fingerprint="f2", tags={"team": "search", "api_key": "k2"})
    first = body("k-1", an_alert(), (), (other,), lead_id="a1")
    over = an_alert(revision=9, status="resolved", resolved_at=T0 + 60, usd_per_hour=1.0)
    second = body("k-2", other, (), (over,), lead_id="a1")
    assert first["groupKey"] == second["groupKey"]
    assert [each["fingerprint"] for each in second["alerts"]] == ["f1", "f2"]
    assert [each["labels"] for each in first["alerts"]] == [each["labels"] for each in second["alerts"]]
    assert (second["status"], second["alerts"][0]["status"]) == ("firing", "resolved")
    assert second["alerts"][0]["endsAt"] == "2025-06-15T15:07:40.000Z"
    assert second["commonLabels"]["team"] == "search"
    assert "api_key" not in second["commonLabels"]


def test_a_digest_is_a_group_of_its_alerts() -> None:
    digest = DayDigest("digest-1", "2026-03-01", T0, (an_alert(tier="digest"),), ())
    found = digest_payload(digest, "desk")
    assert [each["labels"]["severity"] for each in found["alerts"]] == ["info"]
    assert digest_payload(digest._replace(alerts=()), "desk")["status"] == "resolved"


@pytest.mark.parametrize(
    ("tag", "name"),
    [("team", "team"), ("cost-center", "cost_center"), ("severity", "tag_severity"), ("7up", "tag_7up"), ("", "tag_")],
)
def test_labels_are_named_as_prometheus_allows(tag: str, name: str) -> None:
    assert label(tag) == name


@given(st.text(max_size=30))
def test_every_tag_gives_a_label_that_is_allowed(tag: str) -> None:
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label(tag))
    assert not label(tag).startswith("__")
