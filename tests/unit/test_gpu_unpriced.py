"""A GPU that no list knows: an alert with the hours at stake, and never zero dollars."""

from __future__ import annotations

import msgspec

from curb.detector.incidents.unpriced import PricingAlerts
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import GPU, SPEND
from curb.stream.records.spend import GpuRecord, PricingHole, SpendMessage

NOW = 1_750_000_000.0


def sample(number: int, model: str, **changes: object) -> GpuRecord:
    record = GpuRecord(
        id=f"g{number}",
        charge_period_start=NOW - 60,
        received_at=NOW,
        effective_cost=10.0,
        tags={"team": "ml", "group": "train", "node": "n1"},
        source="gpus",
        cost_source="fallback",
        request_model=model,
        gpu_seconds=7200.0,
    )
    return msgspec.structs.replace(record, **changes)


def holes_of(records: list[GpuRecord]) -> list[PricingHole]:
    rollup = Rollup(DetectorSettings(), GPU, 4)
    rollup.process(Message(GPU, b"\n".join(map(encode, records)), partition=0, offset=0))
    lines = [message for message in rollup.flush(NOW + 1) if message.topic == SPEND]
    decoder = msgspec.json.Decoder(SpendMessage)
    found = [line for message in lines for line in decoder.decode_lines(message.value)]
    return [line for line in found if isinstance(line, PricingHole)]


def test_the_hours_of_an_unknown_gpu_are_at_stake() -> None:
    records = [sample(1, "NVIDIA X9000"), sample(2, "NVIDIA X9000"), sample(3, "H100", cost_source="priced")]
    (hole,) = holes_of(records)
    assert (hole.model, hole.gpu_hours, hole.tokens, hole.fallback_usd) == ("NVIDIA X9000", 4.0, 0, 20.0)
    alerts = PricingAlerts()
    alerts.note(hole)
    (alert,) = alerts.close(NOW + 60)
    assert (alert.kind, alert.tags, alert.dollars_at_risk) == ("pricing", {"model": "NVIDIA X9000"}, 20.0)
    assert "4.0 GPU hours from gpus" in alert.explanation


HOLE = PricingHole(
    at=NOW, source="litellm", model="new-model", reason="unpriced", requests=3, tokens=900, fallback_usd=2.0
)
DAY = 86400


def test_an_unpriced_model_is_told_once_a_day_with_all_that_came_since() -> None:
    alerts = PricingAlerts()
    alerts.note(HOLE)
    (first,) = alerts.close(NOW + 60)
    assert (first.status, first.tier, first.scope, first.revision) == ("firing", "notice", "model", 1)
    assert (first.started_at, first.fired_at, first.dollars_at_risk, first.channel) == (
        NOW,
        NOW + 60,
        2.0,
        "pricing/unpriced",
    )
    assert "new-model" in first.explanation
    assert "3 requests" in first.explanation
    later = msgspec.structs.replace(HOLE, at=NOW + DAY - 60)
    alerts.note(later)
    alerts.note(msgspec.structs.replace(later, at=NOW + 100))  # an old record comes late
    assert alerts.close(NOW + DAY + 59) == []
    (second,) = alerts.close(NOW + DAY + 60)
    assert (second.alert_id, second.revision, second.dollars_at_risk) == (first.alert_id, 2, 6.0)
    assert "9 requests" in second.explanation
    assert alerts.firing == [second]


def test_it_is_over_a_day_after_the_model_was_last_seen() -> None:
    alerts = PricingAlerts()
    alerts.note(HOLE)
    alerts.close(NOW + 60)
    assert alerts.close(NOW + DAY - 1) == []
    again = PricingAlerts()
    again.load(alerts.dump())
    (over,) = again.close(NOW + DAY)
    assert (over.status, over.resolved_at) == ("resolved", NOW + DAY)
    assert (again.firing, again.dump()) == ([], {})
