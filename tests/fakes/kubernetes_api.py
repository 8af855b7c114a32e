"""A Kubernetes API server: pods, namespaces and nodes in pages, for those who have the token and the right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults
from tests.fakes.kubernetes_objects import status


def pod(namespace: str, name: str, *, node: str = "", owner: tuple[str, str] | None = None, **labels: str) -> Any:
    """A pod with a secret in its environment, which nobody should look at."""
    owners = [{"kind": owner[0], "name": owner[1], "controller": True}] if owner else []
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": owners, "uid": name},
        "spec": {"nodeName": node, "containers": [{"env": [{"name": "PASSWORD", "value": "hunter2"}]}]},
        "status": {"phase": "Running"},
    }


def named(name: str, **labels: str) -> Any:
    """A namespace or a node."""
    return {"metadata": {"name": name, "labels": labels}}


class KubernetesServer:
    """`lists` is by kind: pods, namespaces, nodes. Kinds in `forbidden` answer 403."""

    def __init__(self, token: str = "sa-token", page: int = 2) -> None:
        self.lists: dict[str, list[Any]] = {"pods": [], "namespaces": [], "nodes": []}
        self.forbidden: set[str] = set()
        self.faults = Faults()
        self._token, self._page = token, page

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_get("/api/v1/{kind}", self._list)
        return app

    def account(self, directory: Path) -> Path:
        """A service account's directory with the right token."""
        (directory / "token").write_text(self._token + "\n")
        return directory

    async def _list(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return status(401, "Unauthorized", "Unauthorized")
        if kind in self.forbidden:
            return status(403, "Forbidden", f"{kind} is forbidden", kind=kind)
        start = int(request.query.get("continue", "0"))
        end = start + min(self._page, int(request.query["limit"]))
        items = self.lists[kind]
        more = {"resourceVersion": "1"} | ({"continue": str(end)} if end < len(items) else {})
        answer = {"kind": f"{kind[:-1].title()}List", "apiVersion": "v1", "metadata": more}
        return web.json_response(answer | {"items": items[start:end]})
