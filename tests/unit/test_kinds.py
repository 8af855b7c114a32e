"""Kinds of installed packages are found through their entry points; a broken one is refused in a sentence."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from curb.config.errors import ConfigErrors
from curb.config.file import load_text
from curb.connectors.kinds import KINDS
from curb.stream.kinds import KindError

TOY = """
from typing import Literal
from curb.connectors.connector import Batch, ConnectorConfig, Context, Pull

class Toy:
    async def read(self, cursor):
        return Batch((), "1")

    async def close(self):
        pass

class Config(ConnectorConfig):
    kind: Literal["toy"]
    colour: str = "red"

    def build(self, context: Context) -> Pull:
        return Pull(Toy(), 60)

class Unbuilt(ConnectorConfig):
    kind: Literal["toy"]

class Kindless(ConnectorConfig):
    def build(self, context: Context) -> Pull:
        return Pull(Toy(), 60)
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package with entry points of `curb.connectors` on the path, as pip would."""

    def installed(points: str, *, package: str = "acme-curb", module: str = "", code: str = "") -> None:
        root = tmp_path / package
        about = root / f"{package.replace('-', '_')}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[curb.connectors]\n{points}\n")
        if module:
            (root / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(str(root))

    return installed


def test_a_kind_of_an_installed_package_is_configured_like_any_other(install: Install) -> None:
    install("toy = acme_toy:Config", module="acme_toy", code=TOY)
    (config,) = load_text("connectors: [{kind: toy, name: mine, colour: blue}]").connectors
    assert (config.kind, config.name, type(config).__module__) == ("toy", "mine", "acme_toy")
    assert "toy" in KINDS.names()
    assert "toy" not in KINDS
    with pytest.raises(ConfigErrors, match="colours"):
        load_text("connectors: [{kind: toy, name: mine, colours: blue}]")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("acme_broken:Unbuilt", "acme_broken:Unbuilt has no method build"),
        ("acme_broken:Kindless", 'needs the field kind: Literal\\["toy"\\]'),
        ("acme_broken:Toy", "is not a subclass of curb.connectors.connector.ConnectorConfig"),
        ("acme_broken:Nothing", "cannot be imported from acme_broken:Nothing"),
        ("acme_missing:Config", "needs the Python module 'acme_missing'"),
    ],
)
def test_a_broken_kind_says_which_promise_it_breaks(install: Install, target: str, said: str) -> None:
    install(f"toy = {target}", module="acme_broken", code=TOY)
    with pytest.raises(KindError, match=f"kind 'toy' of the package acme-curb.*{said}"):
        KINDS.config("toy")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("a = 1\nclass Config(\n", r"'\(' was never closed in \S+acme_bad\.py, line 2"),
        ("a = 1\n\nb = unknown", r"NameError: name 'unknown' is not defined in \S+acme_bad\.py, line 3"),
        ("raise ImportError('no\\nway')", r"cannot be imported from acme_bad:Config: \S*"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line_with_its_place(
    install: Install, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    monkeypatch.delitem(sys.modules, "acme_bad", raising=False)
    install("bad = acme_bad:Config", module="acme_bad", code=code)
    with pytest.raises(ConfigErrors) as raised:
        load_text("connectors: [{kind: bad, name: x}]")
    (error,) = raised.value.errors
    assert error.path == "connectors[0].kind"
    assert re.search(said, error.message)
    assert "\n" not in error.message


def test_a_package_cannot_replace_a_shipped_kind(install: Install) -> None:
    install("litellm = acme_shadow:Config", module="acme_shadow", code=TOY)
    with pytest.raises(KindError, match="'litellm' ships with Curb and the package acme-curb defines it too"):
        KINDS.config("litellm")
    assert KINDS.config("openai").__module__ == "curb.connectors.tokens.openai"


def test_two_packages_with_one_kind_are_refused(install: Install) -> None:
    install("toy = acme_one:Config", module="acme_one", code=TOY)
    install("toy = acme_two:Config", package="other-curb", module="acme_two", code=TOY)
    with pytest.raises(KindError, match="several packages, acme-curb, other-curb; keep one"):
        KINDS.config("toy")


def test_an_unknown_kind_names_those_there_are(install: Install) -> None:
    install("toy = acme_three:Config", module="acme_three", code=TOY)
    with pytest.raises(ConfigErrors, match=r"unknown kind 'tay'.*toy"):
        load_text("connectors: [{kind: tay, name: x}]")


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
        load_text("connectors: [{kind: otel_genai, name: otel, token: a-long-token}]")
    (error,) = raised.value.errors
    assert error.path.startswith("connectors[0]")
    assert "needs the Python module 'opentelemetry" in error.message
