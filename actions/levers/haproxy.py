"""Limits one subject at an HAProxy gateway: in the map it looks limits up in, and in the file it loads the map from."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from curb.actions.action import ActionContext, Effect, Enforced, HoldsNothing, Outcome
from curb.actions.calls.compare_and_swap import arrows, swap, tightened
from curb.actions.levers.locked_file import edit_text, read_text
from curb.actions.levers.subjects import SubjectConfig
from curb.actions.target import TargetRate, Verb
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Alert, Plan

#: Answers that will be the same next time.
_REFUSALS = ("Unknown map", "Permission denied", "Unknown command", "No such table")
_ENTRY = re.compile(r"0x[0-9a-f]+ (\S+)(?: (.*))?")
_REFUSED = re.compile(r"\bkey=(\S+) .*\bgpc1=(\d+)")


class AdminSocket:
    """A Unix socket, by its path, or a TCP one, as host:port. Keys and names must hold nothing that needs quoting."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address, self._timeout_s = address, timeout_s

    async def show(self, map_name: str, key: str) -> str | None:
        """The value of a key. PermanentError when it is there several times: which one counts is nobody's guess."""
        lines = (await self._ask(f"show map {map_name}")).splitlines()
        entries = [_ENTRY.fullmatch(line) for line in lines if line]
        if not all(entries):
            raise _error("show map", lines[0])
        found = [entry[2] or "" for entry in entries if entry and entry[1] == key]
        if len(found) > 1:
            raise PermanentError(f"the map {map_name} has {len(found)} entries of one key")
        return found[0] if found else None

    async def add(self, map_name: str, key: str, value: str) -> None:
        await self._change(f"add map {map_name} {key} {value}")

    async def set(self, map_name: str, key: str, value: str) -> None:
        await self._change(f"set map {map_name} {key} {value}")

    async def delete(self, map_name: str, key: str) -> None:
        await self._change(f"del map {map_name} {key}")

    async def refused(self, table: str, key: str) -> int:
        """The counter gpc1 of a key in a stick table; 0 when the table does not hold the key."""
        answer = (await self._ask(f"show table {table} key {key}")).strip()
        if answer and not answer.startswith("# table:"):
            raise _error("show table", answer)
        return next((int(count) for name, count in _REFUSED.findall(answer) if name == key), 0)

    async def _change(self, command: str) -> None:
        """A command that is answered by nothing when it was carried out."""
        if answer := (await self._ask(command)).strip():
            raise _error(" ".join(command.split()[:2]), answer)

    async def _ask(self, command: str) -> str:
        what = " ".join(command.split()[:2])
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._exchange(command)
        except (FileNotFoundError, ConnectionError, TimeoutError) as error:
            raise TransientError(f"HAProxy, {what}: {type(error).__name__}") from error
        except OSError as error:
            raise PermanentError(f"HAProxy, {what}: {self._address}: {error.strerror}") from error
        if not answer.endswith("\n"):
            raise TransientError(f"HAProxy, {what}: closed in the middle of the answer")
        return answer

    async def _exchange(self, command: str) -> str:
        if self._address.startswith("/"):
            reader, writer = await asyncio.open_unix_connection(self._address)
        else:
            host, _, port = self._address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(command.encode() + b"\n")
            await writer.drain()
            return (await reader.read()).decode(errors="replace")  # it closes after its answer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _error(what: str, answer: str) -> Exception:
    message = f"HAProxy, {what}: {answer.splitlines()[0][:120]}"
    return PermanentError(message) if answer.startswith(_REFUSALS) else TransientError(message)


_NAME = r"[A-Za-z0-9._:/@+=-]+"
_LINE = re.compile(r"[ \t]*(?P<key>[^\s#]\S*)(?:[ \t]+(?P<value>.*?))?[ \t\r]*(?:\n|$)")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


