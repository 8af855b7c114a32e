"""Tries whether a LiteLLM proxy enforces limits: a key of Curb's own, real calls on it, and the key deleted again."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

import aiohttp
import msgspec
from yarl import URL

from curb.actions.calls.http import NotFoundError, exchange_object
from curb.stream.clients.reason import reason_in
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError

#: The limits that are tried, by what they bound.
Limit = Literal["requests", "tokens", "budget"]
#: enforced: calls were refused as soon as the limit was reached. late: more passed first. not_enforced: none was
#: refused. early: refused below the limit. unknown: it could not be tried.
Verdict = Literal["enforced", "late", "not_enforced", "early", "unknown"]
#: Requests a minute, tokens a minute, and dollars of the probe. By hand: as small as still says something.
_RPM, _TPM, _BUDGET_USD = 3, 10, 1e-6
#: Dollars that no probe may pass whatever else is tried. By hand.
_MOST_USD = 0.05
#: After this time the proxy forgets a probe that nobody deleted.
_EXPIRES = "1h"
#: Tries to delete a probe, and seconds between them. By hand: ten seconds, then the person is asked to.
_DELETES, _BETWEEN_S = 5, 2.0
#: Most tokens of one answer. By hand.
_ANSWER_TOKENS = 16


class ProbeCall(NamedTuple):
    """One call on a probe: whether it passed, the tokens that its answer reports, or why it failed otherwise."""

    passed: bool
    tokens: int = 0
    #: Not "" where the answer says nothing about limits.
    error: str = ""


class Tried(NamedTuple):
    """What came of one limit."""

    limit: Limit
    #: In words, such as "3 requests a minute".
    set_to: str
    verdict: Verdict
    #: Calls made, and those that passed before the first refusal; calls that should have passed.
    calls: int
    passed: int
    allowed: int
    why: str


class ProbeError(PermanentError):
    """A probe that could not be deleted."""


class LitellmProbe:
    """Makes one key at a time and calls `model` with it. Every exchange ends within `timeout_s` seconds."""

    #: What the admin key must be allowed to call; nothing else is called with it.
    permissions = ("POST /key/generate", "POST /key/delete", "GET /key/info")

    def __init__(
        self, base_url: str, api_key: str, model: str, http: aiohttp.ClientSession, clock: Clock, timeout_s: float
    ) -> None:
        self._base, self._model, self._http, self._clock, self._timeout_s = URL(base_url), model, http, clock, timeout_s
        self._headers = {"Authorization": f"Bearer {api_key}", "litellm-changed-by": "curb verify-limits"}

    async def requests(self, most: int) -> Tried:
        """Requests a minute, with at most `most` calls."""
        async with self._key(rpm_limit=_RPM, max_budget=_MOST_USD) as key:
            calls = await self._until_refused(key, most)
        return _tried("requests", f"{_RPM} requests a minute", calls, _RPM, _RPM)

    async def tokens(self, most: int) -> Tried:
        """Tokens a minute. They are known after a call, so the call that reaches the limit passes."""
        async with self._key(tpm_limit=_TPM, max_budget=_MOST_USD) as key:
            calls = await self._until_refused(key, most)
        allowed, sum_tokens = 0, 0
        for call in calls:
            if not call.passed or sum_tokens >= _TPM:
                break
            allowed, sum_tokens = allowed + 1, sum_tokens + call.tokens
        reported = sum(call.tokens for call in calls)
        if calls and calls[-1].passed and reported < _TPM:
            why = f"its {len(calls)} calls report {reported} tokens, fewer than the limit"
            return Tried("tokens", f"{_TPM} tokens a minute", "unknown", len(calls), len(calls), allowed, why)
        # A proxy that reserves tokens before a call refuses the first one: that is no fault.
        return _tried("tokens", f"{_TPM} tokens a minute", calls, allowed, 0)

    async def budget(self, most: int, wait_s: float) -> Tried:
        """A budget that the first call spends; calls go on, spread over `wait_s` seconds."""
        async with self._key(max_budget=_BUDGET_USD) as key:
            calls = await self._until_refused(key, most, wait_s / most)
            spent_usd = 0.0 if calls and not calls[-1].passed else await self._spent_usd(key)
        if calls and calls[-1].passed and spent_usd < _BUDGET_USD:
            why = f"by the proxy, {len(calls)} calls of {self._model} cost ${spent_usd:g}: give a model with a price"
            return Tried("budget", f"${_BUDGET_USD:f}", "unknown", len(calls), len(calls), 1, why)
        return _tried("budget", f"${_BUDGET_USD:f}", calls, 1, 0)

    async def _until_refused(self, key: str, most: int, between_s: float = 0.0) -> list[ProbeCall]:
        """Calls in their order, up to the first that is refused."""
        calls: list[ProbeCall] = []
        while len(calls) < most and not (calls and not calls[-1].passed):
            if calls and between_s:
                await self._clock.sleep(between_s)
            call = await self._call(key)
            if call.error:
                raise PermanentError(f"a call of {self._model} failed: {call.error}")
            calls.append(call)
        return calls

    async def _call(self, key: str) -> ProbeCall:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": f"Say ok. {secrets.token_hex(4)}"}],  # no cache knows it
            "max_tokens": _ANSWER_TOKENS,
        }
        url, headers = self._base / "v1/chat/completions", {"Authorization": f"Bearer {key}"}
        timeout = aiohttp.ClientTimeout(total=max(self._timeout_s, 60.0))  # a model takes its time
        try:
            async with self._http.post(url, json=body, headers=headers, timeout=timeout) as answer:
                data, status = await answer.read(), answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            return ProbeCall(False, error=type(error).__name__)
        if status == 200:
            return ProbeCall(True, _tokens(data))
        if status == 429 or b"budget_exceeded" in data or b"Budget has been exceeded" in data:
            return ProbeCall(False)
        return ProbeCall(False, error=f"HTTP {status} {reason_in(data, [key])}".strip())

    async def _spent_usd(self, key: str) -> float:
        info = (await self._admin("GET", (self._base / "key/info").with_query({"key": key}))).get("info")
        spend = info.get("spend") if isinstance(info, Mapping) else None
        return float(spend) if isinstance(spend, int | float) else 0.0

    @asynccontextmanager
    async def _key(self, **limits: float) -> AsyncIterator[str]:
        """A key with these limits, which is deleted whatever happens, also when the answer to its making is lost."""
        key = f"sk-curb-probe-{secrets.token_urlsafe(24)}"
        body = {
            "key": key,
            "key_alias": f"curb-probe-{secrets.token_hex(6)}",
            "models": [self._model],
            "duration": _EXPIRES,
            "metadata": {"made_by": "curb verify-limits"},
            **limits,
        }
        try:
            await self._admin("POST", self._base / "key/generate", body)
            yield key
        finally:
            await asyncio.shield(self._delete(key, str(body["key_alias"])))

    async def _delete(self, key: str, alias: str) -> None:
        """Raises ProbeError when the key is still there after some tries."""
        said = ""
        for number in range(_DELETES):
            if number:
                await self._clock.sleep(_BETWEEN_S)
            try:
                await self._admin("POST", self._base / "key/delete", {"keys": [key]})
                return
            except NotFoundError:
                return  # it was never made
            except (TransientError, PermanentError) as error:
                said = str(error)
                if await self._is_gone(key):
                    return
        raise ProbeError(f"the probe {alias} could not be deleted ({said}); delete it, or it expires within the hour")

    async def _is_gone(self, key: str) -> bool:
        try:
            await self._admin("GET", (self._base / "key/info").with_query({"key": key}))
        except NotFoundError:
            return True
        except (TransientError, PermanentError):
            return False
        return False

    async def _admin(self, method: str, url: URL, body: Any = None) -> dict[str, Any]:
        return await exchange_object(
            self._http, self._clock, method, url, timeout_s=self._timeout_s, headers=self._headers, json=body
        )


def _tokens(data: bytes) -> int:
    try:
        usage = msgspec.json.decode(data, type=dict[str, Any]).get("usage")
    except msgspec.DecodeError:
        return 0
    total = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    return total if isinstance(total, int) else 0


def _tried(limit: Limit, set_to: str, calls: list[ProbeCall], allowed: int, least: int) -> Tried:
    """The verdict on calls of which `allowed` may pass and `least` must."""
    passed = sum(call.passed for call in calls)
    verdict: Verdict
    if passed == len(calls):
        verdict, why = "not_enforced", f"all {passed} calls passed"
    elif passed > allowed:
        verdict, why = "late", f"{passed} calls passed before the first was refused; {allowed} should have"
    elif passed < least:
        verdict, why = "early", f"{passed} of {allowed} calls passed: something else refuses them"
    elif not passed:
        verdict, why = "enforced", "the first call was refused: it would be over the limit"
    else:
        verdict, why = "enforced", f"{passed} calls passed, the next was refused"
    return Tried(limit, set_to, verdict, len(calls), passed, allowed, why)
