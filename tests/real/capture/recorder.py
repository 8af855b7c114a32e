"""Stands between Curb and a real server and writes down what each asks and answers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict

from curb.stream.errors import PermanentError, TransientError
from tests.answers import Exchange, Stories, made_constant, request_line

#: Headers of an answer that Curb or one of its libraries looks at. Azure's own begin with x-ms-.
_KEPT = ("content-type", "content-range", "content-encoding", "etag", "last-modified", "location", "retry-after")
_AZURE, _OF_ONE_REQUEST = "x-ms-", ("x-ms-request-id", "x-ms-client-request-id")
_TAG_ENDS = re.compile(r"(</[^>]+>|/>)(?=<)")
#: Which object of Kubernetes was written by whom when: longer than the object, and Curb does not look at it.
_LONG = "managedFields"


class Recorder:
    """Passes everything on to `url`, with the headers that it came with: stores sign the name of the host."""

    def __init__(self, url: str, tls: Any = True) -> None:
        self._url, self._tls = url, tls
        self._exchanges: list[Exchange] = []
        self.stories: Stories = {}
        #: Names of this run, and what stands for them in the files.
        self.words: dict[str, str] = {}

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """The address at which it listens."""
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._pass)
        async with aiohttp.ClientSession() as self._http, TestServer(app) as server:
            yield str(server.make_url("/")).rstrip("/")

    async def story(
        self, name: str, call: Callable[[], Awaitable[Any]], fails: type[Exception] | None = None, tries: int = 1
    ) -> Any:
        """Whatever is asked during the call. `fails` is how it must end; more `tries` where it may meet a conflict."""
        while True:
            self._exchanges, tries, found = [], tries - 1, None
            try:
                found = await call()
            except TransientError:
                if fails is not TransientError and tries:
                    continue
                if fails is not TransientError:
                    raise
            except PermanentError:
                if fails is not PermanentError:
                    raise
            else:
                assert fails is None, f"{name} was not refused"
            self.stories[name], self._exchanges = self._exchanges, []
            return found

    def done(self) -> Stories:
        """All that was captured, without what is of this run."""
        return made_constant(self.stories, self.words)

    async def _pass(self, request: web.Request) -> web.Response:
        sent = await request.read()
        headers = CIMultiDict(request.headers)
        headers["Accept-Encoding"] = "identity"
        async with self._http.request(
            request.method, self._url + request.raw_path, data=sent or None, headers=headers, ssl=self._tls,
            allow_redirects=False,
        ) as answer:  # fmt: skip
            body = await answer.read()
        kept = {name: value for name, value in answer.headers.items() if _is_kept(name, request.method)}
        self._exchanges.append(Exchange(request_line(request), _readable(sent), answer.status, kept, _readable(body)))
        return web.Response(status=answer.status, headers=kept, body=body)


def _is_kept(name: str, method: str) -> bool:
    name = name.lower()
    if name == "content-length":
        return method == "HEAD"
    return name in _KEPT or (name.startswith(_AZURE) and name not in _OF_ONE_REQUEST)


def _readable(body: bytes) -> Any:
    """JSON as it is, any other text as its lines; XML has one after each element."""
    try:
        return _shortened(json.loads(body))
    except ValueError:
        return _TAG_ENDS.sub(r"\1\n", body.decode()).split("\n") if body else None


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items() if key != _LONG}
    return [_shortened(inner) for inner in value] if isinstance(value, list) else value
