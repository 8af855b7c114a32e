"""Every kind of connector: its name in the configuration and where its `Config` and class live."""

from __future__ import annotations

#: kind → "module:ConfigClass"; nothing is imported before a configuration asks for it.
KINDS: dict[str, str] = {
    "aws_cost_explorer": "connectors.aws_cost_explorer:Config",
    "aws_cur": "connectors.aws_cur:Config",
    "focus_file": "connectors.focus_file:Config",
    "anthropic": "connectors.anthropic:Config",
    "azure_cost": "connectors.azure_cost:Config",
    "cloudwatch": "connectors.cloudwatch:Config",
    "dcgm": "connectors.dcgm:Config",
    "gcp_billing": "connectors.gcp_billing:Config",
    "litellm": "connectors.litellm:Config",
    "openai": "connectors.openai:Config",
    "otel_genai": "connectors.otel_genai:Config",
    "prometheus": "connectors.prometheus:Config",
    "usage_jsonl": "connectors.usage_jsonl:Config",
}
