"""What to do next while nothing was spent yet: the same steps in `curb init`, in `curb status` and on the page."""

from __future__ import annotations

from typing import NamedTuple

from curb.config.file import CurbConfig
from curb.connectors.connector import ConnectorConfig

#: Hosts that stand for all addresses of a machine: nobody can call them by that name.
_ALL = ("0.0.0.0", "::", "")


class NextStep(NamedTuple):
    """One thing to do, and the command or the address for it; "" where there is none."""

    what: str
    command: str = ""


def page_url(config: CurbConfig, of_all: str = "127.0.0.1") -> str:
    """Where the page is; `of_all` is the host where the daemon listens on all addresses."""
    host = of_all if config.http.host in _ALL else config.http.host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.http.port}/"


def next_steps(config: CurbConfig, *, running: bool, path: str = "curb.yaml") -> list[NextStep]:
    """From here to spend on the page, for the configuration in the file `path`; a running daemon is not started."""
    steps = [] if running else [NextStep("start Curb, and leave it running", f"curb run -c {path}")]
    for number, each in enumerate(config.connectors):
        variable = config.variable(f"connectors[{number}].token") or "TOKEN"
        steps += _sending(each, page_url(config, "THIS-MACHINE"), variable)
    if not config.connectors:
        steps.append(NextStep("add a connector: nothing can be seen without one", "docs/reference/configuration.md"))
    if any(each.looks_back for each in config.connectors):
        steps.append(NextStep("read the last 30 days, also while Curb runs", f"curb backfill -c {path} --days 30"))
    steps += [
        NextStep(f"see whether {each.name} works", f"curb connectors check {each.name} -c {path}")
        for each in config.connectors[:1]
    ]
    return [
        *steps,
        NextStep("look at the page" + (", and sign in with the token" if config.http.token else ""), page_url(config)),
    ]


def _sending(connector: ConnectorConfig, base: str, variable: str) -> list[NextStep]:
    """How usage gets to a connector that is pushed to; its token is in the environment variable `variable`.

    Known by its kind: the modules of others are not loaded.
    """
    url = f"{base}v1/ingest/{connector.name}"
    if connector.kind == "litellm":
        what = "let LiteLLM send its calls: in its config.yaml, a generic_api callback to this endpoint, with the token"
        return [NextStep(what, url)]
    if connector.kind == "otel_genai":
        return [NextStep("let applications export, with the token as bearer", f"OTEL_EXPORTER_OTLP_ENDPOINT={url}")]
    if connector.kind == "usage_jsonl" and getattr(connector, "token", None) is not None:
        what = "post usage as JSON lines, with the token as bearer"
        return [NextStep(what, f'curl -H "Authorization: Bearer ${variable}" --data-binary @usage.jsonl {url}')]
    return []
