"""Every kind of action and notifier: its name in the configuration and where its `Config` and class live."""

from __future__ import annotations

#: kind → "module:ConfigClass"; nothing is imported before a configuration asks for it.
ACTIONS: dict[str, str] = {
    "litellm_limits": "actions.litellm_limits:Config",
    "envoy": "actions.envoy:Config",
    "haproxy": "actions.haproxy:Config",
    "kubernetes": "actions.kubernetes:Config",
    "ec2": "actions.ec2:Config",
    "sagemaker": "actions.sagemaker:Config",
    "aws_batch": "actions.aws_batch:Config",
    "aws_lambda": "actions.aws_lambda:Config",
    "http": "actions.http_action:Config",
    "aws_api_gateway": "actions.aws_api_gateway:Config",
    "aws_waf": "actions.aws_waf:Config",
    "kong": "actions.kong:Config",
    "openai_project": "actions.openai_project:Config",
}

NOTIFIERS: dict[str, str] = {
    "apprise": "actions.apprise:Config",
    "console": "actions.console:Config",
    "slack": "actions.slack:Config",
    "webhook": "actions.webhook:Config",
}
