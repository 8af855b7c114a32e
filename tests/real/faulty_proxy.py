"""Stands between Curb and a real Kubernetes API server: it refuses, is silent, breaks off, or ends the one who asks."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

#: Seconds that Curb waits for an answer in these tests, and for which the proxy says nothing. By hand.
PATIENCE_S, _SILENCE_S, _SLOW_S = 0.5, 0.8, 0.05
_PAGE = b"<!doctype html><html><head><title>Sign in</title></head><body>Please sign in</body></html>"
_PASSED_ON = ("Authorization", "Content-Type", "Accept", "User-Agent")
When = Literal["before", "after"]


class Refusal(NamedTuple):
    """An answer that is not what was asked for."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = MappingProxyType({})


def _said(code: int, reason: str, message: str, **details: Any) -> Refusal:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason}
    more = {"Retry-After": "1"} if code == 429 else {}
    return Refusal(code, json.dumps(body | {"code": code, "details": details}).encode(), headers=more)


#: As an API server, what guards it, and proxies in between say it.
REFUSALS: dict[str, Refusal] = {
    "401": _said(401, "Unauthorized", "Unauthorized"),
    "403": _said(403, "Forbidden", 'admission webhook "freeze.example.com" denied the request: freeze'),
    "404 of the version": Refusal(404, b"404 page not found\n", "text/plain; charset=utf-8"),
    "404 of something else": _said(404, "NotFound", 'namespaces "x" not found', name="x", kind="namespaces"),
    "404 of a page": Refusal(404, _PAGE, "text/html"),
    "409": _said(409, "Conflict", "the object has been modified; please apply your changes to the latest version"),
    "422": _said(422, "Invalid", "spec: Invalid value: field is immutable"),
    "429": _said(429, "TooManyRequests", "the server has received too many requests"),
    "500": _said(500, "InternalError", "etcdserver: request timed out"),
    "503": Refusal(503, b"upstream connect error", "text/plain"),
    "log-in page": Refusal(200, _PAGE, "text/html"),
    "redirect": Refusal(302, b"", "text/html", {"Location": "https://sso.example.com/"}),
    "empty object": Refusal(200, b"{}"),
}
BEFORE = (*REFUSALS, "time-out", "slow", "closed", "kill")
#: What it says although the server has done it.
AFTER = ("401", "403", "404 of the version", "409", "422", "500", "503", "log-in page", "empty object", "time-out",
         "closed", "half", "kill")  # fmt: skip


class Asked(NamedTuple):
    """A request of Curb's, as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class FaultyProxy:
    """`arrows` are named by what is asked and how often it was: "read 2" is the second time that an object is read.

    `first` is an arrow, when, and what happens there the first time; `chance` of anything at any other request.
    `victim` is the task that a kill ends. `look` sees every change before it is passed on.
    """

    def __init__(self, url: str, tls: Any, http: aiohttp.ClientSession, rng: random.Random) -> None:
        self._url, self._tls, self._http, self._rng = url, tls, http, rng
        self.first: tuple[str, str, str] = ("", "", "")
        self.chance = 0.0
        #: What it says to everything, and until when on the clock of the story.
        self.lasting: tuple[str, float] = ("", 0.0)
        self.steady: Callable[[], float] = lambda: 0.0
        self.name_of_change: Callable[[Any], str] = lambda patch: "change"
        self.look: Callable[[Asked], Any] | None = None
        self.victim: asyncio.Task[Any] | None = None
        self.killed = False
        self._counts: Counter[str] = Counter()
        #: What was asked for and not answered as asked, without numbers.
        self.failed: set[str] = set()
        #: (arrow, when, fault) → how often.
        self.seen: Counter[tuple[str, str, str]] = Counter()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass)
        async with TestServer(app) as server:
            yield str(server.make_url("/")).rstrip("/")

    def calm(self) -> None:
        """Pass everything on from now on."""
        self.first, self.chance, self.lasting = ("", "", ""), 0.0, ("", 0.0)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k in _PASSED_ON}
        asked = Asked(request.method, request.path_qs, headers, await request.read())
        arrow = self._arrow(asked)
        if (fault := self._fault(arrow, "before")) not in ("", "slow"):
            return await self._spoil(request, fault, None)
        if fault == "slow":
            await asyncio.sleep(_SLOW_S)
        if self.look is not None and asked.method == "PATCH":
            await self.look(asked)
        async with self._http.request(
            asked.method, self._url + asked.path, data=asked.body or None, headers=asked.headers, ssl=self._tls
        ) as answer:
            found = Refusal(answer.status, await answer.read(), answer.headers.get("Content-Type", ""))
        if found.status >= 400:
            self.failed.add(arrow.rpartition(" ")[0])
        if fault := self._fault(arrow, "after"):
            return await self._spoil(request, fault, found)
        return _answer(found)

    def _arrow(self, asked: Asked) -> str:
        parts = asked.path.partition("?")[0].strip("/").split("/")
        if asked.method == "PATCH":
            name = self.name_of_change(json.loads(asked.body))
        elif asked.method == "POST":
            name = "event"
        elif len(parts) <= 3:
            name = "versions"
        else:
            is_list = len(parts) == 6 if parts[3] == "namespaces" else len(parts) == 4
            name = "list" if is_list else "read"
        self._counts[name] += 1
        return f"{name} {self._counts[name]}"

    def _fault(self, arrow: str, when: When) -> str:
        if self.first[:2] == (arrow, when):
            fault, self.first = self.first[2], ("", "", "")
        elif when == "before" and self.steady() < self.lasting[1]:
            fault = self.lasting[0]
        else:
            fault = self._rng.choice(BEFORE if when == "before" else AFTER) if self._rng.random() < self.chance else ""
        if fault:
            self.seen[arrow, when, fault] += 1
            self.failed.add(arrow.rpartition(" ")[0])
        return fault

    async def _spoil(self, request: web.Request, fault: str, found: Refusal | None) -> web.StreamResponse:
        if fault == "kill":
            self.killed = True
            if self.victim is not None:
                self.victim.cancel()
        elif fault == "time-out":
            await asyncio.sleep(_SILENCE_S)
        elif fault == "half" and found is not None and len(found.body) > 1:
            half = web.StreamResponse(status=found.status, headers={"Content-Type": "application/json"})
            half.content_length = len(found.body)
            await half.prepare(request)
            await half.write(found.body[: len(found.body) // 2])
        elif fault in REFUSALS:
            return _answer(REFUSALS[fault])
        if request.transport is not None:
            request.transport.close()
        return web.Response()


def _answer(given: Refusal) -> web.Response:
    headers = {"Content-Type": given.content_type or "text/plain", **given.headers}
    return web.Response(status=given.status, body=given.body, headers=headers)
