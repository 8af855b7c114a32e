"""Loop prints: the same calls have the same print under one key, and nothing of a prompt leaves the door."""

from __future__ import annotations

import hashlib
import json
import logging
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, cast

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from curb.config.file import load_text
from curb.connectors.connector import Batch, Context
from curb.connectors.fingerprint import Fingerprints, LoopSettings
from curb.connectors.intake.append import append_batch
from curb.connectors.intake.attribution import Attribution, AttributionSettings
from curb.connectors.intake.shares import parts
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens import litellm, otel_genai, usage_jsonl
from curb.detector.bills.lanes import ShardWithBills
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.stream.clock import ManualClock
from curb.stream.log.protocol import Message
from curb.stream.log.topics import USAGE
from curb.stream.records.loops import LoopPrint
from curb.stream.records.spend import UsageRecord
from curb.wiring import connector_context
from tests.fakes.litellm_usage import payload
from tests.fakes.memory_log import MemoryLog

NOW = 1_750_032_000.0
PLANTED = "zanzibar quokka marmalade obelisk"
LONG = " ".join(f"word{number}" for number in range(60))
HTTP = cast(aiohttp.ClientSession, None)
PRICES = PriceBook({"gpt-4o": {"input_cost_per_token": 2e-6, "mode": "chat"}}, as_of="2026-01-01")


def prints(**settings: Any) -> Fingerprints:
    return Fingerprints(LoopSettings(enabled=True, **settings), ManualClock(NOW), lambda count: b"k" * count)


def chat(*texts: str) -> list[dict[str, Any]]:
    """A conversation of a user and an assistant, in turns."""
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def of(messages: Any, **more: Any) -> LoopPrint:
    found = prints().of(messages, **more)
    assert found is not None
    return found


def step(result: str, arguments: str = '{"path": "a"}', **more: Any) -> list[dict[str, Any]]:
    """A call of a tool and its answer."""
    call = {"id": "1", "type": "function", "function": {"name": "read_file", "arguments": arguments}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": result, **more},
    ]


# --- what a print says ------------------------------------------------------------------------------------------------


def test_the_same_call_has_the_same_print_and_another_has_not() -> None:
    assert of(chat("hello")) == of("hello")
    assert of(chat("hello")).last != of(chat("hello!")).last
    assert of(chat("a", "b", "c")).prefix == of(chat("a", "b", "d", "e", "f")).prefix
    assert of(chat("a", "b")).last != of(chat("a", "", "b")).last, "another role"


def test_a_session_is_hashed_like_all_else() -> None:
    assert of("hello").session == 0
    assert of("hello", session="s-1").session == of("bye", session="s-1").session != of("bye", session="s-2").session


def test_near_duplicates_differ_in_few_bits_and_other_texts_in_many() -> None:
    sketch = of(LONG).sketch
    assert (sketch ^ of(LONG.replace("word30", "other")).sketch).bit_count() < 12
    assert (sketch ^ of(" ".join(f"term{number}" for number in range(60))).sketch).bit_count() > 16
    assert of("seven words are too few for it").sketch == 0


def test_what_a_tool_answers_is_the_same_only_where_it_was_asked_the_same() -> None:
    start = chat("go")
    one, other = of(start + step(LONG)), of(start + step(LONG, '{"path": "b"}'))
    assert one == of(start + step(LONG))
    assert one.last != other.last
    assert one.tools != other.tools
    assert (one.sketch ^ other.sketch).bit_count() > 8
    assert of(start).tools == 0


def test_pictures_with_one_question_are_different_calls() -> None:
    def asked(url: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "text", "text": "read"}, {"type": "image_url", "url": url}]}]

    assert of(asked("data:a")).last != of(asked("data:b")).last


@pytest.mark.parametrize(
    "result",
    [
        "Error: no such file",
        "Traceback (most recent call last): ...",
        '{"error": "denied"}',
        '{"error": {"code": 7}}',
    ],
)
def test_failures_of_a_tool_are_counted(result: str) -> None:
    assert of(chat("go") + 5 * step(result)).failed == 5
    assert of(chat("go") + 5 * step(result) + step("fine")).failed == 0
    assert of(chat("go") + step("fine") + 2 * step(result)).failed == 2
    assert of(chat("go") + 5 * step(result) + chat("never mind")).failed == 0


@pytest.mark.parametrize("result", ["fine", '{"error": null, "rows": 3}', "no errors found", ""])
def test_an_answer_that_mentions_errors_is_no_failure(result: str) -> None:
    assert of(chat("go") + 5 * step(result)).failed == 0


