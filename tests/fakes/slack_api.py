"""The part of Slack that Curb speaks with: messages, threads and files of one channel, dialogs and Socket Mode."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults
from tests.fakes.slack_people import SlackPeople

TOKEN = "xoxb-test"
APP_TOKEN = "xapp-test"
CHANNEL = "C0123456789"
#: Other channels the bot is in.
CHANNELS = (CHANNEL, "C0000000002")


class SlackApi:
    """`messages` holds the channel's own messages by ts, `threads` the replies of each, oldest first."""

    def __init__(self, now: float) -> None:
        self.faults = Faults()
        self.messages: dict[str, dict[str, Any]] = {}
        self.threads: dict[str, list[dict[str, Any]]] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self.ephemeral: list[dict[str, Any]] = []
        self.views: list[dict[str, Any]] = []
        self.people = SlackPeople()
        #: New messages in the channel itself; replies and edits are none.
        self.posted = 0
        self.page_size = 2
        self._now, self._stamps = now, 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        for method, handler in (
            ("auth.test", self._auth),
            ("chat.postMessage", self._post),
            ("chat.update", self._update),
            ("chat.postEphemeral", self._whisper),
            ("views.open", self._open_view),
            ("conversations.history", self._history),
            ("conversations.replies", self._replies),
            ("files.getUploadURLExternal", self._upload_url),
            ("files.completeUploadExternal", self._complete),
            ("apps.connections.open", self._connect),
        ):
            app.router.add_route("*", f"/api/{method}", handler)
        app.router.add_post("/upload/{id}", self._upload)
        app.router.add_get("/socket", self.people.socket)
        return app

    def replies(self, ts: str = "") -> list[dict[str, Any]]:
        """The thread of a message, of the first one by default."""
        return self.threads.get(ts or min(self.messages), [])

    async def _read(self, request: web.Request) -> tuple[dict[str, Any], web.Response | None]:
        if request.content_type == "application/json":
            body = await request.json()
        else:
            body = dict(request.query) | dict(await request.post())
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return body, _no("invalid_auth")
        if "channel" in body and body["channel"] not in CHANNELS:
            return body, _no("channel_not_found")
        for field in ("blocks", "metadata", "view", "files"):
            if isinstance(body.get(field), str):
                body[field] = json.loads(body[field])
        return body, None

    def _next_ts(self) -> str:
        self._stamps += 1
        return f"{self._now + self._stamps:.6f}"

    async def _auth(self, request: web.Request) -> web.Response:
        _, refusal = await self._read(request)
        return refusal or web.json_response({"ok": True, "user_id": "U0CURB"})

    async def _post(self, request: web.Request) -> web.Response:
        body, refusal = await self._read(request)
        if refusal is not None:
            return refusal
        ts = self._next_ts()
        if thread := body.get("thread_ts"):
            if thread not in self.messages:
                return _no("thread_not_found")
            self.threads.setdefault(thread, []).append({**body, "ts": ts})
        else:
            self.posted += 1
            self.messages[ts] = body
        return web.json_response({"ok": True, "channel": body["channel"], "ts": ts})

    async def _update(self, request: web.Request) -> web.Response:
        body, refusal = await self._read(request)
        if refusal is not None:
            return refusal
        if body["ts"] not in self.messages:
            return _no("message_not_found")
        self.messages[body["ts"]].update(body)
        return web.json_response({"ok": True, "channel": body["channel"], "ts": body["ts"]})

    async def _whisper(self, request: web.Request) -> web.Response:
        body, refusal = await self._read(request)
        if refusal is not None:
            return refusal
        self.ephemeral.append(body)
        return web.json_response({"ok": True, "message_ts": self._next_ts()})

    async def _open_view(self, request: web.Request) -> web.Response:
        body, refusal = await self._read(request)
        if refusal is not None:
            return refusal
        self.views.append(body)
        return web.json_response({"ok": True, "view": {"id": f"V{len(self.views)}"}})

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _history(self, request: web.Request) -> web.Response:
        body, refusal = await self._read(request)
        if refusal is not None:
            return refusal
        newest_first = sorted((ts for ts in self.messages if float(ts) >= float(body["oldest"])), reverse=True)
        return self._page(body, [{**self.messages[ts], "ts": ts} for ts in newest_first])

    async def _replies(self, request: web.Request) -> web.Response:
        body, refusal = await self._read(request)
        if refusal is not None:
            return refusal
        if body["ts"] not in self.messages:
            return _no("thread_not_found")
        return self._page(body, [{**self.messages[body["ts"]], "ts": body["ts"]}, *self.threads.get(body["ts"], [])])

    def _page(self, body: dict[str, Any], found: list[dict[str, Any]]) -> web.Response:
        with_metadata = str(body.get("include_all_metadata")).lower() in ("1", "true")
        start = int(body.get("cursor") or 0)
        rows = [
            {"ts": row["ts"], "text": row.get("text", ""), "files": row.get("files", [])}
            | ({"metadata": row["metadata"]} if with_metadata and "metadata" in row else {})
            for row in found[start : start + self.page_size]
        ]
        more = start + self.page_size < len(found)
        cursor = str(start + self.page_size) if more else ""
        return web.json_response(
            {"ok": True, "messages": rows, "has_more": more, "response_metadata": {"next_cursor": cursor}}
        )

    # --- files: three calls ------------------------------------------------------------------------------------------

    async def _upload_url(self, request: web.Request) -> web.Response:
        body, refusal = await self._read(request)
        if refusal is not None:
            return refusal
        file_id = f"F{len(self.files) + 1}"
        self.files[file_id] = {
            "id": file_id,
            "name": body["filename"],
            "length": int(body["length"]),
            "alt_txt": body.get("alt_txt", ""),
        }
        url = str(request.url.origin() / "upload" / file_id)
        return web.json_response({"ok": True, "upload_url": url, "file_id": file_id})

    async def _upload(self, request: web.Request) -> web.Response:
        kept = self.files[request.match_info["id"]]
        kept["content"] = await request.read()
        if len(kept["content"]) != kept["length"]:
            return web.Response(status=400, text="length")
        return web.Response(text=f"OK - {kept['length']}")

    async def _complete(self, request: web.Request) -> web.Response:
        body, refusal = await self._read(request)
        if refusal is not None:
            return refusal
        if body["channel_id"] not in CHANNELS or body["thread_ts"] not in self.messages:
            return _no("channel_not_found")
        given = body["files"][0]
        kept = self.files[given["id"]]
        if "content" not in kept:
            return _no("file_not_found")
        kept["title"] = given["title"]
        shown = {"ts": self._next_ts(), "files": [{"id": kept["id"], "name": kept["name"], "title": kept["title"]}]}
        self.threads.setdefault(body["thread_ts"], []).append(shown)
        return web.json_response({"ok": True, "files": shown["files"]})

    # --- Socket Mode -------------------------------------------------------------------------------------------------

    async def _connect(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {APP_TOKEN}":
            return _no("invalid_auth")
        address = str(request.url.origin().with_scheme("ws") / "socket") + f"?ticket={self.people.new_ticket()}"
        return web.json_response({"ok": True, "url": address})


def _no(error: str) -> web.Response:
    return web.json_response({"ok": False, "error": error})
