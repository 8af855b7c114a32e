"""The id of a call: one for every reporter of the same answer, none where an answer's id is not unique."""

from __future__ import annotations

import base64

import pytest

from curb.connectors.tokens.call_id import call_id

LONG = "chatcmpl-AYJ5Zb3mZ6Q8pXc1vT2nR7kLw0eDf"


@pytest.mark.parametrize("provider", ["openai", "azure", "litellm_proxy", "", None])
def test_a_random_id_is_the_call_whatever_the_provider_is_called(provider: str | None) -> None:
    assert call_id(provider, LONG) == f"call/{LONG}"


def test_a_short_id_counts_with_its_provider_in_every_spelling() -> None:
    assert call_id("OpenAI ", "chatcmpl-abc") == call_id("openai", "chatcmpl-abc") == "call/openai/chatcmpl-abc"
    assert call_id("az.ai.openai", "c-a") == call_id("azure.ai.openai", "c-a") == call_id("azure", "c-a")
    assert call_id("vertex_ai", "c-a") == call_id("gcp.gemini", "c-a")
    assert call_id("openai", "c-a") != call_id("anthropic", "c-a")


@pytest.mark.parametrize("counted", ["chatcmpl-417", "resp_1", "7", "", None, " ", "cmpl-", "a\nb"])
def test_ids_that_count_or_are_none_name_no_call(counted: str | None) -> None:
    assert call_id("openai", counted) is None


def test_an_id_of_any_length_fits_a_record() -> None:
    first, other = call_id("openai", "resp_" + "a" * 452), call_id("openai", "resp_" + "a" * 451 + "b")
    assert first != other
    assert first is not None
    assert len(first) < 128


def test_an_id_that_litellm_wrapped_is_the_id_inside() -> None:
    inner = "resp_0a3b5c7d9e1f0a3b5c7d9e1f0a3b5c7d"
    wrapped = base64.b64encode(f"litellm:custom_llm_provider:openai;model_id:m1;response_id:{inner}".encode()).decode()
    assert call_id("openai", f"resp_{wrapped}") == call_id("azure", inner) == f"call/{inner}"
    assert call_id("openai", f"resp_{inner}") == f"call/resp_{inner}"
