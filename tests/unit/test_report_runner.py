"""The report that the daemon sends: when it is due, once over restarts, and only from the active process."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from curb.config.errors import ConfigErrors
from curb.config.file import CurbConfig, load_text
from curb.report import runner
from curb.report.runner import ReportRunner
from curb.report.span import ReportSpan
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from tests.fakes.memory_log import MemoryLog

TEXT = """
actions: {notifiers: [{kind: console, name: screen}]}
report: {schedule: month, notify: [screen]}
"""


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.fixture
def config() -> CurbConfig:
    return load_text(TEXT)


class Sender(ReportRunner):
    """Notes the spans instead of sending them."""

    def __init__(self, config: CurbConfig, log: MemoryLog, clock: ManualClock, *, active: bool = True) -> None:
        super().__init__(config, log, clock, lambda: active)
        self.sent: list[str] = []

    async def _send(self, span: ReportSpan) -> None:
        self.sent.append(str(span))


async def test_the_first_start_waits_and_each_month_is_sent_once_over_restarts(config: CurbConfig) -> None:
    log, sent = MemoryLog(), list[str]()
    for time in (
        "2026-03-15T12:00",  # the first start: February is not reported
        "2026-04-01T12:00",  # March is over and may still get late charges
        "2026-04-02T05:59",
        "2026-04-02T06:00",
        "2026-04-02T06:01",
        "2026-04-20T06:00",
        "2026-07-09T00:00",  # down for May and June: the newest alone
        "2026-07-09T00:01",
    ):
        sender = Sender(config, log, ManualClock(at(time)))
        await sender.look()
        sent += [f"{time}: {span}" for span in sender.sent]
    assert sent == [
        "2026-04-02T06:00: 2026-03-01 to 2026-03-31",
        "2026-07-09T00:00: 2026-06-01 to 2026-06-30",
    ]


async def test_a_process_that_is_not_active_sends_and_records_nothing(config: CurbConfig) -> None:
    log = MemoryLog()
    sender = Sender(config, log, ManualClock(at("2026-04-02T06:00")), active=False)
    assert not await sender.look()
    assert not log.messages


async def test_what_cannot_be_recorded_is_not_sent_yet(config: CurbConfig) -> None:
    log = MemoryLog()
    await Sender(config, log, ManualClock(at("2026-03-15T12:00"))).look()
    log.fail_next = 1
    sender = Sender(config, log, ManualClock(at("2026-04-02T06:00")))
    with pytest.raises(TransientError):
        await sender.look()
    assert not sender.sent
    assert await sender.look()
    assert sender.sent == ["2026-03-01 to 2026-03-31"]


async def test_a_letter_reaches_the_notifiers(config: CurbConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    async def make(loaded: CurbConfig, span: ReportSpan, by: list[str], *_: Any, lines: bool) -> tuple[str, None]:
        given.append((loaded is config, str(span), by, lines))
        return "made", None

    async def send(made: str, channels: list[Any], _: Any) -> dict[str, str]:
        given.append((made, [each.name for each in channels]))
        return {}

    monkeypatch.setattr(runner, "make_report", make)
    monkeypatch.setattr(runner, "send_report", send)
    log = MemoryLog()
    for time in ("2026-03-15T12:00", "2026-04-02T06:00"):
        await ReportRunner(config, log, ManualClock(at(time)), lambda: True).look()
    assert given == [(True, "2026-03-01 to 2026-03-31", ["team"], False), ("made", ["screen"])]


async def test_a_defect_of_the_report_is_raised_where_it_is_awaited() -> None:
    async def fails() -> None:
        raise TransientError("log away")

    with pytest.raises(TransientError, match="log away"):
        await runner.apart(fails)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("report: {schedule: month}", "goes to nobody"),
        ("report: {schedule: month, notify: [nobody]}", "no notifier is called 'nobody'"),
        (
            "actions: {notifiers: [{kind: pagerduty, name: pd, routing_key: rrrrrrrrrrrr}]}\n"
            "report: {schedule: week, notify: [pd]}",
            "takes no reports",
        ),
        ("report: {schedule: year, notify: [screen]}", "schedule"),
    ],
)
def test_a_report_that_reaches_nobody_is_an_error(text: str, why: str) -> None:
    with pytest.raises(ConfigErrors) as found:
        load_text(text)
    assert why in str(found.value)
