"""Every kind of action and notifier: its name in the configuration and where its `Config` and class live."""

from __future__ import annotations

#: kind → "module:ConfigClass"; nothing is imported before a configuration asks for it.
ACTIONS: dict[str, str] = {
    "litellm_limits": "actions.litellm_limits:Config",
}

NOTIFIERS: dict[str, str] = {
    "console": "actions.console:Config",
    "slack": "actions.slack:Config",
    "webhook": "actions.webhook:Config",
}
