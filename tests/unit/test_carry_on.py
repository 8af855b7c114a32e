"""Alerts of a state that was made again: the ids that people know go on, and what is over is said once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.detector.state.carry_on import carry_on
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import encode, encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, SPEND
from curb.stream.records.revisions import newest
from curb.stream.records.spend import Alert, Slots, SpendPartial, SpendTick
from tests.fakes.alerts import T0, alert_message, an_alert


def alert(fingerprint: str, fired_at: float, revision: int, **changes: Any) -> Alert:
    known = {"fingerprint": fingerprint, "alert_id": f"{fingerprint}-{fired_at:.0f}", "fired_at": fired_at}
    return msgspec.structs.replace(an_alert(), revision=revision, updated_at=fired_at + revision, **known, **changes)


def resolved(fingerprint: str, fired_at: float, revision: int, at: float) -> Alert:
    return alert(fingerprint, fired_at, revision, status="resolved", resolved_at=at)


def on_log(*alerts: Alert) -> list[Message]:
    return [*map(alert_message, alerts), Message(ALERTS, b"of another program")]


def test_what_was_sent_goes_on_under_its_id_and_behind_its_revision() -> None:
    now = alert("f", T0 + 60, 2)
    assert carry_on([now], on_log(alert("f", T0, 7)), lambda each: True, T0 + 100) == []
    assert (now.alert_id, now.fired_at, now.revision) == (f"f-{T0:.0f}", T0, 7)


def test_what_fires_and_was_never_sent_is_sent() -> None:
    now, long_over = alert("f", T0 + 600, 3), resolved("f", T0, 4, T0 + 60)
    assert carry_on([now], on_log(long_over), lambda each: True, T0 + 700) == [now]
    assert now.alert_id == f"f-{T0 + 600:.0f}"


def test_what_was_resolved_too_early_fires_again_under_its_id() -> None:
    now = alert("f", T0 + 30, 2)
    assert carry_on([now], on_log(resolved("f", T0, 5, T0 + 60)), lambda each: True, T0 + 90) == [now]
    assert (now.alert_id, now.revision, now.status) == (f"f-{T0:.0f}", 6, "firing")


def test_what_is_over_is_resolved_if_it_belongs_here() -> None:
    mine, other = alert("mine", T0, 3), alert("other", T0, 3)
    (said,) = carry_on([], on_log(mine, other), lambda each: each.fingerprint == "mine", T0 + 90)
    assert (said.alert_id, said.status, said.revision, said.resolved_at) == (mine.alert_id, "resolved", 4, T0 + 90)


def test_a_version_that_makes_fingerprints_otherwise_goes_on_with_the_same_subject() -> None:
    now = alert("made otherwise", T0 + 60, 2)
    assert carry_on([now], on_log(alert("f", T0, 7)), lambda each: True, T0 + 100) == []
    assert (now.alert_id, now.revision) == (f"f-{T0:.0f}", 7)
    soft = alert("made otherwise", T0 + 60, 2, tier="soft")
    assert carry_on([soft], on_log(alert("f", T0, 7)), lambda each: False, T0 + 100) == [soft]


def test_two_that_fire_never_share_an_id() -> None:
    first, second = alert("f", T0 + 10, 1), alert("f", T0 + 20, 1)
    assert carry_on([first, second], on_log(alert("f", T0, 3)), lambda each: True, T0 + 30) == [second]
    assert first.alert_id != second.alert_id


def test_the_newest_revision_counts_however_they_lie_on_the_log() -> None:
    assert [each.revision for each in newest(on_log(*(alert("f", T0, n) for n in (2, 3, 1))))] == [3]


KEY = Scope(name="key", group_by=("api_key",), role="principal")
_START = 1_780_000_200


def shard(bucket_s: int) -> Shard:
    return Shard(DetectorSettings(scopes=(KEY,), bucket_s=bucket_s, grace_s=0))


def message(*records: Any, offset: int = 0) -> Message:
    return Message(SPEND, encode_lines(records), key=b"curb.usage/0", partition=0, offset=offset)


def partial(start: int, usd: float, **more: Any) -> SpendPartial:
    return SpendPartial(
        scope="key", tags={"api_key": "k"}, bucket_start=start, effective_cost=usd, events=1, requests=1, **more
    )


def test_only_what_is_about_its_own_series_is_resolved() -> None:
    subject = shard(60)
    subject.process(message(SpendTick(at=float(_START), source="curb.usage/0"), partial(_START, 1.0)))
    subject.process(message(SpendTick(at=float(_START + 600), source="curb.usage/0")))
    own = alert("own", T0, 1, scope="key", tags={"api_key": "k"})
    elsewhere = alert("elsewhere", T0, 1, scope="key", tags={"api_key": "another"})
    forecast = alert("forecast", T0, 1, scope="key", tags={"api_key": "k"}, channel="prophet/hour")
    messages = subject.continue_alerts(on_log(own, elsewhere, forecast))
    said = [msgspec.json.decode(each.value, type=Alert) for each in messages]
    assert [(each.alert_id, each.status) for each in said] == [(own.alert_id, "resolved")]


@pytest.mark.parametrize(("written", "now"), [(300, 60), (60, 300), (300, 20), (20, 60)])
@pytest.mark.parametrize("slotted", [0, 1, 2])
def test_sums_of_other_buckets_count_to_the_cent(written: int, now: int, slotted: int) -> None:
    subject = shard(now)
    subject.process(message(SpendTick(at=float(_START), source="curb.usage/0")))
    moments = range(_START, _START + 3600, 45)
    for at in moments:
        start = at // written * written
        first = (at - start) // 5 * 5
        several = Slots([first, first + 5], [1, 0], [0.25, 0.0], [0, 0], [float(at)] * 2)
        slot: dict[str, Any] = [{}, {"slot": first, "received_at": float(at)}, {"slots": several}][slotted]
        subject.process(message(partial(start, 0.25, **slot)))
        subject.process(message(SpendTick(at=float(at), source="curb.usage/0")))
    subject.process(message(SpendTick(at=float(_START + 7200), source="curb.usage/0")))
    assert subject.totals("key") == [({"api_key": "k"}, pytest.approx(0.25 * len(moments)))]
    assert subject.event_time == _START + 7200


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"type":"of_2030","at":1}', "unknown_type"),
        (b'{"type":"tick","v":2,"at":1780000200,"source":"curb.usage/0"}', "unknown_version"),
        (b'{"type":"partial","v":2,"scope":"key","tags":{"api_key":"k"},"bucket_start":1780000200,"effective_cost":1}',
         "unknown_version"),
        (b"\xff{", "invalid"),
        (b'{"type":"partial","scope":"key","tags":{"api_key":"k"},"bucket_start":1780000200,"effective_cost":1,'
         b'"slots":[[0,5],[1],[1.0,0.0],[0,0],[0.0,0.0]]}', "invalid"),
    ],
)  # fmt: skip
def test_lines_of_a_later_version_are_dead_letters_and_their_neighbours_count(line: bytes, reason: str) -> None:
    subject = shard(60)
    good = message(SpendTick(at=float(_START), source="curb.usage/0"), partial(_START, 1.0))
    (letter,) = subject.process(good._replace(value=line + b"\n" + good.value, key=b"\xff\xfe"))
    assert msgspec.json.decode(letter.value)["reason"] == reason
    subject.process(message(SpendTick(at=float(_START + 600), source="curb.usage/0")))
    assert subject.totals("key") == [({"api_key": "k"}, 1.0)]


def test_its_form_names_the_settings_that_a_snapshot_depends_on() -> None:
    assert shard(60).snapshot_form != shard(300).snapshot_form
    assert encode(SpendTick(at=1.0, source="")) == b'{"type":"tick","at":1.0}', "version 1 goes without v"
