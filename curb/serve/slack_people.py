"""Slack's people and the daemon: what they may know, and the way in, by Socket Mode or as signed requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import aiohttp
from aiohttp import web

from curb.actions.action import ActionContext
from curb.actions.notify import wording
from curb.actions.notify.names import TagNames
from curb.actions.slack.desk import Desk
from curb.actions.slack.listener import Append, Listener, Taken
from curb.actions.slack.notifier import Config as SlackConfig
from curb.actions.slack.requests import UnreadableError, from_form
from curb.actions.slack.signed import Signatures
from curb.actions.slack.socket import SlackSocket
from curb.config.file import CurbConfig
from curb.config.owners import known_tags
from curb.connectors.intake.body import Bodies, BodyRefusedError
from curb.stream.clock import Clock
from curb.stream.errors import TransientError
from curb.stream.log.protocol import Log
from curb.stream.log.topics import COMMANDS
from curb.stream.records.knowledge import read_commands
from curb.stream.records.names import read_names
from curb.stream.records.spend import Alert, Command, LedgerEntry
from curb.stream.time import utc
from curb.views.alerts_and_actions import LogView

logger = logging.getLogger(__name__)
_MOST_BODY = 256 * 1024
_MOST_LINES = 8
_IN_FORCE = ("applied", "effective", "ineffective")


class Doors:
    """The ways in: connections to hold, by name, and signed requests, by the notifier's name."""

    def __init__(self) -> None:
        self.sockets: dict[str, SlackSocket] = {}
        self.signed: dict[str, SignedDoor] = {}
        self._later: set[asyncio.Task[None]] = set()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something after a request was answered; `close` does not wait for it."""
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def close(self) -> None:
        """Cancel what is left to do."""
        for task in list(self._later):
            task.cancel()


class SignedDoor:
    """Requests to one notifier's address."""

    def __init__(self, signatures: Signatures, listener: Listener) -> None:
        self._signatures, self._listener = signatures, listener

    async def receive(self, request: web.Request, bodies: Bodies) -> tuple[web.Response, Taken]:
        """200 with what Slack shows, 400 unreadable, 401 forged or stale, 408 too slow, 409 replayed, 413 too large."""
        try:
            async with bodies.read(request, _MOST_BODY) as body:
                return await self._take(body, request)
        except BodyRefusedError as refused:
            return _problem(refused.status, refused.detail), Taken()

    async def _take(self, body: bytes, request: web.Request) -> tuple[web.Response, Taken]:
        if why := self._signatures.refusal(body, request.headers):
            logger.warning("request of Slack refused", extra={"why": why})
            return _problem(409 if why == "replayed" else 401, f"refused: {why}"), Taken()
        try:
            payload = from_form(body)
        except UnreadableError as error:
            return _problem(400, str(error)), Taken()
        self._signatures.taken(request.headers)
        taken = await self._listener.take(payload)
        return web.json_response(taken.response) if taken.response is not None else web.Response(), taken


class KnownFromLog:
    """Alerts, actions and status for Slack, from this process's view of the log."""

    def __init__(self, config: CurbConfig, view: LogView, log: Log, clock: Clock) -> None:
        self._config, self._view, self._log, self._clock = config, view, log, clock

    def alert(self, alert_id: str) -> Alert | None:
        return self._view.alerts.get(alert_id)

    def action(self, action_id: str) -> Sequence[LedgerEntry]:
        return self._view.actions.get(action_id, [])

    def tags(self) -> Iterable[str]:
        return known_tags(self._config.detector)

    async def status(self) -> Sequence[str]:
        firing = self._view.firing()
        held = [entries[-1] for entries in self._view.actions.values() if entries[-1].state in _IN_FORCE]
        waiting = [entries[-1] for entries in self._view.actions.values() if wording.waits(entries[-1])]
        try:
            halted = await halted_by(self._log)
            state = f"halted by {wording.clean(halted.by)} since {utc(halted.at)}" if halted else "not halted"
        except TransientError:
            state = "the log cannot be read, so whether it is halted is not known"
        names = await self.names()
        lines = [f"Curb is in mode {self._config.actions.mode}, {state}."]
        lines.append(f"{len(firing)} alerts fire, {len(held)} actions are in force, {len(waiting)} wait for an answer.")
        lines += [f"{wording.title(names.alert(alert))} · alert {alert.alert_id}" for alert in firing[:_MOST_LINES]]
        shown = [names.entry(entry) for entry in [*waiting, *held][:_MOST_LINES]]
        lines += [f"{wording.step(entry)} · action {entry.action_id}" for entry in shown]
        return lines

    async def names(self) -> TagNames:
        try:
            return TagNames(await read_names(self._log))
        except TransientError:
            return TagNames()


async def halted_by(log: Log) -> Command | None:
    """The command that holds the kill switch, or None. Reads the whole topic."""
    newest: Command | None = None
    async for message in log.scan(COMMANDS):
        for command in read_commands(message.value, lambda *_: None):
            if command.kind in ("halt", "resume"):
                newest = command
    return newest if newest is not None and newest.kind == "halt" else None


def make_doors(config: CurbConfig, view: LogView, log: Log, clock: Clock, http: aiohttp.ClientSession) -> Doors:
    """One desk per Slack app; copies of a notifier for the channels of owners share its app."""
    apps: dict[tuple[str, str], dict[str, SlackConfig]] = {}
    for each in config.actions.notifiers:
        if isinstance(each, SlackConfig) and each.listens:
            apps.setdefault(_app(each), {})[each.name] = each
    doors = Doors()
    known, context = KnownFromLog(config, view, log, clock), ActionContext(clock, http)
    for configs in apps.values():
        desk = Desk(configs, known, clock, time_zone=config.actions.telling.time_zone)
        _open(doors, configs, desk, context, log.append)
    return doors


def _open(doors: Doors, configs: dict[str, SlackConfig], desk: Desk, context: ActionContext, append: Append) -> None:
    first = next(iter(configs.values()))
    calls = {name: each.calls(context) for name, each in configs.items()}
    listener = Listener(desk, calls, append)
    if first.app_token is not None:
        doors.sockets[first.name] = SlackSocket(
            first.name, first.app_token.get_secret_value(), first.base_url, listener
        )
    if first.signing_secret is not None:
        door = SignedDoor(Signatures(first.signing_secret, context.clock), listener)
        doors.signed.update(dict.fromkeys(configs, door))


def _app(config: SlackConfig) -> tuple[str, str]:
    secrets: list[Any] = [config.app_token, config.signing_secret]
    app_token, signing = (each.get_secret_value() if each is not None else "" for each in secrets)
    return app_token, signing


def add_routes(app: web.Application, doors: Doors, bodies: Bodies | None = None) -> None:
    """Add `POST /v1/slack/{name}`: Slack's signed requests, both of buttons and of slash commands."""

    read = bodies or Bodies()

    async def receive(request: web.Request) -> web.StreamResponse:
        door = doors.signed.get(request.match_info["name"])
        if door is None:
            return _problem(404, "no Slack notifier of this name takes signed requests")
        response, taken = await door.receive(request, read)
        if taken.after is not None:
            doors.later(taken.after())
        return response

    app.router.add_post("/v1/slack/{name}", receive)


def _problem(status: int, detail: str) -> web.Response:
    return web.json_response({"error": detail}, status=status)
