"""One call is one record: roll-ups, doubled instrumentations, gateways beside applications, every dialect of usage."""

from __future__ import annotations

import json
from typing import Any, cast

import aiohttp
import pytest

from curb.connectors.connector import Context
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens import litellm
from curb.connectors.tokens.otel_genai import Config, OtelGenAI
from curb.connectors.tokens.otel_tree import Calls, Node
from curb.stream.clock import ManualClock
from curb.stream.records.spend import UsageRecord
from tests.fakes.litellm_usage import payload
from tests.fakes.otel_genai import JSON, as_json, bare, traces

NOW = 1_750_000_000.0
PRICES = PriceBook.load()
ANSWER = "chatcmpl-AYJ5Zb3mZ6Q8pXc1vT2nR7kLw0eDf"
CONTEXT = Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), PRICES)
MINI = {"gen_ai.request.model": "gpt-4o-mini"}
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", **MINI}


def usage(given: int, produced: int) -> dict[str, Any]:
    return {"gen_ai.usage.input_tokens": given, "gen_ai.usage.output_tokens": produced}


class Source:
    """A connector, and what its exports gave: the first record of each id, as the detector counts."""

    def __init__(self, **settings: Any) -> None:
        data = {"kind": "otel_genai", "name": "otel", "token": "a-long-token", **settings}
        self.source: OtelGenAI = Config.model_validate(data).build(CONTEXT).source
        self.records: dict[str, UsageRecord] = {}
        self.dead = 0

    def export(self, *spans: dict[str, Any], scope: str = "app", resource: dict[str, Any] | None = None) -> Source:
        door = self.source.door("v1/traces", JSON)
        assert door is not None
        batch = door.parse(as_json(traces(list(spans), resource or {}, scope)), location="here", at=NOW)
        self.dead += len(batch.dead)
        for record in batch.records:
            assert isinstance(record, UsageRecord)
            self.records.setdefault(record.id, record)
        return self

    @property
    def dollars(self) -> float:
        return sum(record.effective_cost for record in self.records.values())

    @property
    def requests(self) -> int:
        return sum(record.requests for record in self.records.values())

    @property
    def only(self) -> UsageRecord:
        (record,) = self.records.values()
        return record


# --- roll-ups -------------------------------------------------------------------------------------------------------

AGENT = bare(1, NOW, None, **usage(3000, 300))
FIRST, SECOND = bare(2, NOW, 1, **CHAT, **usage(1000, 100)), bare(3, NOW, 1, **CHAT, **usage(2000, 200))


@pytest.mark.parametrize(
    "agent",
    [
        AGENT,
        bare(1, NOW, None, **usage(3000, 300), **MINI),  # it even has a model
        bare(1, NOW, None, **usage(3000, 300), **CHAT),  # and says that it is a call
        bare(1, NOW, None, **usage(3000, 300), **{"gen_ai.operation.name": "invoke_agent"}),
        bare(1, NOW, None, **usage(3000, 300), **MINI, **{"openinference.span.kind": "CHAIN"}),
        bare(1, NOW, None, **usage(3000, 300), **MINI, **{"traceloop.span.kind": "workflow"}),
        bare(1, NOW, None, **usage(3000, 300), **MINI, **{"langfuse.observation.type": "agent"}),
        bare(1, NOW, None, **usage(3000, 300), **MINI, **{"langsmith.span.kind": "chain"}),
        bare(1, NOW, None, **usage(3000, 300), **MINI, **{"ai.operationId": "ai.generateText"}),
    ],
)
@pytest.mark.parametrize("exports", ["together", "one by one", "agent between"])
def test_an_agent_that_repeats_its_calls_is_no_call(agent: dict[str, Any], exports: str) -> None:
    source = Source()
    if exports == "together":
        source.export(agent, FIRST, SECOND)
    elif exports == "one by one":
        source.export(FIRST).export(SECOND).export(agent)
    else:
        source.export(FIRST).export(agent, SECOND)
    assert (round(source.dollars, 8), source.requests) == (0.00063, 2)


def test_an_agent_above_spans_without_usage_and_in_a_later_export() -> None:
    source = Source().export(bare(9, NOW, 5, **CHAT, **usage(1000, 100))).export(bare(5, NOW, 4), bare(4, NOW, 1))
    source.export(bare(1, NOW, None, **MINI, **usage(1000, 100)))
    assert (source.requests, source.only.input_tokens) == (1, 1000)


def test_a_parent_that_arrives_first_keeps_the_usage() -> None:
    source = Source().export(bare(1, NOW, None, **CHAT, **usage(3000, 300))).export(FIRST, SECOND)
    assert (round(source.dollars, 8), source.requests) == (0.00063, 1)


