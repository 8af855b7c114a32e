"""A source that breaks a promise of the connector seam is refused before anything is read from it."""

from __future__ import annotations

from typing import Any, Literal, cast

import aiohttp
import pytest
from pydantic import SecretStr

from curb.connectors.connector import (
    Batch,
    Connector,
    ConnectorConfig,
    Context,
    Pull,
    Push,
    PushWithBackfill,
    Source,
    open_source,
)
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError

CONTEXT = Context(ManualClock(0.0), cast(aiohttp.ClientSession, None), PriceBook.load())
TOKEN = SecretStr("a-long-token")


class Reader:
    async def read(self, cursor: str | None) -> Batch:
        return Batch((), "1")

    async def close(self) -> None:
        return None


class Parser:
    def parse(self, body: bytes, *, location: str, at: float) -> Batch:
        return Batch((), "")


class Half:
    async def read(self, cursor: str | None) -> Batch:
        return Batch((), "1")


class Inherits(Connector):
    async def read(self, cursor: str | None) -> Batch:
        return Batch((), "1")


def config(source: Any) -> ConnectorConfig:
    class Config(ConnectorConfig):
        kind: Literal["toy"]

        def build(self, context: Context) -> Source:
            return cast(Source, source)

    return Config.model_validate({"kind": "toy", "name": "mine"})


@pytest.mark.parametrize(
    "source",
    [Pull(Reader(), 60), Push(Parser(), TOKEN), PushWithBackfill(Push(Parser(), TOKEN), Pull(Reader(), 60))],
    ids=lambda source: type(source).__name__,
)
def test_each_of_the_three_ways_is_accepted(source: Source) -> None:
    assert open_source(config(source), CONTEXT) is source


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Pull(Inherits(), 60), "Inherits has no method close"),  # type: ignore[abstract]
        (Reader(), r"build\(context\) returns Reader, not Pull, Push or PushWithBackfill"),
        (Pull(cast(Any, Half()), 60), "Half has no method close"),
        (Pull(cast(Any, Parser()), 60), "Parser has no method read, close"),
        (Push(cast(Any, Reader()), TOKEN), "Reader has no method parse"),
        (Push(Parser(), cast(Any, "secret")), r"Push\(source, token\) gets a str as token, not a SecretStr"),
        (
            PushWithBackfill(Push(cast(Any, Reader()), TOKEN), Pull(cast(Any, Half()), 60)),
            "Reader has no method parse; Half has no method close",
        ),
    ],
)
def test_a_broken_promise_is_named(source: Any, said: str) -> None:
    with pytest.raises(PermanentError, match=f"^connector mine of kind toy: {said}$"):
        open_source(config(source), CONTEXT)
