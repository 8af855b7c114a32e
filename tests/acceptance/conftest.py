"""The real components that acceptance tests share with the tests of those components."""

from tests.real.conftest import kafka_broker

__all__ = ["kafka_broker"]
