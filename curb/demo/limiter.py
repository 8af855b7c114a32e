"""The demo gateway's limits per key: requests, tokens and budgets over event time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from curb.demo.trace import Key, Request

WINDOW_S = 60.0
#: Fields that /key/update accepts. All of them are enforced.
LIMIT_FIELDS = ("rpm_limit", "tpm_limit", "max_budget", "blocked")


class Admission(NamedTuple):
    """Whether a request may pass; if not, the answer to the caller, with LiteLLM's error type."""

    admitted: bool
    status: int = 200
    error_type: str = ""
    message: str = ""
    retry_after_s: int = 0


class LimitError(ValueError):
    """A limit that cannot be set: the message says which field and why."""


class Limiter:
    """Counts the requests of every key in windows of a minute that begin with the first request after the last one."""

    def __init__(self, keys: Iterable[Key], limits: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """`limits` holds per alias the limits to begin with, such as {"support-agent": {"rpm_limit": 600}}."""
        self._keys = {key.api_key: _KeyState(key) for key in keys}
        self._names = {name: s for s in self._keys.values() for name in (s.key.api_key, s.key.secret)}
        for alias, changes in (limits or {}).items():
            state = next((s for s in self._keys.values() if s.key.alias == alias), None)
            if state is None:
                raise KeyError(f"no key named {alias}")
            state.update(changes)

    def find(self, name: str) -> Key | None:
        """The key with this api_key or secret."""
        state = self._names.get(name)
        return state.key if state else None

    def info(self, name: str) -> dict[str, Any]:
        """Limits and spend of a key. Raises KeyError."""
        return self._names[name].info()

    def update(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Merge patch: what is not named stays, null clears. Raises KeyError, LimitError; then nothing has changed."""
        state = self._names[name]
        state.update(changes)
        return state.info()

    def judge(self, request: Request) -> Admission:
        """Decide and account for one request, at its own time; a rejected one counts nothing."""
        return self._keys[request.key.api_key].judge(request)


class _KeyState:
    def __init__(self, key: Key) -> None:
        self.key = key
        self.limits: dict[str, Any] = {"rpm_limit": None, "tpm_limit": None, "max_budget": None, "blocked": None}
        self.spend_usd = 0.0
        self._window_start = -math.inf
        self._requests = self._tokens = 0

    def info(self) -> dict[str, Any]:
        return {
            "status": "active",
            "key_alias": self.key.alias,
            "team_id": self.key.team,
            "models": [self.key.model],
            "spend": self.spend_usd,
            "metadata": {"project": self.key.project, "env": self.key.env},
            **self.limits,
        }

    def update(self, changes: Mapping[str, Any]) -> None:
        for field, value in changes.items():
            _check(field, value)
        self.limits.update(changes)

    def judge(self, request: Request) -> Admission:
        if request.at >= self._window_start + WINDOW_S:
            self._window_start, self._requests, self._tokens = request.at, 0, 0
        refusal = self._refusal()
        if refusal:
            return refusal
        self._requests += 1
        self._tokens += request.input_tokens + request.output_tokens
        self.spend_usd += request.cost_usd
        return Admission(True)

    def _refusal(self) -> Admission | None:
        if self.limits["blocked"]:
            return Admission(False, 401, "auth_error", f"{self.key.api_key} is blocked")
        budget = self.limits["max_budget"]
        if budget is not None and self.spend_usd >= budget:
            message = f"{self.key.api_key} has spent ${self.spend_usd:.4f} of its budget of ${budget:.4f}"
            return Admission(False, 422, "budget_exceeded", message)
        for field, counted, unit in (("rpm_limit", self._requests, "requests"), ("tpm_limit", self._tokens, "tokens")):
            limit = self.limits[field]
            if limit is not None and counted >= limit:
                message = f"{self.key.api_key} is over its limit of {limit} {unit} per minute"
                return Admission(False, 429, "throttling_error", message, round(WINDOW_S))
        return None


def _check(field: str, value: Any) -> None:
    if field not in LIMIT_FIELDS:
        raise LimitError(f"{field} is not enforced here; known are {', '.join(LIMIT_FIELDS)}")
    if value is None:
        return
    if field == "blocked":
        if not isinstance(value, bool):
            raise LimitError("blocked must be true, false or null")
        return
    kinds = int if field != "max_budget" else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or value < 0:
        raise LimitError(f"{field} must be a finite number of at least 0, or null")
