"""What gateways, providers and SDKs send has its right dollars, once, in a running daemon: odd shapes of the trade."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from curb.stream.time import iso
from tests.acceptance.daemons import Daemon, curb_json
from tests.fakes.litellm_usage import array, payload
from tests.fakes.otel_genai import as_json, attributes, bare, traces
from tests.ports import free_port

TOKEN = "ingest-token"
NOW = time.time() - 120
_CONFIG = """
log: {{directory: {directory}/data}}
http: {{port: {port}}}
commit_interval_s: 0.1
prices: {{book: {directory}/prices.json}}
connectors:
  - {{kind: litellm, name: gateway, token: {token}}}
  - {{kind: usage_jsonl, name: meter, token: {token}}}
  - {{kind: otel_genai, name: spans, token: {token}, tag_attributes: {{api_key: [key.name]}}}}
  - {{kind: anthropic, name: claude, key: sk-ant-admin-x, url: "http://127.0.0.1:{provider}", first_hours: 1}}
detector: {{bucket_s: 10, grace_s: 1}}
"""
#: A map of a search tool that is priced by results, and entries that cannot be read.
_PRICES = {
    "house-model": {"input_cost_per_token": 3e-6, "output_cost_per_token": 9e-6, "mode": "chat"},
    "tavily/search": {
        "mode": "search",
        "tiered_pricing": [
            {"input_cost_per_query": 0.008, "max_results_range": [0, 10]},
            {"input_cost_per_query": 0.016, "max_results_range": [11, 20]},
        ],
    },
    "odd-price": {"input_cost_per_token": "cheap"},
    "odd-entry": None,
}


def _minute(results: list[dict[str, Any]]) -> dict[str, Any]:
    start = NOW // 60 * 60
    return {"starting_at": iso(start), "ending_at": iso(start + 60), "results": results}


def _result(key: str, **more: Any) -> dict[str, Any]:
    cache = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": more.pop("hour", 0)}
    used = {"uncached_input_tokens": 1_000_000, "output_tokens": 100_000, "cache_read_input_tokens": 0}
    labels = {"workspace_id": "wrkspc_9", "model": "claude-opus-4-6", "service_tier": "standard"}
    return {**used, **labels, "cache_creation": cache, "api_key_id": key, "context_window": "0-200k", **more}


#: Opus 4.6 is $5 in, $25 out: 1.1 × in the US, half as a batch, and twice the input for what is cached an hour.
_RESULTS = [
    _result("us", inference_geo="us"),
    _result("half", inference_geo="global", service_tier="batch"),
    _result("us-batch", inference_geo="us", service_tier="batch"),
    _result("hour", inference_geo="not_available", hour=1_000_000),
]
_CLAUDE = {"us": 8.25, "half": 3.75, "us-batch": 4.125, "hour": 17.5}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """With a price map, and a provider that reports one minute."""
    directory, port, provider = tmp_path, free_port(), free_port()

    async def usage(request: web.Request) -> web.Response:
        wanted = request.query["starting_at"] <= _minute([])["starting_at"] < request.query["ending_at"]
        return web.json_response({"data": [_minute(_RESULTS)] if wanted else [], "has_more": False, "next_page": None})

    app = web.Application()
    app.router.add_get("/v1/organizations/usage_report/messages", usage)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", provider).start()
    (directory / "prices.json").write_text(json.dumps(_PRICES), encoding="utf-8")
    config = directory / "curb.yaml"
    values = {"directory": directory, "port": port, "provider": provider, "token": TOKEN}
    config.write_text(_CONFIG.format(**values), encoding="utf-8")
    running = Daemon(config, port)
    await running.start(ready_s=120)
    yield running
    await running.end()
    await runner.cleanup()


async def push(daemon: Daemon, path: str, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{daemon.url}/v1/ingest/{path}", data=io.BytesIO(body), headers=headers) as answer:
            assert answer.status == 200, await answer.text()


async def spend(daemon: Daemon, keys: dict[str, float]) -> dict[str, float]:
    """Dollars of these keys, once there is something of each and as many dollars as expected."""
    async with asyncio.timeout(120):
        while True:
            rows = await curb_json("spend", "--by", "api_key", "-c", str(daemon.config))
            found = {row["tags"]["api_key"]: row["total_usd"] for row in rows if row["tags"]["api_key"] in keys}
            if len(found) == len(keys) and sum(found.values()) >= sum(keys.values()) - 1e-9:
                return found


def event(key: str, number: int, **changes: Any) -> dict[str, Any]:
    metadata = {"user_api_key_hash": key, **changes.pop("metadata", {})}
    return payload(number, NOW + number % 60, metadata=metadata, **changes)


def line(key: str, number: int, model: str, **more: Any) -> bytes:
    record = {"id": f"{key}-{number}", "charge_period_start": NOW, "requests": 1, "request_model": model}
    return json.dumps({**record, "tags": {"api_key": key}, **more}).encode() + b"\n"


async def test_what_gateways_send_has_its_right_dollars_once(daemon: Daemon) -> None:
    negative = {"prompt_tokens": 100, "completion_tokens": 1000}
    cached = {**negative, "cache_read_input_tokens": 100_000, "cache_creation_input_tokens": 2000}
    polls = [
        event("batch", 20 + poll, id="batch_77", litellm_call_id=f"poll-{poll}", call_type="aretrieve_batch")
        | ({"response_cost": 7.25} if poll >= 2 else {"response_cost": 0.0, "cost_breakdown": None} | _NO_TOKENS)
        for poll in (4, 0, 3, 1, 2)
    ]
    for poll in polls[1:4:2]:
        poll["metadata"]["usage_object"] = None
    events = [
        event("long-id", 1, id="resp_" + "B" * 1295, litellm_call_id="a", response_cost=0.0123),
        event("long-id", 2, id="resp_" + "C" * 300, litellm_call_id="b", response_cost=0.01),
        event(
            "negative",
            3,
            model="claude-sonnet-4-5@20250929",
            custom_llm_provider="vertex_ai",
            response_cost=-0.5,
            cost_breakdown={"total_cost": -0.5},
            metadata={"usage_object": cached},
            **negative,
        ),
        event("free", 4, model="openrouter/x/y:free", custom_llm_provider="openrouter", response_cost=0.0)
        | {"cost_breakdown": None},
        event("parts", 5, response_cost=0.0, cost_breakdown={"input_cost": 0.4, "output_cost": 0.3}),
        event("parts", 6, response_cost=None, cost_breakdown={"total_cost": 2.5}),
        *polls,
    ]
    for body in (array(events), array(events[:1] + polls[:1])):  # what was sent is sent again
        await push(daemon, "gateway", body)
    expected = {"long-id": 0.0223, "negative": 0.0528, "free": 0.0, "parts": 3.2, "batch": 7.25}
    assert await spend(daemon, expected) == pytest.approx(expected)


_NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


async def test_names_of_models_have_the_price_that_they_mean(daemon: Daemon) -> None:
    names = {
        "house": ("house-model", 3.9),
        "ft-mini": ("ft:gpt-4o-mini-2024-07-18:acme::b", 0.42),
        "ft-4o": ("openai/ft:gpt-4o-2024-08-06:acme:x:c", 5.25),
        "nitro": ("openai/gpt-4o:nitro", 3.5),
    }
    tokens = {"input_tokens": 1_000_000, "output_tokens": 100_000}
    await push(daemon, "meter", b"".join(line(key, 1, name, **tokens) for key, (name, _) in names.items()))
    expected = {key: usd for key, (_, usd) in names.items()}
    assert await spend(daemon, expected) == pytest.approx(expected)


async def test_spans_and_metrics_of_sdks_count_calls_and_not_what_repeats_them(daemon: Daemon) -> None:
    used = {"gen_ai__operation__name": "chat", "gen_ai__request__model": "gpt-4o"}

    def child(number: int, tokens: int) -> dict[str, Any]:
        counts = {"gen_ai__usage__input_tokens": tokens, "gen_ai__usage__output_tokens": tokens // 10}
        return bare(number, NOW, 11, **used, **counts)

    agent = bare(11, NOW, gen_ai__usage__input_tokens=4000, gen_ai__usage__output_tokens=400)
    resource = {"service.name": "answers", "key.name": "agent"}
    # The parent comes in an export of its own, after its children.
    for spans in ([child(12, 1000), child(13, 3000)], [agent]):
        await push(daemon, "spans/v1/traces", as_json(traces(spans, resource, "pydantic-ai")))

    counts = {"llm__token_count__prompt": 10_000, "llm__token_count__completion": 1000}
    model = {"openinference__span__kind": "LLM", "llm__model_name": "gpt-4o-mini"}
    call = bare(21, NOW, 20, trace=9, **model, **counts, llm__token_count__prompt_details__cache_read=4000)
    chain = bare(20, NOW, trace=9, openinference__span__kind="CHAIN", **counts)
    resource = {"service.name": "gateway", "key.name": "inference"}
    await push(daemon, "spans/v1/traces", as_json(traces([chain, call], resource, "openinference")))

    for number, model_name in enumerate(("claude-opus-4-6", "claude-haiku-4-5")):
        await push(daemon, "spans/v1/metrics", as_json(_claude_code("coder", NOW + 10 * number, model_name, 5.5)))
    expected = {"agent": 0.014, "inference": 0.0018, "coder": 11.0}
    assert await spend(daemon, expected) == pytest.approx(expected)


def _claude_code(key: str, at: float, model: str, usd: float) -> dict[str, Any]:
    """Claude Code's metrics: dollars of an interval, and tokens that the dollars are of."""

    def metric(name: str, amounts: dict[str, float]) -> dict[str, Any]:
        times = {"startTimeUnixNano": str(int((at - 10) * 1e9)), "timeUnixNano": str(int(at * 1e9))}
        points = [
            {"attributes": attributes({"model": model, **({"type": kind} if kind else {})}), "asDouble": value, **times}
            for kind, value in amounts.items()
        ]
        return {"name": name, "sum": {"aggregationTemporality": 1, "isMonotonic": True, "dataPoints": points}}

    kinds = {"input": 20_000.0, "output": 90_000.0, "cacheRead": 9e6, "cacheCreation": 5e5}
    metrics = [metric("claude_code.cost.usage", {"": usd}), metric("claude_code.token.usage", kinds)]
    scope = {"scope": {"name": "com.anthropic.claude_code"}, "metrics": metrics}
    resource = {"attributes": attributes({"service.name": "claude-code", "key.name": key})}
    return {"resourceMetrics": [{"resource": resource, "scopeMetrics": [scope]}]}


