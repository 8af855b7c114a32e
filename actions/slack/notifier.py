"""Notifies a Slack channel of an incident: one message that is edited in place, its thread, and the daily digest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator

from curb.actions.action import ActionContext, HoldsNothing
from curb.actions.notify import wording
from curb.actions.notify.protocol import DayDigest, Letter, Notice, NotifierConfig, Reply
from curb.actions.slack.blocks import (
    blocks,
    digest_blocks,
    digest_text,
    fallback_text,
    letter_blocks,
    letter_text,
    reply_blocks,
    reply_text,
)
from curb.actions.slack.buttons import Buttons, May
from curb.actions.slack.calls import SlackCalls, UneditableError
from curb.actions.slack.text import Block

_EVENT_TYPE = "curb_notice"
#: Messages of one page of a channel. By definition of Slack, what it recommends at most.
_PAGE = 200
_FILE_PREFIX = "curb-"


class Config(NotifierConfig):
    """One Slack channel: messages, threads and, for the people in `may`, buttons and slash commands."""

    kind: Literal["slack"]
    token: SecretStr = Field(description="Bot token (xoxb-…).")
    channel: str = Field(pattern=r"^[CGD][A-Z0-9]{6,}$", description="Id of the channel, such as C0123456789.")
    app_token: SecretStr | None = Field(
        default=None, description="App-level token (xapp-…): buttons and slash commands arrive by Socket Mode."
    )
    signing_secret: SecretStr | None = Field(
        default=None, description="Signing secret of the app: they arrive as signed requests at /v1/slack/NAME."
    )
    may: May = Field(default=May(), description="Who may press which button and use which slash command.")
    snooze_hours: float = Field(default=4.0, gt=0, le=168, description="How long the snooze button quiets an alert.")
    base_url: str = Field(default="https://slack.com/api/", description="Address of Slack's Web API.")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer of Slack.")
    find_hours: float = Field(
        default=24.0, gt=0, description="How far back a message is looked for after a crash in the middle of sending."
    )
    find_pages: int = Field(default=5, ge=1, le=20, description="Pages of 200 messages read for that, at most.")

    @model_validator(mode="after")
    def _who_may_is_heard(self) -> Config:
        if self.may != May() and not self.listens:
            raise ValueError("`may` needs a way to be heard: give app_token (Socket Mode) or signing_secret too")
        return self

    @property
    def listens(self) -> bool:
        """Whether a press of a button can reach Curb."""
        return self.app_token is not None or self.signing_secret is not None

    def calls(self, context: ActionContext) -> SlackCalls:
        """Slack's Web API with this token."""
        return SlackCalls(self.token.get_secret_value(), self.base_url, self.timeout_s, context.http, context.clock)

    def build(self, context: ActionContext) -> Slack:
        return Slack(self, context)


class Slack(HoldsNothing):
    """A notifier whose references are "channel:ts". The key travels in the message's metadata, for `find`."""

    def __init__(self, config: Config, context: ActionContext) -> None:
        self._config, self._clock, self._draw = config, context.clock, context.chart
        self._calls = config.calls(context)
        self._buttons = Buttons(config.name, config.may, config.snooze_hours) if config.listens else None

    async def send(self, notice: Notice, ref: str) -> str:
        content = _content(notice.key, fallback_text(notice), blocks(notice, self._buttons))
        if ref:
            channel, _, ts = ref.partition(":")
            try:
                answer = await self._calls.ask(
                    "chat.update",
                    lambda client: client.chat_update(
                        channel=channel, ts=ts, parse="none", link_names=False, **content
                    ),
                )
                return _ref(answer, channel)
            except UneditableError:
                pass
        return await self._post(content)

    async def reply(self, reply: Reply, ref: str) -> str:
        channel, _, ts = ref.partition(":")
        if reply.kind == "chart":
            return await self._chart(reply, channel, ts)
        content = _content(reply.key, reply_text(reply), reply_blocks(reply))
        return await self._post(content, channel=channel, thread_ts=ts, reply_broadcast=reply.loud)

    async def send_digest(self, digest: DayDigest) -> str:
        return await self._post(_content(digest.key, digest_text(digest), digest_blocks(digest)))

    async def send_letter(self, letter: Letter) -> str:
        """A message with the lines, and the file in its thread. A letter that was sent before is only found."""
        ref = await self.find(letter.key)
        if ref is None:
            ref = await self._post(_content(letter.key, letter_text(letter), letter_blocks(letter)))
        channel, _, ts = ref.partition(":")
        file = f"{letter.key}-file"
        if await self.find_reply(file, ref) is None:
            name = f"{_FILE_PREFIX}{file}.html"
            await self._calls.upload(channel, ts, name, letter.file_name, letter.title, letter.html)
        return ref

    async def _post(self, content: dict[str, Any], *, channel: str = "", **more: Any) -> str:
        channel = channel or self._config.channel
        answer = await self._calls.ask(
            "chat.postMessage",
            lambda client: client.chat_postMessage(
                channel=channel,
                unfurl_links=False,
                unfurl_media=False,
                mrkdwn=False,
                parse="none",
                link_names=False,
                **content,
                **more,
            ),
        )
        return _ref(answer, channel)

    async def _chart(self, reply: Reply, channel: str, ts: str) -> str:
        """The key is the file's name, for `find_reply`; the picture says when the incident was so far."""
        png = await self._draw(reply.alert.alert_id) if self._draw is not None else None
        if png is None:
            return ""
        title = wording.clean(wording.reply(reply), 200)
        return await self._calls.upload(channel, ts, f"{_FILE_PREFIX}{reply.key}.png", title, title, png)

    async def find(self, key: str) -> str | None:
        def page(client: Any, cursor: str) -> Any:
            oldest = f"{self._clock.now() - self._config.find_hours * 3600.0:.6f}"
            return client.conversations_history(
                channel=self._config.channel,
                oldest=oldest,
                limit=_PAGE,
                include_all_metadata=True,
                cursor=cursor or None,
            )

        return await self._find("conversations.history", page, self._config.channel, key)

    async def find_reply(self, key: str, ref: str) -> str | None:
        channel, _, ts = ref.partition(":")

        def page(client: Any, cursor: str) -> Any:
            return client.conversations_replies(
                channel=channel, ts=ts, limit=_PAGE, include_all_metadata=True, cursor=cursor or None
            )

        return await self._find("conversations.replies", page, channel, key)

    async def _find(self, method: str, page: Any, channel: str, key: str) -> str | None:
        cursor = ""
        for _ in range(self._config.find_pages):
            answer = await self._calls.ask(method, lambda client, at=cursor: page(client, at))  # type: ignore[misc]
            for message in answer.get("messages", []):
                if _has_key(message, key):
                    return f"{channel}:{message['ts']}"
            cursor = (answer.get("response_metadata") or {}).get("next_cursor", "")
            if not cursor:
                break
        return None


def _content(key: str, text: str, shown: list[Block]) -> dict[str, Any]:
    return {"text": text, "blocks": shown, "metadata": {"event_type": _EVENT_TYPE, "event_payload": {"key": key}}}


def _has_key(message: dict[str, Any], key: str) -> bool:
    metadata = message.get("metadata") or {}
    if (metadata.get("event_payload") or {}).get("key") == key:
        return True
    names = {f"{_FILE_PREFIX}{key}.png", f"{_FILE_PREFIX}{key}.html"}
    return any(file.get("name") in names for file in message.get("files") or [])


def _ref(answer: Any, channel: str) -> str:
    return f"{answer.get('channel') or channel}:{answer['ts']}"
