"""Owners of spend in the actions' settings: a route to each owner's channel, and the criticality of their subjects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from curb.actions.policy.limits import MARKS, CriticalityRule, TagMatcher
from curb.actions.policy.route import Match, Route
from curb.actions.settings import ActionsSettings
from curb.connectors.intake.attribution import AttributionSettings, SpendOwner
from curb.detector.settings import DetectorSettings


def known_tags(detector: DetectorSettings) -> set[str]:
    """The tags that alerts can carry."""
    # Alerts about prices carry the model.
    return {tag for scope in detector.scopes for tag in (*scope.group_by, *scope.also_by)} | {"model"}


def with_owners(actions: ActionsSettings, owners: Sequence[SpendOwner], detector: DetectorSettings) -> ActionsSettings:
    """The actions with a route to every owner's channel before all others, and with the criticality of the owners.

    Copies of the first Slack notifier send to the channels; each is named after it and its channel.
    """
    known = known_tags(detector)
    marks = _marks(owners, known)
    slack = _first_slack(actions)
    reached = [owner for owner in owners if owner.slack_channel is not None] if slack is not None else []
    if not marks and not reached:
        return actions
    limits = actions.limits.model_copy(update={"criticality": (*actions.limits.criticality, *marks)})
    if slack is None or not reached:
        return actions.model_copy(update={"limits": limits})
    notifiers = {_notifier(slack, owner): _in_channel(slack, owner) for owner in reached}
    taken = {notifier.name for notifier in actions.notifiers}
    routes = [
        _route(matcher, _notifier(slack, owner)) for owner in reached for matcher in _once(_matchers(owner, known))
    ]
    # Without routes every notifier gets every alert; behind these routes that needs a route of its own.
    others = actions.routes or (Route(notify=tuple(each.name for each in actions.notifiers)),)
    added = [notifier for name, notifier in notifiers.items() if name not in taken]
    return actions.model_copy(
        update={"limits": limits, "routes": (*routes, *others), "notifiers": (*actions.notifiers, *added)}
    )


def unreachable_owners(
    attribution: AttributionSettings, actions: ActionsSettings, detector: DetectorSettings
) -> list[tuple[str, str, str]]:
    """Path, problem and hint of owners whose channel or criticality no alert can reach."""
    known, found = known_tags(detector), []
    hint = f"alerts carry the tags of their scope: {', '.join(sorted(known))}; or give the owner a `team`"
    for number, owner in enumerate(attribution.owners):
        path = f"attribution.owners[{number}]"
        wanted = owner.slack_channel is not None or owner.criticality == "critical"
        if wanted and not _matchers(owner, known):
            found.append((path, f"no scope has the tags {', '.join(sorted(owner.match))}", hint))
        if owner.slack_channel is not None and _first_slack(actions) is None:
            slack_hint = "add a notifier of kind slack; its token is used"
            found.append((f"{path}.slack_channel", "there is no Slack notifier for it", slack_hint))
    return found


def _marks(owners: Sequence[SpendOwner], known: set[str]) -> list[CriticalityRule]:
    """`critical` covers the owner's team as well; marks that allow more cover the owner's own match only."""
    marks = []
    for owner in owners:
        if owner.criticality == "critical":
            matchers = _matchers(owner, known)
        else:
            matchers = [dict(owner.match)] if owner.criticality and owner.match.keys() <= known else []
        marks += [
            CriticalityRule.model_validate({"match": matcher, "is": MARKS[str(owner.criticality)]})
            for matcher in _once(matchers)
        ]
    return marks


def _matchers(owner: SpendOwner, known: set[str]) -> list[TagMatcher]:
    """Matchers of alerts about an owner's spend: the owner's own match, or the team that the owner adds."""
    matchers: list[TagMatcher] = [dict(owner.match)] if owner.match.keys() <= known else []
    if owner.team is not None and "team" in known:
        # In brackets, * and ? are themselves.
        matchers.append({"team": "".join(f"[{c}]" if c in "*?[" else c for c in owner.team)})
    return matchers


def _route(matcher: TagMatcher, notifier: str) -> Route:
    tiers = {"tier": ("page", "notice"), "tags": matcher}
    return Route.model_validate({"match": Match.model_validate(tiers), "notify": (notifier,), "continue": True})


def _once(matchers: Iterable[TagMatcher]) -> list[TagMatcher]:
    return list({tuple(sorted(matcher.items())): matcher for matcher in matchers}.values())


def _first_slack(actions: ActionsSettings) -> Any:
    """The settings of the first notifier of kind slack, or None."""
    return next((each for each in actions.notifiers if each.kind == "slack"), None)


def _notifier(slack: Any, owner: SpendOwner) -> str:
    return f"{slack.name}-{str(owner.slack_channel).lower()}"


def _in_channel(slack: Any, owner: SpendOwner) -> Any:
    return slack.model_copy(update={"name": _notifier(slack, owner), "channel": owner.slack_channel})