async def test_reports_of_a_provider_have_its_surcharges_and_discounts(daemon: Daemon) -> None:
    assert await spend(daemon, _CLAUDE) == pytest.approx(_CLAUDE)


async def test_work_without_a_price_is_an_alert_and_no_silent_nothing(daemon: Daemon) -> None:
    def unpriced(key: str, number: int, kind: str, model: str, usage: Any) -> dict[str, Any]:
        metadata = {"usage_object": usage}
        given = event(key, number, call_type=kind, model=model, model_group=f"{key}-group", metadata=metadata)
        return {**given, "response_cost": 0.0, "cost_breakdown": None, **_NO_TOKENS}

    image = {"input_tokens": 23, "output_tokens": 1056, "total_tokens": 1079}
    await push(
        daemon,
        "gateway",
        array(
            [
                unpriced("image", 41, "aimage_generation", "gpt-image-77", image),
                unpriced("heard", 42, "atranscription", "whisper-99", None),
                unpriced("ranked", 43, "arerank", "rerank-v77", None),
            ]
        ),
    )
    async with asyncio.timeout(120):
        models: set[str] = set()
        while not {"gpt-image-77", "whisper-99", "rerank-v77"} <= models:
            alerts = await curb_json("alerts", "-c", str(daemon.config))
            models = {alert["tags"].get("model", "") for alert in alerts if alert["channel"] == "pricing/unknown_model"}
            await asyncio.sleep(0.5)
    expected = {"image": 0.0, "heard": 0.0, "ranked": 0.0}
    assert (await spend(daemon, expected))["image"] > 0
