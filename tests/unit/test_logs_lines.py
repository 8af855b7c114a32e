"""Log lines: extras are kept in both styles, and a library that repeats itself is held to one line per kind."""

from __future__ import annotations

import json
import logging

import pytest

from curb.logs import OncePerInterval, setup


class Seconds:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def record(name: str, message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 0, message, args, None)


def test_the_same_message_passes_once_per_interval_and_counts_what_it_stands_for() -> None:
    clock = Seconds()
    limit = OncePerInterval(30, clock)
    first = record("a", "cannot connect to %s", "one")
    assert limit.filter(first)
    assert not hasattr(first, "suppressed")
    for node in ("one", "two", "three"):
        clock.now += 9.9
        assert not limit.filter(record("a", "cannot connect to %s", node))
    clock.now = 1030.0
    later = record("a", "cannot connect to %s", "one")
    assert limit.filter(later)
    assert vars(later)["suppressed"] == 3
    clock.now = 1060.0
    last = record("a", "cannot connect to %s", "one")
    assert limit.filter(last)
    assert not hasattr(last, "suppressed")


def test_other_messages_and_other_loggers_pass() -> None:
    limit = OncePerInterval(30, Seconds())
    assert limit.filter(record("a", "cannot connect"))
    assert limit.filter(record("a", "cannot read"))
    assert limit.filter(record("b", "cannot connect"))
    assert not limit.filter(record("b", "cannot connect"))


def test_messages_that_never_come_again_are_forgotten() -> None:
    clock = Seconds()
    limit = OncePerInterval(30, clock)
    for n in range(1000):
        clock.now += 1
        assert limit.filter(record("a", f"text of its own: {n}"))
    assert len(limit._lines) <= 31


def test_aiokafka_is_held_to_one_line_per_kind_and_curb_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    setup("info", "json")
    for n in range(5):
        logging.getLogger("aiokafka").error("Unable connect to node with id %s", n)
        logging.getLogger("aiokafka.consumer.fetcher").error("Failed fetch messages from %s", n)
        logging.getLogger("curb.stream.work.worker").warning("worker restarts", extra={"group": "rollup"})
        logging.getLogger("aiokafka").info("not even once")
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    names = [line["logger"] for line in found]
    assert names.count("aiokafka") == names.count("aiokafka.consumer.fetcher") == 1
    assert [line["group"] for line in found if line["logger"] == "curb.stream.work.worker"] == ["rollup"] * 5


def test_the_text_style_shows_extras(capsys: pytest.CaptureFixture[str]) -> None:
    setup("info", "text")
    logging.getLogger("curb.stream.work.worker").warning("worker restarts", extra={"group": "rollup"})
    assert capsys.readouterr().err.endswith("warning curb.stream.work.worker: worker restarts group='rollup'\n")
