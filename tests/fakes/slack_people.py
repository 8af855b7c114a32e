"""People in a fake Slack: what they press and type, over Socket Mode or as signed requests, with its faults."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlencode

from aiohttp import WSMsgType, web
from slack_sdk.signature import SignatureVerifier

ANA, BOB = "U0000000ANA", "U0000000BOB"
SIGNING_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"


class SlackPeople:
    """Envelopes go to the newest connection; `acks` holds what was acknowledged, by envelope id, with the payload."""

    def __init__(self) -> None:
        self.acks: dict[str, Any] = {}
        self.connections = 0
        self._sockets: list[web.WebSocketResponse] = []
        self._tickets: set[str] = set()
        self._sent = 0
        self.changed = asyncio.Condition()

    def new_ticket(self) -> str:
        ticket = f"t{len(self._tickets) + 1}"
        self._tickets.add(ticket)
        return ticket

    async def socket(self, request: web.Request) -> web.StreamResponse:
        ticket = request.query.get("ticket", "")
        if ticket not in self._tickets:
            return web.Response(status=403)
        self._tickets.discard(ticket)  # an address is good for one connection
        self._tickets.add(ticket + "-used")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.append(socket)
        self.connections += 1
        await self._tell()
        await socket.send_json({"type": "hello", "num_connections": len(self._sockets)})
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                ack = json.loads(message.data)
                self.acks[ack["envelope_id"]] = ack.get("payload")
                await self._tell()
        self._sockets.remove(socket)
        return socket

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Any) -> None:
        """Waits until `condition()` holds; it is asked again whenever something happened here."""
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(condition)

    async def send(self, kind: str, payload: dict[str, Any], envelope_id: str = "") -> str:
        """Send one envelope; returns its id. The same id again is Slack sending it once more."""
        self._sent += 1
        envelope_id = envelope_id or f"e{self._sent}"
        await self._sockets[-1].send_json(
            {"envelope_id": envelope_id, "type": kind, "payload": payload, "accepts_response_payload": True}
        )
        return envelope_id

    async def acked(self, envelope_id: str) -> Any:
        """The payload of the acknowledgement."""
        await self.until(lambda: envelope_id in self.acks)
        return self.acks[envelope_id]

    async def disconnect(self) -> None:
        """Slack asks for a new connection, as it does every hour or so."""
        await self._sockets[-1].send_json({"type": "disconnect", "reason": "refresh_requested"})

    def reset(self) -> None:
        """The connection breaks."""
        transport = self._sockets[-1]._req.transport if self._sockets[-1]._req is not None else None
        assert transport is not None
        transport.abort()


def press(
    message: dict[str, Any], verb: str, *, by: str = ANA, name: str = "ana", ts: str = "1.000001"
) -> dict[str, Any]:
    """A press of the first button of a message that asks for `verb`. Raises LookupError where there is none."""
    found = [b for b in buttons(message) if b["action_id"].split(".")[1] == verb]
    if not found:
        raise LookupError(f"no button {verb}")
    return {
        "type": "block_actions",
        "user": {"id": by, "username": name},
        "team": {"id": "T1"},
        "channel": {"id": message.get("channel", "")},
        "message": {"ts": "1.0"},
        "trigger_id": f"trigger-{ts}",
        "response_url": "https://hooks.slack.example/x",
        "actions": [{**found[0], "block_id": "b", "action_ts": ts}],
    }


def buttons(message: dict[str, Any]) -> list[dict[str, Any]]:
    """All buttons of a message."""
    return [e for block in message["blocks"] if block["type"] == "actions" for e in block["elements"]]


def submission(view: dict[str, Any], values: dict[str, Any], *, by: str = ANA, view_id: str = "V1") -> dict[str, Any]:
    """A dialog that was filled in and sent off."""
    state = {}
    for name, value in values.items():
        key = "selected_date_time" if name == "until" else "value"
        state[name] = {name: {"type": "x", key: value}}
    return {
        "type": "view_submission",
        "user": {"id": by, "username": "ana"},
        "view": {
            "id": view_id,
            "callback_id": view["callback_id"],
            "private_metadata": view["private_metadata"],
            "state": {"values": state},
        },
    }


def slash(text: str, *, by: str = ANA, trigger: str = "t-1") -> dict[str, str]:
    """A slash command as Slack sends it."""
    return {
        "command": "/curb",
        "text": text,
        "user_id": by,
        "user_name": "ana",
        "team_id": "T1",
        "channel_id": "C0123456789",
        "trigger_id": trigger,
    }


def signed(payload: dict[str, Any], at: float, secret: str = SIGNING_SECRET) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a signed request."""
    fields = payload if "command" in payload else {"payload": json.dumps(payload)}
    body = urlencode(fields)
    stamp = str(int(at))
    signature = SignatureVerifier(secret).generate_signature(timestamp=stamp, body=body)
    assert signature is not None
    return body.encode(), {
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Slack-Request-Timestamp": stamp,
        "X-Slack-Signature": signature,
    }