def test_the_forms_of_anthropic_and_of_open_telemetry_are_read() -> None:
    anthropic: list[Any] = chat("go")
    otel: list[Any] = [{"role": "user", "parts": [{"type": "text", "content": "go"}]}]
    for _ in range(3):
        anthropic += [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "ls", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "content": [{"text": "no"}], "is_error": True}]},
        ]
        otel += [
            {"role": "assistant", "parts": [{"type": "tool_call", "id": "1", "name": "ls", "arguments": {"a": 1}}]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "result": "error: no"}]},
        ]
    assert (of(anthropic).failed, of(anthropic).messages) == (3, 7)
    assert (of(otel).failed, of(otel).messages) == (3, 7)
    assert of(anthropic).tools
    assert of(otel).tools


@pytest.mark.parametrize(
    "messages",
    [None, [], {}, 7, "", [7], [None], chat("redacted-by-litellm"), [{"role": "user", "content": None}]],
)
def test_nothing_and_what_is_withheld_has_no_print(messages: Any) -> None:
    assert prints().of(messages) is None


def test_prints_of_two_keys_do_not_match() -> None:
    clock = ManualClock(NOW)
    door = Fingerprints(LoopSettings(enabled=True, key_hours=1), clock)
    first = door.of(chat("hello", LONG), session="s")
    assert first == door.of(chat("hello", LONG), session="s")
    clock.jump(3600)
    later = door.of(chat("hello", LONG), session="s")
    another = Fingerprints(LoopSettings(enabled=True), clock).of(chat("hello", LONG), session="s")
    assert first is not None
    assert later is not None
    assert another is not None
    for name in ("session", "prefix", "last", "sketch"):
        assert len({getattr(each, name) for each in (first, later, another)}) == 3, name


# --- at the door ------------------------------------------------------------------------------------------------------


def context(*, loops: bool = True) -> Context:
    return Context(ManualClock(NOW), HTTP, PRICES, loops=prints() if loops else None)


def records(batch: Batch) -> list[UsageRecord]:
    assert not batch.dead
    return [cast(UsageRecord, record) for record in batch.records]


def from_litellm(*events: dict[str, Any], loops: bool = True) -> list[UsageRecord]:
    config = litellm.Config.model_validate({"kind": "litellm", "name": "gw", "token": "a-long-token"})
    source = cast(litellm.LiteLLM, config.build(context(loops=loops)).source)  # type: ignore[union-attr]
    return records(source.parse(json.dumps(list(events)).encode(), location="here", at=NOW))


def from_lines(*lines: dict[str, Any], loops: bool = True) -> list[UsageRecord]:
    config = usage_jsonl.Config.model_validate({"kind": "usage_jsonl", "name": "files", "token": "a-long-token"})
    source = cast(usage_jsonl.JsonlPush, config.build(context(loops=loops)).source)  # type: ignore[union-attr]
    return records(source.parse(b"\n".join(json.dumps(each).encode() for each in lines), location="here", at=NOW))


def from_spans(*spans: dict[str, str | int], loops: bool = True) -> list[UsageRecord]:
    config = otel_genai.Config.model_validate({"kind": "otel_genai", "name": "apps", "token": "a-long-token"})
    source = cast(otel_genai.OtelGenAI, config.build(context(loops=loops)).source)
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for number, attributes in enumerate(spans, 1):
        span = scope.spans.add(
            trace_id=number.to_bytes(16, "big"),
            span_id=number.to_bytes(8, "big"),
            start_time_unix_nano=int((NOW - 9) * 1e9),
            end_time_unix_nano=int((NOW - 7) * 1e9),
        )
        for key, value in {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 9, **attributes}.items():
            pair = span.attributes.add(key=key)
            if isinstance(value, str):
                pair.value.string_value = value
            else:
                pair.value.int_value = value
    door = source.door("v1/traces", "application/x-protobuf")
    assert door is not None
    return records(door.parse(request.SerializeToString(), location="here", at=NOW))


def test_litellm_shows_messages() -> None:
    asked = {"messages": chat(PLANTED), "startTime": NOW - 5, "endTime": NOW - 2}
    (record,) = from_litellm(payload(1, NOW - 5, **asked))
    assert record.loop == of(chat(PLANTED), seconds=3.0)
    (plain,) = from_litellm(payload(1, NOW - 5, **asked), loops=False)
    assert plain.loop is None
    record.loop = None
    assert record == plain


@pytest.mark.parametrize(
    "changes",
    [
        {"call_type": "aembedding"},
        {"call_type": "rerank"},
        {"status": "failure"},
        {"messages": "redacted-by-litellm"},
        {"messages": [{"role": "user", "content": "redacted-by-litellm"}]},
        {"messages": 7},
    ],
)
def test_litellm_embeddings_failures_and_redacted_calls_have_no_print(changes: dict[str, Any]) -> None:
    (record,) = from_litellm(payload(1, NOW - 5, **{"messages": chat(PLANTED), **changes}))
    assert record.loop is None


