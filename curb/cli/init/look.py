"""Tries what the answers name, before anything is written: the gateway, the place of the log, Slack. It only reads."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, Protocol, cast

import aiohttp

from curb.actions.action import ActionContext
from curb.actions.levers.litellm_keys import KeyList, LitellmKeys
from curb.actions.notify.protocol import Notice
from curb.cli.init.answers import Answers
from curb.cli.init.spend import PastSpend, read_past
from curb.config.file import CurbConfig, EmbeddedSettings
from curb.connectors.connector import Check, Context
from curb.connectors.pricing.book import shipped_book
from curb.connectors.tokens.litellm import Config as LiteLLMConfig
from curb.connectors.tokens.litellm import LiteLLM
from curb.connectors.tokens.litellm_backfill import Backfill, BackfillSettings
from curb.stream.clock import Clock, WallClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.kafka.log import KafkaLog
from curb.stream.records.revisions import first_without_spend
from curb.stream.records.spend import Alert

#: Seconds for one answer of the gateway, and for one page of its spend logs. By hand, as the daemon waits.
_CALL_S, _PAGE_S = 10.0, 20.0
#: Seconds for the keys, and for the spend logs, in all. By hand: a person waits for it.
_KEYS_S, _SPEND_S = 30.0, 60.0
#: Keys whose limits are read. By hand: twenty pages.
_MOST_KEYS = 2000
#: Seconds until Kafka counts as out of reach.
_KAFKA_S = 10.0


class Reporter(Protocol):
    """Shows a person what is going on; `done` of `total`, None where the total is not known."""

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None: ...


@dataclass
class FirstLook:
    """What was tried, and what is known of the gateway."""

    checks: list[Check] = field(default_factory=list)
    keys: KeyList | None = None
    spend: PastSpend | None = None


async def look_at_gateway(
    answers: Answers, environment: Mapping[str, str], days: float, report: Reporter, found: FirstLook
) -> None:
    """Fill `found` with what LiteLLM, or the file, has; other gateways send by themselves and are not asked."""
    if answers.gateway == "file":
        found.checks.append(_file(answers.usage_file))
    if answers.gateway != "litellm":
        return
    key = environment.get(answers.litellm_key_env, "")
    timeout = aiohttp.ClientTimeout(total=_PAGE_S, connect=_CALL_S)
    async with aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": "curb"}) as http:
        admin = LitellmKeys(answers.litellm_url, key, http, WallClock(), _CALL_S)
        report("reaching LiteLLM")
        check = await _tried("reach LiteLLM (GET /health/liveliness)", admin.reach(), _CALL_S)
        found.checks.append(check)
        if not check.ok:
            return
        if not key:
            said = f"not tried: the environment variable {answers.litellm_key_env} is not set"
            found.checks.append(Check("read keys and spend", False, said, "the master key, or a proxy admin's"))
            return
        await _keys(admin, report, found)
        await _spend(answers, key, http, WallClock(), days, report, found)


async def _keys(admin: LitellmKeys, report: Reporter, found: FirstLook) -> None:
    async def read() -> str:
        keys = await admin.read(_MOST_KEYS, lambda done, total: report("reading keys", done, total))
        found.keys = keys
        free = sum(each.unlimited for each in keys.keys)
        return f"{keys.total:,} keys; {free:,} of {len(keys.keys):,} read have no limit of their own"

    what = "read keys and their limits (GET /key/list)"
    needed = "the master key, or a proxy admin's, and a database"
    found.checks.append(await _tried(what, read(), _KEYS_S, needed, says=True))


async def _spend(
    answers: Answers,
    key: str,
    http: aiohttp.ClientSession,
    clock: Clock,
    days: float,
    report: Reporter,
    found: FirstLook,
) -> None:
    settings = BackfillSettings.model_validate(
        {"url": answers.litellm_url, "key": key, "first_hours": 24 * days, "page_size": 1000, "timeout_s": _PAGE_S}
    )
    config = LiteLLMConfig.model_validate({"kind": "litellm", "name": "litellm", "token": "not-used"})
    records = LiteLLM(config, shipped_book()).row_records
    backfill = Backfill(settings, config.name, Context(clock, http, shipped_book()), records)
    spend = found.spend = PastSpend()

    async def read() -> str:
        await read_past(backfill, spend, lambda done: report(f"reading {days:g} days of spend logs", done))
        return f"{spend.records:,} calls of the last {days:g} days" + ("" if spend.complete else ", and there are more")

    what = "read spend (GET /spend/logs/v2)"
    check = await _tried(what, read(), _SPEND_S, "an admin's key, and a database behind the proxy", says=True)
    spend.complete = spend.complete and check.ok
    found.checks.append(check)


def _file(path: str) -> Check:
    """A file that comes later is no fault: it is read from its first line."""
    there = bool(glob(str(Path(path).expanduser())))
    return Check(
        "read usage from files", True, "found" if there else f"nothing at {path} yet: it is read once it is there"
    )


async def look_at_log(config: CurbConfig) -> Check:
    """Whether the log can be where it should be; nothing is made."""
    if isinstance(config.log, EmbeddedSettings):
        directory = config.log.directory
        parent = next(each for each in (directory, *directory.absolute().parents) if each.exists())
        ok = parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
        said = "there is one already: it is kept" if (directory / "log.sqlite3").exists() else ""
        return Check(f"keep the log in {directory}", ok, said if ok else f"{parent} cannot be written to")
    log = KafkaLog(config.log.model_copy(update={"request_timeout_s": _KAFKA_S}), config.instance, WallClock())

    async def reach() -> str:
        there, needed = await log.reach()
        return f"{there} of {needed} topics are there" + (
            "" if there == needed else "; the first start makes the others"
        )

    return await _tried(
        "reach Kafka", reach(), 2 * _KAFKA_S, "describe and create topics: docs/howto/use-kafka.md", says=True
    )


async def look_at_chat(config: CurbConfig, *, send_test: bool) -> list[Check]:
    """Whether the bot's token works, and with `send_test` a message on every notifier but the screen."""
    checks = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PAGE_S)) as http:
        context = ActionContext(WallClock(), http)
        for settings in config.actions.notifiers:
            if settings.kind == "slack":  # a kind is loaded where it is configured
                call = cast(Any, settings).calls(context).ask("auth.test", lambda client: client.auth_test())
                checks.append(await _tried(f"use the token of {settings.name} (Slack auth.test)", call, _CALL_S))
            if send_test and settings.kind != "console":
                notice = Notice(f"curb-init-{uuid.uuid4()}", _test_alert(WallClock().now()))
                sent = settings.build(context).send(notice, "")
                checks.append(await _tried(f"send a test message by {settings.name}", sent, _PAGE_S))
    return checks


def _test_alert(now: float) -> Alert:
    """An alert that says that it is none."""
    return first_without_spend(
        f"test-{uuid.uuid4().hex[:12]}",
        now,
        kind="feed",
        tier="digest",
        scope="test",
        tags={"test": "curb init"},
        channel="test",
        explanation="This is a test message of curb init. Nothing is wrong, and there is nothing to do.",
    )


async def _tried(
    what: str, call: Awaitable[object], timeout_s: float, permission: str = "", *, says: bool = False
) -> Check:
    """The outcome of a call; with `says`, what it returns is the detail."""
    try:
        async with asyncio.timeout(timeout_s):
            said = await call
    except (PermanentError, TransientError) as error:
        return Check(what, False, str(error), permission)
    except TimeoutError:
        return Check(what, False, f"no answer within {timeout_s:g} s", permission)
    return Check(what, True, str(said) if says else "", permission)
