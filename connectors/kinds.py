"""Every kind of connector: its name in the configuration and where its `Config` and class live."""

from __future__ import annotations

#: kind → "module:ConfigClass"; nothing is imported before a configuration asks for it.
KINDS: dict[str, str] = {
    "litellm": "connectors.litellm:Config",
    "usage_jsonl": "connectors.usage_jsonl:Config",
}
