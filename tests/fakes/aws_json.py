"""One AWS service that speaks JSON over HTTP: operations by name, credentials looked at, faults on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults

KEY_ID, SECRET = "AKIACURBTEST", "secret-of-the-test"
Operation = Callable[[dict[str, Any]], dict[str, Any]]


class Refused(Exception):
    """What AWS answers instead: status and code."""

    def __init__(self, status: int, code: str, message: str = "no") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class AwsJson:
    """`operations` by their name. `denied` are those that the credentials may not use."""

    def __init__(self, operations: dict[str, Operation]) -> None:
        self._operations = operations
        self.faults = Faults()
        self.denied: set[str] = set()
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_post("/", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.Response:
        name = request.headers["X-Amz-Target"].rpartition(".")[2]
        parameters = json.loads(await request.read())
        self.calls.append((name, parameters))
        try:
            if f"Credential={KEY_ID}/" not in request.headers.get("Authorization", ""):
                raise Refused(403, "UnrecognizedClientException", "The security token is invalid.")
            if name in self.denied:
                raise Refused(400, "AccessDeniedException", f"User: curb is not authorized to perform: {name}")
            answer, status = self._operations[name](parameters), 200
        except Refused as refused:
            answer, status = {"__type": refused.code, "message": refused.message}, refused.status
        return web.Response(body=json.dumps(answer), status=status, content_type="application/x-amz-json-1.1")


def aws(url: str) -> dict[str, Any]:
    """The section `aws` of a configuration that asks the fake at `url`."""
    return {"endpoint_url": url, "region": "us-east-1", "access_key_id": KEY_ID, "secret_access_key": SECRET}
