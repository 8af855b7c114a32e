"""A small gateway that speaks the part of LiteLLM's HTTP interface Curb uses, and really enforces limits."""

from __future__ import annotations

import hmac
import itertools
import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import aiohttp
import msgspec
from aiohttp import web

from curb.demo.trace import Key, Request, Trace
from curb.stream.clock import Clock
from curb.stream.errors import TransientError, error_for_status

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


#: LiteLLM's own defaults of the generic_api callback.
BATCH_SIZE = 512
FLUSH_INTERVAL_S = 5.0
_ANSWER = "This gateway answers without a model."
_ANSWER_TOKENS = 64
_CHARACTERS_PER_TOKEN = 4


class Gateway:
    """Serves /key/info, /key/update and /v1/chat/completions, and reports every call to Curb in batches.

    `limits` holds per alias what is set at the beginning, such as {"support-agent": {"rpm_limit": 600}}. `http`
    carries the reports once `report_to` has said where they go. Time is the clock's.
    """

    def __init__(
        self,
        trace: Trace,
        clock: Clock,
        *,
        master_key: str,
        http: aiohttp.ClientSession | None = None,
        limits: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._trace = trace
        self._limiter = Limiter(trace.keys, limits)
        self._clock, self._master_key, self._http = clock, master_key, http
        self._ingest_url = self._ingest_token = ""
        self._outbox: deque[dict[str, Any]] = deque()
        self._calls = itertools.count()
        self._runner: web.AppRunner | None = None
        #: Every change of a limit: (epoch seconds, api_key, changes, the caller's name for it).
        self.changes: list[tuple[float, str, dict[str, Any], str]] = []
        self.reported = 0

    # --- the HTTP side -------------------------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; port 0 takes a free one. Returns the base URL."""
        self._runner = web.AppRunner(self.app(), access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound = self._runner.addresses[0]
        return f"http://{bound[0]}:{bound[1]}"

    async def close(self) -> None:
        """Stop listening; what is in the outbox stays there."""
        if self._runner:
            await self._runner.cleanup()

    def app(self) -> web.Application:
        """The routes, for a server or a test client."""
        app = web.Application()
        app.router.add_get("/key/info", self._key_info)
        app.router.add_post("/key/update", self._key_update)
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    async def _key_info(self, request: web.Request) -> web.Response:
        if not self._is_master(request):
            return _error(401, "auth_error", "the master key is needed")
        name = request.query.get("key", "")
        key = self._limiter.find(name)
        if key is None:
            return _error(404, "not_found_error", "no such key")
        return web.json_response({"key": key.api_key, "info": self._limiter.info(name)})

    async def _key_update(self, request: web.Request) -> web.Response:
        if not self._is_master(request):
            return _error(401, "auth_error", "the master key is needed")
        body = await _json_object(request)
        if body is None:
            return _error(400, "bad_request_error", "the body must be a JSON object")
        name = str(body.pop("key", ""))
        key = self._limiter.find(name)
        if key is None:
            return _error(404, "not_found_error", "no such key")
        try:
            info = self._limiter.update(name, body)
        except LimitError as error:
            return _error(400, "bad_request_error", str(error))
        by = request.headers.get("litellm-changed-by", "")
        self.changes.append((self._clock.now(), key.api_key, body, by))
        return web.json_response({"key": key.api_key, **info})

    async def _chat(self, request: web.Request) -> web.Response:
        key = self._limiter.find(_bearer(request))
        if key is None or _bearer(request) != key.secret:
            return _error(401, "auth_error", "unknown virtual key")
        body = await _json_object(request)
        if body is None or not isinstance(body.get("messages"), list):
            return _error(400, "bad_request_error", "the body must be a JSON object with messages")
        call = self._call(key, body)
        verdict = self.serve(call)
        if not verdict.admitted:
            return _refused(verdict)
        return web.json_response(_completion(call))

    def _call(self, key: Key, body: dict[str, Any]) -> Request:
        text = sum(len(str(m.get("content", ""))) for m in body["messages"] if isinstance(m, dict))
        inputs = max(1, text // _CHARACTERS_PER_TOKEN)
        most = body.get("max_tokens")
        outputs = min(_ANSWER_TOKENS, most) if isinstance(most, int) and most > 0 else _ANSWER_TOKENS
        cost = key.cost(inputs, outputs)
        return Request(f"chatcmpl-{next(self._calls)}", self._clock.now(), key, inputs, outputs, cost)

    def _is_master(self, request: web.Request) -> bool:
        return hmac.compare_digest(_bearer(request).encode(), self._master_key.encode())

    # --- the one way every call takes -----------------------------------------------------------------------------

    def limit(self, name: str) -> int | None:
        """The requests a minute that the key with this alias or api_key may make now; None without a limit."""
        limit: int | None = self._limiter.info(self._trace.key(name).api_key)["rpm_limit"]
        return limit

    def admit(self, request: Request) -> bool:
        """A call without the HTTP around it, for replays faster than time; same limiter, same report."""
        return self.serve(request).admitted

    def serve(self, request: Request) -> Admission:
        """Judge a call and put its report into the outbox."""
        verdict = self._limiter.judge(request)
        if self._ingest_url:
            self._outbox.append(_report(request, verdict))
        return verdict

    # --- usage on its way to Curb ---------------------------------------------------------------------------------

    def report_to(self, url: str, token: str) -> None:
        """Report from now on to this URL; before the first call nothing is kept."""
        self._ingest_url, self._ingest_token = url, token

    async def run_callback(self, interval_s: float = FLUSH_INTERVAL_S) -> None:
        """Report every `interval_s` seconds of the clock until cancelled."""
        while True:
            await self._clock.sleep(interval_s)
            await self.flush()

    async def flush(self) -> None:
        """Send what is in the outbox. A receiver that says "later" or is not there keeps it there for the next time.

        Raises PermanentError when the receiver refuses. LiteLLM itself would drop the batch in both cases.
        """
        while self._outbox:
            batch = list(itertools.islice(self._outbox, BATCH_SIZE))
            if not await self._post(batch):
                return
            for _ in batch:
                self._outbox.popleft()
            self.reported += len(batch)

    async def _post(self, batch: list[dict[str, Any]]) -> bool:
        if self._http is None:
            raise RuntimeError("a gateway that reports needs an HTTP session")
        headers = {"Authorization": f"Bearer {self._ingest_token}", "Content-Type": "application/json"}
        try:
            async with self._http.post(self._ingest_url, data=msgspec.json.encode(batch), headers=headers) as answer:
                error = error_for_status(answer.status, answer.headers, "POST usage", now=self._clock.now())
        except (aiohttp.ClientError, TimeoutError):
            return False
        if error is None:
            return True
        if isinstance(error, TransientError):
            return False
        raise error


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme == "Bearer" else ""


async def _json_object(request: web.Request) -> dict[str, Any] | None:
    try:
        body = msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return body if isinstance(body, dict) else None


def _error(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = {"error": {"message": message, "type": kind, "param": None, "code": str(status)}}
    return web.json_response(body, status=status, headers=headers)


def _refused(verdict: Admission) -> web.Response:
    headers = {"retry-after": str(verdict.retry_after_s)} if verdict.retry_after_s else None
    return _error(verdict.status, verdict.error_type, verdict.message, headers)


def _completion(call: Request) -> dict[str, Any]:
    message = {"role": "assistant", "content": _ANSWER}
    return {
        "id": call.id,
        "object": "chat.completion",
        "created": int(call.at),
        "model": call.key.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": call.input_tokens,
            "completion_tokens": call.output_tokens,
            "total_tokens": call.input_tokens + call.output_tokens,
        },
    }


def _report(request: Request, verdict: Admission) -> dict[str, Any]:
    """One call as LiteLLM's StandardLoggingPayload; a rejected one costs nothing and has no tokens."""
    key, admitted = request.key, verdict.admitted
    inputs, outputs = (request.input_tokens, request.output_tokens) if admitted else (0, 0)
    report: dict[str, Any] = {
        "id": request.id,
        "litellm_call_id": request.id,
        "call_type": "acompletion",
        "stream": False,
        "status": "success" if admitted else "failure",
        "response_cost": request.cost_usd if admitted else 0.0,
        "prompt_tokens": inputs,
        "completion_tokens": outputs,
        "total_tokens": inputs + outputs,
        "startTime": request.at,
        "endTime": request.at,
        "model": key.model,
        "model_group": key.model,
        "metadata": {
            "user_api_key_hash": key.api_key,
            "user_api_key_alias": key.alias,
            "user_api_key_team_id": key.team,
            "user_api_key_team_alias": key.team,
            "user_api_key_project_id": key.project,
            "user_api_key_auth_metadata": {"project": key.project, "env": key.env},
        },
    }
    if not admitted:
        report["error_str"] = verdict.message
        report["error_information"] = {
            "error_code": str(verdict.status),
            "error_class": verdict.error_type,
            "error_rate_limit_category": "litellm_rate_limit",
        }
    return report
