"""What holds for every test: reproducible hypothesis runs, its own loggers, no error that only asyncio's log sees."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from curb.logs import QUIETER

# No deadlines: the machine may be busy, and a test that depends on its speed says nothing about Curb.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "dev")


class _Collect(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message += f": {record.exc_info[1]!r}"
        self.messages.append(message)


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """Undo what a command that ran inside the test set up: its level would silence the log lines of later tests."""
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", *QUIETER)}
    yield
    for handler in [each for each in root.handlers if type(each) is logging.StreamHandler]:
        root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(autouse=True)
def asyncio_errors_fail() -> Iterator[None]:
    """Fail a test whose tasks died unseen: asyncio only logs "Task exception was never retrieved" and the like.

    Coroutines never awaited need nothing here: they warn, and warnings are errors.
    """
    handler = _Collect()
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if handler.messages:
        pytest.fail("asyncio logged errors:\n" + "\n".join(handler.messages), pytrace=False)