def test_exports_that_are_sent_again_give_the_same() -> None:
    source = Source()
    for _ in range(3):
        source.export(FIRST, AGENT).export(SECOND)
    assert (round(source.dollars, 8), source.requests) == (0.00063, 2)


def test_spans_of_other_traces_have_nothing_to_do_with_it() -> None:
    other = bare(1, NOW, None, trace=8, **CHAT, **usage(3000, 300))
    assert Source().export(FIRST, SECOND, other).requests == 3


def test_a_retry_that_failed_inside_a_call_is_an_error() -> None:
    failed = bare(2, NOW, 1, **CHAT) | {"status": {"code": 2}}
    silent = bare(3, NOW, 1, **CHAT)
    source = Source().export(failed, silent, bare(1, NOW, None, **CHAT, **usage(10, 1)))
    assert (source.requests, sum(record.errors for record in source.records.values())) == (2, 1)


def test_an_embedding_inside_a_chat_repeats_nothing_of_it() -> None:
    """As a semantic cache makes it; an embedding around an embedding is still one."""
    embedding = {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "text-embedding-3-small"}
    inner, outer = bare(3, NOW, 2, **embedding, **usage(10, 0)), bare(2, NOW, 1, **embedding, **usage(10, 0))
    source = Source().export(inner, outer, bare(1, NOW, None, **CHAT, **usage(1000, 100)))
    assert sorted(record.input_tokens for record in source.records.values()) == [10, 1000]


def test_cycles_and_long_chains_of_spans_end() -> None:
    loop = [Node(b"a", b"b", True, True), Node(b"b", b"a", True, True), Node(b"c", b"c", True, True)]
    chain = [Node(b"%d" % n, b"%d" % (n + 1), True, True) for n in range(20_000)]
    calls = Calls()
    assert calls.repeated(loop) == {b"a", b"b", b"c"}
    assert len(calls.repeated(chain)) == 19_999


def test_memory_of_spans_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curb.connectors.tokens.otel_tree.MAX_SPANS", 10)
    calls = Calls()
    calls.repeated([Node(b"%d" % n, b"p%d" % n, True, True) for n in range(50)])
    assert (len(calls._chats._below), len(calls._chats._counted)) == (10, 10)


# --- one call, several reporters ------------------------------------------------------------------------------------


def call(number: int, parent: int | None = None, **values: Any) -> dict[str, Any]:
    return bare(number, NOW, parent, trace=number, **{**CHAT, **usage(1000, 100), **values})


def test_two_instrumentations_side_by_side_count_once() -> None:
    source = Source().export(call(1, **{"gen_ai.response.id": ANSWER}), scope="com.example.sdk")
    source.export(call(2, **{"gen_ai.response.id": ANSWER}), scope="opentelemetry.instrumentation.openai.v1")
    assert source.only.id == f"call/{ANSWER}"


def test_the_report_with_usage_wins_over_the_one_without() -> None:
    bare_one = bare(1, NOW, None, **CHAT, **{"gen_ai.response.id": ANSWER})
    cost = {"operation.cost": 0.5}
    source = Source().export(bare_one, call(2, **{"gen_ai.response.id": ANSWER}))
    assert (source.only.input_tokens, source.only.cost_source) == (1000, "priced")
    source = Source().export(
        call(1, **{"gen_ai.response.id": ANSWER}), call(2, **cost, **{"gen_ai.response.id": ANSWER})
    )
    assert source.only.effective_cost == 0.5


def test_the_callback_of_litellm_and_the_span_of_its_caller_are_one_record() -> None:
    settings = {"kind": "litellm", "name": "gateway", "token": "a-long-token"}
    gateway = litellm.LiteLLM(litellm.Config.model_validate(settings), PRICES)
    body = json.dumps(payload(1, NOW, id=ANSWER, custom_llm_provider="azure")).encode()
    (record,) = gateway.parse(body, location="here", at=NOW).records
    assert record.id == Source().export(call(1, **{"gen_ai.response.id": ANSWER})).only.id


def test_the_innermost_of_two_has_the_answer_of_the_outer() -> None:
    inner = {"openinference.span.kind": "LLM", "llm.model_name": "gpt-4o-mini", "llm.token_count.prompt": 1000}
    outer = bare(1, NOW, None, **CHAT, **usage(1000, 0), **{"gen_ai.response.id": ANSWER})
    assert Source().export(bare(2, NOW, 1, **inner), outer).only.id == f"call/{ANSWER}"
    source = Source().export(bare(2, NOW, 1, **inner), bare(3, NOW, 1, **inner), outer)
    assert f"call/{ANSWER}" not in source.records
    assert source.requests == 2


def test_ids_that_repeat_after_a_while_are_calls_of_their_trace() -> None:
    source = Source().export(call(1, **{"gen_ai.response.id": "chatcmpl-417"}))
    source.export(call(2, **{"gen_ai.response.id": "chatcmpl-417"}))
    assert source.requests == 2


