"""Compares Curb's prices with LiteLLM's cost calculator: every model of one map, in 27 shapes of usage.

    python -m benchmarks.prices.compare [--all]

It needs LiteLLM beside Curb, in an environment of its own (`pip install -e . litellm`), and reads the map in LiteLLM's
wheel. A difference is one beyond a millionth. It prints a table of shapes and, for each kind of difference, how many
there are, an example, and who is right; `--all` prints every difference of no known kind.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from benchmarks.prices.kinds import KINDS, kind_of
from curb.connectors.pricing.book import PriceBook
from curb.connectors.pricing.entry import ServiceTier, Tokens


class Shape(NamedTuple):
    """One form of usage. `tokens` as Curb counts them."""

    name: str
    tokens: Tokens = Tokens()
    tier: ServiceTier = "standard"
    geo: str = ""
    seconds: float = 0
    characters: int = 0


K = 1000
SHAPES = (
    Shape("short", Tokens(K, 100)),
    Shape("150,000 in", Tokens(150 * K, K)),
    Shape("250,000 in", Tokens(250 * K, K)),
    Shape("300,000 in", Tokens(300 * K, K)),
    Shape("600,000 in", Tokens(600 * K, K)),
    Shape("read from cache", Tokens(K, 100, 400)),
    Shape("300,000 in, most from cache", Tokens(300 * K, K, 200 * K)),
    Shape("written to cache", Tokens(K, 100, 0, 400)),
    Shape("written for an hour", Tokens(K, 100, 0, 400, 400)),
    Shape("written for 12 hours", Tokens(K, 100, 0, 400, 0, 400)),
    Shape("read and written", Tokens(K, 100, 300, 400, 100)),
    Shape("300,000 in, written for an hour", Tokens(300 * K, K, 0, 200 * K, 200 * K)),
    Shape("reasoning", Tokens(K, K, reasoning=400)),
    Shape("audio in", Tokens(K, 100, audio_input=300)),
    Shape("audio out", Tokens(K, 100, audio_output=60)),
    Shape("cached audio", Tokens(K, 100, 400, audio_input=200, cache_read_audio=300)),
    Shape("image tokens in", Tokens(K, 100, image_input=300)),
    Shape("image tokens out", Tokens(K, 100, image_output=60)),
    Shape("video tokens in", Tokens(K, 100, video_input=300)),
    Shape("priority", Tokens(K, 100, 400), "priority"),
    Shape("flex", Tokens(K, 100, 400), "flex"),
    Shape("priority, 300,000 in", Tokens(300 * K, K, 100 * K), "priority"),
    Shape("batch", Tokens(K, 100), "batch"),
    Shape("batch, 300,000 in, cached", Tokens(300 * K, K, 100 * K), "batch"),
    Shape("inference in the US", Tokens(K, 100, 300, 100), geo="us"),
    Shape("60 s of audio to text", seconds=60),
    Shape("1,000 characters to speech", characters=K),
)


def usage_of(shape: Shape) -> Any:
    """The same for LiteLLM."""
    from litellm.types.utils import (  # type: ignore[import-not-found, unused-ignore]
        CacheCreationTokenDetails,
        CompletionTokensDetailsWrapper,
        PromptTokensDetailsWrapper,
        Usage,
    )

    tokens = shape.tokens
    writes = {"ephemeral_1h_input_tokens": tokens.cache_creation_1h}
    writes["ephemeral_12h_input_tokens"] = tokens.cache_creation_12h
    writes["ephemeral_5m_input_tokens"] = tokens.cache_creation - sum(writes.values())
    media = tokens.audio_input + tokens.cache_read_audio + tokens.image_input + tokens.video_input
    given: dict[str, Any] = {
        "cached_tokens": tokens.cache_read,
        "cache_creation_tokens": tokens.cache_creation,
        "cache_creation_token_details": CacheCreationTokenDetails(**writes) if tokens.cache_creation else None,
        "audio_tokens": tokens.audio_input + tokens.cache_read_audio,
        "image_tokens": tokens.image_input,
        "video_tokens": tokens.video_input,
        "text_tokens": tokens.input - media if media else None,
    }
    if tokens.cache_read_audio:
        text = tokens.cache_read - tokens.cache_read_audio
        given["cached_tokens_details"] = {"audio_tokens": tokens.cache_read_audio, "text_tokens": text}
    made = {
        "reasoning_tokens": tokens.reasoning,
        "audio_tokens": tokens.audio_output,
        "image_tokens": tokens.image_output,
    }
    made["text_tokens"] = tokens.output - sum(made.values())
    more = {"inference_geo": shape.geo} if shape.geo else {}
    return Usage(
        prompt_tokens=tokens.input,
        completion_tokens=tokens.output,
        total_tokens=tokens.input + tokens.output,
        prompt_tokens_details=PromptTokensDetailsWrapper(**{key: count for key, count in given.items() if count}),
        completion_tokens_details=CompletionTokensDetailsWrapper(**made),
        **more,
    )


def litellms(model: str, raw: dict[str, Any], shape: Shape, usage: Any) -> float:
    """LiteLLM's dollars. Raises whatever it raises for a model it cannot price."""
    from litellm import cost_calculator  # type: ignore[import-not-found, unused-ignore]

    provider = raw.get("litellm_provider")
    if shape.tier == "batch":
        return sum(cost_calculator.batch_cost_calculator(usage, model, provider))
    more: dict[str, Any] = {"data_residency": shape.geo or None}
    if shape.tier != "standard":
        more["service_tier"] = shape.tier
    if shape.seconds:
        more |= {"call_type": "transcription", "audio_transcription_file_duration": shape.seconds}
    if shape.characters:
        more |= {"call_type": "speech", "prompt_characters": shape.characters}
    return sum(cost_calculator.cost_per_token(model, custom_llm_provider=provider, usage_object=usage, **more))


