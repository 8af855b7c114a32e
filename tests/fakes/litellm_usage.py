"""What LiteLLM's generic_api callback posts: StandardLoggingPayloads, bodies and all."""

from __future__ import annotations

import json
from typing import Any

KINDS = ("litellm",)
#: Stands in every payload's prompt and answer; must never leave the request.
SECRET_PROMPT = "the secret launch date"


def payload(number: int, at: float, **changes: Any) -> dict[str, Any]:
    """One event as LiteLLM logs it; `metadata` in `changes` is merged, everything else replaces."""
    metadata = {
        "user_api_key_hash": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "user_api_key_alias": "search-prod",
        "user_api_key_team_id": "team-1",
        "user_api_key_team_alias": "search",
        "user_api_key_project_id": None,
        "user_api_key_org_id": None,
        "user_api_key_user_id": "ada",
        "user_api_key_auth_metadata": {"env": "prod"},
        "requester_ip_address": "10.0.0.7",
        "usage_object": {
            "prompt_tokens": 1000,
            "completion_tokens": 200,
            "total_tokens": 1200,
            "prompt_tokens_details": {"cached_tokens": 400, "audio_tokens": None},
        },
        **changes.pop("metadata", {}),
    }
    return {
        "id": f"chatcmpl-{number}",
        "litellm_call_id": f"call-{number}",
        "trace_id": f"trace-{number}",
        "call_type": "acompletion",
        "stream": False,
        "status": "success",
        "response_cost": 0.0045,
        "cost_breakdown": {"input_cost": 0.0025, "output_cost": 0.002, "total_cost": 0.0045},
        "custom_llm_provider": "openai",
        "total_tokens": 1200,
        "prompt_tokens": 1000,
        "completion_tokens": 200,
        "startTime": at,
        "endTime": at + 1.5,
        "completionStartTime": at + 0.5,
        "model": "gpt-4o",
        "model_id": "a1",
        "model_group": "gpt-4o",
        "cache_hit": None,
        "request_tags": ["feature:summaries", "User-Agent: curl", "User-Agent: curl/8.1", "beta"],
        "end_user": "",
        "messages": [{"role": "user", "content": SECRET_PROMPT * 50}],
        "response": {"choices": [{"message": {"content": SECRET_PROMPT}}]},
        "error_str": None,
        "hidden_params": {"response_cost": "0.0045"},
        "metadata": metadata,
        **changes,
    }


def array(payloads: list[dict[str, Any]]) -> bytes:
    """`log_format: json_array`, encoded as the gateway does (NaN stays NaN)."""
    return json.dumps(payloads).encode()


def ndjson(payloads: list[dict[str, Any]]) -> bytes:
    """`log_format: ndjson`."""
    return "\n".join(json.dumps(each) for each in payloads).encode()
