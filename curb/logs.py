"""The daemon's own log lines: one JSON object a line, or plain text; extras are kept, secrets never get here.

Some libraries repeat a line many times a second, and a client of the port can make them: it is one line per kind.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
#: aiokafka reports every failed connection, aiohttp every request that is no HTTP, the port every request that failed.
_REPEATED = ("aiokafka", "aiohttp.server", "curb.serve", "curb.connectors.intake.inbox")
#: Libraries whose lines below a warning say nothing about Curb.
QUIETER = ("aiokafka", "matplotlib", "asyncio", "slack_sdk")
#: How long the next line of the same kind is held back (seconds), where a library repeats itself.
_QUIET_S = 30.0


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line with time, level, logger, message and extras."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message and extras as key=value, for reading in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        extras = " ".join(f"{key}={value!r}" for key, value in _extras(record).items())
        text = f"{at} {record.levelname.lower():7} {record.name}: {record.getMessage()} {extras}".rstrip()
        return text + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class OncePerInterval(logging.Filter):
    """Lets a message of one logger through once per `interval_s` seconds, with `suppressed`: how many it stands for.

    Messages are the same when their text before the arguments are put in and the type of their error are. `clock` gives
    seconds.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval_s, self._clock = interval_s, clock
        #: When the last line was written, and how many were held back since.
        self._lines: dict[tuple[Any, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        cause = record.exc_info[0] if record.exc_info else None
        kind, now = (record.name, str(record.msg), cause), self._clock()
        written, suppressed = self._lines.get(kind, (now - self._interval_s, 0))
        if now - written < self._interval_s:
            self._lines[kind] = written, suppressed + 1
            return False
        if suppressed:
            record.suppressed = suppressed
        # Text put together before it was logged makes every line a kind of its own; forget those that are over.
        self._lines = {each: line for each, line in self._lines.items() if now - line[0] < self._interval_s}
        self._lines[kind] = now, 0
        return True


class _Noisy(logging.Filter):
    """Applies a filter to the loggers below one name; a filter of a logger itself does not see its children."""

    def __init__(self, name: str, inner: logging.Filter) -> None:
        super().__init__(name)
        self._inner = inner

    def filter(self, record: logging.LogRecord) -> bool:
        return not super().filter(record) or bool(self._inner.filter(record))


def setup(level: str, style: str) -> None:
    """Send all log lines of the process to standard error in the given style ("json" or "text")."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    for repeated in _REPEATED:
        handler.addFilter(_Noisy(repeated, OncePerInterval(_QUIET_S)))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in QUIETER:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
