"""Every kind of connector: its name in the configuration and where its `Config` and class live."""

from __future__ import annotations

#: kind → "module:ConfigClass"; nothing is imported before a configuration asks for it.
KINDS: dict[str, str] = {
    "aws_cur": "connectors.aws_cur:Config",
    "focus_file": "connectors.focus_file:Config",
    "anthropic": "connectors.anthropic:Config",
    "dcgm": "connectors.dcgm:Config",
    "litellm": "connectors.litellm:Config",
    "openai": "connectors.openai:Config",
    "otel_genai": "connectors.otel_genai:Config",
    "prometheus": "connectors.prometheus:Config",
    "usage_jsonl": "connectors.usage_jsonl:Config",
}
