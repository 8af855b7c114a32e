"""Socket Mode: what people press and type reaches Curb over a connection that Curb opened, without a public address."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web.async_client import AsyncWebClient

from curb.actions.slack.listener import Listener
from curb.stream import metrics
from curb.stream.retry import RetryPolicy

logger = logging.getLogger(__name__)
# The SDK's own lines may hold the address of the connection, which is a credential.
_quiet = logging.getLogger(f"{__name__}.sdk")
_quiet.setLevel(logging.CRITICAL + 1)

#: Seconds between two connections. By hand: at once after a blip, and once a minute for as long as it takes.
_POLICY = RetryPolicy(first_s=1.0, cap_s=60.0)
#: Pings within which a connection must come (back), else a new address is asked for. By hand: a minute.
_LOST_AFTER_PINGS = 6


class SlackSocket:
    """One connection of one app. Several processes may each hold one: Slack gives every request to one of them."""

    def __init__(
        self,
        name: str,
        app_token: str,
        base_url: str,
        listener: Listener,
        *,
        ping_s: float = 5.0,
        rng: random.Random | None = None,
    ) -> None:
        self._app_token, self._base_url, self._listener, self._ping_s = app_token, base_url, listener, ping_s
        self._rng = rng or random.Random()
        self._gauge = metrics.SLACK_CONNECTED.labels(notifier=name)
        self._note(connected=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Hold a connection until `stop`; what breaks it is answered with a new one, after a growing wait."""
        failures = 0
        while not stop.is_set():
            client = SocketModeClient(
                self._app_token,
                logger=_quiet,
                web_client=AsyncWebClient(base_url=self._base_url, timeout=10, logger=_quiet),
                ping_interval=self._ping_s,
            )
            client.socket_mode_request_listeners.append(self._on_request)
            try:
                was_up = await self._hold(client, stop)
            finally:
                self._note(connected=False)
                await client.close()  # type: ignore[no-untyped-call]
            if stop.is_set():
                return
            failures = 0 if was_up else failures + 1
            logger.warning("no connection to Slack", extra={"failures": failures})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _POLICY.wait(failures, None, self._rng))

    async def _hold(self, client: SocketModeClient, stop: asyncio.Event) -> bool:
        """Returns when the connection was lost for good, or on `stop`; whether it ever stood."""
        connecting = asyncio.create_task(client.connect())  # type: ignore[no-untyped-call]
        was_up, missed = False, 0
        try:
            while not stop.is_set() and missed < _LOST_AFTER_PINGS:
                up = await client.is_connected()
                if up and not self.connected:
                    logger.info("connected to Slack")
                self._note(connected=up)
                was_up = was_up or up
                missed = 0 if up else missed + 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._ping_s)
        finally:
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await connecting
        return was_up

    def _note(self, *, connected: bool) -> None:
        self.connected = connected
        self._gauge.set(1 if connected else 0)

    async def _on_request(self, client: AsyncBaseSocketModeClient, request: SocketModeRequest) -> None:
        """Every envelope is acknowledged, also those of others: else Slack sends them again."""
        taken = None
        try:
            if request.type in ("interactive", "slash_commands"):
                taken = await self._listener.take(dict(request.payload))
        finally:
            payload = taken.response if taken is not None else None
            await client.send_socket_mode_response(SocketModeResponse(request.envelope_id, payload))
        if taken is not None and taken.after is not None:
            await taken.after()
