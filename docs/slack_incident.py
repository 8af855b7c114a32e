"""Draws the pictures of one incident in Slack, docs/images/slack-incident-*.png, from a real run.

`python docs/slack_incident.py` runs the demo (its traffic, its gateway, the whole daemon) with a Slack of its own on
loopback, where a person approves what Curb proposes. What Slack was sent is drawn; nothing is made up.
"""

from __future__ import annotations

import asyncio
import copy
import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml
from aiohttp.test_utils import TestServer
from PIL import Image
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from curb.cli import render  # noqa: E402
from curb.demo.run import run_demo  # noqa: E402
from curb.stream.records.spend import LedgerEntry  # noqa: E402
from docs.slack_picture import render_thread  # noqa: E402
from tests.fakes.slack_api import APP_TOKEN, CHANNEL, TOKEN, SlackApi  # noqa: E402
from tests.fakes.slack_people import ANA, buttons, press  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SPEED = 160.0


class Watched:
    """The incident as Slack shows it, and the person who answers."""

    def __init__(self, slack: SlackApi) -> None:
        self.slack = slack
        self.pictures: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}

    async def follow(self) -> None:
        """Wait for each stage of the incident, keep what Slack shows then, and approve when asked."""
        ts = await self._when(lambda ts: "approve" in self._verbs(ts) and "Waiting for approval" in self._said(ts))
        self._keep("1-asked", ts)
        await self.slack.people.send("interactive", press(self.slack.messages[ts], "approve"))
        await self._when(lambda each: each == ts and self._works(ts))
        self._keep("2-works", ts)
        await self._when(lambda each: each == ts and self._is_over(ts))
        self._keep("3-over", ts)

    async def _when(self, is_there: Callable[[str], bool]) -> str:
        while True:
            for ts in list(self.slack.messages):
                if is_there(ts):
                    return ts
            await asyncio.sleep(0.02)

    def _works(self, ts: str) -> bool:
        pictures = [reply for reply in self.slack.replies(ts) if reply.get("files")]
        return "spend fell" in self._said(ts) and "undo" in self._verbs(ts) and len(pictures) > 1

    def _is_over(self, ts: str) -> bool:
        said, header = self._said(ts), self.slack.messages[ts]["blocks"][0]["text"]["text"]
        pictures = [reply for reply in self.slack.replies(ts) if reply.get("files")]
        return "Undone" in said and "(resolved)" in header and len(pictures) > 2 and "undo" not in self._verbs(ts)

    def _verbs(self, ts: str) -> list[str]:
        return [button["action_id"].split(".")[1] for button in buttons(self.slack.messages[ts])]

    def _said(self, ts: str) -> str:
        return "\n".join(reply.get("text", "") for reply in self.slack.replies(ts))

    def _keep(self, name: str, ts: str) -> None:
        message, replies = copy.deepcopy((self.slack.messages[ts], self.slack.replies(ts)))
        for each in (message, *replies):
            each.pop("ts", None)  # the demo's hours pass in seconds: Slack's own times would mean nothing
        self.pictures[name] = (message, replies)

    def write(self, directory: Path) -> None:
        """The pictures as PNG."""
        files = {file_id: file["content"] for file_id, file in self.slack.files.items() if "content" in file}
        for name, (message, replies) in self.pictures.items():
            image = Image.open(io.BytesIO(render_thread(message, replies, files)))
            # Few colours are enough for text and lines, and a page of the docs loads faster.
            image.quantize(128).save(directory / f"slack-incident-{name}.png", optimize=True)


def configure(directory: Path, base_url: str) -> None:
    """The demo's own configuration, with Slack beside the console and a person who is asked."""
    file = directory / "curb.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    verbs = ("approve", "deny", "undo", "snooze", "planned", "not_an_anomaly", "halt")
    actions = config["actions"]
    actions["notifiers"].append(
        {
            "kind": "slack",
            "name": "on-call-slack",
            "token": TOKEN,
            "app_token": APP_TOKEN,
            "channel": CHANNEL,
            "base_url": base_url,
            "may": {verb: [ANA] for verb in verbs},
        }
    )
    actions["approvers"] = {"on-call": {"people": [ANA]}}
    for route in actions["routes"]:
        route["notify"].append("on-call-slack")
        if route.get("act"):
            route["mode"] = "approve"
    actions["telling"] = {"dashboard_url": "https://curb.example.org"}
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


async def main() -> int:
    """Run it; the exit code of the demo, or 1 when a stage was not seen."""
    slack = SlackApi(1_750_000_000.0)
    watched = Watched(slack)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as temporary:
        directory, out = Path(temporary) / "demo", Path(temporary) / "out"
        shutil.copytree(ROOT / "curb" / "demo" / "data", directory)
        async with TestServer(slack.app()) as server:
            configure(directory, f"{server.make_url('/')}api/")
            following = asyncio.create_task(watched.follow())
            code = await run_demo(directory, out, SPEED, console)
            following.cancel()
        lines = (out / "ledger.jsonl").read_bytes().splitlines()
        entries = [msgspec.json.decode(line, type=LedgerEntry) for line in lines]
        first = [entry for entry in entries if entry.action_id == entries[0].action_id]
        render.action_life(Console(width=150), first, json_lines=False)
    watched.write(IMAGES)
    missing = {"1-asked", "2-works", "3-over"} - watched.pictures.keys()
    if missing:
        console.print(f"not seen: {', '.join(sorted(missing))}", style="red")
    return 1 if missing else code


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
