"""Reads which keys a LiteLLM proxy has and what limits each has by itself; changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from curb.actions.calls.http import exchange, exchange_object
from curb.actions.levers.litellm_enforced import Row, is_refused, own_limits, rows_above
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError

#: Rows of one page. By definition of LiteLLM, its most.
_PAGE_SIZE = 100
#: Characters of a hash that stand for a key without an alias. By hand: as in the summaries of plans.
_SHORT = 12


class GatewayKey(NamedTuple):
    """One virtual key. `limits` are its own or those of its budget tier, by LiteLLM's names."""

    #: Hash of the key, the tag `api_key` of its usage.
    id: str
    #: Its alias, else the start of the hash; data of other people.
    name: str
    limits: dict[str, float]
    #: The key belongs to a budget tier that the list does not show; its limits may be more than `limits`.
    in_unseen_tier: bool
    spent_usd: float
    blocked: bool
    #: All that the list says of it.
    row: Mapping[str, Any] = MappingProxyType({})

    @property
    def unlimited(self) -> bool:
        """True when nothing of its own stops it; a team, user or organisation above it still may."""
        return not self.limits and not self.in_unseen_tier and not self.blocked


class KeyList(NamedTuple):
    """The keys that were read, and how many the proxy says there are."""

    keys: list[GatewayKey]
    total: int


class LitellmKeys:
    """The reading side of a proxy's admin API. Every call ends within `timeout_s` seconds."""

    def __init__(
        self, base_url: str, api_key: str, http: aiohttp.ClientSession, clock: Clock, timeout_s: float = 10.0
    ) -> None:
        self._base, self._http, self._clock, self._timeout_s = URL(base_url), http, clock, timeout_s
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        #: Answers about teams, users and organisations: many keys share one.
        self._seen: dict[tuple[str, str], Row] = {}
        self._tiers: dict[str, Row] = {}

    async def reach(self) -> None:
        """Ask whether the proxy lives, without the key. Raises TransientError or PermanentError."""
        url = self._base / "health/liveliness"
        await exchange(self._http, self._clock, "GET", url, timeout_s=self._timeout_s, headers={})

    async def read(self, most: int, report: Callable[[int, int], None] = lambda done, total: None) -> KeyList:
        """At most `most` keys, in the proxy's order; `report` gets how many were read, of how many.

        An admin's key sees all keys, another one only those of its own user. Raises TransientError or PermanentError.
        """
        keys: list[GatewayKey] = []
        page, pages, total = 1, 1, 0
        while page <= pages and len(keys) < most:
            answer = await self._page(page)
            rows = answer.get("keys")
            if not isinstance(rows, list):
                raise TransientError("GET /key/list: the answer has no list of `keys`")
            now = self._clock.now()
            keys += [_key(row, now) for row in rows if isinstance(row, Mapping)]
            total, pages = _whole(answer.get("total_count")), _whole(answer.get("total_pages"))
            report(len(keys), max(total, len(keys)))
            page += 1
            if not rows:
                break
        return KeyList(keys[:most], max(total, len(keys)))

    async def with_tier(self, key: GatewayKey) -> GatewayKey:
        """The key with the limits of its budget tier, which the list may leave out. Raises as `read` does."""
        if not key.in_unseen_tier:
            return key
        tier_id = str(key.row.get("budget_id"))
        if tier_id not in self._tiers:
            answer = await self._get("key/info", "key", key.id)
            info = answer.get("info")
            tier = info.get("litellm_budget_table") if isinstance(info, Mapping) else None
            self._tiers[tier_id] = tier if isinstance(tier, Mapping) else {}
        return _key({**key.row, "litellm_budget_table": self._tiers[tier_id]}, self._clock.now())

    async def above(self, key: GatewayKey) -> list[Row]:
        """The rows whose limits hold for the key as well: its team and so on. Raises TransientError."""
        return await rows_above(key.row, self._readable)

    async def _readable(self, path: str, query: str, value: str) -> Row:
        if (path, value) not in self._seen:
            try:
                self._seen[path, value] = await self._get(path, query, value)
            except PermanentError:
                self._seen[path, value] = {}
        return self._seen[path, value]

    async def _get(self, path: str, query: str, value: str) -> dict[str, Any]:
        url = (self._base / path).with_query({query: value})
        return await exchange_object(
            self._http, self._clock, "GET", url, timeout_s=self._timeout_s, headers=self._headers
        )

    async def _page(self, page: int) -> dict[str, Any]:
        query = {"page": str(page), "size": str(_PAGE_SIZE), "return_full_object": "true"}
        url = (self._base / "key/list").with_query(query)
        return await exchange_object(
            self._http, self._clock, "GET", url, timeout_s=self._timeout_s, headers=self._headers
        )


def _key(row: Mapping[str, Any], now: float) -> GatewayKey:
    found = str(row.get("token") or "")
    tier_is_shown = isinstance(row.get("litellm_budget_table"), Mapping)
    spend = row.get("spend")
    return GatewayKey(
        id=found,
        name=str(row.get("key_alias") or found[:_SHORT]),
        limits=own_limits(row, now),
        in_unseen_tier=bool(row.get("budget_id")) and not tier_is_shown,
        spent_usd=float(spend) if isinstance(spend, int | float) and not isinstance(spend, bool) else 0.0,
        blocked=row.get("blocked") is True or is_refused(row) or _is_over(row, now),
        row=row,
    )


def _is_over(row: Mapping[str, Any], now: float) -> bool:
    """True for a key whose time is over."""
    try:
        at = datetime.fromisoformat(str(row.get("expires")))
    except ValueError:
        return False
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() <= now


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
