"""The text of `curb.yaml`: every part with a comment, secrets as `${VARIABLES}`, values of other people quoted."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import NamedTuple

import yaml

from curb.actions.levers.litellm_keys import KeyList
from curb.actions.notify.wording import clean
from curb.cli.init.answers import API_TOKEN, TOKENS, Answers
from curb.cli.init.proposal import ProposedAmounts
from curb.config.file import variables
from curb.detector.rules.caps import DayOneCaps
from curb.detector.state.scopes import DEFAULT_SCOPES, Scope
from curb.stream.money import usd

#: Keys without a limit that a comment names. By hand: a reminder, not a list.
_NAMED_KEYS = 10
#: Characters in a pattern that would not stand for themselves; `$` would start a variable.
_SPECIAL = "*?[$"


class Draft(NamedTuple):
    """What the text is made of."""

    answers: Answers
    amounts: ProposedAmounts
    keys: KeyList | None
    #: The day it is written, YYYY-MM-DD.
    day: str


def file_text(draft: Draft) -> str:
    """The whole file; it ends with a newline."""
    answers = draft.answers
    parts = [_log(answers), _http(answers), _connectors(answers), _detector(draft), _actions(draft)]
    body = "\n".join("\n".join(part) + "\n" for part in parts)
    needed = ", ".join(variables(body)) or "none"
    head = [
        f"# Curb's configuration, written by `curb init` on {draft.day}. In shadow mode it changes nothing.",
        "# Change it freely, then: curb check-config. Every key is in docs/reference/configuration.md.",
        f"# Environment variables that it needs: {needed}.",
    ]
    return "\n".join(head) + "\n\n" + body


def quoted(text: str) -> str:
    """Text as a YAML scalar that stands for itself, whatever it holds."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1_000_000).strip()


def pattern(text: str) -> str:
    """Text as a matcher of tags that matches this text only."""
    return quoted("".join(f"[{each}]" if each in _SPECIAL else each for each in text))


def _log(answers: Answers) -> list[str]:
    if answers.kafka:
        return [
            "# Where every record, alert and action lives. Encryption and log-in: docs/howto/use-kafka.md.",
            "log:",
            "  kind: kafka",
            f"  bootstrap_servers: {quoted(answers.kafka)}",
        ]
    return [
        "# Where every record, alert and action lives: one directory, for one machine. Back it up.",
        "log:",
        "  kind: embedded",
        f"  directory: {quoted(answers.log_directory)}",
        f"state_dir: {quoted(answers.log_directory.rstrip('/') + '/connectors')}",
    ]


def _http(answers: Answers) -> list[str]:
    if answers.is_remote:
        return [
            "# The proxy must reach Curb, so it listens on all addresses; reading then needs the token.",
            "http:",
            "  host: 0.0.0.0",
            f"  port: {answers.port}",
            f"  token: ${{{API_TOKEN}}}",
        ]
    return [
        "# The page, the API and the inbox, for this machine only. For others: host 0.0.0.0, and a token.",
        "http:",
        "  host: 127.0.0.1",
        f"  port: {answers.port}",
    ]


def _connectors(answers: Answers) -> list[str]:
    match answers.gateway:
        case "litellm":
            lines = [
                "# LiteLLM posts every call here; what a post lost is read from its own spend logs.",
                "connectors:",
                "  - kind: litellm",
                "    name: litellm",
                "    # What the proxy sends as bearer token: any long random text.",
                f"    token: ${{{TOKENS['litellm']}}}",
                "    backfill:",
                f"      url: {quoted(answers.litellm_url)}",
                f"      key: ${{{answers.litellm_key_env}}}",
            ]
        case "file":
            lines = [
                "# Usage as JSON lines in files: docs/reference/usage-jsonl-format.md.",
                "connectors:",
                "  - kind: usage_jsonl",
                "    name: gateway",
                f"    path: {quoted(answers.usage_file)}",
            ]
        case "otlp":
            lines = [
                "# Applications export OpenTelemetry GenAI spans here: docs/reference/connectors/otel_genai.md.",
                "connectors:",
                "  - kind: otel_genai",
                "    name: otel",
                f"    token: ${{{TOKENS['otlp']}}}",
            ]
        case "other":
            lines = [
                "# Any gateway posts usage as JSON lines here: docs/reference/usage-jsonl-format.md.",
                "connectors:",
                "  - kind: usage_jsonl",
                "    name: gateway",
                f"    token: ${{{TOKENS['other']}}}",
            ]
        case _:
            lines = ["# Where spend comes from. Nothing yet: see docs/reference/configuration.md.", "connectors: []"]
    return lines


def _fleet(answers: Answers) -> tuple[list[str], list[str], str]:
    """Attribution, scopes, and the scope of the fleet.

    Partitions of Kafka share series out by their first tag, so a sum over all teams needs a tag that all records carry.
    """
    if not answers.kafka:
        return [], [], "team"
    fleet = Scope(name="fleet", group_by=("fleet",), sources=("usage", "gpu"), detect=False, role="total")
    attribution = [
        "# A tag that all records carry, so that all spend is summed in one place.",
        "attribution:",
        "  rules:",
        "    - {tags: {fleet: all}, override: true}",
        "",
    ]
    scopes = ["  # The shipped scopes, and one for all spend.", "  scopes:"]
    for scope in (*DEFAULT_SCOPES, fleet):
        given = scope.model_dump(mode="json", exclude_defaults=True)
        scopes.append(f"    - {yaml.safe_dump(given, default_flow_style=True, sort_keys=False, width=1_000).strip()}")
    return attribution, scopes, fleet.name


