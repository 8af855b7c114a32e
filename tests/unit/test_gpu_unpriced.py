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