@pytest.mark.parametrize(
    "attributes",
    [
        {"gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": PLANTED}]}])},
        {"ai.prompt.messages": json.dumps(chat(PLANTED))},
        {"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": PLANTED},
        {"llm.input_messages.0.message.role": "user", "llm.input_messages.0.message.content": PLANTED},
    ],
    ids=["today", "vercel", "openllmetry", "openinference"],
)
def test_spans_show_messages_in_the_words_of_four_instrumentations(attributes: dict[str, str | int]) -> None:
    (record,) = from_spans({"gen_ai.conversation.id": "c-1", **attributes})
    assert record.loop == of(chat(PLANTED), session="c-1", seconds=2.0)
    (plain,) = from_spans({"gen_ai.conversation.id": "c-1", **attributes}, loops=False)
    assert plain.loop is None


@pytest.mark.parametrize("text", ["[", "{}", "7", '"\\ud800"'])
def test_a_span_with_messages_that_cannot_be_read_is_kept_without_a_print(text: str) -> None:
    (record,) = from_spans({"gen_ai.input.messages": text})
    assert record.loop is None


def line(**more: Any) -> dict[str, Any]:
    return {"id": "l-1", "charge_period_start": NOW - 9, "effective_cost": 0.1, **more}


def test_lines_show_messages_in_a_field() -> None:
    content = {"messages": chat(PLANTED), "session": "s-1", "seconds": 2}
    (record,) = from_lines(line(content=content))
    assert record.loop == of(chat(PLANTED), session="s-1", seconds=2.0)
    assert [each.loop for each in from_lines(line(content=content), loops=False)] == [None]


@pytest.mark.parametrize("content", [None, 7, "text", [], {"messages": {}}, {"session": 7, "messages": "a"}])
def test_a_line_with_odd_content_is_kept_without_a_print(content: Any) -> None:
    (record,) = from_lines(line(content=content))
    assert record.loop is None


def test_a_line_that_stands_for_many_requests_has_no_print() -> None:
    (record,) = from_lines(line(requests=3, content={"messages": chat(PLANTED)}))
    assert record.loop is None


def test_the_option_is_off_unless_somebody_switches_it_on() -> None:
    off, on = load_text("{}"), load_text("loops: {enabled: true, key_hours: 6}")
    assert connector_context(off, ManualClock(NOW), HTTP).loops is None
    assert connector_context(on, ManualClock(NOW), HTTP).loops is not None


def test_a_call_that_is_shared_out_is_one_call() -> None:
    (record,) = from_lines(line(content={"messages": chat(PLANTED)}))
    shared = parts(record, record.tags, "team", {"search": 1.0, "ads": 2.0})
    assert [cast(UsageRecord, each).loop for each in shared] == [record.loop, None]


# --- what leaves the door ---------------------------------------------------------------------------------------------


def unkeyed(text: str) -> Iterator[bytes]:
    """The hashes that somebody could make of a text without the key, as they would be written."""
    for name in ("md5", "sha1", "sha256", "sha512", "blake2b"):
        digest = hashlib.new(name, text.encode()).digest()
        yield digest
        yield digest.hex()[:16].encode()
        yield b64encode(digest)[:12]
        yield str(int.from_bytes(digest[:8], "big")).encode()
        yield str(int.from_bytes(digest[:8], "big") >> 1).encode()


async def test_no_word_and_no_unkeyed_hash_of_a_prompt_goes_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asked = chat(f"{PLANTED} {LONG}")
    texts = [PLANTED, f"{PLANTED} {LONG}", "s-planted", *PLANTED.split()]
    found: list[UsageRecord] = []
    for number in range(60):
        at = NOW - 600 + 5 * number
        found += from_litellm(payload(number, at, messages=asked, response_cost=1.0))
        found += from_lines(line(id=f"l-{number}", content={"messages": asked, "session": "s-planted"}))
        found += from_lines(line(id=f"t-{number}", content={"messages": asked + 9 * step(f"Error: {PLANTED}")}))
    found += from_spans({"ai.prompt.messages": json.dumps(asked), "session.id": "s-planted"})
    for record in found:
        assert record.loop is not None
        record.received_at = record.charge_period_start
    log = MemoryLog(1)
    attribution = Attribution(AttributionSettings())
    await append_batch(log, Batch(found, cursor=""), source="gw", at=NOW, attribution=attribution)
    written = [message.value for message in log.of(USAGE)]
    settings = DetectorSettings()
    rollup, shard = Rollup(settings, USAGE, 1, "curb.usage/0"), ShardWithBills(settings)
    for offset, value in enumerate([*written]):
        sums = [*rollup.process(Message(USAGE, value, partition=0, offset=offset)), *rollup.flush(NOW + 100)]
        written += [each.value for each in sums] + [rollup.snapshot()]
        for message in sums:
            written += [each.value for each in shard.process(message)]
        written.append(shard.snapshot())
    written.append(caplog.text.encode())
    everything = b"\n".join(written)
    assert b"repetition/same" in everything, "the alert of the loop is among it"
    for text in texts:
        for secret in (
            text.encode(),
            text.upper().encode(),
            b64encode(text.encode()).rstrip(b"=")[:-2],
            *unkeyed(text),
        ):
            assert secret not in everything
