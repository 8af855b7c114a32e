"""What a span says of a call, in the words of every instrumentation that Curb knows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from curb.connectors.decode import Rejected
from curb.connectors.tokens.otlp import Value

# The first name of a row that is there counts: today's conventions, those before, then OpenInference (`llm.`),
# OpenLLMetry (`llm.usage.`) and the Vercel AI SDK (`ai.`).
INPUT = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "llm.usage.prompt_tokens",
    "ai.usage.inputTokens",
    "ai.usage.promptTokens",
    "ai.usage.tokens",
)
OUTPUT = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "llm.usage.completion_tokens",
    "ai.usage.outputTokens",
    "ai.usage.completionTokens",
)
#: Read only where neither of the two above is there; it counts as input.
TOTAL = ("gen_ai.usage.total_tokens", "llm.token_count.total", "llm.usage.total_tokens", "ai.usage.totalTokens")
_USAGE = frozenset({*INPUT, *OUTPUT, *TOTAL})
CACHE_READ = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "gen_ai.usage.input_tokens.cached",
    "gen_ai.usage.cached_tokens",
    "gen_ai.usage.cached_input_tokens",
    "gen_ai.usage.input_cached_tokens",
    "gen_ai.usage.cache_read_tokens",
    "gen_ai.usage.details.cache_read_tokens",
    "gen_ai.usage.details.cache_read_input_tokens",
    "gen_ai.usage.details.cached_tokens",
    "gen_ai.usage.prompt_tokens_details.cached_tokens",
    "gen_ai.usage.input_tokens_details.cached_tokens",
    "llm.token_count.prompt_details.cache_read",
    "llm.usage.cache_read_input_tokens",
    "ai.usage.inputTokenDetails.cacheReadTokens",
    "ai.usage.cachedInputTokens",
)
CACHE_CREATION = (
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
    "gen_ai.usage.cache_write_input_tokens",
    "gen_ai.usage.input_tokens.cache_write",
    "gen_ai.usage.cache_write_tokens",
    "gen_ai.usage.details.cache_write_tokens",
    "gen_ai.usage.details.cache_creation_input_tokens",
    "gen_ai.usage.input_tokens_details.cache_creation_tokens",
    "llm.token_count.prompt_details.cache_write",
    "llm.usage.cache_creation_input_tokens",
    "ai.usage.inputTokenDetails.cacheWriteTokens",
)
#: Part of the one above that is kept for an hour and costs more.
CACHE_CREATION_1H = ("anthropic.usage.cache_creation.ephemeral_1h_input_tokens",)
#: Dollars.
COSTS = (
    "gen_ai.cost.total_cost",
    "gen_ai.usage.cost",
    "gen_ai.usage.total_cost",
    "operation.cost",
    "llm.cost.total",
    "llm.usage.cost",
)
RESPONSE_MODELS = (
    "gen_ai.response.model",
    "llm.response.model_name",
    "llm.model_name",
    "embedding.model_name",
    "langfuse.observation.model.name",
    "ai.response.model",
)
REQUEST_MODELS = ("gen_ai.request.model", "llm.request.model_name", "ai.model.id", "llm.request.model", "model")
PROVIDERS = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "ai.model.provider")
RESPONSE_IDS = ("gen_ai.response.id", "ai.response.id", "llm.response.id")
#: Operations whose spans repeat the usage of the calls below them, or have none.
NOT_CALLS = frozenset(
    {"invoke_agent", "create_agent", "agent_step", "execute_tool", "invoke_workflow", "plan", "retrieval", "evaluate"}
)
#: Operations that are calls to a model even when they failed and report no usage.
CALLS = frozenset(
    {"chat", "text_completion", "generate_content", "embeddings", "completion", "embedding", "rerank", "responses"}
)
#: Kinds of OpenInference, Langfuse and LangSmith that are calls; all others stand around calls.
_KINDS = ("openinference.span.kind", "langfuse.observation.type", "langsmith.span.kind")
_CALL_KINDS = frozenset({"llm", "embedding", "generation"})
#: Instrumentations whose input does not include cached tokens.
_INPUT_WITHOUT_CACHED = ("openlit.instrumentation.anthropic",)
#: OpenInference has the answer's id and the requested model only inside longer texts; nothing else is taken from them.
_ANSWER_ID = re.compile(r'\{\s*"id":\s*"([^"\\]{1,600})"')
_REQUESTED = re.compile(r'"model":\s*"([^"\\]{1,200})"')
_LANGFUSE = "langfuse.observation."
#: A longer text is no map of counts.
_MAX_DETAILS_CHARS = 20_000

Kind = Literal["call", "around", "other"]


class Call(NamedTuple):
    """A span's account of a call; tokens include cached ones as Curb's records do."""

    kind: Kind
    has_usage: bool
    provider: str = ""
    response_id: str = ""
    #: The answering model, then the requested model, as far as they are reported.
    models: tuple[str, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read: int = 0
    cache_creation: int = 0
    cache_creation_1h: int = 0
    #: Dollars, where the span has a believable amount.
    cost: float | None = None
    tier: str = ""
    #: An embedding: it says nothing of the usage of a chat around it.
    is_embedding: bool = False


def read(found: Mapping[str, Value], scope: str = "") -> Call | Rejected:
    """The call in the attributes of a span of the instrumentation `scope`, or why its counts cannot be read."""
    found = _with_langfuse(found)
    has_usage = not _USAGE.isdisjoint(found)
    kind = _kind(found, scope, has_usage)
    if kind != "call":
        return Call(kind, has_usage)
    found = _with_litellm(found)
    counts = [count_of(found, each) for each in (INPUT, OUTPUT, CACHE_READ, CACHE_CREATION, CACHE_CREATION_1H)]
    if not any(name in found for name in (*INPUT, *OUTPUT)):
        counts[0] = count_of(found, TOTAL)
    if wrong := next((each for each in counts if isinstance(each, Rejected)), None):
        return wrong
    given, produced, cached, created, hour = (int(each) for each in counts if not isinstance(each, Rejected))
    if 0 <= given < cached + created or scope.startswith(_INPUT_WITHOUT_CACHED):
        given += cached + created
    return Call(
        kind="call",
        has_usage=has_usage,
        provider=_text(found, PROVIDERS),
        response_id=_response_id(found),
        models=models_of(found),
        input_tokens=given,
        output_tokens=produced,
        cache_read=cached,
        cache_creation=created,
        cache_creation_1h=min(hour, created),
        cost=cost_of(found, COSTS),
        tier=_text(found, ("openai.response.service_tier", "gen_ai.openai.response.service_tier")),
        is_embedding=_is_embedding(found),
    )


def models_of(found: Mapping[str, Value]) -> tuple[str, ...]:
    """The model that answered and the model that was asked for, as far as they are reported."""
    asked = _text(found, REQUEST_MODELS)
    if not asked and (match := _REQUESTED.search(str(found.get("llm.invocation_parameters", ""))[:_MAX_DETAILS_CHARS])):
        asked = match[1]
    return tuple(model for model in (_text(found, RESPONSE_MODELS), asked) if model)


def count_of(found: Mapping[str, Value], names: tuple[str, ...]) -> int | Rejected:
    """The first of these attributes as a count; 0 when none is there."""
    name = next((each for each in names if each in found), None)
    if name is None:
        return 0
    value = found[name]
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    if isinstance(value, str | bool) or not (isinstance(value, int) or value.is_integer()):
        return Rejected("wrong_type", f"{name} is not a whole number")
    return int(value)


def cost_of(found: Mapping[str, Value], names: Iterable[str]) -> float | None:
    """The first of these attributes that is an amount above 0 dollars; else 0 where one is 0, else None."""
    free = None
    for name in names:
        value = found.get(name)
        if value is None or isinstance(value, bool):
            continue
        try:
            amount = float(value)
        except (ValueError, OverflowError):
            continue
        if math.isfinite(amount) and amount > 0:
            return amount
        free = 0.0 if amount == 0 else free
    return free


def _kind(found: Mapping[str, Value], scope: str, has_usage: bool) -> Kind:
    operation = found.get("gen_ai.operation.name")
    own = next((found[name] for name in _KINDS if found.get(name)), None)
    vercel = str(found.get("ai.operationId", ""))
    if operation in NOT_CALLS or "traceloop.span.kind" in found or (own and str(own).lower() not in _CALL_KINDS):
        return "around"
    if vercel.startswith("ai."):  # "ai.generateText" stands around "ai.generateText.doGenerate"
        return "call" if ".do" in vercel else "around"
    if own or operation in CALLS or found.get("llm.request.type") in CALLS:
        return "other" if _is_logfire_opener(found, scope, has_usage) else "call"
    # Agents of older SDKs have usage, and neither an operation nor a model.
    return "other" if not has_usage else "call" if models_of(found) else "around"


def _is_embedding(found: Mapping[str, Value]) -> bool:
    kinds = {str(found.get(name, "")).lower() for name in ("gen_ai.operation.name", "llm.request.type", *_KINDS)}
    return not kinds.isdisjoint({"embedding", "embeddings"}) or ".doEmbed" in str(found.get("ai.operationId", ""))


def _is_logfire_opener(found: Mapping[str, Value], scope: str, has_usage: bool) -> bool:
    """Logfire writes two spans for a stream; the first has neither usage nor the id of an answer."""
    opener = scope.startswith("logfire.") and not has_usage and "gen_ai.response.id" not in found
    return opener and found.get("logfire.level_num", 0) in (0, 9)


def _response_id(found: Mapping[str, Value]) -> str:
    given = _text(found, RESPONSE_IDS)
    if not given and "openinference.span.kind" in found:
        match = _ANSWER_ID.match(str(found.get("output.value", ""))[:700])
        return match[1] if match else ""
    return given


def _text(found: Mapping[str, Value], names: tuple[str, ...]) -> str:
    return next((value for name in names if isinstance(value := found.get(name), str) and value), "")


def _with_litellm(found: Mapping[str, Value]) -> Mapping[str, Value]:
    """LiteLLM has the cached tokens only in a Python text of its usage."""
    usage = found.get("metadata.usage_object")
    if not isinstance(usage, str) or len(usage) > _MAX_DETAILS_CHARS:
        return found
    more: dict[str, Value] = {}
    for name, pattern in (
        (CACHE_READ[0], r"'(?:cache_read_input_tokens|cached_tokens)': ([1-9][0-9]{0,17})\b"),
        (CACHE_CREATION[0], r"'cache_creation_input_tokens': ([1-9][0-9]{0,17})\b"),
    ):
        if match := re.search(pattern, usage):
            more[name] = int(match[1])
    return {**more, **found}


def _with_langfuse(found: Mapping[str, Value]) -> Mapping[str, Value]:
    """Langfuse's maps of usage and cost, as the attributes they stand for."""
    if f"{_LANGFUSE}usage_details" not in found and f"{_LANGFUSE}cost_details" not in found:
        return found
    more: dict[str, Value] = {}
    usage = _numbers(found.get(f"{_LANGFUSE}usage_details"))
    if usage:
        more |= _langfuse_usage(usage)
    cost = _numbers(found.get(f"{_LANGFUSE}cost_details"))
    if cost:
        more[COSTS[0]] = cost["total"] if "total" in cost else math.fsum(cost.values())
    return {**more, **found}


