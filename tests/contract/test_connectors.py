"""What every connector promises, whatever its kind: nothing lost, nothing doubled, bad input told apart and counted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from curb.connectors.connector import Batch, Connector, Context, Push, PushSource
from curb.connectors.intake.append import append_batch
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens import litellm, usage_jsonl
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.log.topics import CURSORS
from curb.stream.records.dead_letters import REASONS
from curb.stream.records.spend import SpendRecord
from tests.fakes import litellm_usage
from tests.fakes import usage_jsonl as jsonl
from tests.fakes.memory_log import MemoryLog

NOW = 1_750_000_000.0
EARLIER = NOW - 600
PRICES = PriceBook.load()
# No connector here makes requests of its own.
CONTEXT = Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), PRICES)
Event = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One kind, in one of its forms: how to build it and the canonical changes of an event in its field names."""

    kind: str
    source: PushSource
    event: Callable[..., Event]
    body: Callable[[list[Event]], bytes]
    cost: str
    start: str
    time: Callable[[float], Any]
    tokens: str

    def events(self, count: int) -> list[Event]:
        return [self.event(number, EARLIER + number) for number in range(count)]

    async def take(self, body: bytes, log: MemoryLog) -> tuple[list[SpendRecord], list[tuple[str, str]]]:
        """Parse and append; the records on the log and (reason, location) of the dead letters."""
        batch = self.source.parse(body, location="here", at=NOW)
        await append_batch(log, batch, source="src", at=NOW)
        return log.records(), [(letter.reason, letter.location) for letter in log.dead_letters()]


def jsonl_source(form: str) -> PushSource:
    config = usage_jsonl.Config.model_validate(
        {"kind": "usage_jsonl", "name": "jsonl", "token": "a-long-token", "format": form}
    )
    return cast(PushSource, cast(Push, config.build(CONTEXT)).source)


def litellm_source() -> PushSource:
    return (
        litellm.Config.model_validate({"kind": "litellm", "name": "gw", "token": "a-long-token"}).build(CONTEXT).source
    )


def same(at: float) -> float:
    return at


