"""Brings up, before tests run, the real components that they need and this machine can have; ends them afterwards.

What a variable names or what is on the PATH is taken as it is. `tests/real/__main__.py` uses this; pytest alone does
not, for a first build takes many minutes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.real import control_plane
from tests.real.cache import say
from tests.real.programs import AwayError, debian, go, npm, python, python_packages

SCHEMATHESIS = "schemathesis==4.32.0"
HELM = "v3.17.3"
#: The last state of its main branch; what it calls itself is its time.
MINIO, MINIO_TIME = "v0.0.0-20260212201848-7aac2a2c5b7c", "RELEASE.2026-02-12T20-18-48Z"
DUCKDB, SQLGLOT, GENAI_PRICES = "duckdb==2.0.1", "sqlglot==30.31.0", "genai-prices==0.2.3"
MINISTACK, AZURITE, ADLFS = "ministack==1.5.33", "azurite@3.37.0", "adlfs==2026.8.0"


class Up(NamedTuple):
    """What a test finds in the variable, and the version where a program cannot be asked for it."""

    value: str
    version: str = ""


class Recipe(NamedTuple):
    """How a component comes up: the variable that names it, its programs on the PATH, and what brings it up else.

    Libraries have no variable; they are there when `modules` can be imported.
    """

    variable: str
    programs: tuple[str, ...]
    bring: Callable[[contextlib.ExitStack], Up]
    modules: tuple[str, ...] = ()

    @property
    def is_there(self) -> bool:
        if self.modules:
            return all(importlib.util.find_spec(each) for each in self.modules)
        return bool(os.environ.get(self.variable)) or any(shutil.which(each) for each in self.programs)


def _minio() -> Up:
    """About four minutes the first time."""
    module = "github.com/minio/minio"
    names = {f"{module}/cmd.{each}": MINIO_TIME for each in ("Version", "ReleaseTag")}
    return Up(str(go(module, MINIO, [module], variables=names) / "minio"), MINIO_TIME[8:18])


def _azurite() -> Up:
    """With adlfs, unless it is here."""
    if importlib.util.find_spec("adlfs") is None:
        sys.path.append(str(python_packages("adlfs", ADLFS)))
    return Up(str(npm("azurite", AZURITE, "azurite-blob")), AZURITE.rpartition("@")[2])


def _libraries(*requirements: str) -> Up:
    sys.path.extend(str(python_packages(each.partition("=")[0], each)) for each in requirements)
    return Up("", " ".join(each.rpartition("=")[2] for each in requirements))


#: By component, as the names of test files begin.
RECIPES = {
    "bill": Recipe("", (), lambda _: _libraries(DUCKDB, SQLGLOT), ("duckdb", "sqlglot")),
    "genai-prices": Recipe("", (), lambda _: _libraries(GENAI_PRICES), ("genai_prices",)),
    "helm": Recipe(
        "CURB_TEST_HELM",
        ("helm",),
        lambda _: Up(str(go("helm.sh/helm/v3", HELM, ["helm.sh/helm/v3/cmd/helm"]) / "helm")),
    ),
    "kubernetes": Recipe("CURB_TEST_KUBERNETES", (), lambda stack: Up(*control_plane.up(stack))),
    "azurite": Recipe("CURB_TEST_AZURITE", (), lambda _: _azurite()),
    "minio": Recipe("CURB_TEST_MINIO", ("minio",), lambda _: _minio()),
    "ministack": Recipe(
        "CURB_TEST_MINISTACK",
        ("ministack",),
        lambda _: Up(str(python("ministack", MINISTACK, "ministack")), MINISTACK.rpartition("=")[2]),
    ),
    "prometheus": Recipe(
        "CURB_TEST_PROMETHEUS", ("prometheus",), lambda _: Up(str(debian("prometheus", "prometheus")))
    ),
    "promtool": Recipe("CURB_TEST_PROMTOOL", ("promtool",), lambda _: Up(str(debian("prometheus", "promtool")))),
    "schemathesis": Recipe(
        "CURB_TEST_SCHEMATHESIS",
        ("schemathesis",),
        lambda _: Up(str(python("schemathesis", SCHEMATHESIS, "schemathesis"))),
    ),
}


class BringUp:
    """A plugin of pytest. `component` says what a test needs by its id; `without` are left as they are."""

    def __init__(self, component: Callable[[str], str], without: frozenset[str] = frozenset()) -> None:
        self._component, self._without = component, without
        self._stack = contextlib.ExitStack()
        #: Component → its version, and the seconds that it took to bring up.
        self.versions: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        #: Component → why this machine cannot have it.
        self.away: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly:
            return
        for name in sorted({self._component(item.nodeid) for item in session.items} & RECIPES.keys() - self._without):
            recipe = RECIPES[name]
            if recipe.is_there:
                continue
            since = time.monotonic()
            try:
                up = recipe.bring(self._stack)
            except (AwayError, OSError, ValueError) as error:  # whatever it is, the tests that do without go on
                self.away[name] = str(error)
                say(name, f"not brought up: {error}")
                continue
            if recipe.variable:
                os.environ[recipe.variable] = up.value
            self.seconds[name] = time.monotonic() - since
            if up.version:
                self.versions[name] = up.version

    def pytest_unconfigure(self) -> None:
        self._stack.close()
