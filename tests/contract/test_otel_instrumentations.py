"""What real instrumentations exported for calls of known usage: each call once, with its tokens and dollars.

The bodies in tests/data/otlp were captured on 2026-11-29 from the versions named here, against a local server that
answers every chat with 1,000 input tokens (600 of them cached; of Anthropic also 100 written to the cache) and 200
output tokens, and every embedding with 1,000 tokens. Events and attributes of the machine are removed. To add or
renew one, run `python -m tests.real.otlp_capture NAME COMMAND...`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import NamedTuple, cast

import aiohttp
import pytest

from curb.connectors.connector import Context
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.otel_genai import Config, OtelGenAI
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode
from curb.stream.records.spend import UsageRecord
from tests.fakes.otel_genai import JSON, PROTOBUF
from tests.house.tree import ROOT

DATA = ROOT / "tests" / "data" / "otlp"
LATER = 1_800_000_000.0
CONTEXT = Context(ManualClock(LATER), cast(aiohttp.ClientSession, None), PriceBook.load())
MINI, CLAUDE, EMBEDDING = 0.000225, 0.004455, 0.00002


class Total(NamedTuple):
    """Sums over the records."""

    requests: int
    errors: int
    input: int
    output: int
    cache_read: int
    cache_creation: int
    dollars: float


def chats(count: int, dollars: float = MINI, written: int = 0) -> Total:
    return Total(count, 0, 1000 * count, 200 * count, 600 * count, written * count, dollars * count)


#: Chat, stream, stream without usage, response, streamed response, embedding, refused call.
OPENAI = Total(7, 1, 5000, 800, 2400, 0, 4 * MINI + EMBEDDING)
#: Message, stream, stream by the helper of the SDK, which has spans of its own.
ANTHROPIC = chats(3, CLAUDE, 100)

#: File: what is true; versions.
CAPTURED: dict[str, tuple[Total, str]] = {
    "openai_openllmetry": (OPENAI, "openai 3.57.0, opentelemetry-instrumentation-openai 0.62.4"),
    "openai_openinference": (OPENAI, "openai 3.57.0, openinference-instrumentation-openai 0.1.66"),
    "openai_openinference+openllmetry": (OPENAI, "both of the above at once"),
    "openai_genai": (OPENAI, "openai 3.57.0, opentelemetry-instrumentation-genai-openai 1.3b0"),
    "openai_logfire": (OPENAI, "openai 3.57.0, logfire 5.4.0"),
    # It estimates the usage of a stream that has none: 6 tokens in and 3 out.
    "openai_openlit": (
        OPENAI._replace(input=5006, output=803, dollars=OPENAI.dollars + 6 * 0.15e-6 + 3 * 0.6e-6),
        "openai 2.54.0, openlit 1.45.0",
    ),
    # It has no cached tokens of streams.
    "anthropic_openlit": (
        Total(3, 0, 1600, 600, 600, 100, CLAUDE + 2 * (300 * 3e-6 + 200 * 15e-6)),
        "anthropic 2.14.0, openlit 1.45.0",
    ),
    "anthropic_sdk+openllmetry": (ANTHROPIC, "anthropic 2.14.0, opentelemetry-instrumentation-anthropic 0.62.4"),
    "anthropic_sdk+openinference": (ANTHROPIC, "anthropic 2.14.0, openinference-instrumentation-anthropic 3.1.0"),
    "anthropic_sdk+genai": (ANTHROPIC, "anthropic 2.14.0, opentelemetry-instrumentation-genai-anthropic 1.3b0"),
    # Chat, stream, response, embedding, and a generation written by hand with its own cost.
    "openai_langfuse": (
        Total(5, 0, 5000, 800, 1800, 0, 3 * MINI + EMBEDDING + 0.0045),
        "openai 3.57.0, langfuse 5.0.4; exported twice",
    ),
    "openai_agents_openllmetry": (chats(1), "openai-agents 0.24.0, opentelemetry-instrumentation-openai-agents 0.62.4"),
    "openai_agents_openllmetry+openai": (chats(1), "the same with opentelemetry-instrumentation-openai 0.62.4"),
    "openai_agents_openinference": (
        chats(1),
        "openai-agents 0.24.0, openinference-instrumentation-openai-agents 2.6.0",
    ),
    "pydantic_ai": (chats(2), "pydantic-ai 2.68.0"),
    "pydantic_ai+anthropic_sdk": (
        Total(3, 0, 3000, 600, 1800, 100, 2 * MINI + CLAUDE),
        "pydantic-ai 2.68.0, anthropic 2.14.0",
    ),
    "langchain": (chats(1), "langchain-openai 1.7.4, opentelemetry-instrumentation-langchain 0.62.4"),
    "litellm": (chats(2), "litellm 1.110.2, callback otel"),
    "strands": (chats(1), "strands-agents 1.62.0"),
    "google_genai": (
        chats(1, 400 * 0.3e-6 + 600 * 0.03e-6 + 200 * 2.5e-6),
        "google-genai 2.34.0, opentelemetry-instrumentation-google-genai 1.3b0",
    ),
    # Chat, response, stream, embedding.
    "vercel_ai_7": (Total(4, 0, 4000, 600, 1800, 0, 3 * MINI + EMBEDDING), "ai 7.0.173, @ai-sdk/otel 1.0.173"),
    # It has cached tokens of streams only.
    "vercel_ai_5": (
        Total(4, 0, 4000, 600, 600, 0, MINI + 2 * (1000 * 0.15e-6 + 200 * 0.6e-6) + EMBEDDING),
        "ai 5.0.277",
    ),
}
every_capture = pytest.mark.parametrize("name", CAPTURED)


def exports(name: str) -> Iterator[UsageRecord]:
    """The records of a captured body, sent twice; as in the detector, a repeated id does not count again."""
    (file,) = DATA.glob(f"{name}.*.gz")
    data = {"kind": "otel_genai", "name": "otel", "token": "a-long-token"}
    source: OtelGenAI = Config.model_validate(data).build(CONTEXT).source
    seen = set()
    for _ in range(2):
        door = source.door("v1/traces", JSON if ".json" in file.name else PROTOBUF)
        assert door is not None
        batch = door.parse(gzip.decompress(file.read_bytes()), location="here", at=LATER)
        assert not batch.dead
        for record in batch.records:
            assert isinstance(record, UsageRecord)
            if record.id not in seen:
                seen.add(record.id)
                yield record


def test_every_file_has_its_truth() -> None:
    assert {path.name.split(".")[0] for path in DATA.glob("*.gz")} == set(CAPTURED)


@every_capture
def test_each_call_counts_once_with_its_tokens_and_dollars(name: str) -> None:
    records = list(exports(name))
    total = Total(
        requests=sum(record.requests for record in records),
        errors=sum(record.errors for record in records),
        input=sum(record.input_tokens for record in records),
        output=sum(record.output_tokens for record in records),
        cache_read=sum(record.cache_read_input_tokens for record in records),
        cache_creation=sum(record.cache_creation_input_tokens for record in records),
        dollars=sum(record.effective_cost for record in records),
    )
    wanted, _ = CAPTURED[name]
    assert total._replace(dollars=0.0) == wanted._replace(dollars=0.0)
    assert total.dollars == pytest.approx(wanted.dollars)


@every_capture
def test_no_prompt_and_no_answer_leaves(name: str) -> None:
    written = b"".join(map(encode, exports(name)))
    assert b"SECRET" not in written
    assert b"Hello" not in written


@pytest.mark.parametrize(
    ("name", "agent"),
    [
        ("openai_agents_openllmetry", "Helper"),
        ("openai_agents_openinference", "Helper"),
        ("pydantic_ai", "helper"),
        ("strands", "Helper"),
        ("vercel_ai_7", "f"),
        ("vercel_ai_5", "f"),
    ],
)
def test_calls_have_the_agent_around_them(name: str, agent: str) -> None:
    assert agent in {record.tags.get("agent") for record in exports(name)}
