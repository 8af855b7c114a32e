"""How the rooms are furnished: small folders, modules beside their owner, settings beside their class, unique names."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path

from tests.house.test_imports import MODULES, imported
from tests.house.tree import name, parse, room

MAX_MODULES = 25
MIN_LINES = 40

#: These compose the settings of their room, or are the class that all settings derive from.
COMPOSERS = {"actions/settings.py", "detector/settings.py", "stream/settings.py"}
#: Tables of kinds, which people add a line to, and the one place that starts a daemon.
MAY_BE_SMALL = {
    "curb.actions.kinds",
    "curb.connectors.kinds",
    "curb.detector.scorers.kinds",
    "curb.run",
}
#: Every kind has a `Config` beside its class, every head and rule its `Params`.
EVERYWHERE = {"Config", "Params"}


def package(module: str) -> str:
    return module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def only_importers() -> dict[str, str]:
    """Modules that one other module imports, with that one."""
    users: dict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        for target in imported(path).keys() - {module}:
            users[target].add(module)
    found = {module: next(iter(those)) for module, those in users.items() if len(those) == 1}
    return {module: user for module, user in found.items() if MODULES[module].name != "__init__.py"}


def test_no_folder_is_a_heap() -> None:
    counted = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    wrong = [f"{name(folder)}: {count} modules" for folder, count in counted.items() if count > MAX_MODULES]
    assert not wrong, f"no folder over {MAX_MODULES} modules:\n" + "\n".join(wrong)


def test_a_module_with_one_importer_lives_beside_it() -> None:
    """In the importer's package, above or below it. A module that needs its own package is that package's face."""
    wrong = []
    for module, user in only_importers().items():
        own, users = package(module), package(user)
        is_face = any(package(target) == own for target in imported(MODULES[module]))
        beside = own.startswith(users) or users.startswith(own)
        if room(module) == room(user) and not beside and not is_face:
            wrong.append(f"{module}: only {user} needs it")
    assert not wrong, "move it to its owner's package:\n" + "\n".join(wrong)


def test_a_small_module_has_more_than_one_importer() -> None:
    wrong = [
        f"{module}: {lines(MODULES[module])} lines, only {user} needs it"
        for module, user in only_importers().items()
        if lines(MODULES[module]) < MIN_LINES and room(module) == room(user) and module not in MAY_BE_SMALL
    ]
    assert not wrong, "make it a part of its owner:\n" + "\n".join(wrong)


def test_settings_stand_beside_what_they_configure() -> None:
    found = {name(path) for path in MODULES.values() if "settings" in path.stem}
    wrong = sorted(found - COMPOSERS)
    assert not wrong, "a Config belongs into the file of its class:\n" + "\n".join(wrong)


def test_class_names_are_unique() -> None:
    """Private ones are known in their own file only."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef) and node.name not in EVERYWHERE and node.name[0] != "_":
                places[node.name].append(module)
    wrong = [f"{each}: {', '.join(those)}" for each, those in places.items() if len(those) > 1]
    assert not wrong, "one name, one thing:\n" + "\n".join(wrong)
