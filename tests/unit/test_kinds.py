"""A kind that is unknown, or whose extra is not installed, is told instead of failing with a traceback."""

from __future__ import annotations

import sys

import pytest

from curb.config.file import ConfigErrors, load_text

_OTEL = "connectors:\n  - {kind: otel_genai, name: otel, token: a-long-token}\n"


def test_a_kind_without_its_extra_names_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        "curb.connectors.tokens.otel_genai",
        "curb.connectors.tokens.otel_metrics",
        "curb.connectors.tokens.otel_tags",
        "curb.connectors.tokens.otlp",
    ):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.collector.logs.v1", None)
    with pytest.raises(ConfigErrors) as raised:
        load_text(_OTEL)
    (error,) = raised.value.errors
    assert error.path.startswith("connectors[0]")
    assert "needs the Python module 'opentelemetry" in error.message
