"""An Envoy's admin interface over the route file it reads; like the real one it takes only a file that is replaced."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.actions.target import TargetRate
from curb.stream.records.spend import Alert
from curb.testing.actions import ActionBench
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.faults import Faults

KIND = "envoy"
BLOCK = TargetRate("block")
#: A file as people write it: comments, blocks and flows, and no space at some places where others have it.
ROUTES = """\
# limits of the gateway   (keep in step with the wiki)
resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: gateway
  virtual_hosts:
  - name: other
    domains: [other.example.com]
    routes: [{match: {prefix: /}, route: {cluster: other}}]
  - name: models
    domains: ["*"]
    routes:
      # everything
      - match: {prefix: /}
        name: all
        route: {cluster: models}
    typed_per_filter_config:
      envoy.filters.http.local_ratelimit:
        "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
        stat_prefix: models
        descriptors:
          - entries: [{key: api_key, value: sk-one}]
            token_bucket:
              max_tokens:  600   # a minute's worth
              fill_interval: 60s
              tokens_per_fill: 600
            # the nightly job
          - entries:
            - {key: api_key, value: "nightly"}
            token_bucket: {max_tokens: 5,tokens_per_fill: 5,fill_interval: 1s}
"""


class EnvoyAdmin:
    """Reads the file again when it is another one; `frozen` keeps what it has, as when a file is rejected."""

    def __init__(self, path: Path, faults: Faults) -> None:
        self.path, self.faults, self.frozen = path, faults, False
        self.refused = 7
        self.replaced = 0
        self._file = path.open("rb")  # kept open: the inode of a file that is gone may be given to the next
        self._held: dict[str, Any] = yaml.safe_load(self._file.read())

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_get("/config_dump", self._config_dump)
        app.router.add_get("/stats", self._stats)
        return app

    def close(self) -> None:
        self._file.close()

    def _take(self) -> None:
        if not self.frozen and self.path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
            self._file.close()
            self._file = self.path.open("rb")
            self._held = yaml.safe_load(self._file.read())
            self.replaced += 1

    async def _config_dump(self, request: web.Request) -> web.Response:
        assert request.query["resource"] == "dynamic_route_configs"
        self._take()
        return web.json_response({"configs": [{"route_config": each} for each in self._held["resources"]]})

    async def _stats(self, request: web.Request) -> web.Response:
        assert request.query["format"] == "json"
        self._take()
        stats = {"models.http_local_rate_limit.rate_limited": self.refused, "models.http_local_rate_limit.ok": 99}
        wanted = re.compile(request.query["filter"])
        found = [{"name": name, "value": value} for name, value in stats.items() if wanted.search(name)]
        return web.json_response({"stats": found})


class EnvoyBench(ActionBench):
    """A key that has a higher limit, one that has none, and one to block."""

    secret = "sk-two"

    def __init__(self, text: str = ROUTES) -> None:
        self._text, self.path, self.faults = text, Path("routes.yaml"), Faults()
        #: Each asks for at least one plan.
        self.cases = [
            (an_alert(), NORMAL),
            (an_alert(tags={"api_key": "k2"}), NORMAL),
            (an_alert(tags={"api_key": "nightly"}), BLOCK),
        ]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        with tempfile.TemporaryDirectory() as directory:
            self.path = Path(directory) / self.path
            self.path.write_text(self._text, encoding="utf-8")
            self.fake = EnvoyAdmin(self.path, self.faults)
            with contextlib.closing(self.fake):
                async with TestServer(self.fake.app()) as server:
                    yield str(server.make_url("/"))

    def config(self, address: str) -> dict[str, Any]:
        config = {"kind": KIND, "name": "edge", "admin_url": address, "timeout_s": 0.2, "routes_file": str(self.path)}
        values = {"k1": "sk-one", "k2": self.secret, "nightly": "nightly"}
        return config | {"virtual_host": "models", "values": values}

    def world(self) -> Any:
        return self.path.read_bytes()

    def change_by_hand(self) -> None:
        """Somebody finds Curb's limits and routes and changes them, as an editor does it: the file is replaced."""
        text = self.path.read_text(encoding="utf-8")
        for ours, theirs in [('"max_tokens": 4', '"max_tokens": 9'), ('"status": 403', '"status": 429')]:
            text = text.replace(ours, theirs)
        written = self.path.with_suffix(".new")
        written.write_text(text, encoding="utf-8")
        written.replace(self.path)

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"api_key": "nobody"})

    def called(self) -> set[str]:
        return set(self.faults.seen) | ({"replace the routes file"} if self.fake.replaced else set())