def _langfuse_usage(usage: Mapping[str, float]) -> dict[str, Value]:
    """Usage in the words of a provider, where cached tokens are a part of the input, or in Langfuse's, where not."""
    given = max(usage.get(name, 0.0) for name in ("prompt_tokens", "input_tokens", "input"))
    produced = max(usage.get(name, 0.0) for name in ("completion_tokens", "output_tokens", "output"))
    total = max(usage.get(name, 0.0) for name in ("total_tokens", "total"))
    cached = {name: amount for name, amount in usage.items() if "cache" in name}
    written = {name for name in cached if "creation" in name or "write" in name}
    if "input" in usage or "output" in usage:  # every name counts tokens of its own, unless the total says otherwise
        more_in = math.fsum(usage[name] for name in usage if name.startswith("input_") or name in cached)
        more_out = math.fsum(usage[name] for name in usage if name.startswith("output_"))
        if not total or given + produced + more_in + more_out <= total:
            given, produced = given + more_in, produced + more_out
    read = max((amount for name, amount in cached.items() if name not in written), default=0.0)
    created = max((cached[name] for name in written), default=0.0)
    return {INPUT[0]: given, OUTPUT[0]: produced, CACHE_READ[0]: read, CACHE_CREATION[0]: created}


def _numbers(text: Value | None) -> dict[str, float]:
    """The numbers of a JSON map; those of maps inside are named "outer/inner"."""
    if not isinstance(text, str) or len(text) > _MAX_DETAILS_CHARS:
        return {}
    try:
        plain: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    numbers: dict[str, float] = {}
    for name, value in plain.items() if isinstance(plain, dict) else ():
        inner = value.items() if isinstance(value, dict) else [(name, value)]
        for key, number in inner:
            if isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < 2**63:
                numbers[key if not isinstance(value, dict) else f"{name}/{key}"] = float(number)
    return numbers
