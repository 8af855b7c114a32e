"""Late is not lost: rows beside the grid, longer than a bucket or late are judged like rows that are on time."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import pytest

from curb.detector.budgets.budget import Budget
from curb.detector.pipeline import Pipeline
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND, USAGE
from curb.stream.records.spend import Alert, SpendMessage, SpendPartial, SpendScored, UsageRecord
from tests.fakes.spend import T0, usage

pytestmark = pytest.mark.long

DAY, HOUR = 86400, 3600


def stream(period: int, *, phase: float = 0.0, late: float = 5.0, days: float = 1.5) -> list[UsageRecord]:
    """Two keys at $3 an hour in rows about `period` seconds; in the last six hours one of them burns $120 an hour."""
    records = []
    for number in range(int(days * DAY / period)):
        start = T0 + phase + number * period
        for key in ("calm", "loop"):
            burns = key == "loop" and start >= T0 + days * DAY - 6 * HOUR
            usd = (120.0 if burns else 3.0) * period / HOUR
            record = usage(f"{key}-{number}", start, usd, key=key, received_at=start + period + late)
            records.append(msgspec.structs.replace(record, requests=period))
    return records


def run(records: list[UsageRecord], settings: DetectorSettings) -> tuple[Pipeline, list[Alert]]:
    """The records as they come, and time as it passes, until an hour after the last."""
    pipeline, alerts = Pipeline(settings), []
    end = max(record.received_at for record in records) + HOUR
    at = float(settings.bucket_s + records[0].received_at // settings.bucket_s * settings.bucket_s)
    place = 0
    while at < end:
        first = place
        while place < len(records) and records[place].received_at < at:
            place += 1
        if place > first:
            pipeline.feed(encode_lines(records[first:place]))
        pipeline.tick(at)
        alerts += pipeline.alerts
        at += settings.bucket_s
    return pipeline, alerts


def opened(alerts: list[Alert]) -> Alert:
    """The first revision of the one incident, which must be of the key that burns."""
    found = {alert.alert_id: alert for alert in reversed(alerts) if alert.scope == "key" and alert.tier != "digest"}
    (alert,) = (alert for alert in found.values() if alert.kind in ("runaway", "abusive"))
    assert alert.tags["api_key"] == "loop"
    return alert


SETTINGS = DetectorSettings(
    bucket_s=300, budgets=(Budget(name="all", scope="team", match={"team": "*"}, amount_usd=10_000, period="day"),)
)


@cache
def on_time() -> list[Alert]:
    return run(stream(300), SETTINGS)[1]


@pytest.mark.parametrize(
    ("period", "phase", "late"),
    [(300, 149, 5.0), (300, 240, 5.0), (300, 0, 1200.0), (900, 420, 5.0), (60, 17, 900.0)],
)
def test_the_same_alert_to_within_one_period_and_the_delay(period: int, phase: float, late: float) -> None:
    expected = on_time()
    pipeline, alerts = run(stream(period, phase=phase, late=late), SETTINGS)
    usual, found = opened(expected), opened(alerts)
    assert all(alert.excess_usd >= 0 for alert in alerts)
    assert 0 <= found.fired_at - usual.fired_at <= late + 2 * max(period, 300) + phase
    assert found.excess_usd > 0
    # Only what came before the timing of the source was known is late.
    assert pipeline.judged.late_usd <= 0.05 * pipeline.judged.usd
    total = sum(record.effective_cost for record in stream(period, phase=phase, late=late))
    assert sum(usd for _, usd in pipeline.shard.totals("team")) == pytest.approx(total)
    (budget,) = pipeline.shard.budgets()
    assert budget[1].spent_usd > 0


def test_a_budget_counts_a_late_row_in_its_own_day() -> None:
    settings = SETTINGS.model_copy(update={"bucket_s": 60})
    records = stream(300, late=5.0, days=1.0)
    pipeline, _ = run(records, settings)
    ends = records[-1].received_at
    assert ends < T0 + DAY + 2 * HOUR
    (budget,) = pipeline.shard.budgets()
    today = sum(record.effective_cost for record in records if record.charge_period_start >= T0 + DAY)
    assert budget[1].spent_usd == pytest.approx(today)


def _lines(messages: Any) -> list[Any]:
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(SpendMessage)
    return [line for each in messages if each.topic == SPEND for line in decoder.decode_lines(each.value)]


@pytest.mark.parametrize("restart", [False, True])
def test_dollars_are_counted_once_and_scored_once_through_a_restart(restart: bool) -> None:
    def make() -> Rollup:
        return Rollup(DetectorSettings(), USAGE, 1, name="in/0", live=False)

    subject, out = make(), []
    records = stream(300, days=0.2)
    for at in range(0, len(records), 2):
        out += _lines(subject.process(Message(USAGE, encode_lines(records[at : at + 2]), partition=0, offset=at)))
        out += _lines(subject.flush(records[at].received_at))
        if restart:
            saved, subject = subject.snapshot(), make()
            subject.restore(saved)
    out += _lines(subject.flush(records[-1].received_at + DAY))
    team = [line for line in out if isinstance(line, SpendPartial | SpendScored) and line.scope == "team"]
    total = sum(record.effective_cost for record in records)
    counted = [line for line in team if isinstance(line, SpendPartial)]
    scored = [line for line in team if isinstance(line, SpendScored)]
    assert sum(line.effective_cost for line in counted) == pytest.approx(total)
    assert sum(line.events for line in counted) == len(records)
    first = [line for line in counted if not line.counted_only]
    assert sum(line.effective_cost for line in [*first, *scored]) == pytest.approx(total)
    assert sum(line.requests for line in [*first, *scored]) == sum(record.requests for record in records)
    # The first periods came before anything was known of their source.
    assert len(first) <= 6
