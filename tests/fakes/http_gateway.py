"""A gateway with an API of its own: limits of teams as JSON, a call each to set, give back and remove them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.actions.target import TargetRate
from curb.stream.records.spend import Alert
from curb.testing.actions import ActionBench
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.faults import Faults

KIND = "http"
TOKEN = "token-of-the-gateway"


class HttpGateway:
    """`limits` is team → its limits; a team that is not in it is not known."""

    def __init__(self, limits: dict[str, dict[str, Any]]) -> None:
        self.limits = limits
        #: Team → when it was made.
        self.made = dict.fromkeys(limits, "monday")
        self.faults = Faults()
        #: The calls by the names a configuration has for them, and what they sent.
        self.called: list[tuple[str, str, Any]] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        routes = [
            ("GET", "/limits/{team}", "read"),
            ("GET", "/live/{team}", "read_back"),
            ("PUT", "/limits/{team}", "write"),
            ("PUT", "/old/{team}", "restore"),
            ("DELETE", "/limits/{team}", "remove"),
        ]
        for method, path, name in routes:
            app.router.add_route(method, path, self._handler(name))
        return app

    def _handler(self, name: str) -> Any:
        async def handle(request: web.Request) -> web.Response:
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                return web.json_response({"error": "who are you"}, status=401)
            team = request.match_info["team"]
            sent = await request.json() if request.can_read_body else None
            self.called.append((name, team, sent))
            if team not in self.limits:
                return web.json_response({"error": "no such team"}, status=404)
            if name in ("write", "restore"):
                self.limits[team] = dict(sent["limits"])
            elif name == "remove":
                self.limits[team] = {}
            found = {"team": team, "limits": self.limits[team], "turned_away": 3}
            return web.json_response(found | ({} if name == "read_back" else {"made": self.made[team]}))

        return handle


def config(address: str) -> dict[str, Any]:
    """A configuration of everything the gateway can do."""
    base, limits = address.rstrip("/"), {"limits": {"rpm": "{rpm}", "note": "{note}"}}
    rpm = {"path": "limits.rpm", "shave": "requests_per_minute", "block": 0}
    return {
        "kind": KIND,
        "name": "gateway",
        "fields": {"rpm": rpm, "note": {"path": "limits.note"}},
        "read": {"method": "GET", "url": base + "/limits/{tag.team}"},
        "write": {"method": "PUT", "url": base + "/limits/{tag.team}", "body": limits},
        "read_back": {"method": "GET", "url": base + "/live/{tag.team}"},
        "restore": {"method": "PUT", "url": base + "/old/{tag.team}", "body": limits},
        "remove": {"method": "DELETE", "url": base + "/limits/{tag.team}"},
        "rejected": "turned_away",
        "identity": "made",
        "secret_headers": [{"name": "Authorization", "prefix": "Bearer ", "value": TOKEN}],
        "timeout_s": 0.2,
    }


class HttpBench(ActionBench):
    """A team with a higher limit, one with none, and one that is blocked."""

    secret = TOKEN

    def __init__(self) -> None:
        limits = {"search": {"rpm": 600, "note": "agreed with ana"}, "a/b ü": {}, "ads": {"rpm": 90, "note": None}}
        self.fake = HttpGateway(limits)
        self.faults: Faults = self.fake.faults
        self.cases = [
            (an_alert(), NORMAL),
            (an_alert(tags={"team": "a/b ü"}), NORMAL),
            (an_alert(tags={"team": "ads"}), TargetRate("block")),
        ]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.app()) as server:
            yield str(server.make_url("/"))

    def config(self, address: str) -> dict[str, Any]:
        return config(address)

    def world(self) -> Any:
        return {team: dict(limits) for team, limits in self.fake.limits.items()}

    def recreate(self) -> bool:
        self.fake.made = dict.fromkeys(self.fake.made, "tuesday")
        return True

    def change_by_hand(self) -> None:
        for limits in self.fake.limits.values():
            limits["rpm"] = 33

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"team": "nobody"})

    def called(self) -> set[str]:
        return {name for name, _, _ in self.fake.called}
