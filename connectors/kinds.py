"""Every kind of connector: its name in the configuration and where its `Config` and class live."""

from __future__ import annotations

from curb.connectors.connector import ConnectorConfig
from curb.stream.kinds import Kinds

#: kind → "module:ConfigClass"; nothing is imported before a configuration asks for it.
KINDS = Kinds[ConnectorConfig](
    "curb.connectors",
    ConnectorConfig,
    {
        "aws_cost_explorer": "curb.connectors.bills.aws_cost_explorer:Config",
        "aws_cur": "curb.connectors.bills.aws_cur:Config",
        "focus_file": "curb.connectors.bills.focus_file:Config",
        "anthropic": "curb.connectors.tokens.anthropic:Config",
        "azure_cost": "curb.connectors.bills.azure_cost:Config",
        "cloudwatch": "curb.connectors.tokens.cloudwatch:Config",
        "dcgm": "curb.connectors.gpus.dcgm:Config",
        "gcp_billing": "curb.connectors.bills.gcp_billing:Config",
        "litellm": "curb.connectors.tokens.litellm:Config",
        "openai": "curb.connectors.tokens.openai:Config",
        "otel_genai": "curb.connectors.tokens.otel_genai:Config",
        "prometheus": "curb.connectors.gpus.prometheus:Config",
        "usage_jsonl": "curb.connectors.tokens.usage_jsonl:Config",
    },
)
