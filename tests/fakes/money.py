"""A daemon as far as /metrics sees it, over real shards that are fed by hand."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from curb.config.file import CurbConfig
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.detector.state.scopes import Scope
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND
from curb.stream.records.spend import SpendPartial, SpendTick
from curb.views.alerts_and_actions import LogView
from tests.fakes.spend import T0

KEY = Scope(name="key", group_by=("team", "api_key"))
TEAM = Scope(name="team", group_by=("team",), role="total", detect=False)


class MoneyDaemon(SimpleNamespace):
    """`shards` may be changed; `ready` says whether the log was read."""

    def __init__(self, *shards: Shard, most: int = 100, **actions: Any) -> None:
        config = CurbConfig.model_validate({"http": {"metrics_series": most}, "actions": actions})
        super().__init__(config=config, clock=ManualClock(T0), view=LogView(), owned=list(shards), ready=True)

    def shards(self) -> list[Shard]:
        return self.owned

    def caught_up(self) -> dict[str, bool]:
        return {"detector": self.ready}

    def lag_s(self) -> dict[str, float]:
        return {}

    def log_problem(self) -> str:
        return ""


def a_shard(**settings: Any) -> Shard:
    return Shard(DetectorSettings.model_validate({"scopes": [KEY, TEAM], **settings}))


def charge(shard: Shard, usd: dict[str, float], at: int = T0, *, team: str = "search") -> None:
    """Dollars of keys of one team in one bucket, which closes."""
    parts = [_partial("key", {"team": team, "api_key": key}, at, each) for key, each in usd.items()]
    send(shard, [*parts, _partial("team", {"team": team}, at, sum(usd.values())), SpendTick(at=at + 120.0)])


def send(shard: Shard, lines: Iterable[SpendPartial | SpendTick]) -> None:
    shard.process(Message(SPEND, encode_lines(list(lines)), partition=0, offset=1))


def _partial(scope: str, tags: dict[str, str], at: int, usd: float) -> SpendPartial:
    return SpendPartial(scope=scope, tags=tags, bucket_start=at, effective_cost=usd, events=1, requests=1)