# --- dialects -------------------------------------------------------------------------------------------------------

DIALECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "GenAI": ("", {**CHAT, **usage(1000, 200), "gen_ai.usage.cache_read.input_tokens": 600}),
    "GenAI, counts as texts": (
        "",
        {**CHAT, "gen_ai.usage.input_tokens": "1000", "gen_ai.usage.output_tokens": "200"}
        | {"gen_ai.usage.cache_read_input_tokens": 600.0},
    ),
    "GenAI before 2025": (
        "",
        {"gen_ai.system": "openai", "llm.request.type": "chat", **MINI, "gen_ai.usage.prompt_tokens": 1000}
        | {"gen_ai.usage.completion_tokens": 200, "gen_ai.usage.prompt_tokens_details.cached_tokens": 600},
    ),
    "OpenInference": (
        "openinference.instrumentation.openai",
        {"openinference.span.kind": "LLM", "llm.model_name": "gpt-4o-mini", "llm.provider": "openai"}
        | {"llm.token_count.prompt": 1000, "llm.token_count.completion": 200}
        | {"llm.token_count.prompt_details.cache_read": 600},
    ),
    "Langfuse, in OpenAI's words": (
        "langfuse-sdk",
        {"langfuse.observation.type": "generation", "langfuse.observation.model.name": "gpt-4o-mini"}
        | {
            "langfuse.observation.usage_details": '{"prompt_tokens": 1000, "completion_tokens": 200, '
            '"total_tokens": 1200, "prompt_tokens_details": {"cached_tokens": 600}}'
        },
    ),
    "Langfuse, in its own words": (
        "langfuse-sdk",
        {"langfuse.observation.type": "generation", "langfuse.observation.model.name": "gpt-4o-mini"}
        | {
            "langfuse.observation.usage_details": '{"input": 400, "input_cached_tokens": 600, "output": 150, '
            '"output_reasoning_tokens": 50, "total": 1200}'
        },
    ),
    "Vercel AI SDK": (
        "ai",
        {"ai.operationId": "ai.generateText.doGenerate", "ai.model.id": "gpt-4o-mini", "ai.model.provider": "openai"}
        | {"ai.usage.inputTokens": 1000, "ai.usage.outputTokens": 200, "ai.usage.cachedInputTokens": 600},
    ),
    "LiteLLM": (
        "litellm",
        {**CHAT, **usage(1000, 200)}
        | {"metadata.usage_object": "{'prompt_tokens': 1000, 'prompt_tokens_details': {'cached_tokens': 600}}"},
    ),
    "OpenLIT with Anthropic's input": (
        "openlit.instrumentation.anthropic",
        {**CHAT, **usage(400, 200), "gen_ai.usage.cache_read.input_tokens": 600},
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gives_the_same_call(name: str) -> None:
    scope, given = DIALECTS[name]
    record = Source().export(bare(1, NOW, None, **given), scope=scope).only
    tokens = (record.input_tokens, record.output_tokens, record.cache_read_input_tokens)
    assert (tokens, record.requests, record.tags["model"]) == ((1000, 200, 600), 1, "gpt-4o-mini")
    assert record.effective_cost == pytest.approx(0.000225)


def test_a_gateway_that_speaks_openinference() -> None:
    given = {"openinference.span.kind": "LLM", "llm.model_name": "gpt-4o", "llm.token_count.prompt": 100_000}
    more = {"llm.token_count.completion": 5000, "llm.token_count.prompt_details.cache_read": 0}
    record = Source().export(bare(1, NOW, None, **given, **more), scope="openinference").only
    assert (record.requests, record.effective_cost, record.cost_source) == (1, pytest.approx(0.30), "priced")


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ({"ai.operationId": "ai.embed.doEmbed", "ai.model.id": "text-embedding-3-small", "ai.usage.tokens": 9}, 9),
        ({"openinference.span.kind": "EMBEDDING", "embedding.model_name": "e", "llm.token_count.prompt": 9}, 9),
        ({"langfuse.observation.type": "embedding", "langfuse.observation.usage_details": '{"input": 9}'}, 9),
        ({"gen_ai.operation.name": "embeddings", "gen_ai.usage.input_tokens": 9}, 9),
        ({"gen_ai.operation.name": "chat", "gen_ai.usage.total_tokens": 9}, 9),
    ],
)
def test_embeddings_and_totals(given: dict[str, Any], tokens: int) -> None:
    assert Source().export(bare(1, NOW, None, **given)).only.input_tokens == tokens