class Config(SubjectConfig):
    """Sets the requests per minute of a subject in a map, while HAProxy runs and for when it starts again."""

    kind: Literal["haproxy"]
    socket: str = Field(
        pattern=rf"^(/{_NAME}|{_NAME}:[0-9]+)$",
        description="HAProxy's stats socket of level admin: the path of a Unix socket, or host:port.",
    )
    map_file: Path = Field(description="The file the map is loaded from; Curb replaces it by a rename.")
    map: str = Field(
        default="",
        pattern=rf"^({_NAME})?$",
        description="Path of the map as haproxy.cfg names it, where it is another; empty: map_file.",
    )
    default_rpm: int | None = Field(
        default=None, ge=0, description="Limit that haproxy.cfg gives to subjects that are not in the map, if any."
    )
    table: str = Field(
        default="", pattern=rf"^({_NAME})?$", description="Stick table whose gpc1 counts refused requests, if any."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer of HAProxy.")

    @field_validator("map_file")
    @classmethod
    def _plain_path(cls, path: Path) -> Path:
        if not re.fullmatch(_NAME, str(path)):
            raise ValueError("the path may hold letters, digits and ._:/@+=- only: it is sent to HAProxy")
        return path

    def build(self, context: ActionContext) -> Haproxy:
        return Haproxy(self)


class Haproxy(HoldsNothing):
    """An action on `haproxy/<name>/<subject>`: two numbers, `runtime` and `file`; 0 refuses everything."""

    #: Commands on the socket, and what Curb does to the file.
    permissions: ClassVar[tuple[str, ...]] = (
        "show map",
        "add map",
        "set map",
        "del map",
        "show table",
        "replace the map file",
    )

    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "block"})

    def __init__(self, config: Config) -> None:
        self._config = config
        self._socket = AdminSocket(config.socket, config.timeout_s)
        self._map = config.map or str(config.map_file)
        #: Target → refused requests when this process applied it.
        self._refused_before: dict[str, int] = {}

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        """Nothing without a subject in the tags, or for one whose limit is low enough.

        PermanentError for a subject that is not known, or whose limit is not a plain number.
        """
        tag = self._config.tag_of(alert)
        if not tag:
            return ()
        found = await self._found(self._config.subject(tag))
        wanted = 0 if rate.verb == "block" else self._config.rpm_for(rate)
        in_force = found["runtime"] if found["runtime"] is not None else self._config.default_rpm
        if in_force is not None and in_force <= wanted:
            return ()
        after = tightened(found, {"runtime": wanted, "file": wanted})
        before = {name: found[name] for name in after}
        what = f"{'block' if rate.verb == 'block' else 'limit'} {tag[:40]}"
        summary = f"{what}, requests per minute: {arrows(before, after)}"
        target = f"haproxy/{self._config.name}/{tag}"
        return (Plan(action=self._config.name, target=target, summary=summary, before=before, after=dict(after)),)

    async def apply(self, plan: Plan) -> Outcome:
        subject = self._subject(plan)
        refused = await self._refused(subject)
        if "runtime" in plan.after:
            await self._set(subject, plan.after["runtime"])
        if "file" in plan.after:
            await self._write(subject, plan.after["file"])
        if refused is not None:
            self._refused_before.setdefault(plan.target, refused)
        return Outcome(values=dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        subject = self._subject(plan)
        found = await self._found(subject)
        refused, before = await self._refused(subject), self._refused_before.get(plan.target)
        values = {name: found[name] for name in plan.after}
        rejected = max(0, refused - before) if refused is not None and before is not None else None
        return Effect(in_force=values == plan.after, values=values, rejected=rejected)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        subject = self._subject(plan)
        change = swap(plan, await self._found(subject))
        if "file" in change.back:
            await self._write(subject, change.back["file"])
        if "runtime" in change.back:
            await self._set(subject, change.back["runtime"])
        self._refused_before.pop(plan.target, None)
        change.raise_drift()

    @property
    def subject_tags(self) -> tuple[str, ...]:
        return (self._config.tag,)

    async def enforced(self, subjects: Sequence[Mapping[str, str]]) -> list[Enforced]:
        """What the running process has, else its default."""
        return [await self._enforced(tags[self._config.tag]) for tags in subjects]

    async def _enforced(self, tag: str) -> Enforced:
        try:
            found = (await self._found(self._config.subject(tag)))["runtime"]
        except PermanentError as error:
            return Enforced(unknown=str(error))
        rpm = found if found is not None else self._config.default_rpm
        return Enforced(None if rpm is None else 60.0 * rpm)

    def _subject(self, plan: Plan) -> str:
        return self._config.subject(plan.target.removeprefix(f"haproxy/{self._config.name}/"))

    async def _found(self, subject: str) -> dict[str, int | None]:
        runtime = await self._socket.show(self._map, subject)
        return {"runtime": _number(runtime), "file": _number(await asyncio.to_thread(self._in_file, subject))}

    async def _refused(self, subject: str) -> int | None:
        return await self._socket.refused(self._config.table, subject) if self._config.table else None

    async def _set(self, subject: str, value: int | None) -> None:
        """A second `add` would make a second entry, so what is there decides the command."""
        found = await self._socket.show(self._map, subject)
        if value is None:
            if found is not None:
                await self._socket.delete(self._map, subject)
        elif found is None:
            await self._socket.add(self._map, subject, str(value))
        else:
            await self._socket.set(self._map, subject, str(value))

    async def _write(self, subject: str, value: int | None) -> None:
        text = None if value is None else str(value)
        await asyncio.to_thread(edit_text, self._config.map_file, lambda found: with_value(found, subject, text))

    def _in_file(self, subject: str) -> str | None:
        return value_in(read_text(self._config.map_file), subject)


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise PermanentError(f"a limit in the map is {text[:40]!r}; it must be a plain number")
    return int(text)


# --- the map file -------------------------------------------------------------------------------------------------


def value_in(text: str, key: str) -> str | None:
    """The value of a key in the text of a map file; None without one. PermanentError when it is there several times."""
    found = _entry(text, key)
    return None if found is None else found["value"] or ""


def with_value(text: str, key: str, value: str | None) -> str:
    """The text with that value of the key; a new one stands first, None takes its line out."""
    found = _entry(text, key)
    if found is None:
        return text if value is None else f"{key} {value}\n{text}"
    if value is None:
        return text[: found.start()] + text[found.end() :]
    return text[: found.start("value")] + value + text[found.end("value") :]


def _entry(text: str, key: str) -> re.Match[str] | None:
    at, found = 0, []
    for line in text.splitlines(keepends=True):
        match = _LINE.match(text, at)
        if match and match["key"] == key:
            found.append(match)
        at += len(line)
    if len(found) > 1:
        raise PermanentError(f"the map file has {len(found)} lines of one key")
    return found[0] if found else None
