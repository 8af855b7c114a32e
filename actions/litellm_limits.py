"""Tightens the limits of one LiteLLM virtual key to its own normal level, and gives them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import aiohttp
import msgspec
from pydantic import Field, HttpUrl, SecretStr
from yarl import URL

from actions.action import Context, DriftError, Effect, Outcome
from actions.aim import Aim, RateSettings, Verb
from actions.http import NotFoundError, exchange
from stream.clock import Clock
from stream.errors import TransientError
from stream.records import OTHER, UNTAGGED, Alert, Plan

_GONE = frozenset({"revoked", "deleted", "expired"})


class Config(RateSettings):
    """Sets `rpm_limit` (and `tpm_limit` when asked) of the key an alert is about, through `POST /key/update`."""

    kind: Literal["litellm_limits"]
    name: str = Field(pattern=r"^[a-z0-9-]+$", description="Unique name of this action.")
    base_url: HttpUrl = Field(description="Address of the LiteLLM proxy, such as http://litellm:4000.")
    api_key: SecretStr = Field(description="Key that may read and update keys (proxy admin or master key).")
    tag: str = Field(default="api_key", description="Tag of the alert that holds the hash of the key.")
    tpm: int | None = Field(
        default=None, ge=1, description="Tokens per minute to set as well, if the key has no limit or a higher one."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer of the proxy.")

    def build(self, context: Context) -> LitellmLimits:
        return LitellmLimits(self, context.http, context.clock)


class LitellmLimits:
    """An action on `litellm/key/<hash>`. Only the limits it sets are ever sent; `metadata` never is."""

    #: What the admin key must be allowed to call; nothing else is called.
    permissions: ClassVar[tuple[str, ...]] = ("GET /key/info", "POST /key/update")

    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave"})

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock
        self._base = URL(str(config.base_url))

    async def plan(self, alert: Alert, aim: Aim) -> Sequence[Plan]:
        """Nothing without a key in the tags, for a key that is blocked or over, or when its limits are low enough.

        PermanentError for a key the proxy does not know.
        """
        key = alert.tags.get(self._config.tag, "")
        if key in ("", UNTAGGED, OTHER):
            return ()
        info = await self._info(key)
        if info.get("blocked") or info.get("status") in _GONE:
            return ()
        wanted = {"rpm_limit": self._config.rpm_for(aim)}
        if self._config.tpm is not None:
            wanted["tpm_limit"] = self._config.tpm
        after = {name: value for name, value in wanted.items() if info.get(name) is None or info[name] > value}
        if not after:
            return ()
        before = {name: info.get(name) for name in after}
        changes = ", ".join(f"{name} {_shown(before[name])} → {value}" for name, value in after.items())
        summary = f"limit key {info.get('key_alias') or key[:12]}: {changes}"
        name, target = self._config.name, f"litellm/key/{key}"
        return (Plan(action=name, target=target, summary=summary, before=before, after=dict(after)),)

    async def apply(self, plan: Plan) -> Outcome:
        await self._update(_key_of(plan), plan.after)
        return Outcome(values=dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        info = await self._info(_key_of(plan))
        values = {name: info.get(name) for name in plan.after}
        return Effect(in_force=values == plan.after, values=values)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        key = _key_of(plan)
        try:
            info = await self._info(key)
        except NotFoundError as error:
            raise DriftError("the key no longer exists", found={}) from error
        found = {name: info.get(name) for name in plan.after}
        ours = {name: plan.before[name] for name, value in plan.after.items() if found[name] == value}
        if ours:
            await self._update(key, ours)
        drifted = {name: value for name, value in found.items() if name not in ours and value != plan.before[name]}
        if drifted:
            raise DriftError("somebody changed the limits since", found=drifted)

    async def close(self) -> None:
        """Nothing is held: the HTTP session belongs to the caller."""

    async def _info(self, key: str) -> dict[str, Any]:
        answer = await self._exchange("GET", (self._base / "key" / "info").with_query(key=key))
        info = answer.get("info")
        if not isinstance(info, dict):
            raise TransientError("GET /key/info: the answer has no `info`")
        return info

    async def _update(self, key: str, values: dict[str, Any]) -> None:
        """LiteLLM merges: what is not sent stays as it is, null clears a limit."""
        await self._exchange("POST", self._base / "key" / "update", json={"key": key, **values})

    async def _exchange(self, method: str, url: URL, json: Any = None) -> dict[str, Any]:
        headers = {
            "Authorization": f"Bearer {self._config.api_key.get_secret_value()}",
            "litellm-changed-by": f"curb/{self._config.name}",
        }
        body = await exchange(
            self._http, self._clock, method, url, timeout_s=self._config.timeout_s, headers=headers, json=json
        )
        try:
            answer: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise TransientError(f"{method} {url.path}: the answer is not a JSON object") from error
        return answer


def _key_of(plan: Plan) -> str:
    return plan.target.removeprefix("litellm/key/")


def _shown(limit: Any) -> str:
    return "none" if limit is None else str(limit)