def test_openinference_names_answer_and_model_inside_longer_texts_only() -> None:
    given = {"openinference.span.kind": "LLM", "llm.invocation_parameters": '{"model": "gpt-4o-mini", "n": 1}'}
    answer = {"output.value": '{"id":"' + ANSWER + '","choices":[{"message":"SECRET"}]}', "llm.model_name": "x"}
    record = Source().export(bare(1, NOW, None, **given, **answer)).only
    assert (record.id, record.request_model) == (f"call/{ANSWER}", "gpt-4o-mini")
    assert "SECRET" not in repr(record)


def test_the_two_spans_of_a_stream_of_logfire_are_one_call() -> None:
    opener, closer = bare(1, NOW, None, **CHAT), call(2, **{"gen_ai.response.id": ANSWER})
    assert Source().export(opener, closer, scope="logfire.openai").requests == 1
    assert Source().export(opener, closer, scope="app").requests == 2


def test_cache_writes_for_an_hour_cost_more() -> None:
    given = {**CHAT, "gen_ai.request.model": "claude-sonnet-4-5", **usage(1000, 0)}
    given |= {"gen_ai.usage.cache_write.input_tokens": 1000}
    hour = {"anthropic.usage.cache_creation.ephemeral_1h_input_tokens": 1000}
    wanted = PRICES.price("claude-sonnet-4-5", input_tokens=1000, cache_creation=1000, cache_creation_1h=1000)
    assert Source().export(bare(1, NOW, None, **given, **hour)).dollars == wanted


# --- costs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["gen_ai.cost.total_cost", "gen_ai.usage.cost", "operation.cost", "llm.cost.total", "my.cost"]
)
@pytest.mark.parametrize(
    ("given", "dollars", "source"),
    [
        (0.25, 0.25, "reported"),
        (1, 1.0, "reported"),
        ("0.25", 0.25, "reported"),
        (0.0, 0.00021, "priced"),
        (-1.0, 0.00021, "priced"),
        (float("nan"), 0.00021, "priced"),
    ],
)
def test_a_cost_in_the_span_is_used_unless_it_cannot_be_true(
    name: str, given: Any, dollars: float, source: str
) -> None:
    if (name, given) == ("my.cost", "0.25"):
        pytest.skip("the attribute that a configuration names must be a number")
    exported = Source(cost_attribute="my.cost").export(call(1, **{name: given}))
    assert (exported.only.effective_cost, exported.only.cost_source) == (pytest.approx(dollars), source)


def test_a_free_model_and_a_failed_call_may_cost_0() -> None:
    assert Source(free_models=["gpt-4o-mini"]).export(call(1, **{"operation.cost": 0.0})).dollars == 0
    assert Source().export(bare(1, NOW, None, **CHAT, **{"operation.cost": 0.0})).dollars == 0


def test_langfuse_reports_dollars_in_a_map() -> None:
    given = {"langfuse.observation.type": "generation", "langfuse.observation.model.name": "gpt-4o"}
    given |= {"langfuse.observation.usage_details": '{"input": 1000, "output": 200}'}
    total = Source().export(bare(1, NOW, None, **given, **{"langfuse.observation.cost_details": '{"total": 0.5}'}))
    parts = Source().export(
        bare(1, NOW, None, **given, **{"langfuse.observation.cost_details": '{"input": 0.25, "output": 0.5}'})
    )
    assert (total.dollars, parts.dollars) == (0.5, 0.75)


# --- tags -----------------------------------------------------------------------------------------------------------


def test_the_agent_is_named_by_the_span_around_the_call() -> None:
    named = bare(1, NOW, None, **{"gen_ai.agent.name": "support"})
    source = Source().export(bare(3, NOW, 2, **CHAT, **usage(1, 1)), bare(2, NOW, 1), named)
    assert source.only.tags["agent"] == "support"


def test_the_tags_that_litellm_vouches_for() -> None:
    vouched = {
        "metadata.user_api_key_hash": "88dc",
        "metadata.user_api_key_alias": "batch",
        "metadata.user_api_key_team_alias": "search",
        "metadata.user_api_key_team_id": "t1",
        "metadata.user_api_key_org_id": "",
        "metadata.user_api_key_user_id": "u1",
        "team": "claimed",
    }
    tags = Source().export(call(1, **vouched), resource={"service.name": "gateway"}).only.tags
    assert tags == {
        "api_key": "88dc",
        "key_alias": "batch",
        "team": "search",
        "user": "u1",
        "project": "gateway",
        "provider": "openai",
        "model": "gpt-4o-mini",
    }


# --- what was not counted -------------------------------------------------------------------------------------------


def test_scopes_without_calls_are_named_until_they_have_one() -> None:
    source = Source().export(bare(1, NOW), bare(2, NOW), scope="my.llm").export(bare(3, NOW), scope="httpx")
    assert source.source.notes() == ("spans without a call to a model, by scope: my.llm (2), httpx (1)",)
    source.export(call(4), scope="my.llm")
    assert source.source.notes() == ("spans without a call to a model, by scope: httpx (1)",)
