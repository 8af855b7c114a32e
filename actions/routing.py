"""From an alert to who is told and what may be done: pure functions of the alert and the settings."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from actions.settings import ActionsSettings, Match, Mode, Route, TagMatcher, name_of
from stream.records import Alert


class Act(NamedTuple):
    """One action the routes ask for."""

    name: str
    mode: Mode
    lease_s: float


class Decision(NamedTuple):
    """What the routes say about one alert; every name at most once, the first route that names it decides."""

    notify: tuple[str, ...]
    act: tuple[Act, ...]


def tags_match(matcher: TagMatcher, tags: Mapping[str, str]) -> bool:
    """Whether every tag of the matcher is there and its value fits the glob (case counts)."""
    return all(tag in tags and fnmatchcase(tags[tag], glob) for tag, glob in matcher.items())


def decide(alert: Alert, settings: ActionsSettings) -> Decision:
    """The first matching route, and those after it while `continue` is set."""
    if not settings.routes:
        return Decision(tuple(map(name_of, settings.notifiers)), ())
    notify: dict[str, None] = {}
    act: dict[str, Act] = {}
    for route in settings.routes:
        if not _matches(route.match, alert):
            continue
        notify.update(dict.fromkeys(route.notify))
        for name in route.act:
            act.setdefault(name, Act(name, _mode(route, settings), route.lease_minutes * 60.0))
        if not route.continue_:
            break
    return Decision(tuple(notify), tuple(act.values()))


def _mode(route: Route, settings: ActionsSettings) -> Mode:
    return settings.mode if route.mode == "inherit" else route.mode


def _matches(match: Match, alert: Alert) -> bool:
    return (
        (not match.kind or alert.kind in match.kind)
        and (not match.tier or alert.tier in match.tier)
        and (match.scope is None or alert.scope == match.scope)
        and tags_match(match.tags, alert.tags)
    )
