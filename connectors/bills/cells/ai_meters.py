"""Which model a meter of a bill is about, and what of it: tokens in, out or cached, or machines that train or serve.

Bills have no column for it. Names as AWS (Bedrock, its marketplace, SageMaker), Azure OpenAI and Vertex AI write them
in usage types, meters and SKUs, as of November 2026.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple


class AiMeter(NamedTuple):
    """A model in the spelling of its maker, or a type of machine, and the kind of use; both empty for other meters."""

    model: str = ""
    #: input, output, cache_read or cache_write of tokens; training, hosting, notebook, processing of machines.
    token_kind: str = ""


#: "USE1-Train:ml.p4d.24xlarge", "Host:ml.g5.xlarge".
_MACHINE = re.compile(
    r"(Train|Host|Notebk|Studio|Process|Tsform|Async)\w*[:-](?:\w+-)?(ml\.[a-z0-9-]+\.\w+)", re.IGNORECASE
)
_MACHINE_KINDS = {"train": "training", "notebk": "notebook", "studio": "notebook", "process": "processing"}
_FAMILIES = (
    r"claude|nova|titan|llama|mistral|mixtral|ministral|pixtral|command|jamba|deepseek|qwen|gpt|gemini|gemma|grok|kimi|"
    r"text[- ]embedding|phi|nemotron|glm|minimax|o[1-9]"
)
_FAMILY = re.compile(rf"(?<![A-Za-z])(?i:{_FAMILIES})(?![a-z])")
_WRITTEN = re.compile(r"cache?[-_ ]?writ|cache[-_ ]?creation", re.IGNORECASE)
_CACHED = re.compile(r"cach|cchd", re.IGNORECASE)
_OUT = re.compile(r"(?<![a-z])(?:outp?|opt)(?![a-z])|output", re.IGNORECASE)
_IN = re.compile(r"(?<![a-z])inpt?(?![a-z])|input|embedding", re.IGNORECASE)
_TOKENS = re.compile(r"token|prediction|cach|(?<![a-z])(?:inpt?|outp?|opt)(?![a-z])|(?:input|output)", re.IGNORECASE)
#: Where the name of the model ends: what is measured, how it is sold, or a date.
_ENDS = re.compile(
    r"[-_ ]+(?:(?:cach|cchd|inp|outp|opt|token|batch|flex|priority|latency|custom|provisioned|on[- ]?demand|ga|"
    r"thinking|text|image|audio|video|short|long|glbl|global|regn|region|dz|data|zone|ft|model|lctx|predictions?|v\d)[a-z0-9]*"
    r"|\d{4}|\d{8})"
    r"(?![a-z0-9.]).*$",
    re.IGNORECASE,
)
#: "Claude4.6Sonnet", "NovaPro": where a word or a number begins without a separator.
_JOINT = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z]{4})(?=\d)|(?<=\d)(?=[A-Z][a-z])")
_CLAUDE = re.compile(r"^claude-(\d+(?:-\d+)?)-(opus|sonnet|haiku)$")


@lru_cache(maxsize=20_000)
def ai_meter(meter: str, product: str = "") -> AiMeter:
    """What a meter is about; `product` is the name in the marketplace, where the meter names no model."""
    machine = _MACHINE.search(meter)
    if machine is not None:
        return AiMeter(machine[2].lower(), _MACHINE_KINDS.get(machine[1].lower(), "hosting"))
    if not _TOKENS.search(meter):
        return AiMeter()
    family = _FAMILY.search(meter)
    name = meter[family.start() :] if family is not None else product.partition("(")[0]
    if not name or not _FAMILY.match(name):
        return AiMeter()
    return AiMeter(_plain(name), _kind(meter))


def _kind(meter: str) -> str:
    if _WRITTEN.search(meter):
        return "cache_write"
    if _CACHED.search(meter):
        return "cache_read"
    return "output" if _OUT.search(meter) else "input" if _IN.search(meter) else ""


def _plain(name: str) -> str:
    """The name in lower case with dashes, versions of Claude as its maker writes them."""
    short = _ENDS.sub("", name.partition(" - ")[0].strip())
    dashed = re.sub(r"[-_ ]+", "-", _JOINT.sub("-", short)).strip("-").lower()
    if not dashed.startswith("claude"):
        return dashed
    dashed = dashed.replace(".", "-")
    old = _CLAUDE.match(dashed)
    return f"claude-{old[2]}-{old[1]}" if old is not None and int(old[1][0]) >= 4 else dashed
