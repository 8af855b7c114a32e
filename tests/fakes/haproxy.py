"""HAProxy's runtime interface on a Unix socket: one map, loaded from its file, and a stick table."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from curb.actions.target import TargetRate
from curb.stream.records.spend import Alert
from curb.testing.actions import ActionBench
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.faults import Faults

KIND = "haproxy"
_REFUSALS = {
    "401": "Permission denied\n",
    "403": "Permission denied\n",
    "404 route": "Unknown command: 'show map'\n",
    "404 text": "Unknown map identifier. Please use #<id> or <file>.\n",
    "page": "<html>please log in</html>\n",
}
BLOCK = TargetRate("block")
#: A file as people write it.
MAP = "# requests per minute\nsk-one\t600\n\n  nightly   300  \nsk-one-more 7"


class HaproxyRuntime:
    """`entries` is the map in the order of its entries; `refused` the counter gpc1 by key."""

    def __init__(self, map_name: str, text: str, faults: Faults) -> None:
        lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self.entries = [(key, value.strip()) for key, value in lines]
        self.refused: dict[str, int] = {}
        self._map, self._faults = map_name, faults
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self, path: Path) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._connected, path)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._talk(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = (await reader.readline()).decode().split()
        self._faults.seen.append(" ".join(words[:2]))
        fault = self._faults.always or (self._faults.next.popleft() if self._faults.next else "ok")
        refused = _REFUSALS.get(fault, "Internal error.\n")
        answer = self._answer(words) if fault == "ok" else refused
        if self._faults.after and fault == "ok":
            fault = self._faults.after.popleft()
        try:
            if fault == "slow":
                await asyncio.sleep(30)
            if fault == "half":
                writer.write(b"0x7f98 sk-one 6")
            elif fault in ("ok", "500") or fault in _REFUSALS:
                writer.write(answer.encode() + b"\n")
                await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _answer(self, words: list[str]) -> str:
        match words:
            case ["show", "table", "keys", "key", key]:
                count = self.refused.get(key)
                line = f"0x5: key={key} use=0 exp=5998 gpc0=3 gpc0_rate(10000)=3 gpc1={count}\n"
                return "" if count is None else f"# table: keys, type: string, size:102400, used:1\n{line}"
            case ["show" | "add" | "set" | "del", "map", name, *_] if name != self._map:
                return "Unknown map identifier. Please use #<id> or <file>.\n"
            case ["show", "map", _]:
                return "".join(f"0x7f98 {key} {value}\n" for key, value in self.entries)
            case ["add", "map", _, key, value]:
                self.entries.append((key, value))
                return ""
            case ["set" | "del", "map", _, key, *_] if key not in dict(self.entries):
                return "entry not found.\n"
            case ["set", "map", _, key, value]:
                self.entries = [(each, value if each == key else old) for each, old in self.entries]
                return ""
            case ["del", "map", _, key]:
                self.entries = [(each, value) for each, value in self.entries if each != key]
                return ""
        return "Unknown command.\n"


class HaproxyBench(ActionBench):
    """A key that has a higher limit, one that has none, and one to block."""

    secret = "sk-two"
    #: Its interface has no way to say when to come again.
    retry_after_s = None

    def __init__(self, text: str = MAP) -> None:
        self._text, self.faults = text, Faults()
        self.directory = Path("nowhere")
        self.cases = [
            (an_alert(), NORMAL),
            (an_alert(tags={"api_key": "k2"}), NORMAL),
            (an_alert(tags={"api_key": "nightly"}), BLOCK),
        ]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        with tempfile.TemporaryDirectory() as directory:
            self.directory = Path(directory)
            self.path.write_text(self._text, encoding="utf-8")
            self._written_at = self.path.stat().st_mtime_ns
            self.fake = HaproxyRuntime(str(self.path), self._text, self.faults)
            async with self.fake.serve(self.directory / "admin.sock"):
                yield str(self.directory / "admin.sock")

    @property
    def path(self) -> Path:
        return self.directory / "limits.map"

    def config(self, address: str) -> dict[str, Any]:
        socket = address if address.startswith("/") else "/run/haproxy/admin.sock"
        config = {"kind": KIND, "name": "edge", "socket": socket, "timeout_s": 0.2, "map_file": str(self.path)}
        values = {"k1": "sk-one", "k2": self.secret, "nightly": "nightly"}
        return config | {"values": values, "table": "keys"}

    def world(self) -> Any:
        return sorted(self.fake.entries), self.path.read_bytes()

    def change_by_hand(self) -> None:
        for ours in ("20", "0"):
            self.fake.entries = [(key, "33" if value == ours else value) for key, value in self.fake.entries]
        self.path.write_text(self.path.read_text().replace(" 20\n", " 33\n").replace("\t20\n", "\t33\n"))
        self.path.write_text(self.path.read_text().replace("nightly   0 ", "nightly   33 "))

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"api_key": "nobody"})

    def called(self) -> set[str]:
        replaced = self.path.stat().st_mtime_ns != self._written_at
        return set(self.faults.seen) | ({"replace the map file"} if replaced else set())
