"""Pages of what was: alerts, actions and leases; and the configuration in force, without its secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import PurePath
from typing import Any, NamedTuple
from urllib.parse import urlencode

import yaml
from aiohttp import web

from curb.actions.ledger.ledger import OPEN
from curb.config.file import CurbConfig
from curb.serve.pages.frame import ROWS, Pages
from curb.serve.pages.rows import action_row
from curb.stream.records.spend import Alert

_REFRESH_S = 30
_STATUSES, _TIERS = ("firing", "resolved"), ("page", "notice", "digest", "soft")
_LONGEST_SEARCH = 200
#: What stands between "//" and "@" of a URL may be a password.
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
_PATH = re.compile(r"^(\w+://[^/]+/)\S+$")
_HIDDEN = "**********"
#: Ends of names whose values are not shown, whatever their type.
_SECRET = re.compile(r"(token|secret|password|passphrase|authorization|api[-_]?key|credentials?)$", re.IGNORECASE)


def add_routes(app: web.Application, pages: Pages) -> None:
    """Add `GET /alerts`, `/actions`, `/actions/{action_id}` and `/config`."""
    history = _History(pages)
    app.router.add_get("/alerts", history.alerts)
    app.router.add_get("/actions", history.actions)
    app.router.add_get("/actions/{action_id}", history.action)
    app.router.add_get("/config", history.config)


class _AlertFilter(NamedTuple):
    status: str = ""
    tier: str = ""
    words: str = ""

    def matches(self, alert: Alert) -> bool:
        if (self.status and alert.status != self.status) or (self.tier and alert.tier != self.tier):
            return False
        text = " ".join([alert.kind, alert.alert_id, *alert.tags.values()]).casefold()
        return all(word in text for word in self.words.casefold().split())

    def href(self, **more: str) -> str:
        pairs = [("status", self.status), ("tier", self.tier), ("q", self.words), *more.items()]
        return "/alerts?" + urlencode([pair for pair in pairs if pair[1]])


class _History:
    def __init__(self, pages: Pages) -> None:
        self._pages, self._daemon = pages, pages.daemon

    async def alerts(self, request: web.Request) -> web.Response:
        wanted = _AlertFilter(*(request.query.get(name, "") for name in ("status", "tier", "q")))
        after = request.query.get("after", "")
        known = self._daemon.view.alerts
        if wanted.status not in ("", *_STATUSES) or wanted.tier not in ("", *_TIERS):
            return self._refused(request, 400, "There is no such status or tier.")
        if len(wanted.words) > _LONGEST_SEARCH:
            return self._refused(request, 400, f"A search has at most {_LONGEST_SEARCH} characters.")
        if after and after not in known:
            return self._refused(request, 400, "The page to go on from is not known any more; begin with the first.")
        found = filter(wanted.matches, _after(reversed(known.values()), after))
        shown = list(islice(found, ROWS + 1))
        return self._pages.render(
            request,
            "alerts.html",
            refresh_s=_REFRESH_S,
            wanted=wanted,
            statuses=_STATUSES,
            tiers=_TIERS,
            alerts=shown[:ROWS],
            first=wanted.href() if after else "",
            next_page=wanted.href(after=shown[ROWS - 1].alert_id) if len(shown) > ROWS else "",
        )

    async def actions(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "")
        known = self._daemon.view.actions
        if after and after not in known:
            return self._refused(request, 400, "The page to go on from is not known any more; begin with the first.")
        ids = list(reversed(known))
        begin = ids.index(after) + 1 if after else 0
        newest = [known[action_id][-1] for action_id in ids]
        opened = [entry for entry in newest if entry.state == "proposed" or entry.state in OPEN]
        shown = newest[begin : begin + ROWS]
        return self._pages.render(
            request,
            "actions.html",
            refresh_s=_REFRESH_S,
            opened=[action_row(entry, self._daemon.view) for entry in opened[:ROWS]] if not after else [],
            entries=shown,
            saved=sum(entry.saved_usd or 0.0 for entry in newest),
            refused=sum(entry.rejected or 0 for entry in newest),
            first="/actions" if after else "",
            next_page="/actions?" + urlencode({"after": shown[-1].action_id}) if len(ids) > begin + ROWS else "",
        )

    async def action(self, request: web.Request) -> web.Response:
        entries = self._daemon.view.actions.get(request.match_info["action_id"])
        if not entries:
            return self._refused(request, 404, "There is no such action, or it is older than what is kept.")
        row = action_row(entries[-1], self._daemon.view)
        return self._pages.render(request, "action.html", refresh_s=_REFRESH_S, row=row, entries=entries)

    async def config(self, request: web.Request) -> web.Response:
        with_paths = self._pages.is_admin(request)
        text = shown_config(self._daemon.config, with_paths=with_paths)
        return self._pages.render(request, "config.html", text=text, with_paths=with_paths)

    def _refused(self, request: web.Request, status: int, why: str) -> web.Response:
        return self._pages.render(request, "refused.html", code=status, why=why)


def _after(alerts: Iterable[Alert], alert_id: str) -> Iterator[Alert]:
    """Those behind an alert; all without one."""
    seen = not alert_id
    for alert in alerts:
        if seen:
            yield alert
        seen = seen or alert.alert_id == alert_id


def shown_config(config: CurbConfig, *, with_paths: bool = True) -> str:
    """The configuration in force as YAML, with its defaults, without its secrets; with or without paths of files."""
    given = config.model_dump(mode="json") if with_paths else _without_paths(config.model_dump())
    plain = _without_secrets(json.loads(json.dumps(given, default=str)), "", config)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def _without_paths(value: Any) -> Any:
    """Every path of a file or directory hidden."""
    if isinstance(value, dict):
        return {key: _without_paths(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(each) for each in value]
    is_path = isinstance(value, PurePath) or (isinstance(value, str) and value.startswith(("/", "~/", "./", "../")))
    return _HIDDEN if is_path else value


def _without_secrets(value: Any, path: str, config: CurbConfig, name: str = "") -> Any:
    """Variables of the environment by their names; no logins in URLs, and no values that are named like secrets."""
    if variable := config.variable(path):
        return f"${{{variable}}}"
    if isinstance(value, dict):
        return {
            key: _without_secrets(each, f"{path}.{key}" if path else str(key), config, str(key))
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(each, f"{path}[{i}]", config, name) for i, each in enumerate(value)]
    if not isinstance(value, str) or not value:
        return value
    if _SECRET.search(name):
        return _HIDDEN
    shown = _LOGIN.sub(f"{_HIDDEN}@", value)
    # Receivers such as Slack's and Teams' know who posts by the path alone.
    return _PATH.sub(rf"\1{_HIDDEN}", shown) if path.startswith("actions.notifiers") else shown
