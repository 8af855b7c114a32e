"""Tells a Slack channel about an incident in one message that is edited in place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Literal

import aiohttp
from pydantic import Field, SecretStr
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from actions.action import Context
from actions.notifier import Notice
from actions.slack_blocks import blocks, fallback_text
from stream.clock import Clock
from stream.errors import PermanentError, TransientError, error_for_status
from stream.settings import Settings

_EVENT_TYPE = "curb_notice"
_PAGE = 200
#: Errors of Slack's own that pass by themselves.
_PASSING = frozenset(
    {"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}
)
#: The message cannot be edited any more (deleted, or too old): a new one is posted.
_UNEDITABLE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed"})
_quiet = logging.getLogger(f"{__name__}.sdk")
_quiet.setLevel(logging.INFO)


class Config(Settings):
    """One Slack channel. The bot needs chat:write, and channels:history (groups:history for a private channel)."""

    kind: Literal["slack"]
    name: str = Field(pattern=r"^[a-z0-9-]+$", description="Unique name of this notifier.")
    token: SecretStr = Field(description="Bot token (xoxb-…).")
    channel: str = Field(pattern=r"^[CGD][A-Z0-9]{6,}$", description="Id of the channel, such as C0123456789.")
    base_url: str = Field(default="https://slack.com/api/", description="Address of Slack's Web API.")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer of Slack.")
    find_hours: float = Field(
        default=24.0, gt=0, description="How far back a message is looked for after a crash in the middle of sending."
    )
    find_pages: int = Field(default=5, ge=1, le=20, description="Pages of 200 messages read for that, at most.")

    def build(self, context: Context) -> Slack:
        return Slack(self, context.http, context.clock)


class Slack:
    """A notifier whose references are "channel:ts". The key travels in the message's metadata, for `find`."""

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._client = AsyncWebClient(
            token=config.token.get_secret_value(),
            base_url=config.base_url,
            timeout=max(1, round(config.timeout_s)),
            session=http,
            logger=_quiet,
            retry_handlers=[],
        )

    async def send(self, notice: Notice, ref: str) -> str:
        content: dict[str, Any] = {
            "text": fallback_text(notice),
            "blocks": blocks(notice),
            "metadata": {"event_type": _EVENT_TYPE, "event_payload": {"key": notice.key}},
        }
        if ref:
            channel, _, ts = ref.partition(":")
            try:
                answer = await self._ask("chat.update", self._client.chat_update(channel=channel, ts=ts, **content))
                return _ref(answer, channel)
            except _UneditableError:
                pass
        channel = self._config.channel
        call = self._client.chat_postMessage(channel=channel, unfurl_links=False, unfurl_media=False, **content)
        return _ref(await self._ask("chat.postMessage", call), channel)

    async def find(self, key: str) -> str | None:
        oldest = f"{self._clock.now() - self._config.find_hours * 3600.0:.6f}"
        cursor = ""
        for _ in range(self._config.find_pages):
            call = self._client.conversations_history(
                channel=self._config.channel,
                oldest=oldest,
                limit=_PAGE,
                include_all_metadata=True,
                cursor=cursor or None,
            )
            answer = await self._ask("conversations.history", call)
            for message in answer.get("messages", []):
                metadata = message.get("metadata") or {}
                if (metadata.get("event_payload") or {}).get("key") == key:
                    return f"{self._config.channel}:{message['ts']}"
            cursor = (answer.get("response_metadata") or {}).get("next_cursor", "")
            if not cursor:
                break
        return None

    async def close(self) -> None:
        """Nothing is held: the HTTP session belongs to the caller."""

    async def _ask(self, method: str, call: Awaitable[AsyncSlackResponse]) -> Any:
        try:
            async with asyncio.timeout(self._config.timeout_s):
                return await call
        except SlackApiError as error:
            raise self._error(method, error) from None
        except (aiohttp.ClientError, TimeoutError, SlackClientError) as error:
            raise TransientError(f"Slack {method}: {type(error).__name__}") from error

    def _error(self, method: str, error: SlackApiError) -> Exception:
        response = error.response
        status: int = getattr(response, "status_code", 0) or getattr(response, "status", 500)
        data = getattr(response, "data", None)
        said = data.get("error", "") if isinstance(data, dict) else ""
        what = f"Slack {method}" + (f" ({said})" if said else "")
        if said in _UNEDITABLE:
            return _UneditableError(what)
        by_status = error_for_status(429 if said in _PASSING else status, response.headers, what, now=self._clock.now())
        return by_status or PermanentError(f"{what}; see the reference of the slack notifier for scopes and channel")


class _UneditableError(PermanentError):
    pass


def _ref(answer: Any, channel: str) -> str:
    return f"{answer.get('channel') or channel}:{answer['ts']}"
