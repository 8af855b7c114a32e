"""Finds the entry of the price book that a model's name means, however a gateway or a provider writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

#: What a name asks for beside the model.
Variant = Literal["", "free", "online", "batch"]
#: "-2024-11-20", "-20250514", "@20250514", each with an optional "-v1" or "-v1:0" behind it.
_DATE = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})(?:-v\d+(?::\d+)?)?$")
#: Further ends that name a version or an alias of the same model.
_VERSION = re.compile(r"(?:-latest|@latest|@default|-00\d)$")
#: "anthropic.claude-opus-4-6-v1", "amazon.nova-lite-v1:0": the version behind a name of Bedrock.
_BEDROCK_VERSION = re.compile(r"^((?:[a-z-]+\.)+.+)-v\d+(?::\d+)?$")
#: "-preview-05-20": a preview of Gemini; the month and day are the version.
_PREVIEW = re.compile(r"(?:-preview)?-\d{2}-\d{2}$")
#: Azure's mark of a fine-tuned model, whose tokens cost as those of its base.
_AZURE_TUNED = re.compile(r"\.ft-[0-9a-f]+(?:-\w+)?$")
#: Claude Code's mark for the long context, and Bedrock's for the length of a provisioned model.
_CONTEXT = re.compile(r"\[\d+[km]\]$|(?<=:\d):\d+k$")
#: "openai:gpt-4o", as frameworks name a model with its provider.
_SCHEME = re.compile(
    r"^(anthropic|azure|bedrock|cohere|deepseek|google|groq|mistral|openai|openrouter|together_ai|vertex_ai|xai)"
    r"(?:-(?:gla|vertex|responses|chat))?:"
)
#: Providers' marks for routing and service behind the name.
_MARK = re.compile(r":(free|online|batch|nitro|floor|exacto|extended|thinking|beta)$")
_VARIANTS: dict[str, Variant] = {"free": "free", "online": "online", "batch": "batch"}
#: The dot of a version, which some write as a dash.
_DOT = re.compile(r"(?<=\d)[._](?=\d)")
#: Where Bedrock runs a model; a profile that the book lacks costs as another regional one.
_PROFILE = re.compile(r"^(us|eu|apac|jp|au|ca|sa|in|us-gov|global)\.(?=[a-z0-9]+\.)")
_REGIONAL = ("us.", "eu.")
#: The makers in front of the names that Bedrock and others give.
_MAKER = re.compile(r"^(?:anthropic|amazon|cohere|deepseek|google|meta|minimax|mistral|moonshot|openai|qwen|zai|xai)\.")
#: Charged by subscription or by one's own machines: a model behind these prefixes costs what the book says of exactly
#: it, never what its maker charges.
NEVER_ANOTHERS = frozenset(
    {
        *("chatgpt", "github_copilot", "microsoft_365_copilot", "opencode_go"),
        *("hosted_vllm", "lemonade", "llamafile", "lm_studio", "ollama", "ollama_chat", "vllm", "xinference"),
    }
)
#: Those of them whose models are free where the book lists them without a price.
SUBSCRIPTIONS = frozenset({"chatgpt", "github_copilot", "microsoft_365_copilot"})
#: OpenTelemetry's names of providers → prefixes in the book.
_PROVIDERS = {
    "aws.bedrock": "bedrock",
    "az.ai.inference": "azure_ai",
    "az.ai.openai": "azure",
    "azure.ai.inference": "azure_ai",
    "azure.ai.openai": "azure",
    "gcp.gemini": "gemini",
    "gcp.gen_ai": "gemini",
    "gcp.vertex_ai": "vertex_ai",
    "mistral_ai": "mistral",
    "x_ai": "xai",
}


class NameMatch(NamedTuple):
    """The name of an entry, or "" where the book has none, and what the asked name wants of it."""

    entry: str
    variant: Variant = ""


class Names:
    """The names that a book knows, in lower case."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = frozenset(known)
        #: A name without date, version and dots → the entry that stands for it: an undated one, else the newest.
        self._loose: dict[str, str] = {}
        for name in sorted(self._known, key=_age):
            self._loose[_dashed(_undated(name))] = name

    def find(self, model: str, provider: str = "") -> NameMatch:
        """The entry that a name means. `provider` is the provider where the source names it apart."""
        given = plain(model, provider)
        if given[-1].endswith(":free") and given[-1] not in self._known:
            return NameMatch("", "free")
        for names in (given, list(_profiles(given))):
            if entry := self._first(names):
                return NameMatch(entry)
        unmarked, variant = _unmarked([*given, *_profiles(given)])
        closed = _is_closed(given[0])
        bare = [] if closed else [_MAKER.sub("", name) for name in unmarked]
        for names in (unmarked, bare):
            if entry := self._first(names) or ("" if closed else self._nearest(names)):
                return NameMatch(entry, variant)
        return NameMatch("")

    def _first(self, names: list[str]) -> str:
        return next((name for name in names if name in self._known), "")

    def _nearest(self, names: list[str]) -> str:
        """Without the date, else whatever stands for the name without date, version and dots."""
        dateless = [_DATE.sub("", name) for name in names]
        loose = (self._loose.get(_dashed(_undated(name))) for name in names)
        return self._first(dateless) or next((entry for entry in loose if entry), "")


