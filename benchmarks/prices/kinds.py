"""Kinds of differences between Curb's prices and LiteLLM's, and who is right."""

from __future__ import annotations

from typing import Any

from curb.connectors.pricing.entry import Tokens

#: Kind → who is right, and why.
KINDS: dict[str, str] = {
    "batch, provider not known for it": "Curb, on the safe side: LiteLLM halves the price of every provider; Curb only "
    "of those that sell batches at half, and where the map has a price for them",
    "batch, cached or long": "Curb, on the safe side: LiteLLM halves cached tokens where the map names no price for "
    "batches, and reads the price of a long request only where it is named for batches; Curb halves cached tokens of "
    "Claude only and takes half of the long price",
    "cache writes at 0": "Curb: the map's 0 means that a write costs nothing extra; providers charge it as input",
    "one-hour writes of Claude": "Curb: Anthropic charges them at twice the input on every platform; LiteLLM takes the "
    "5-minute price where the map is silent",
    "cached, long or in a tier": "Curb, on the safe side: where the map names a higher input price but none for cached "
    "or written tokens, they cost more as well; LiteLLM keeps the base price",
    "prices that Perplexity's calculator leaves out": "Curb: the map names prices above a length, of cache writes or "
    "in the US, which LiteLLM's own calculator for Perplexity does not read",
    "video without a price": "Curb, on the safe side: the map names a price of images and none of video; Curb takes it "
    "for video as well, LiteLLM the price of text",
    "another entry": "either: the map has the model twice, as `name` and `provider/name`, at two prices; LiteLLM reads "
    "the second, Curb the exact name",
}


def kind_of(models: dict[str, Any], model: str, tokens: Tokens, tier: str) -> str:
    """The kind of a difference; "unknown" where none is known. `tier` and `tokens` as in `Shape`."""
    raw = models[model]
    provider = str(raw.get("litellm_provider") or "")
    if f"{provider}/{model}" in models or model.startswith(f"{provider}/{provider}/"):
        return "another entry"
    if tier == "batch":
        plain = not tokens.cache_read and not any(key.endswith("_batches") for key in raw)
        return "batch, provider not known for it" if plain else "batch, cached or long"
    if tokens.cache_creation and raw.get("cache_creation_input_token_cost") == 0:
        return "cache writes at 0"
    if tokens.cache_creation_1h and ("claude" in model.lower() or provider == "anthropic"):
        return "one-hour writes of Claude"
    if (
        (tokens.cache_read or tokens.cache_creation)
        and provider != "perplexity"
        and (tier != "standard" or tokens.input > 100_000)
    ):
        return "cached, long or in a tier"
    if provider == "perplexity":
        return "prices that Perplexity's calculator leaves out"
    if tokens.video_input and "input_cost_per_video_token" not in raw:
        return "video without a price"
    return "unknown"
