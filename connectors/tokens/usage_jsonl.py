"""JSON lines from anyone's gateway: files that are followed, or bodies that are pushed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from curb.connectors.connector import Batch, ConnectorConfig, Context, Pull, Push
from curb.connectors.fingerprint import Fingerprints
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.jsonl_files import JsonlFiles
from curb.connectors.tokens.jsonl_lines import (
    DEFAULT_LINE_BYTES,
    EVENT_STREAM,
    LineFormat,
    curb_format,
    parse_event_stream,
    parse_lines,
)
from curb.connectors.tokens.jsonl_map import MapSettings, map_format

__all__ = ["Config", "JsonlFiles", "JsonlPush", "parse_event_stream", "parse_lines"]


class Config(ConnectorConfig):
    """With `path`, files are read; without it, lines are pushed to `/v1/ingest/<name>` with `token`."""

    kind: Literal["usage_jsonl"]
    path: Path | None = Field(
        None, description="A file, a directory (its *.jsonl and *.jsonl.gz) or a glob pattern; `.gz` is decompressed."
    )
    token: SecretStr | None = Field(
        None, min_length=8, description="Bearer token of pushed lines; needed without `path`."
    )
    format: Literal["curb", "event_stream"] = Field("curb", description="Which of the two formats the lines have.")
    map: MapSettings | None = Field(None, description="Where the fields of lines of another format are.")
    tags: dict[str, str] = Field(
        default={}, description="Tags for every record that does not carry them (not for event_stream)."
    )
    poll_interval_s: float = Field(2.0, gt=0, le=3600, description="How often files are looked at for new lines.")
    max_line_bytes: int = Field(
        DEFAULT_LINE_BYTES, ge=1024, le=16 * 1024 * 1024, description="Longer lines are refused, unread."
    )

    @model_validator(mode="after")
    def _path_or_token(self) -> Config:
        if (self.path is None) == (self.token is None):
            raise ValueError("give `path` to read files, or `token` to be pushed to, not both")
        if self.map is not None and "format" in self.model_fields_set:
            raise ValueError("give `format` or `map`, not both")
        return self

    def build(self, context: Context) -> Pull | Push:
        form = line_format(self, context.prices, context.loops)
        if self.token is not None:
            return Push(JsonlPush(self.name, form, max_line_bytes=self.max_line_bytes), self.token)
        assert self.path is not None  # one of the two is given
        files = JsonlFiles(self.path, self.name, form, context.clock, max_line_bytes=self.max_line_bytes)
        return Pull(files, self.poll_interval_s)


def line_format(config: Config, prices: PriceBook, loops: Fingerprints | None = None) -> LineFormat:
    """The configured format."""
    if config.map is not None:
        return map_format(config.map, prices, config.tags)
    return EVENT_STREAM if config.format == "event_stream" else curb_format(prices, config.tags, loops)


class JsonlPush:
    """Push source for bodies of JSON lines."""

    def __init__(self, name: str, form: LineFormat, *, max_line_bytes: int = DEFAULT_LINE_BYTES) -> None:
        self._name, self._format, self._max_line_bytes = name, form, max_line_bytes

    def parse(self, body: bytes, *, location: str, at: float) -> Batch:
        return parse_lines(
            body.split(b"\n"),
            self._format,
            source=self._name,
            location=location,
            at=at,
            max_line_bytes=self._max_line_bytes,
        )
