"""The promises of notifiers, as tests that run on any kind: write a bench for the kind, then run every promise on it.

    @pytest.mark.parametrize("promise", NOTIFIER_PROMISES)
    async def test_my_kind(promise: str) -> None:
        await NOTIFIER_PROMISES[promise](MyBench)

A broken promise is an AssertionError that names the kind and what went wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from curb.actions.action import ActionContext
from curb.actions.kinds import NOTIFIERS
from curb.actions.notify.protocol import (
    DayDigest,
    Digests,
    Letter,
    Notice,
    Notifier,
    Reply,
    TakesLetters,
    Threads,
    open_notifier,
)
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.testing.alerts import T0, an_alert
from curb.testing.promises import hold, raises
from curb.testing.server import FAULTS, RETRY_AFTER_S, Faults

LETTER = Letter("letter-1", "Spend", ("$12.00 estimated",), "spend.html", b"<!doctype html><title>Spend</title>")
DIGEST = DayDigest("digest-1", "2026-03-01", T0, (an_alert(tier="digest"),), ())
RESOLVED = an_alert(status="resolved", resolved_at=T0 + 60)


class NotifierBench(ABC):
    """A kind of notifier, and its channel on this machine. A promise makes a new bench for each of its runs."""

    #: A secret that `config` holds; it must be in no error and no printed configuration.
    secret: str = ""
    #: What a 429 of the channel asks for, in seconds; None where the notifier cannot know it.
    retry_after_s: float | None = RETRY_AFTER_S
    #: Messages the channel shows when an answer was lost and the notice sent again: 2 where it cannot drop copies.
    shown_after_a_lost_answer: int = 1
    #: False for what needs no channel, such as the screen: nothing is counted, and no fault can happen.
    has_channel: bool = True

    def __init__(self) -> None:
        self.faults = Faults()

    @abstractmethod
    def app(self) -> web.Application:
        """The channel as a server, with `self.faults.middleware()` as its middleware."""

    @abstractmethod
    def config(self, address: str) -> dict[str, Any]:
        """The entry of `actions.notifiers` for the channel at `address`; a `timeout_s` in it is a second or less."""

    @abstractmethod
    def shown(self) -> int:
        """How many messages the channel shows; replies and edits are none."""


class OpenedNotifier(NamedTuple):
    """A bench whose channel is served, and its notifier."""

    bench: Any
    notifier: Notifier
    name: str

    def shows(self, count: int, when: str) -> None:
        """AssertionError unless the channel shows so many messages."""
        if self.bench.has_channel:
            shown = self.bench.shown()
            hold(shown == count, f"{self.name}: the channel shows {shown} messages {when}, not {count}")


NotifierPromise = Callable[[type[NotifierBench]], Awaitable[None]]


async def draw(alert_id: str) -> bytes | None:
    """The chart of an alert; None for the alert "nothing to draw"."""
    return None if alert_id == "nothing to draw" else f"picture of {alert_id}".encode()


@asynccontextmanager
async def opened(bench_class: type[NotifierBench]) -> AsyncIterator[OpenedNotifier]:
    """The bench, served, with its notifier."""
    bench = bench_class()
    async with TestServer(bench.app()) as server, aiohttp.ClientSession() as http:
        entry = bench.config(str(server.make_url("/")))
        config = NOTIFIERS.config(entry["kind"]).model_validate(entry)
        notifier = open_notifier(config, ActionContext(ManualClock(T0), http, draw))
        yield OpenedNotifier(bench, notifier, f"kind {entry['kind']}")
        await notifier.close()


async def a_notice_is_found_and_edited(bench_class: type[NotifierBench]) -> None:
    """A reference that is given can be found again by the key, and edited in place."""
    async with opened(bench_class) as of:
        ref = await of.notifier.send(Notice("k-1", an_alert()), "")
        hold(isinstance(ref, str), f'{of.name}: send() returns a reference, or "" without one; not {ref!r}')
        of.shows(1, "after one notice")
        hold(await of.notifier.find("k-0") is None, f"{of.name}: find() finds a key that was never sent")
        found = await of.notifier.find("k-1")
        hold(found == (ref or None), f"{of.name}: find() gives {found!r} for a notice whose reference is {ref!r}")
        again = await of.notifier.send(Notice("k-2", an_alert(revision=2)), ref)
        hold(again == ref, f"{of.name}: the edited message has the reference {again!r}, not {ref!r}")
        if ref:
            of.shows(1, "after an edit")


async def a_resolved_alert_is_sent(bench_class: type[NotifierBench]) -> None:
    async with opened(bench_class) as of:
        await of.notifier.send(Notice("k-1", RESOLVED), "")
        of.shows(1, "after a notice that an alert is resolved")


async def a_fault_is_transient(bench_class: type[NotifierBench], *, fault: str) -> None:
    """Also: the wait the channel asks for is passed on, no secret is shown, and the same notice is sent later."""
    async with opened(bench_class) as of:
        if not of.bench.has_channel:
            return
        of.bench.faults.next.append(fault)
        with raises(TransientError, f"{of.name}: send() while the channel answers {fault}") as caught:
            await of.notifier.send(Notice("k-1", an_alert()), "")
        expected, found = of.bench.retry_after_s if fault == "429" else None, caught[0].retry_after
        hold(found == expected, f"{of.name}: retry_after of send() is {found}, not {expected}")
        shown = bool(of.bench.secret) and of.bench.secret in str(caught[0])
        hold(not shown, f"{of.name}: the error of send() shows the secret")
        of.shows(0, f"after {fault}")
        await of.notifier.send(Notice("k-1", an_alert()), "")
        of.shows(1, f"when the notice was sent again after {fault}")


async def a_notice_whose_answer_got_lost_is_shown_once(bench_class: type[NotifierBench]) -> None:
    async with opened(bench_class) as of:
        if not of.bench.has_channel:
            return
        of.bench.faults.after.append("reset")
        with raises(TransientError, f"{of.name}: send() whose answer is lost"):
            await of.notifier.send(Notice("k-1", an_alert()), "")
        if await of.notifier.find("k-1") is None:  # it cannot look back: the copy must be recognised by its key
            await of.notifier.send(Notice("k-1", an_alert()), "")
        of.shows(of.bench.shown_after_a_lost_answer, "after a lost answer")


async def a_digest_is_sent(bench_class: type[NotifierBench]) -> None:
    """Where the notifier can."""
    async with opened(bench_class) as of:
        if isinstance(of.notifier, Digests):
            ref = await of.notifier.send_digest(DIGEST)
            found = await of.notifier.find(DIGEST.key)
            hold(found == (ref or None), f"{of.name}: find() gives {found!r} for a digest whose reference is {ref!r}")
            of.shows(1, "after the digest")


async def a_letter_is_sent(bench_class: type[NotifierBench]) -> None:
    """Where the notifier can. A notifier that can look back sends it once."""
    async with opened(bench_class) as of:
        if isinstance(of.notifier, TakesLetters):
            ref = await of.notifier.send_letter(LETTER)
            found = await of.notifier.find(LETTER.key)
            hold(found == (ref or None), f"{of.name}: find() gives {found!r} for a letter whose reference is {ref!r}")
            of.shows(1, "after the letter")
            if found is not None:
                again = await of.notifier.send_letter(LETTER)
                hold(again == ref, f"{of.name}: a letter that was sent before is sent again")
                of.shows(1, "after the same letter")


async def a_reply_is_found(bench_class: type[NotifierBench]) -> None:
    """Where the notifier has threads."""
    async with opened(bench_class) as of:
        if isinstance(of.notifier, Threads):
            ref = await of.notifier.send(Notice("k-1", an_alert()), "")
            reply = Reply("r-1", "resolved", Notice("k-1", an_alert()), RESOLVED)
            given = await of.notifier.reply(reply, ref)
            found = await of.notifier.find_reply("r-1", ref)
            hold(found == given, f"{of.name}: find_reply() gives {found!r} for a reply whose reference is {given!r}")
            missing = await of.notifier.find_reply("r-9", ref)
            hold(missing is None, f"{of.name}: find_reply() finds a key that was never sent")
            of.shows(1, "after a reply")


async def a_configuration_refuses_unknown_keys_and_hides_secrets(bench_class: type[NotifierBench]) -> None:
    bench = bench_class()
    entry = bench.config("http://127.0.0.1:1/")
    config = NOTIFIERS.config(entry["kind"])
    shown = bool(bench.secret) and bench.secret in repr(config.model_validate(entry))
    hold(not shown, f"kind {entry['kind']}: the printed Config shows the secret; make the field a SecretStr")
    with raises(ValidationError, f"kind {entry['kind']}: a Config with the unknown key `colour`"):
        config.model_validate(entry | {"colour": "red"})


NOTIFIER_PROMISES: Mapping[str, NotifierPromise] = {
    promise.__name__: promise
    for promise in (
        a_notice_is_found_and_edited,
        a_resolved_alert_is_sent,
        a_notice_whose_answer_got_lost_is_shown_once,
        a_digest_is_sent,
        a_letter_is_sent,
        a_reply_is_found,
        a_configuration_refuses_unknown_keys_and_hides_secrets,
    )
} | {f"{fault}_is_transient": partial(a_fault_is_transient, fault=fault) for fault in FAULTS}