def curbs(book: PriceBook, model: str, shape: Shape, at: float) -> float | None:
    """Curb's dollars, None where it has no price."""
    counts = shape.tokens._asdict()
    units = {"seconds_input": shape.seconds} if shape.seconds else {}
    units |= {"characters_input": float(shape.characters)} if shape.characters else {}
    price = book.find(model, at=at)
    tokens = Tokens(**counts)
    if price is None or not price.covers(tokens, units):
        return None
    return price.cost(tokens, shape.tier, units, [shape.geo] if shape.geo else [])


def fits(raw: dict[str, Any], shape: Shape) -> bool:
    """Whether models of this kind are used like that."""
    mode = raw.get("mode")
    if shape.seconds:
        return mode == "audio_transcription" and "input_cost_per_second" in raw
    if shape.characters:
        return mode == "audio_speech" and "input_cost_per_character" in raw
    if not any(key in raw for key in ("input_cost_per_token", "output_cost_per_token", "tiered_pricing")):
        return False
    return mode in ("chat", "completion", "responses", "embedding", "realtime", None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prices.compare", description=__doc__)
    parser.add_argument("--all", action="store_true", help="Print every difference of no known kind.")
    asked = parser.parse_args()
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    try:
        import litellm  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        sys.exit("LiteLLM is needed beside Curb, in an environment of its own: pip install -e . litellm")
    litellm.suppress_debug_info = True
    models: dict[str, Any] = {name: dict(raw) for name, raw in litellm.model_cost.items() if isinstance(raw, dict)}
    book, at = PriceBook(models, as_of=""), time.time()
    rows, found = Counter[tuple[str, str]](), defaultdict[str, list[str]](list)
    for shape in SHAPES:
        usage = usage_of(shape)
        for model, raw in models.items():
            if not fits(raw, shape):
                continue
            theirs = partial(litellms, model, raw, shape, usage)
            outcome, difference = _compared(theirs, curbs(book, model, shape, at))
            if difference:
                outcome = kind_of(models, model, shape.tokens, shape.tier)
                found[outcome].append(f"{model}, {shape.name}: Curb {difference[0]}, LiteLLM {difference[1]}")
            rows[shape.name, outcome if outcome in ("same", "no answer") else "different"] += 1
    _print(rows, found, list_all=asked.all)


def _compared(theirs: Callable[[], float], ours: float | None) -> tuple[str, tuple[float | None, float] | None]:
    import openai  # type: ignore[import-not-found, unused-ignore]

    try:
        usd = theirs()
    except (openai.OpenAIError, ValueError, KeyError, TypeError, OSError):
        return "no answer", None
    if ours is not None and abs(usd - ours) <= 1e-6 * max(abs(usd), abs(ours)):
        return "same", None
    return "", (ours, usd)


def _print(rows: Counter[tuple[str, str]], found: dict[str, list[str]], *, list_all: bool) -> None:
    print("| usage | same | different | LiteLLM has no answer |\n|---|---|---|---|")
    for shape in SHAPES:
        counts = [rows[shape.name, outcome] for outcome in ("same", "different", "no answer")]
        print(f"| {shape.name} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    print("\n| differences | kind | who is right |\n|---|---|---|")
    for kind, lines in sorted(found.items(), key=lambda item: -len(item[1])):
        print(f"| {len(lines):,} | {kind} | {KINDS.get(kind, '?')} |")
        print(f"<!-- {lines[0]} -->")
        if list_all and kind not in KINDS:
            print("\n".join(f"    {line}" for line in lines))


if __name__ == "__main__":
    main()
