"""The locks are complete and are all that an install reads, so no later release can break one that was right."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import distributions, packages_distributions
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.house.tree import ROOT, parse

#: Each lock and the extras it holds.
LOCKS = {
    "constraints/all.txt": ("dev",),
    "constraints/run.txt": ("build", "charts", "apprise", "aws", "bills", "forecast", "gcp", "otel", "river"),
}
#: Every file that installs something.
INSTALLERS = (".ci/installs", ".ci/lowest", ".ci/pythons", ".ci/run", ".ci/setup", "deploy/Dockerfile")


def pins(file: str) -> dict[str, set[str]]:
    """Versions of each package in a lock; there may be one per Python version."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / file).read_text(encoding="utf-8"), re.M):
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


def pins_here(file: str) -> dict[str, str]:
    """The pins of a lock that hold for this Python on this system."""
    text = (ROOT / file).read_text(encoding="utf-8")
    lines = re.findall(r"^([\w.-]+)==([^\s;\\]+)(?: ; ([^\\\n]+?))? \\$", text, re.M)
    return {
        canonicalize_name(package): version
        for package, version, marker in lines
        if not marker or Marker(marker).evaluate()
    }


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def wanted(extras: tuple[str, ...]) -> list[Requirement]:
    """What pyproject.toml asks for: the dependencies and those of `extras`, which may name further extras."""
    about, todo = project(), list(extras)
    found = [Requirement(line) for line in about["dependencies"]]
    for extra in todo:
        for line in map(Requirement, about["optional-dependencies"][extra]):
            todo.extend(line.extras) if line.name == about["name"] else found.append(line)
    return found


def gaps(roots: list[Requirement], lock: dict[str, str]) -> list[str]:
    """Every requirement, direct or not, that `lock` does not meet, read from the metadata of what is installed."""
    installed = {canonicalize_name(each.metadata["Name"]): each for each in distributions()}
    todo = [("pyproject.toml", frozenset[str](), requirement) for requirement in roots]
    seen, wrong = set[tuple[str, frozenset[str]]](), []
    for asker, extras, requirement in todo:
        marker, name = requirement.marker, canonicalize_name(requirement.name)
        if marker and not any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            continue
        if name not in lock or not requirement.specifier.contains(lock[name], prereleases=True):
            wrong.append(f"{asker} needs {requirement}: locked {lock.get(name, 'nowhere')}")
        elif name not in installed or installed[name].version != lock[name]:
            wrong.append(f"{name} {lock[name]} is locked and not installed; run `make setup`")
        elif (name, asked := frozenset(requirement.extras)) not in seen:
            seen.add((name, asked))
            todo += [(name, asked, Requirement(line)) for line in installed[name].requires or []]
    return wrong


@pytest.mark.parametrize("file", LOCKS)
def test_a_lock_holds_all_that_its_packages_need(file: str) -> None:
    wrong = gaps(wanted(LOCKS[file]), pins_here(file))
    assert not wrong, f"run `make lock`; {file}:\n" + "\n".join(wrong)


def test_a_lock_with_a_hole_is_found() -> None:
    lock = pins_here("constraints/all.txt")
    assert gaps([Requirement("google-cloud-bigquery")], lock) == []
    del lock["google-auth"]
    assert any("needs google-auth" in gap for gap in gaps([Requirement("google-cloud-bigquery")], lock))


@pytest.mark.parametrize("file", LOCKS)
def test_every_version_in_a_lock_is_one_that_the_project_allows(file: str) -> None:
    found = pins(file)
    wrong = [
        f"{requirement}: locked {versions or 'nowhere'}"
        for requirement in wanted(LOCKS[file])
        for versions in [found.get(canonicalize_name(requirement.name), set())]
        if not versions or not all(requirement.specifier.contains(version) for version in versions)
    ]
    assert not wrong, f"run `make lock`; {file}:\n" + "\n".join(wrong)


def test_the_image_runs_what_the_tests_ran_on() -> None:
    tested = pins("constraints/all.txt")
    assert all(versions <= tested[package] for package, versions in pins("constraints/run.txt").items())


def test_every_lowest_version_that_is_allowed_is_one_that_is_tested() -> None:
    # Where another package needs a newer one, the lower one is allowed and nobody has tried it.
    tested = pins("constraints/lowest.txt")
    wrong = [
        f"{requirement}: {tested.get(canonicalize_name(requirement.name), 'nowhere')}"
        for requirement in wanted(("dev",))
        for lowest in [{Version(each.version) for each in requirement.specifier if each.operator == ">="}]
        if {Version(each) for each in tested.get(canonicalize_name(requirement.name), ())} != lowest
    ]
    assert not wrong, f"raise these minima in pyproject.toml, or run `make lock`: {wrong}"


@pytest.mark.parametrize("file", [*LOCKS, "constraints/lowest.txt", "constraints/sbom.txt"])
def test_every_pin_has_hashes_and_no_address(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert "//" not in text
    assert not re.search(r"^-", text, re.M), "options such as an index do not belong to the pins"
    requirements = re.split(r"\n(?=\S)", text.strip())
    assert requirements
    assert all("--hash=sha256:" in requirement for requirement in requirements)


# --- installing from a lock -----------------------------------------------------------------------------------------


def resolving(text: str) -> list[str]:
    """Install commands that would look for dependencies of their own instead of taking the lock as it is."""
    commands = re.split(r"\n|;|&&|\|\|", text.replace("\\\n", " "))
    return [
        command.strip()
        for command in commands
        if re.search(r"\bpip3? install\b", command) and "--no-deps" not in command
    ]


@pytest.mark.parametrize("file", INSTALLERS)
def test_installs_take_the_lock_as_it_is(file: str) -> None:
    # Some releases of pip resolve a requirement with an extra apart from its pin, and then refuse the newer release
    # they find because it has no hash. A complete lock needs no resolver.
    assert resolving((ROOT / file).read_text(encoding="utf-8")) == [], "add --no-deps"


def test_an_install_that_resolves_is_found() -> None:
    assert resolving("x; pip install \\\n -r y; pip install --no-deps -e .") == ["pip install   -r y"]


# --- what the image needs -------------------------------------------------------------------------------------------

#: Packages a person adds for a store that is not everybody's; connectors say so when they are missing.
OPTIONAL = {"azure"}


def test_the_image_has_every_package_that_a_connector_imports() -> None:
    provides, found = packages_distributions(), set(pins("constraints/run.txt"))
    missing = {
        f"{path.name}: {name}"
        for path in (ROOT / "connectors").rglob("*.py")
        for name in imported(parse(path)) - {"curb"} - OPTIONAL - sys.stdlib_module_names
        if not found & {canonicalize_name(each) for each in provides.get(name, [])}
    }
    assert not missing, f"add their extras to IMAGE in the Makefile and run `make lock`: {sorted(missing)}"


def imported(module: ast.Module) -> set[str]:
    """Top-level names of the packages a module imports anywhere."""
    names = set[str]()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}
