"""A name is replaced where it is a person's, and nowhere else; what does not hold it stays byte for byte."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.detector.state.columns import Packed, pack, unpack
from curb.forget import Redaction, forget, left_in
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from curb.stream.log.codec import encode, encode_lines
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message, TopicPartition
from curb.stream.log.topics import ACTIONS, CURSORS, PEAKS, STATE, USAGE
from curb.stream.records.actions import Plan
from curb.stream.records.spend import LedgerEntry, UsageRecord
from curb.stream.work.checkpoint import load_checkpoints, snapshot_messages

NAME = 'li "q" mé@x.io'
AT = TopicPartition("curb.spend", 0)


def record(user: str, team: str = "a") -> UsageRecord:
    tags = {"end_user": user, "team": team}
    return UsageRecord(id=f"r {user}", charge_period_start=1.0, received_at=2.0, effective_cost=0.1, tags=tags)


def test_a_tag_a_text_and_a_key_are_replaced_and_another_tag_stays() -> None:
    redaction = Redaction("end_user", "ann", {"end_user", "team"})
    new = redaction.replacement
    line = encode({"tags": {"end_user": "ann", "team": "ann"}, "title": "Spend of ann, not joann or ann.b", "n": 1.5})
    assert msgspec.json.decode(redaction.lines(line)) == {
        "tags": {"end_user": new, "team": "ann"},
        "title": f"Spend of {new}, not joann or ann.b",
        "n": 1.5,
    }
    assert redaction.other_tags == {"team": 1}
    assert redaction.lines(b'user{"end_user":"ann"}') == b'user{"end_user":"%s"}' % new.encode()
    assert redaction.lines(b'{"team":"ann"}') == b'{"team":"ann"}'
    assert redaction.lines(b"litellm/user/ann") == f"litellm/user/{new}".encode()
    assert redaction.text("It was ann.") == f"It was {new}."


def test_a_snapshot_is_replaced_with_all_that_lies_packed_in_it() -> None:
    redaction = Redaction("end_user", NAME)
    raw = msgspec.json.encode({"end_user": NAME, "team": "a"})
    inner = msgspec.msgpack.encode({"series": [["user", raw]], "numbers": b"\x00\xff", "of": {NAME: 2.5}})
    changed = redaction.packed(msgspec.msgpack.encode([inner, 3, None, {"until": 7}]))
    shard, *rest = msgspec.msgpack.decode(changed)
    assert rest == [3, None, {"until": 7}]
    assert msgspec.msgpack.decode(shard) == {
        "series": [["user", raw.replace(msgspec.json.encode(NAME)[1:-1], redaction.replacement.encode())]],
        "numbers": b"\x00\xff",
        "of": {redaction.replacement: 2.5},
    }


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.sampled_from(["a", "7", "zz", "@"]))
def test_numbers_stay_even_if_their_bytes_spell_the_name(numbers: list[int], name: str) -> None:
    spelled = np.array([*numbers, int.from_bytes(name.encode(), "little")])
    snapshot = msgspec.msgpack.encode({"ids": spelled.tobytes(), "arrays": pack({"cost": spelled}), "of": {name: 1}})
    changed = msgspec.msgpack.decode(Redaction("end_user", name).packed(snapshot))
    before = msgspec.msgpack.decode(snapshot)
    assert (changed["ids"], changed["arrays"]) == (before["ids"], before["arrays"])
    assert name not in changed["of"]


def test_names_in_a_compressed_array_are_replaced_and_it_can_be_unpacked() -> None:
    names = msgspec.msgpack.encode(({f"{n}/end_user/ann": n for n in range(50)}, {"eu": 1}))
    packed = msgspec.msgpack.encode([{"names": pack({"names": np.frombuffer(names, np.uint8)})["names"]}])
    redaction = Redaction("end_user", "ann")
    ((found,),) = (each.values() for each in msgspec.msgpack.decode(redaction.packed(packed)))
    uses, regions = msgspec.msgpack.decode(unpack({"names": Packed(*found)})["names"].tobytes())
    assert uses == {f"{n}/end_user/{redaction.replacement}": n for n in range(50)}
    assert regions == {"eu": 1}


@pytest.mark.parametrize("name", ["h\u00e9l\u00e8ne", 'li "q"', "\u65e5\u672c", "back\\slash", "two\nlines"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_name_is_found_however_json_writes_it(name: str, ascii_only: bool) -> None:
    redaction = Redaction("end_user", name)
    for form in ("NFC", "NFD"):  # people cannot see the difference
        record = {"tags": {"end_user": unicodedata.normalize(form, name)}}
        text = json.dumps(record, ensure_ascii=ascii_only)
        wrapped = json.dumps({"text": text}, ensure_ascii=ascii_only).encode()
        expected = {"tags": {"end_user": redaction.replacement}}
        assert json.loads(redaction.lines(text.encode())) == expected
        assert json.loads(json.loads(redaction.lines(wrapped))["text"]) == expected


@pytest.mark.parametrize("line", [b'{"tags": {"team": "ann"}, "usd": 1e-3}', b'{"id":"joann","usd":0.10}', b"joann {"])
def test_a_line_about_others_stays_byte_for_byte(line: bytes) -> None:
    assert Redaction("end_user", "ann", {"team"}).lines(line) == line


def test_a_long_name_is_seen_across_the_pages_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * ((1 << 20) - 5000) + b"z" * 10_000)
    assert left_in(tmp_path, Redaction("end_user", "z" * 10_000)) == [tmp_path / "file"]


@given(st.binary() | st.text().map(str.encode))
def test_what_does_not_hold_the_name_stays_as_it_is(data: bytes) -> None:
    redaction = Redaction("end_user", "no-such-name-anywhere")
    assert redaction.lines(data) == redaction.packed(data) == data


@given(st.text(min_size=1).filter(lambda name: name not in ("__other__", "__untagged__")))
def test_any_name_is_replaced_in_a_record(name: str) -> None:
    redaction = Redaction("end_user", name)
    try:
        line = encode(record(name, team="a-team"))
    except UnicodeEncodeError:  # a lone surrogate is on no log
        return
    assert msgspec.json.decode(redaction.lines(line), type=UsageRecord).tags["end_user"] == redaction.replacement


@pytest.mark.parametrize(("tag", "name"), [("", "x"), ("end_user", ""), ("end_user", "__other__")])
def test_what_is_no_person_is_refused(tag: str, name: str) -> None:
    with pytest.raises(ValueError, match="end_user=u-123"):
        Redaction(tag, name)


async def _log(directory: Path) -> EmbeddedLog:
    log = EmbeddedLog(directory, ManualClock(1000.0))
    await log.open()
    users = [NAME, "bob", *(f"u{n}" for n in range(600))]
    await log.append([Message(USAGE, encode_lines([record(user) for user in users]), key=NAME.encode())])
    await log.append([Message(USAGE, encode(record("bob")))])
    await log.append([Message(CURSORS, encode({"next": NAME}), key=b"feed")])
    await log.append([Message(PEAKS, encode({"tags": {"end_user": NAME}}), key=b"user" + encode({"end_user": NAME}))])
    for generation, size in ((1, 3), (2, 1)):
        packed = msgspec.msgpack.encode({"names": [NAME], "rest": bytes(size * 400_000)})
        await log.append(snapshot_messages("curb-detector", AT, 5, packed, generation, "form"))
    return log


async def test_nothing_of_the_directory_holds_the_name_and_all_else_stays(tmp_path: Path) -> None:
    log, redaction, seen = await _log(tmp_path), Redaction("end_user", NAME), set[str]()
    before = [message async for message in log.scan(USAGE)]

    def progress(topic: str, _: int) -> None:
        seen.add(topic)

    counted = await forget(log, redaction, 1000.0, progress, dry_run=True)
    assert [message async for message in log.scan(USAGE)] == before
    found = await forget(log, redaction, 1000.0, progress, dry_run=False)
    assert found.changed == counted.changed == {USAGE: 1, CURSORS: 1, PEAKS: 2, STATE: 5}
    after = [message async for message in log.scan(USAGE)]
    assert after[1] == before[1]
    assert after[0].value.rstrip() == before[0].value.rstrip().replace(
        encode(NAME)[1:-1], redaction.replacement.encode()
    )
    new = redaction.replacement
    assert await log.table(PEAKS) == {b"user" + encode({"end_user": new}): encode({"tags": {"end_user": new}})}
    checkpoint = (await load_checkpoints(log, "curb-detector", frozenset({AT})))[AT]
    assert checkpoint.snapshot is not None
    assert msgspec.msgpack.decode(checkpoint.snapshot) == {"names": [new], "rest": bytes(400_000)}
    assert (checkpoint.snapshot_offset, checkpoint.generation, checkpoint.form) == (5, 2, "form")
    assert {USAGE, STATE, "compacting the file"} <= seen
    await log.close()
    for path in tmp_path.rglob("*"):
        data = path.read_bytes()
        assert NAME.encode() not in data
        assert encode(NAME)[1:-1] not in data
    assert (await forget_again(tmp_path)).changed == {}


async def forget_again(directory: Path) -> object:
    log = EmbeddedLog(directory, ManualClock(1000.0))
    await log.open()
    found = await forget(log, Redaction("end_user", NAME), 1000.0, lambda *_: None, dry_run=False)
    await log.close()
    return found


async def test_an_open_action_keeps_the_name_and_a_running_daemon_keeps_the_log(tmp_path: Path) -> None:
    log = await _log(tmp_path)
    plan = Plan(action="limits", target=f"litellm/user/{NAME}", summary="", before={}, after={})
    entry = LedgerEntry(action_id="a1", state="applied", at=990.0, alert_id="al", fingerprint="f", plan=plan)
    await log.append([Message(ACTIONS, encode(entry))])
    with pytest.raises(PermanentError, match="an action is not over: a1 on litellm/user/li"):
        await forget(log, Redaction("end_user", NAME), 1000.0, lambda *_: None, dry_run=True)
    # A part of the target is no name.
    for name in ("bob", "litel"):
        await forget(log, Redaction("end_user", name), 1000.0, lambda *_: None, dry_run=False)
    reader = await log.reader("curb-detector", [USAGE])
    with pytest.raises(PermanentError, match="another process is already running curb-detector"):
        await forget(log, Redaction("end_user", "u7"), 1000.0, lambda *_: None, dry_run=False)
    await reader.close()
    await log.close()
