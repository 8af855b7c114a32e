"""Says what a file of usage or of a bill looks like, by the fields of its first record."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Form = Literal[
    "curb",
    "event_stream",
    "litellm",
    "openai_usage",
    "anthropic_usage",
    "focus",
    "cur",
    "otlp",
    "parquet",
    "unknown",
]
#: Form → its name for people.
NAMES: dict[Form, str] = {
    "curb": "Curb's own lines",
    "event_stream": "a recorded event stream",
    "litellm": "LiteLLM spend logs",
    "openai_usage": "an OpenAI usage export",
    "anthropic_usage": "an Anthropic usage export",
    "focus": "a FOCUS bill",
    "cur": "an AWS Cost and Usage Report",
    "otlp": "OTLP JSON",
    "parquet": "a Parquet file",
    "unknown": "no format that Curb knows",
}
#: Form → what to do with it where it cannot be read.
HINTS: dict[Form, str] = {
    "litellm": "`curb backfill FILE` reads it",
    "openai_usage": "configure the connector `openai` and run `curb backfill`",
    "anthropic_usage": "configure the connector `anthropic` and run `curb backfill`",
    "focus": "`curb backfill FILE` reads it, or the connector `focus_file`",
    "cur": "configure the connector `aws_cur`, which reads its manifest",
    "otlp": "post it to a connector `otel_genai`",
    "parquet": "configure `focus_file` or `aws_cur`",
    "curb": "use `--format curb`",
    "event_stream": "use `--format event_stream`",
    "unknown": "describe its fields with `map` in a connector `usage_jsonl` and give `--like NAME`",
}
#: Bytes of a file that are looked at: a first record with prompts in it may be long.
_HEAD_BYTES = 1024 * 1024


def recognise(path: Path) -> Form:
    """What the file at `path` looks like. Raises OSError."""
    with path.open("rb") as raw:
        head = raw.read(4)
        if head == b"PAR1":
            return "parquet"
    opened: Any = gzip.open(path, "rb") if head[:2] == b"\x1f\x8b" else path.open("rb")  # noqa: SIM115 - closed below
    with opened as file:
        return looks_like(file.read(_HEAD_BYTES))


def looks_like(head: bytes) -> Form:
    """What a file that begins with `head` looks like."""
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if not text.startswith(("{", "[")):
        names = next(csv.reader(text.split("\n", 1)[:1]), [])
        return _by_fields(dict.fromkeys((name.strip() for name in names), ""))
    first = _first_object(text)
    return "unknown" if first is None else _by_fields(first)


def _first_object(text: str) -> Mapping[str, Any] | None:
    """The first object: of an array or of lines; where it is cut off, the names that can be seen."""
    decoder = json.JSONDecoder()
    try:
        found, _ = decoder.raw_decode(text.removeprefix("[").lstrip())
    except (ValueError, RecursionError):
        return {name: "" for name in _KNOWN if f'"{name}"' in text}
    return found if isinstance(found, dict) else None


def _by_fields(first: Mapping[str, Any]) -> Form:
    names = set(first)
    lower = {name.lower().replace("_", "").replace("/", "") for name in names}
    if {"resourceSpans", "resourceMetrics", "resource_spans", "resource_metrics"} & names:
        return "otlp"
    if "src" in names and "ts" in names:
        return "event_stream"
    if "charge_period_start" in names and "id" in names:
        return "curb"
    if ("request_id" in names and names & {"spend", "startTime"}) or (
        "startTime" in names and "response_cost" in names
    ):
        return "litellm"
    if lower & {"lineitemusagestartdate", "identitylineitemid"}:
        return "cur"
    if {"chargeperiodstart", "billedcost"} <= lower:
        return "focus"
    if "usage_date_utc" in names or "uncached_input_tokens" in names:
        return "anthropic_usage"
    if "num_model_requests" in names:
        return "openai_usage"
    return _report(first)


def _report(first: Mapping[str, Any]) -> Form:
    """Pages and buckets of the providers' usage reports."""
    data = first.get("data")
    bucket = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else first
    if "starting_at" in bucket and "results" in bucket:
        return "anthropic_usage"
    if bucket.get("object") == "bucket" or ("start_time" in bucket and "results" in bucket):
        return "openai_usage"
    return "unknown"


_KNOWN = (
    *("resourceSpans", "resourceMetrics", "src", "ts", "charge_period_start", "id", "request_id", "spend"),
    *("startTime", "response_cost", "starting_at", "results", "num_model_requests", "uncached_input_tokens"),
)
