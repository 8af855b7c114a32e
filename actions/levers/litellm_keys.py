"""Reads which keys a LiteLLM proxy has and what limits each has by itself; changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from curb.actions.calls.http import exchange, exchange_object
from curb.actions.levers.litellm_enforced import own_limits
from curb.stream.clock import Clock
from curb.stream.errors import TransientError

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
        blocked=row.get("blocked") is True,
    )


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
