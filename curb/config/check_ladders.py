"""Routes that cannot be what was meant: rungs that ask for what an action cannot do, environments no alert carries."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

from curb.actions.policy.routing import VERBS
from curb.actions.settings import ActionsSettings
from curb.actions.target import Verb


def impossible_rungs(actions: ActionsSettings) -> list[tuple[str, str, str]]:
    """Path, problem and hint of each. Actions that are not validated yet, or declare no verbs, are skipped."""
    can = {config.name: verbs_of(config) for config in actions.actions}
    found = []
    for number, route in enumerate(actions.routes):
        for place, rung in enumerate(route.ladder):
            verb = VERBS.get(rung.do)
            for name in rung.act:
                verbs = can.get(name)
                if verb is not None and verbs is not None and verb not in verbs:
                    path = f"actions.routes[{number}].ladder[{place}]"
                    found.append((path, f"{name} cannot {verb}", f"it can: {', '.join(sorted(verbs))}"))
    return found


def unknown_environments(actions: ActionsSettings, known_tags: set[str]) -> list[tuple[str, str, str]]:
    """Path, problem and hint of matchers on an environment where alerts carry none."""
    if known_tags & {"env", "environment"}:
        return []
    hint = "put env into the group_by of a scope, see detector.scopes"
    return [
        (f"actions.routes[{number}].match.environment", "no scope has the tag env, so this matches nothing", hint)
        for number, route in enumerate(actions.routes)
        if route.match.environment
    ]


def verbs_of(config: Any) -> frozenset[Verb] | None:
    """The verbs of the action that a configuration builds, by the return type of `build`."""
    build = getattr(type(config), "build", None)
    returned = get_type_hints(build).get("return") if build is not None else None
    kinds = [getattr(kind, "verbs", None) for kind in get_args(returned) or (returned,)]
    return None if None in kinds else frozenset().union(*(verbs for verbs in kinds if verbs is not None))
