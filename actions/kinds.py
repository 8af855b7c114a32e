"""Every kind of action and notifier: its name in the configuration and where its `Config` and class live."""

from __future__ import annotations

from curb.actions.action import ActionConfig
from curb.actions.notify.protocol import NotifierConfig
from curb.stream.kinds import Kinds

#: kind → "module:ConfigClass"; nothing is imported before a configuration asks for it.
ACTIONS = Kinds[ActionConfig](
    "curb.actions",
    ActionConfig,
    {
        "litellm_limits": "curb.actions.levers.litellm_limits:Config",
        "litellm_models": "curb.actions.levers.litellm_models:Config",
        "envoy": "curb.actions.levers.envoy:Config",
        "haproxy": "curb.actions.levers.haproxy:Config",
        "kubernetes": "curb.actions.workloads.kubernetes:Config",
        "ec2": "curb.actions.workloads.ec2:Config",
        "sagemaker": "curb.actions.workloads.sagemaker:Config",
        "aws_batch": "curb.actions.workloads.aws_batch:Config",
        "aws_lambda": "curb.actions.workloads.aws_lambda:Config",
        "http": "curb.actions.levers.http_action:Config",
        "aws_api_gateway": "curb.actions.levers.aws_api_gateway:Config",
        "aws_waf": "curb.actions.levers.aws_waf:Config",
        "kong": "curb.actions.levers.kong:Config",
        "openai_project": "curb.actions.levers.openai_project:Config",
    },
)

NOTIFIERS = Kinds[NotifierConfig](
    "curb.notifiers",
    NotifierConfig,
    {
        "alertmanager": "curb.actions.notify.alertmanager_alerts:Config",
        "apprise": "curb.actions.notify.apprise:Config",
        "console": "curb.actions.notify.console:Config",
        "opsgenie": "curb.actions.notify.opsgenie:Config",
        "pagerduty": "curb.actions.notify.pagerduty:Config",
        "slack": "curb.actions.slack.notifier:Config",
        "webhook": "curb.actions.notify.webhook:Config",
    },
)
