"""Headless Chromium over its DevTools protocol, with the HTTP client that Curb has anyway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from tests.require import require

HOW_TO = "install it (Debian and Ubuntu: the package chromium), or set CURB_TEST_CHROMIUM=/path/to/chromium"
#: Seconds for one call, and for one page.
_CALL_S, _PAGE_S = 30.0, 30.0


class Chromium:
    """One tab of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers, self._session = socket, count(1), ""
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        #: What its console says, such as a violation of the page's policy.
        self.complaints: list[str] = []

    async def open(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def listen(self) -> None:
        """Take in answers and events until the browser is gone."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._calls.pop(said["id"]).set_result(said)
            elif said["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif said["method"] == "Log.entryAdded":
                self.complaints.append(said["params"]["entry"]["text"])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._calls[number] = answer = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send_json({"id": number, "method": method, "params": parameters, **session})
        said = await asyncio.wait_for(answer, _CALL_S)
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def go(self, url: str) -> None:
        """Open a page."""
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), _PAGE_S)

    async def run(self, script: str) -> Any:
        """The value of an expression."""
        said = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def follow(self, script: str) -> None:
        """Run what leads to another page."""
        self._loaded.clear()
        await self.run(script)
        await asyncio.wait_for(self._loaded.wait(), _PAGE_S)

    async def press(self, label: str) -> None:
        """Press the button with this label."""
        buttons = "[...document.querySelectorAll('main button')]"
        await self.follow(f"{buttons}.find(each => each.textContent.trim() === {label!r}).click()")

    async def key(self, name: str) -> None:
        """Press a key of the keyboard: Tab or Enter."""
        code, text = {"Tab": (9, ""), "Enter": (13, "\r")}[name]
        told = {"key": name, "code": name, "windowsVirtualKeyCode": code, "text": text}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **told)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    async def follow_key(self, name: str) -> None:
        """Press a key that leads to another page."""
        self._loaded.clear()
        await self.key(name)
        await asyncio.wait_for(self._loaded.wait(), _PAGE_S)

    async def text(self) -> str:
        """What a person reads."""
        return str(await self.run("document.body ? document.body.innerText : ''"))

    async def size(self, width: int, *, dark: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def scripts(self, *, on: bool) -> None:
        await self.call("Emulation.setScriptExecutionDisabled", value=not on)


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Chromium]:
    """A browser of its own; skips where there is none."""
    program = os.environ.get("CURB_TEST_CHROMIUM", "") or shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        require("chromium", HOW_TO)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.ws_connect(await _address(Path(profile)), max_msg_size=0) as socket,
            ):
                found = Chromium(socket)
                listening = asyncio.create_task(found.listen())
                await found.open()
                yield found
                listening.cancel()
        finally:
            process.terminate()
            await process.wait()


async def _address(profile: Path) -> str:
    """Where the browser listens, which it writes into a file."""
    async with asyncio.timeout(_PAGE_S):
        while not (file := profile / "DevToolsActivePort").exists() or "\n" not in file.read_text():
            await asyncio.sleep(0.05)
    port, path = file.read_text().splitlines()[:2]
    return f"ws://127.0.0.1:{port}{path}"
