"""A report as a letter to people: its sentences, the groups that spend most, and the page as a file."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence

import aiohttp

from curb.actions.action import ActionContext
from curb.actions.notify.protocol import Letter, Notifier, NotifierConfig, TakesLetters, open_notifier
from curb.format import printable
from curb.report import page, wording
from curb.report.figures import SpendReport
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.retry import RetryPolicy

#: Groups in the letter; the file has all. By hand: a screen of a phone.
_MOST_GROUPS = 10
#: Tries of a channel, and seconds of one. By hand: a restart of the other side passes in a minute.
_TRIES, _TRY_S = 5, 60.0
_POLICY = RetryPolicy(first_s=2.0, cap_s=30.0)


def letter(report: SpendReport, channel: str) -> Letter:
    """What one channel gets. The same report has the same key there."""
    by = ",".join(report.by)
    words = f"{channel}\0{report.first_day}\0{report.last_day}\0{by}\0{report.money}"
    rows, others, rest = wording.shortened(report, _MOST_GROUPS)
    cents = wording.cents([row.spend_usd for row in rows] + [rest] * bool(others), report.total.spend_usd)
    lines = [*wording.headline(report), f"By {printable(by)}:"]
    for row, amount in zip(rows, cents, strict=False):
        change = wording.change(row.change, before=row.before_usd, after=row.spend_usd)
        lines.append(f"{wording.name_of(row.tags)}: {wording.dollars(amount)}" + (f" ({change})" if change else ""))
    if others:
        lines.append(f"{others} more: {wording.dollars(cents[-1])}")
    return Letter(
        f"report-{hashlib.sha256(words.encode()).hexdigest()[:20]}",
        f"Spend {report.first_day} to {report.last_day} ({report.time_zone})",
        tuple(lines),
        f"spend-{report.first_day}-to-{report.last_day}.html",
        page.page(report).encode(),
    )


async def send_report(report: SpendReport, configs: Sequence[NotifierConfig], clock: Clock) -> dict[str, str]:
    """Send it to each channel, and try again where that may help; name → why it did not get it, empty where all did."""
    failed: dict[str, str] = {}
    async with aiohttp.ClientSession(headers={"User-Agent": "curb"}) as http:
        for config in configs:
            try:
                notifier = open_notifier(config, ActionContext(clock, http))
                try:
                    await _send(notifier, letter(report, config.name), clock, f"{config.name} of kind {config.kind}")
                finally:
                    await notifier.close()
            except (TransientError, PermanentError) as error:
                failed[config.name] = str(error)
    return failed


async def _send(notifier: Notifier, what: Letter, clock: Clock, name: str) -> None:
    if not isinstance(notifier, TakesLetters):
        raise PermanentError(f"{name} takes no letters; slack, apprise, webhook and console do")
    rng = random.Random()
    for attempt in range(_TRIES):
        try:
            async with asyncio.timeout(_TRY_S):
                await notifier.send_letter(what)
            return
        except TimeoutError:
            error: TransientError = TransientError(f"{name}: no answer within {_TRY_S:g} s")
        except TransientError as passing:
            error = passing
        if attempt + 1 == _TRIES:
            raise error
        await clock.sleep(_POLICY.wait(attempt, error.retry_after, rng))
