"""What the owners of spend mean for alerts: their channel is told too, and what is critical is never acted on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from actions.settings import ActionsSettings, Match, Route, TagMatcher, name_of
from connectors.settings_attribution import AttributionSettings, Owner
from detector.settings import DetectorSettings


def known_tags(detector: DetectorSettings) -> set[str]:
    """The tags that alerts can carry."""
    # Alerts about prices carry the model.
    return {tag for scope in detector.scopes for tag in (*scope.group_by, *scope.also_by)} | {"model"}


def with_owners(actions: ActionsSettings, owners: Sequence[Owner], detector: DetectorSettings) -> ActionsSettings:
    """The actions with a route to every owner's channel before all others, and with what is critical out of reach.

    The channels are told by copies of the first Slack notifier; each is named after it and its channel.
    """
    known = known_tags(detector)
    never = [matcher for owner in owners if owner.criticality == "critical" for matcher in _matchers(owner, known)]
    if never and "criticality" in known:
        never.append({"criticality": "critical"})
    slack = _first_slack(actions)
    told = [owner for owner in owners if owner.slack_channel is not None] if slack is not None else []
    if not never and not told:
        return actions
    limits = actions.limits.model_copy(update={"never_touch": (*actions.limits.never_touch, *_once(never))})
    if slack is None or not told:
        return actions.model_copy(update={"limits": limits})
    notifiers = {_notifier(slack, owner): _in_channel(slack, owner) for owner in told}
    taken = {name_of(notifier) for notifier in actions.notifiers}
    routes = [_route(matcher, _notifier(slack, owner)) for owner in told for matcher in _once(_matchers(owner, known))]
    # Without routes everybody is told; with these before them it must be said.
    others = actions.routes or (Route(notify=tuple(map(name_of, actions.notifiers))),)
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
            found.append((f"{path}.slack_channel", "there is no Slack notifier to tell it with", slack_hint))
    return found


def _matchers(owner: Owner, known: set[str]) -> list[TagMatcher]:
    """How alerts about an owner's spend are known: by what made it the owner's, or by the team it got from that."""
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
    return next((each for each in actions.notifiers if getattr(each, "kind", None) == "slack"), None)


def _notifier(slack: Any, owner: Owner) -> str:
    return f"{slack.name}-{str(owner.slack_channel).lower()}"


def _in_channel(slack: Any, owner: Owner) -> Any:
    return slack.model_copy(update={"name": _notifier(slack, owner), "channel": owner.slack_channel})
