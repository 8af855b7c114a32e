"""HAProxy's runtime interface: one command, one answer, over its admin socket."""

from __future__ import annotations

import asyncio
import contextlib
import re

from curb.stream.errors import PermanentError, TransientError

#: Answers that will be the same next time.
_REFUSALS = ("Unknown map", "Permission denied", "Unknown command", "No such table")
_ENTRY = re.compile(r"0x[0-9a-f]+ (\S+)(?: (.*))?")
_REFUSED = re.compile(r"\bkey=(\S+) .*\bgpc1=(\d+)")


class Socket:
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
