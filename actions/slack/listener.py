"""Takes what people send from Slack, over either way: writes it down, then answers the person who asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from slack_sdk.web.async_client import AsyncWebClient

from curb.actions.slack.calls import SlackCalls
from curb.actions.slack.desk import Desk, SlackAnswer
from curb.actions.slack.requests import Asked, Filled, Pressed, Slashed, UnreadableError, read
from curb.actions.slack.text import TEXT_MAX, fitted, section
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Message

logger = logging.getLogger(__name__)

#: Seconds that writing a press down may take. Slack waits three; by hand, one of them is for the way.
_WRITE_S = 2.0
_NOT_WRITTEN = "Curb cannot write this down right now: press again in a minute. Doing it twice does it once."

Append = Callable[[Sequence[Message]], Awaitable[None]]


class Taken(NamedTuple):
    """What Slack is answered at once, and what is to be done after that answer."""

    response: dict[str, Any] | None = None
    after: Callable[[], Coroutine[Any, Any, None]] | None = None


class Listener:
    """One Slack app. `calls` are those of its notifiers, by name."""

    def __init__(self, desk: Desk, calls: Mapping[str, SlackCalls], append: Append) -> None:
        self._desk, self._calls, self._append = desk, calls, append

    async def take(self, payload: dict[str, Any]) -> Taken:
        """On return what was asked is on the log, or the answer says that it is not."""
        try:
            asked = read(payload)
        except UnreadableError as error:
            logger.warning("request of Slack refused", extra={"why": str(error)[:200]})
            return Taken()
        taken = Taken()
        for each in asked:
            answer = await self._written(each, await self._desk.answer(each))
            logger.info(
                "asked in Slack",
                extra={"by": each.person.by, "what": type(each).__name__, "records": len(answer.messages)},
            )
            taken = self._reply(each, answer)
        return taken

    async def _written(self, asked: Asked, answer: SlackAnswer) -> SlackAnswer:
        if not answer.messages:
            return answer
        try:
            async with asyncio.timeout(_WRITE_S):
                await self._append(answer.messages)
        except (TransientError, TimeoutError) as error:
            logger.warning("asked in Slack and not written", extra={"by": asked.person.by, "error": str(error)})
            return SlackAnswer(_NOT_WRITTEN, errors={"reason": _NOT_WRITTEN} if isinstance(asked, Filled) else None)
        return answer

    def _reply(self, asked: Asked, answer: SlackAnswer) -> Taken:
        if isinstance(asked, Slashed):
            return Taken({"response_type": "ephemeral", "text": answer.text[:80], **_ephemeral(answer.text)})
        if isinstance(asked, Filled):
            return Taken({"response_action": "errors", "errors": answer.errors} if answer.errors else None)
        return Taken(after=lambda: self._follow(asked, answer))

    async def _follow(self, asked: Pressed, answer: SlackAnswer) -> None:
        """The dialog, or words that only the person sees. What was asked is done already: a failure is only logged."""
        calls = self._calls.get(asked.press.notifier, next(iter(self._calls.values())))
        try:
            if answer.view is not None:
                view = answer.view
                await calls.ask("views.open", lambda client: client.views_open(trigger_id=asked.trigger_id, view=view))
            elif answer.text and asked.channel:
                await calls.ask("chat.postEphemeral", lambda client: _whisper(client, asked, answer.text))
        except (PermanentError, TransientError) as error:
            logger.warning("answer not shown in Slack", extra={"by": asked.person.by, "error": str(error)})


def _whisper(client: AsyncWebClient, asked: Pressed, text: str) -> Any:
    return client.chat_postEphemeral(
        channel=asked.channel,
        user=asked.person.id,
        thread_ts=asked.message_ts or None,
        parse="none",
        link_names=False,
        **_ephemeral(text),
    )


def _ephemeral(text: str) -> dict[str, Any]:
    """Words with tag values and names in them: shown as they are."""
    return {"text": fitted(text, TEXT_MAX), "blocks": [section(line) for line in text.split("\n")[:40] if line]}
