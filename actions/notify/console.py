"""Prints notices where Curb runs: a preview of the messages, without any account."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from rich.console import Console as Terminal

from curb.actions.action import ActionContext, HoldsNothing
from curb.actions.notify.protocol import DayDigest, Letter, Notice, NotifierConfig
from curb.actions.notify.wording import clean, digest_plain_lines, plain_lines


class Config(NotifierConfig):
    """Plain lines on standard output or standard error."""

    kind: Literal["console"]
    stream: Literal["stdout", "stderr"] = Field(default="stdout", description="Where the lines go.")

    def build(self, context: ActionContext) -> Console:
        return Console(Terminal(stderr=self.stream == "stderr", markup=False, highlight=False, emoji=False))


class Console(HoldsNothing):
    """A notifier without memory: after a crash in the middle of printing a notice may be printed again."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    async def send(self, notice: Notice, ref: str) -> str:
        self._print(plain_lines(notice))
        return ""

    async def send_digest(self, digest: DayDigest) -> str:
        self._print(digest_plain_lines(digest))
        return ""

    async def send_letter(self, letter: Letter) -> str:
        self._print([clean(letter.title, 200), *(f"  {clean(line, 400)}" for line in letter.lines)])
        return ""

    def _print(self, lines: list[str]) -> None:
        self._terminal.print("\n".join(lines), markup=False, highlight=False, emoji=False, soft_wrap=True)

    async def find(self, key: str) -> str | None:
        return None
