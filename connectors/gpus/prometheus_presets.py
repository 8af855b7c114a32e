"""Queries that need no thought: GPU metrics of dcgm-exporter, and the counters of gateways."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from curb.connectors.gpus.samples import METRICS
from curb.stream.settings import Settings

#: Fields a query may fill, by what it records.
USAGE_FIELDS = ("effective_cost", "requests", "errors", "input_tokens", "output_tokens", "cache_read_input_tokens")
GPU_FIELDS = ("effective_cost", "gpu_utilization", "memory_used", "power_usage", "gpus")

#: The samples of every GPU; `$selector` is put in by Curb.
DCGM = f'{{__name__=~"{"|".join(METRICS)}"$selector}}'

_LITELLM_BY = "sum by (team, team_alias, hashed_api_key, api_key_alias, requested_model, model)"
_OTEL_BY = "sum by (team, service_name, gen_ai_request_model, gen_ai_response_model)"
_OTEL_TOKENS = "gen_ai_client_token_usage_sum"
_VLLM_BY = "sum by (namespace, job, model_name)"


class PromQuery(Settings):
    """Records made of PromQL: one value a field, one record for each set of tags and step.

    `$step` in an expression is the step, such as `60s`.
    """

    name: str = Field(pattern=r"^[a-z0-9_-]+$", max_length=64, description="Unique name; part of the records' ids.")
    preset: Literal["", "dcgm", "litellm", "otel_genai", "vllm"] = Field(
        default="", description="Ready-made fields and tags: dcgm (GPUs), litellm, otel_genai, vllm (usage)."
    )
    record: Literal["usage", "gpu"] = Field(default="usage", description="What the records are of.")
    fields: dict[str, str] = Field(
        default={},
        description="Field → PromQL. usage: effective_cost, requests, errors, input_tokens, output_tokens, "
        "cache_read_input_tokens, each the amount of one step; gpu: effective_cost of one step or gpus (their number), "
        "gpu_utilization (percent), memory_used (GiB), power_usage (W).",
    )
    labels: dict[str, str] = Field(
        default={}, description="Tag → label it is taken from; several with `|` between them, the first that is there."
    )
    tags: dict[str, str] = Field(default={}, description="Tags for every record of this query.")
    priced: bool = Field(
        default=True,
        description="Whether tokens without a cost are priced by their model (tag model). Not where own GPUs serve "
        "them, which are charged already (vllm: never).",
    )
    selector: str = Field(
        default="", description='Further matchers for the dcgm preset, such as cluster="eu-1",job="dcgm".'
    )

    @model_validator(mode="after")
    def _fields_fit(self) -> PromQuery:
        if self.preset and self.fields:
            raise ValueError("give `preset` or `fields`, not both")
        if not self.preset and not self.fields:
            raise ValueError("`fields` is empty: name a field and its PromQL, or a preset")
        known = GPU_FIELDS if self.record == "gpu" else USAGE_FIELDS
        unknown = sorted(self.fields.keys() - set(known))
        if unknown:
            raise ValueError(f"fields: {', '.join(unknown)} unknown for {self.record}; there are {', '.join(known)}")
        if self.record == "gpu" and self.fields and not self.fields.keys() & {"effective_cost", "gpus"}:
            raise ValueError("a gpu record needs effective_cost or gpus, or it would cost nothing")
        return self

    def resolved(self) -> PromQuery:
        """The same with the preset's fields and labels filled in; what the query says itself wins."""
        if self.preset in ("", "dcgm"):
            return self
        preset = PRESETS[self.preset]
        own = {"labels": {**preset["labels"], **self.labels}, "priced": self.priced and self.preset != "vllm"}
        return self.model_copy(update={"fields": preset["fields"], "preset": "", **own})


def _increase(by: str, counter: str) -> str:
    """What a counter counted in a step, also the first value of a series that is new.

    `increase` does not see what a series counted before its first scrape. A series that is new on a target that was
    scraped before began at 0 since then. Of a target that was away, or is new itself, nothing is assumed.
    """
    new = f"{counter} unless {counter} offset $step and on (instance, job) (up offset $step == 1)"
    return f"{by} ({new} or increase({counter}[$step]))"


PRESETS: dict[str, dict[str, dict[str, str]]] = {
    "litellm": {
        "fields": {
            "effective_cost": _increase(_LITELLM_BY, "litellm_spend_metric_total"),
            "requests": _increase(_LITELLM_BY, "litellm_proxy_total_requests_metric_total"),
            "input_tokens": _increase(_LITELLM_BY, "litellm_input_tokens_metric_total"),
            "output_tokens": _increase(_LITELLM_BY, "litellm_output_tokens_metric_total"),
        },
        "labels": {
            "team": "team_alias|team",
            "api_key": "hashed_api_key",
            "key_alias": "api_key_alias",
            "model": "requested_model|model",
        },
    },
    "otel_genai": {
        "fields": {
            "requests": _increase(_OTEL_BY, "gen_ai_client_operation_duration_seconds_count"),
            "input_tokens": _increase(_OTEL_BY, f'{_OTEL_TOKENS}{{gen_ai_token_type="input"}}'),
            "output_tokens": _increase(_OTEL_BY, f'{_OTEL_TOKENS}{{gen_ai_token_type="output"}}'),
        },
        "labels": {"team": "team", "project": "service_name", "model": "gen_ai_response_model|gen_ai_request_model"},
    },
    "vllm": {
        "fields": {
            "requests": _increase(_VLLM_BY, "vllm:request_success_total"),
            "input_tokens": _increase(_VLLM_BY, "vllm:prompt_tokens_total"),
            "output_tokens": _increase(_VLLM_BY, "vllm:generation_tokens_total"),
        },
        "labels": {"team": "namespace", "project": "job", "model": "model_name"},
    },
}