CASES = {
    "litellm-array": Case(
        "litellm",
        litellm_source(),
        litellm_usage.payload,
        litellm_usage.array,
        "response_cost",
        "startTime",
        same,
        "prompt_tokens",
    ),
    "litellm-ndjson": Case(
        "litellm",
        litellm_source(),
        litellm_usage.payload,
        litellm_usage.ndjson,
        "response_cost",
        "startTime",
        same,
        "prompt_tokens",
    ),
    "usage_jsonl-curb": Case(
        "usage_jsonl",
        jsonl_source("curb"),
        jsonl.curb_line,
        jsonl.lines,
        "effective_cost",
        "charge_period_start",
        same,
        "input_tokens",
    ),
    "usage_jsonl-event_stream": Case(
        "usage_jsonl",
        jsonl_source("event_stream"),
        jsonl.stream_line,
        jsonl.lines,
        "cost_usd",
        "ts",
        jsonl.rfc3339,
        "input_tokens",
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@every_case
async def test_same_body_same_records(case: Case) -> None:
    body = case.body(case.events(20))
    first, again = (case.source.parse(body, location="here", at=NOW) for _ in range(2))
    assert first == again
    assert len({record.id for record in first.records}) == 20


@every_case
async def test_sending_again_after_a_lost_answer_doubles_no_id_across_partitions(case: Case) -> None:
    log = MemoryLog(partitions=4)
    body = case.body(case.events(50))
    log.fail_next, log.fail_after = 1, 1
    for attempt in range(3):
        try:
            await case.take(body, log)
        except TransientError:
            assert attempt < 2
    where: dict[str, set[int | None]] = {}
    for message in log.of("curb.usage"):
        for line in message.value.splitlines():
            where.setdefault(json.loads(line)["id"], set()).add(message.partition)
    assert len(where) == 50
    assert all(len(partitions) == 1 for partitions in where.values())
    assert len(set.union(*where.values())) == 4


# --- bad input ------------------------------------------------------------------------------------------------------


def changed(name: str) -> Callable[[Case, Event], None]:
    """A change by the name of a canonical field, looked up in the case."""
    values = {
        "nan cost": ("cost", float("nan")),
        "infinite cost": ("cost", float("inf")),
        "negative cost": ("cost", -0.5),
        "absurd cost": ("cost", 1e12),
        "text for tokens": ("tokens", "many"),
        "negative tokens": ("tokens", -1),
        "absurd tokens": ("tokens", 10**30),
    }
    field, value = values[name]

    def change(case: Case, event: Event) -> None:
        event[getattr(case, field)] = value

    return change


def at_time(at: float) -> Callable[[Case, Event], None]:
    def change(case: Case, event: Event) -> None:
        event[case.start] = case.time(at)

    return change


def without_id(case: Case, event: Event) -> None:
    event.pop("id")
    event.pop("litellm_call_id", None)


def with_id(value: Any) -> Callable[[Case, Event], None]:
    def change(case: Case, event: Event) -> None:
        event["id"] = value

    return change


BAD: dict[str, tuple[Callable[[Case, Event], None], str]] = {
    "nan cost": (changed("nan cost"), "not_finite"),
    "infinite cost": (changed("infinite cost"), "not_finite"),
    "negative cost": (changed("negative cost"), "negative_cost"),
    "absurd cost": (changed("absurd cost"), "invalid"),
    "text for tokens": (changed("text for tokens"), "wrong_type"),
    "negative tokens": (changed("negative tokens"), "invalid"),
    "absurd tokens": (changed("absurd tokens"), "invalid"),
    "1970": (at_time(0.0), "too_old"),
    "2100": (at_time(4_102_444_800.0), "in_the_future"),
    "no id": (without_id, "missing_field"),
    "number as id": (with_id(7), "wrong_type"),
    "control characters in id": (with_id("a\x00b"), "invalid"),
}


@every_case
@pytest.mark.parametrize("name", BAD)
async def test_one_bad_event_is_a_dead_letter_and_the_rest_is_kept(case: Case, name: str) -> None:
    change, reason = BAD[name]
    if name == "negative cost" and case.kind == "litellm":
        pytest.skip("LiteLLM's own arithmetic can go below 0; priced by list: tests/unit/test_litellm_cost.py")
    events = case.events(3)
    change(case, events[1])
    records, dead = await case.take(case.body(events), MemoryLog())
    assert len(records) == 2
    assert [found for found, _ in dead] == [reason]
    assert dead[0][1] in ("here:2", "here#1")
    assert reason in REASONS


def broken(case: Case, number: int, replace: Callable[[bytes], bytes]) -> bytes:
    """Three events, the bytes of one of them replaced."""
    parts = [json.dumps(event).encode() for event in case.events(3)]
    parts[number] = replace(parts[number])
    return b"[" + b",".join(parts) + b"]" if case.body is litellm_usage.array else b"\n".join(parts) + b"\n"


@every_case
async def test_truncated_json_keeps_what_came_before(case: Case) -> None:
    body = case.body(case.events(3))
    records, dead = await case.take(body[: body.rindex(b'"id"') + 8], MemoryLog())
    assert len(records) == 2
    assert [reason for reason, _ in dead] == ["not_json"]


@every_case
async def test_invalid_utf8_is_told(case: Case) -> None:
    body = broken(case, 1, lambda event: event.replace(b'"id": "', b'"id": "\xff\xfe'))
    records, dead = await case.take(body, MemoryLog())
    assert len(records) == 2
    assert [reason for reason, _ in dead] == ["not_utf8"]


@every_case
@pytest.mark.parametrize("junk", [b"7", b'"x"', b"null", b"true", b"[]"])
async def test_json_that_is_no_event(case: Case, junk: bytes) -> None:
    records, dead = await case.take(broken(case, 0, lambda event: junk), MemoryLog())
    # A body for LiteLLM that begins as an array is one array, whatever follows; that is told as well.
    is_array = case.body is litellm_usage.ndjson and junk == b"[]"
    expected = (0, ["not_json"]) if is_array else (2, ["wrong_type"])
    assert (len(records), [reason for reason, _ in dead]) == expected


@every_case
async def test_deep_nesting_harms_nobody(case: Case) -> None:
    deep = b'{"unknown": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    records, dead = await case.take(broken(case, 2, lambda event: deep), MemoryLog())
    assert len(records) == 2
    assert [reason for reason, _ in dead] == ["not_json"]


@every_case
async def test_five_megabytes_in_one_event(case: Case) -> None:
    events = case.events(3)
    events[1]["messages"] = "x" * 5_000_000
    log = MemoryLog()
    records, dead = await case.take(case.body(events), log)
    if case.kind == "litellm":  # a long prompt is ordinary there, and it stays behind
        assert (len(records), dead) == (3, [])
        assert sum(len(message.value) for message in log.of("curb.usage")) < 10_000
    else:
        assert (len(records), [reason for reason, _ in dead]) == (2, ["too_large"])


@every_case
async def test_a_duplicate_keeps_its_id(case: Case) -> None:
    event = case.event(1, EARLIER)
    records, dead = await case.take(case.body([event, event]), MemoryLog())
    assert [record.id for record in records] == [records[0].id] * 2
    assert dead == []


@every_case
async def test_hostile_tags_are_data(case: Case) -> None:
    hostile = "<script>\x1b[31m\u202eevil\u200b\n{{x}}" + "y" * 400
    event = case.event(1, EARLIER)
    if case.kind == "litellm":
        event["metadata"]["user_api_key_team_alias"] = hostile
        event["request_tags"] = [f"{'k' * 300}:v", "empty:", "api_key:stolen"]
    else:
        event["tags"] = {"team": hostile, "k" * 300: "v", "empty": " "}
    records, dead = await case.take(case.body([event]), MemoryLog())
    assert dead == []
    tags = records[0].tags
    assert tags["team"].startswith("<script>[31mevil{{x}}y")
    assert len(tags["team"]) == 256
    assert max(map(len, tags)) == 128
    assert "empty" not in tags
    assert tags.get("api_key") != "stolen"
    assert all(text.isprintable() for pair in tags.items() for text in pair)


@every_case
async def test_too_many_tags(case: Case) -> None:
    event = case.event(1, EARLIER)
    event["tags"] = {f"t{n}": "v" for n in range(65)}
    event["request_tags"] = [f"t{n}:v" for n in range(65)]
    records, dead = await case.take(case.body([event]), MemoryLog())
    if case.kind == "litellm":  # callers write request tags: the spend stays, and so do the gateway's own tags
        assert (len(records[0].tags), records[0].tags["team"], dead) == (64, "search", [])
        return
    assert (records, [reason for reason, _ in dead]) == ([], ["invalid"])


@every_case
async def test_a_body_that_is_all_junk_writes_a_bounded_number_of_letters(case: Case) -> None:
    log = MemoryLog()
    records, dead = await case.take(b"junk\n" * 20_000, log)
    assert records == []
    assert len(dead) == 1001
    assert log.dead_letters()[-1].detail == "19000 more in the same batch"


@every_case
async def test_an_unknown_model_is_never_free(case: Case) -> None:
    event = case.event(1, EARLIER, model="home-made", model_group="home-made", request_model="home-made")
    if case.kind == "litellm":
        event |= {"response_cost": 0.0, "cost_breakdown": None}
    elif "effective_cost" in event:
        del event["effective_cost"]
    else:
        del event["cost_usd"]  # a recorded stream always knows its cost
        records, dead = await case.take(case.body([event]), MemoryLog())
        assert (records, [reason for reason, _ in dead]) == ([], ["missing_field"])
        return
    records, dead = await case.take(case.body([event]), MemoryLog())
    assert dead == []
    assert records[0].cost_source == "fallback"
    assert records[0].effective_cost > 0


# --- pull -----------------------------------------------------------------------------------------------------------


class Faulty:
    """A connector whose reads fail half of the time."""

    def __init__(self, inner: Connector, rng: random.Random) -> None:
        self._inner, self._rng = inner, rng

    async def read(self, cursor: str | None) -> Batch:
        if self._rng.random() < 0.5:
            raise TransientError("reset")
        batch = await self._inner.read(cursor)
        if self._rng.random() < 0.2:
            raise TransientError("reset in the middle")
        return batch

    async def close(self) -> None:
        await self._inner.close()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("seed", range(3))
async def test_resume_after_any_failure_loses_and_doubles_nothing(tmp_path: Path, suffix: str, seed: int) -> None:
    import gzip

    rng = random.Random(seed)
    for part in range(3):
        text = jsonl.lines([jsonl.curb_line(part * 1000 + n, EARLIER + n) for n in range(300)])
        (tmp_path / f"{part}{suffix}").write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    config = usage_jsonl.Config.model_validate(
        {"kind": "usage_jsonl", "name": "files", "path": tmp_path, "max_line_bytes": 4096}
    )
    log, more, steps = MemoryLog(), True, 0
    while more:
        # A new process each time: all it knows is what the log kept.
        inner = usage_jsonl.JsonlFiles(
            tmp_path, "files", usage_jsonl.line_format(config, PRICES), CONTEXT.clock, max_line_bytes=512, chunk_bytes=1
        )
        log.fail_next, log.fail_after = rng.choice([(0, 0), (0, 0), (1, 0), (0, 1)])
        runner = PullRunner(Faulty(inner, rng), "files", log, CONTEXT.clock)
        try:
            for _ in range(rng.randint(1, 20)):
                more = await runner.step()
                steps += 1
        except TransientError:
            more = True
        await inner.close()
    ids = [record.id for record in log.records()]
    assert set(ids) == {f"e{part * 1000 + n}" for part in range(3) for n in range(300)}
    assert steps > 100
    assert log.dead_letters() == []
    assert {message.key for message in log.of(CURSORS)} == {b"files"}
