"""Notifies people through Apprise: Teams, PagerDuty, Opsgenie, e-mail and a hundred others, each by a URL."""

from __future__ import annotations

import asyncio
import logging
import re
import warnings
from collections import OrderedDict
from typing import Any, Literal

import apprise
from apprise import AppriseAttachment
from apprise.attachment.memory import AttachMemory
from pydantic import Field, SecretStr, field_validator, model_validator

from curb.actions.action import ActionContext, HoldsNothing
from curb.actions.notify import wording
from curb.actions.notify.protocol import DayDigest, Letter, Notice, NotifierConfig
from curb.stream.errors import TransientError

# The library logs addresses, which are credentials, and answers, which may repeat them.
logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
#: Keys of messages remembered, so that none is sent twice. By hand: more than are in progress at a time.
_REMEMBERED = 1000
#: What begins markup, a mention or a link anywhere → what looks like it and begins nothing.
_INERT = str.maketrans(
    {
        "*": "∗", "~": "∼", "`": "'", "[": "(", "]": ")", "<": "‹", ">": "›", "|": "¦", "\\": "∖", "#": "＃", "@": "＠",
        "&": "＆",
    }
)  # fmt: skip
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_LINK = re.compile(r"://|(?<=www)\.", re.IGNORECASE)


class Config(NotifierConfig):
    """Where to send notices; each URL is a credential."""

    kind: Literal["apprise"]
    urls: tuple[SecretStr, ...] = Field(
        min_length=1, description="Apprise URLs, such as pagerduty://…; or urls_file, one in a line."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=14, description="Longest wait for all of them.")

    @field_validator("urls", mode="before")
    @classmethod
    def _one_in_a_line(cls, given: Any) -> Any:
        """The text of urls_file."""
        if not isinstance(given, SecretStr):
            return given
        lines = [line.strip() for line in given.get_secret_value().splitlines()]
        return tuple(line for line in lines if line and not line.startswith("#"))

    @model_validator(mode="after")
    def _are_known(self) -> Config:
        for number, url in enumerate(self.urls):
            if _server(url, self.timeout_s) is None:
                raise ValueError(f"urls[{number}] is no URL that Apprise knows")
        return self

    def build(self, context: ActionContext) -> Apprise:
        return Apprise(self)


class Apprise(HoldsNothing):
    """A notifier that can neither edit nor look back: after a crash or a lost answer a message may come twice."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._servers = [_server(url, config.timeout_s) for url in config.urls]
        #: Of a message that not everybody took: who did, so that a retry reaches the others only.
        self._taken: OrderedDict[str, set[int]] = OrderedDict()

    async def send(self, notice: Notice, ref: str) -> str:
        kinds = {"page": apprise.NotifyType.FAILURE, "notice": apprise.NotifyType.WARNING}
        kind = kinds.get(notice.alert.tier, apprise.NotifyType.INFO)
        over = apprise.NotifyType.SUCCESS
        title = inert(wording.name(notice.lead))
        body = "\n".join(inert(line) for line in wording.plain_lines(notice))
        await self._notify(notice.key, title, body, kind if notice.is_firing else over)
        return ""

    async def send_digest(self, digest: DayDigest) -> str:
        title, *lines = [inert(line) for line in wording.digest_plain_lines(digest)]
        await self._notify(digest.key, title, "\n".join(lines), apprise.NotifyType.INFO)
        return ""

    async def send_letter(self, letter: Letter) -> str:
        """Services that take no files get the lines alone."""
        title, body = inert(letter.title), "\n".join(inert(line) for line in letter.lines)
        file = AttachMemory(content=letter.html, name=letter.file_name, mimetype="text/html")  # type: ignore[no-untyped-call]
        await self._notify(letter.key, title, body, apprise.NotifyType.INFO, AppriseAttachment([file]))
        return ""

    async def find(self, key: str) -> str | None:
        return None

    async def _notify(
        self, key: str, title: str, body: str, kind: apprise.NotifyType, files: AppriseAttachment | None = None
    ) -> None:
        taken = self._taken.setdefault(key, set())
        while len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)
        try:
            async with asyncio.timeout(self._config.timeout_s):
                waiting = [number for number in range(len(self._servers)) if number not in taken]
                done = await asyncio.gather(*(self._one(number, title, body, kind, files) for number in waiting))
        except TimeoutError:
            raise TransientError(f"{self._config.name}: no answer within {self._config.timeout_s:g} s") from None
        taken.update(number for number, ok in zip(waiting, done, strict=True) if ok)
        if not all(done):
            failed = ", ".join(f"urls[{number}]" for number, ok in zip(waiting, done, strict=True) if not ok)
            raise TransientError(f"{self._config.name}: not accepted by {failed}")

    async def _one(
        self, number: int, title: str, body: str, kind: apprise.NotifyType, files: AppriseAttachment | None
    ) -> bool:
        """In a thread: the library blocks."""
        server = self._servers[number]
        result = await asyncio.to_thread(
            lambda: server.notify(
                body=body, title=title, notify_type=kind, body_format=apprise.NotifyFormat.TEXT, attach=files
            )
        )
        return bool(result)


def inert(line: str) -> str:
    """A line in which no service finds markup, a mention or a link; it reads the same."""
    line = _LINK.sub(lambda found: "․" if found[0] == "." else ":⁄⁄", line)
    return _UNDERSCORE.sub("ˍ", line.translate(_INERT))


def _server(url: SecretStr, timeout_s: float) -> Any:
    """The library's object for a URL, or None when it knows none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of modules the library imports
        try:
            server = apprise.Apprise.instantiate(url.get_secret_value(), suppress_exceptions=True)
        except (TypeError, ValueError):
            return None
    if server is not None:
        server.socket_connect_timeout = server.socket_read_timeout = timeout_s
    return server
