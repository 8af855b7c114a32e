"""Imports go down only, and no two modules of a room need each other."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.house.tree import FLOORS, module_name, name, parse, python_files, room

MODULES = {module_name(path): path for path in python_files(*FLOORS)}


def imported(path: Path) -> dict[str, int]:
    """Modules of ours that a file imports, anywhere in it, with the line."""
    found: dict[str, int] = {}
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = _source(node, path)
            # `from curb.stream.log import codec` imports the module curb.stream.log.codec, not only the package.
            names = [f"{source}.{alias.name}" for alias in node.names]
            names = [each if each in MODULES else source for each in names]
        else:
            continue
        found.update({each: node.lineno for each in names if each.split(".")[0] == "curb"})
    return found


def _source(node: ast.ImportFrom, path: Path) -> str:
    if not node.level:
        return node.module or ""
    package = module_name(path).split(".")
    package = package[: len(package) - node.level + (path.name == "__init__.py")]
    return ".".join((*package, *((node.module,) if node.module else ())))


def test_imports_go_down_only() -> None:
    wrong = []
    for module, path in MODULES.items():
        own = room(module)
        for target, line in imported(path).items():
            other = room(target)
            if other != own and FLOORS[other] >= FLOORS[own]:
                wrong.append(f"{name(path)}:{line}: {own} imports {target}")
    assert not wrong, "curb → connectors | detector | actions → stream, and nothing else:\n" + "\n".join(wrong)


def test_every_module_imported_from_the_house_exists() -> None:
    wrong = [
        f"{name(path)}:{line}: {target}"
        for path in MODULES.values()
        for target, line in imported(path).items()
        if target not in MODULES
    ]
    assert not wrong, "no such module:\n" + "\n".join(wrong)


def test_rooms_are_imported_under_one_name() -> None:
    """Plain `import detector` would be a second copy of the module, or another project's."""
    wrong = []
    for path in python_files(*FLOORS, "tests", "benchmarks", "docs", "deploy"):
        for node in ast.walk(parse(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong += [
                f"{name(path)}:{node.lineno}: {each}"  # type: ignore[attr-defined]
                for each in names
                if each.split(".")[0] in FLOORS and each.split(".")[0] != "curb"
            ]
    assert not wrong, "import a room as `curb.ROOM`:\n" + "\n".join(wrong)


def test_modules_do_not_import_each_other_in_circles() -> None:
    """Imports under `TYPE_CHECKING` count: a reader has to follow them as well."""
    graph = {module: imported(path).keys() - {module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("modules import each other: " + " ← ".join(error.args[1])) from None


def test_nothing_of_the_project_is_imported_from_tests_or_benchmarks() -> None:
    wrong = []
    for path in MODULES.values():
        for node in ast.walk(parse(path)):
            targets = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            targets += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong += [
                f"{name(path)}:{node.lineno}: {target}"  # type: ignore[attr-defined]
                for target in targets
                if target.split(".")[0] in {"tests", "benchmarks"}
            ]
    assert not wrong, "shipped code must not need what is not shipped:\n" + "\n".join(wrong)


#: Whoever else wants something of a running daemon takes `curb.serve.running.Running`.
STARTS_DAEMONS = {"curb.run", "curb.demo.run"}


def test_only_those_who_start_a_daemon_import_it() -> None:
    found = {module for module, path in MODULES.items() if "curb.daemon" in imported(path)}
    assert found == STARTS_DAEMONS, "take a `Running` instead of the daemon"
