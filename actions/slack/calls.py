"""Calls of Slack's Web API, their failures turned into the two error classes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError, error_for_status

#: Errors of Slack's own that pass by themselves.
_PASSING = frozenset(
    {"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}
)
#: The message cannot be edited any more (deleted, or too old): a new one is posted.
_UNEDITABLE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed"})
_quiet = logging.getLogger(f"{__name__}.sdk")
_quiet.setLevel(logging.INFO)
_UPLOAD = "file upload"


class UneditableError(PermanentError):
    """The message that was to be edited is gone."""


class SlackCalls:
    """One token's calls; each ends within `timeout_s`. `client` is slack-sdk's, without retries of its own."""

    def __init__(self, token: str, base_url: str, timeout_s: float, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._timeout_s, self._clock = timeout_s, clock
        self.client = AsyncWebClient(
            token=token,
            base_url=base_url,
            timeout=max(1, round(timeout_s)),
            session=http,
            logger=_quiet,
            retry_handlers=[],
        )

    async def ask(self, method: str, call: Callable[[AsyncWebClient], Awaitable[AsyncSlackResponse]]) -> Any:
        """The answer of one method. Raises TransientError, PermanentError or UneditableError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call(self.client)
        except SlackApiError as error:
            raise self._error(method, error) from None
        except (aiohttp.ClientError, TimeoutError, SlackClientError) as error:
            raise TransientError(f"Slack {method}: {type(error).__name__}") from error

    async def upload(self, channel: str, thread_ts: str, name: str, title: str, alt_text: str, content: bytes) -> str:
        """Put a file into a thread, by the three calls of the upload; returns the file's id."""
        answer = await self.ask(
            _UPLOAD,
            lambda client: client.files_upload_v2(
                filename=name,
                content=content,
                title=title,
                alt_txt=alt_text,
                channel=channel,
                thread_ts=thread_ts,
            ),
        )
        return str((answer.get("file") or {}).get("id", ""))

    def _error(self, method: str, error: SlackApiError) -> Exception:
        response = error.response
        status: int = getattr(response, "status_code", 0) or getattr(response, "status", 500)
        data = getattr(response, "data", None)
        said = data.get("error", "") if isinstance(data, dict) else ""
        what = f"Slack {method}" + (f" ({said})" if said else "")
        if said in _UNEDITABLE:
            return UneditableError(what)
        by_status = error_for_status(429 if said in _PASSING else status, response.headers, what, now=self._clock.now())
        return by_status or PermanentError(f"{what}; see the reference of the slack notifier for scopes and channel")
