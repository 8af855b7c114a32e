"""Inside a room, packages import one another along the edges of one table: who reads one knows what may lie below."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import pytest

from tests.house.test_imports import MODULES, imported
from tests.house.tree import FLOORS, name, room

#: Room → package, or module at the room's root → what it may import beside itself. The way of a bucket in the detector:
#: shard → rollup | judge → rules → heads → state, with incidents and budgets side by side.
EDGES: dict[str, dict[str, str]] = {
    "stream": {
        "clock": "time",
        "kinds": "settings",
        "clients": "clock errors settings",
        "log": "clock errors metrics",
        "records": "log metrics",
        "work": "log clock errors",
        "kafka": "log clients clock errors metrics retry settings",
    },
    "detector": {
        "pipeline": "bills shard rollup settings",
        "bills": "rebuild shard rollup incidents settings state",
        "rebuild": "shard rollup settings state",
        "shard": "day_one judge budgets fast forecast incidents settings state",
        "day_one": "heads rules settings state",
        "judge": "rules heads incidents scorers settings state",
        "settings": "rules heads incidents budgets fast forecast scorers rollup state",
        "rules": "heads state",
        "heads": "state",
        "incidents": "state",
        "budgets": "state",
        "fast": "state",
        "forecast": "state",
        "reconcile": "state",
        "scorers": "state",
        "rollup": "state",
    },
    "connectors": {
        "kinds": "connector",
        "connector": "fingerprint pricing",
        "http": "connector decode",
        "validate": "connector decode",
        "intake": "connector decode validate",
        "bills": "connector decode http",
        "gpus": "connector decode http pricing",
        "tokens": "connector decode fingerprint http pricing validate",
        "history": "tokens connector decode",
    },
    "actions": {
        "action": "target",
        "kinds": "action notify",
        "settings": "policy notify action",
        "calls": "action",
        "levers": "calls action target",
        "workloads": "calls action target",
        "policy": "ledger action target",
        "notify": "policy ledger calls action",
        "slack": "notify action",
        "lifecycle": "notify policy ledger calls action target settings",
    },
    "curb": {
        "__main__": "cli",
        "cli": "run backfill export feed forget bill_backtest demo evaluate report serve views config wiring logs "
        "format",
        "run": "daemon config",
        "demo": "daemon feed serve views config logs format",
        "lab": "demo feed export evaluate wiring views config",
        "feed": "wiring evaluate config",
        "bill_backtest": "wiring evaluate config",
        "backfill": "feed row_grid wiring config",
        "export": "wiring config",
        "forget": "",
        "daemon": "row_grid wiring serve report views config",
        "row_grid": "evaluate config",
        "serve": "wiring views config format",
        "report": "wiring views config format",
        "wiring": "views config",
        "views": "evaluate format",
        "evaluate": "",
        "config": "views",
        "testing": "",
    },
}


def part(module: str) -> str:
    """The package of a room that a module lies in; of a module at the room's root, its own name."""
    below = module.split(".")[1 if room(module) == "curb" else 2 :]
    return below[0] if below else "__init__"


def edges(own: str) -> dict[tuple[str, str], str]:
    """Which package of a room imports which, with one place; imports under `TYPE_CHECKING` count."""
    found = {}
    for module, path in MODULES.items():
        for target, line in imported(path).items():
            if room(module) == own == room(target) and part(module) != part(target):
                found[part(module), part(target)] = f"{name(path)}:{line}"
    return found


@pytest.mark.parametrize("own", FLOORS)
def test_packages_import_along_the_edges(own: str) -> None:
    allowed = {(package, target) for package, targets in EDGES[own].items() for target in targets.split()}
    wrong = [
        f"{place}: {package} → {target}"
        for (package, target), place in edges(own).items()
        if target not in {"metrics", "time", "money"}  # the ground: constants and names
        and (package, target) not in allowed
    ]
    assert not wrong, f"no such edge in {own} (tests/house/test_edges.py):\n" + "\n".join(wrong)


@pytest.mark.parametrize("own", EDGES)
def test_the_table_can_be_drawn_without_circles(own: str) -> None:
    try:
        TopologicalSorter({package: targets.split() for package, targets in EDGES[own].items()}).prepare()
    except CycleError as error:
        raise AssertionError("packages need each other: " + " ← ".join(error.args[1])) from None