def plain(model: str, provider: str = "") -> list[str]:
    """The names a model may be listed under, the most exact first, without regard to dates and marks."""
    name = _SCHEME.sub(r"\1/", _CONTEXT.sub("", model.strip().lower()))
    if name.startswith("arn:"):
        name = name.rpartition("/")[2]
    prefix = _PROVIDERS.get(provider.lower(), provider.lower())
    if prefix and not name.startswith(f"{prefix}/"):
        if prefix in NEVER_ANOTHERS:
            return [f"{prefix}/{name}"]
        return [f"{prefix}/{name}", *_without_prefixes(_fine_tuned(name))]
    return list(_without_prefixes(_fine_tuned(name)))


def undated(names: list[str]) -> list[str]:
    """The names, and each without the date at its end."""
    return [*names, *(_DATE.sub("", name) for name in names)]


def _fine_tuned(name: str) -> str:
    """ "ft:gpt-4o:org:name:id" → "ft:gpt-4o", whose own price the book lists; Azure's "gpt-4o.ft-1a2b" → "gpt-4o"."""
    name = _AZURE_TUNED.sub("", name)
    before, mark, rest = name.rpartition("ft:")
    if mark and (not before or before.endswith("/")):
        return f"{before}ft:{rest.partition(':')[0]}"
    return name


def _without_prefixes(model: str) -> Iterator[str]:
    """ "openrouter/openai/gpt-4o", "openai/gpt-4o", "gpt-4o"."""
    yield model
    while "/" in model and not _is_closed(model):
        model = model.partition("/")[2]
        yield model


def _is_closed(name: str) -> bool:
    return name.partition("/")[0] in NEVER_ANOTHERS


def _profiles(names: list[str]) -> Iterator[str]:
    for name in names:
        if profile := _PROFILE.match(name):
            bare = name[profile.end() :]
            if profile[1] not in ("global", "us-gov"):
                yield from (region + bare for region in _REGIONAL)
            yield bare


def _unmarked(names: list[str]) -> tuple[list[str], Variant]:
    """The names without the mark behind them, and what the mark asks for."""
    mark = _MARK.search(names[0])
    if mark is None:
        return names, ""
    found = [_MARK.sub("", name) for name in names]
    if not _is_closed(names[0]) and not names[0].startswith("openrouter/"):
        found.append(f"openrouter/{found[0]}")  # whose marks these are
    return found, _VARIANTS.get(mark[1], "")


def _undated(name: str) -> str:
    """Without date, preview and version at its end."""
    shorter = _VERSION.sub("", _BEDROCK_VERSION.sub(r"\1", name))
    shorter = _PREVIEW.sub("", _DATE.sub("", shorter))
    return name if shorter == name else _undated(shorter)


def _dashed(name: str) -> str:
    """ "claude-opus-4.6" → "claude-opus-4-6"."""
    return _DOT.sub("-", name)


def _age(name: str) -> tuple[bool, str, str]:
    """Sorts by what stands for a name: dated ones by their date, then undated ones, the plainest last."""
    date = _DATE.search(name)
    return date is None, date[1].replace("-", "") if date else "", f"{10_000 - len(name):05}{name}"
