"""Real components that several test files share."""

from __future__ import annotations

import pytest

from tests.real.kafka_broker import Broker, shared_broker


@pytest.fixture(scope="session")
def kafka_broker() -> Broker:
    """A running broker; files share one, tests keep apart by `topic_prefix`."""
    return shared_broker()