def _detector(draft: Draft) -> list[str]:
    amounts = draft.amounts
    attribution, scopes, fleet = _fleet(draft.answers)
    # A parent must be of tags that its children have.
    shared, parent = (True, "fleet-month") if fleet == "team" else (False, "")
    return [
        *attribution,
        *wrap(f"Amounts: {amounts.source}.", 118, initial_indent="# ", subsequent_indent="# "),
        "detector:",
        f"  time_zone: {quoted(draft.answers.time_zone)}",
        "  rules:",
        "    # A notice while a key that is not known yet spends more than this within an hour. Dollars.",
        f"    {DayOneCaps.name}:",
        f"      usd_per_hour: {amounts.key_hour_usd:g}",
        *scopes,
        "  budgets:",
        "    # All spend together.",
        *_budget("fleet-month", fleet, amounts.fleet_month_usd, "month", shared=shared),
        "    # A cap on a day of all spend together.",
        *_budget("fleet-day", fleet, amounts.fleet_day_usd, "day", shared=shared),
        "    # A cap on a day of each key; every key has the whole amount to itself. `hard`: a key that has spent it",
        "    # may be throttled, where a route below has an action; else it is only reported.",
        *_budget("each-key-day", "key", amounts.key_day_usd, "day", hard=True),
        *(["    # The teams that spend most."] if amounts.teams else []),
        *(
            line
            for each in amounts.teams
            for line in _budget(each.name, "team", each.amount_usd, "month", team=each.team, parent=parent)
        ),
    ]


def _budget(
    name: str,
    scope: str,
    amount_usd: float,
    period: str,
    *,
    shared: bool = False,
    hard: bool = False,
    team: str = "",
    parent: str = "",
) -> list[str]:
    return [
        f"    - name: {name}",
        f"      scope: {scope}",
        *([f"      match: {{team: {pattern(team)}}}"] if team else []),
        *(["      shared: true"] if shared else []),
        *([f"      parent: {parent}"] if parent else []),
        f"      amount_usd: {amount_usd:g}",
        f"      period: {period}",
        *(["      hard: true"] if hard else []),
    ]


def _actions(draft: Draft) -> list[str]:
    answers = draft.answers
    chat, names = _notifiers(answers)
    notify = f"[{', '.join(names)}]"
    routes = [
        "    - match: {tier: [page, notice]}",
        f"      notify: {notify}",
    ]
    if answers.gateway != "litellm":
        return ["# Who is notified. Shadow mode: nothing is changed anywhere.", "actions:", "  mode: shadow", *chat,
                "  routes:", *routes]  # fmt: skip
    return [
        "# What Curb would do, and who is notified. Shadow mode: plans are recorded, and nothing is changed.",
        *_limits_found(draft.keys),
        "actions:",
        "  mode: shadow",
        "  actions:",
        "    # Limits a runaway key to its own normal requests per minute, and gives the old limit back.",
        "    - kind: litellm_limits",
        "      name: throttle-key",
        f"      base_url: {quoted(answers.litellm_url)}",
        f"      api_key: ${{{answers.litellm_key_env}}}",
        "      headroom: 1.2",
        *chat,
        "  routes:",
        "    - match: {kind: [runaway, abusive, unit_cost, budget], tier: [page], scope: key}",
        f"      notify: {notify}",
        "      act: [throttle-key]",
        "      lease_minutes: 60",
        *routes,
        "  limits:",
        "    # Keys carry no mark of how critical they are: without this line Curb plans nothing for them.",
        "    shave_unmarked: true",
    ]


def _notifiers(answers: Answers) -> tuple[list[str], list[str]]:
    """The lines of the notifiers, and their names."""
    lines = ["  notifiers:"]
    if answers.slack == "bot":
        lines += [
            "    # Slack, by a bot: docs/howto/tell-slack.md.",
            "    - kind: slack",
            "      name: on-call",
            f"      token: ${{{answers.slack_env}}}",
            f"      channel: {answers.slack_channel}",
        ]
    if answers.slack == "webhook":
        lines += [
            "    # Slack, by an incoming webhook; a bot can also edit its messages: docs/howto/tell-slack.md.",
            "    - kind: apprise",
            "      name: on-call",
            "      urls:",
            f"        - ${{{answers.slack_env}}}",
        ]
    screen = ["    - kind: console", "      name: screen"]
    return [*lines, *screen], ["screen"] if answers.slack == "none" else ["on-call", "screen"]


def _limits_found(keys: KeyList | None) -> list[str]:
    """What the gateway enforces today, as a comment."""
    if keys is None or not keys.keys:
        return []
    free = [each for each in keys.keys if each.unlimited]
    found = [f"# The gateway has {keys.total} keys; {len(free)} of {len(keys.keys)} read have no limit of their own."]
    if free:
        found.append(f"# Without a limit: {_names([each.name for each in free])}.")
    budgets = [each.limits["max_budget"] for each in keys.keys if "max_budget" in each.limits]
    if budgets:
        found.append(f"# {len(budgets)} have a budget at the gateway, {usd(sum(budgets))} together.")
    return found


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(clean(name, 40) for name in names[:_NAMED_KEYS]).replace("${", "$ {")
    return f"{shown} and {len(names) - _NAMED_KEYS} more" if len(names) > _NAMED_KEYS else shown
