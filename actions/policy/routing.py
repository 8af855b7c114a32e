"""From an alert to who is notified and which ladder is climbed: pure functions of the alert and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, Protocol

import msgspec

from curb.actions.policy.limits import ActionLimits, criticality, tags_match
from curb.actions.policy.route import Do, Match, Mode, QuietTime, Route, Rung
from curb.actions.target import Verb
from curb.stream.records.spend import Alert

#: What the short form of a ladder wants: whatever is the gentlest that the action can do.
GENTLEST: Literal["gentlest"] = "gentlest"
Wish = Do | Literal["gentlest"]
#: The verb of each wish; to notify has none.
VERBS: dict[Wish, Verb] = {
    "cheaper_model": "reroute",
    "shave_to_normal": "shave",
    "shave_to_budget": "shave",
    "pause": "pause",
    "block": "block",
}
#: Routing to another model changes answers, so it comes after a rate that was normal before.
_GENTLEST_FIRST: tuple[tuple[Verb, Do], ...] = (
    ("shave", "shave_to_normal"),
    ("reroute", "cheaper_model"),
    ("pause", "pause"),
    ("block", "block"),
)


class Named(Protocol):
    """A configured notifier, as far as routing needs it."""

    @property
    def name(self) -> str: ...


class RouteSettings(Protocol):
    """The keys of the `actions` configuration that routing reads."""

    @property
    def mode(self) -> Mode: ...
    @property
    def routes(self) -> Sequence[Route]: ...
    @property
    def notifiers(self) -> Sequence[Named]: ...
    @property
    def limits(self) -> ActionLimits: ...


class Act(NamedTuple):
    """One action that a rung asks for."""

    name: str
    mode: Mode
    lease_s: float
    verb: Verb = "shave"
    #: False when less than the subject's normal level would be left.
    leaves_normal: bool = True
    #: Which rung of the ladder, from 1, and what it wants.
    rung: int = 1
    do: Wish = GENTLEST
    verify_within_s: float = 900.0
    cool_down_s: float = 300.0
    headroom: float = 1.0
    #: Roles that may approve; none: all of them.
    approvers: tuple[str, ...] = ()
    answer_within_s: float = 4 * 3600.0
    quiet_times: tuple[QuietTime, ...] = ()

    def suited(self, verbs: frozenset[Verb]) -> Act:
        """The same for an action that can do `verbs`: the short form takes the gentlest of them."""
        if self.do != GENTLEST:
            return self
        verb, do = next(((verb, do) for verb, do in _GENTLEST_FIRST if verb in verbs), _GENTLEST_FIRST[0])
        return self._replace(verb=verb, do=do, leaves_normal=verb == "shave" and self.headroom >= 1)


class LadderStep(NamedTuple):
    """One rung: what it wants and all that does it. Without acts it only waits for people."""

    rung: int
    do: Wish
    acts: tuple[Act, ...]
    #: How long it has to help before the next one comes.
    wait_s: float


Ladder = tuple[LadderStep, ...]


class Decision(NamedTuple):
    """What the routes say about one alert; an action is in one ladder only, the first route that names it decides."""

    notify: tuple[str, ...]
    ladders: tuple[Ladder, ...] = ()

    @property
    def act(self) -> tuple[Act, ...]:
        """All that may be done, the lowest rungs first."""
        return tuple(act for ladder in self.ladders for step in ladder for act in step.acts)


def decide(alert: Alert, settings: RouteSettings) -> Decision:
    """The first matching route, and those after it while `continue` is set.

    A soft alert goes where a page would go, and asks for rung zero: a soft cap.
    """
    if alert.tier == "soft":
        as_page = decide(msgspec.structs.replace(alert, tier="page"), settings)
        steps = (_soft_cap(ladder, settings.limits) for ladder in as_page.ladders)
        return Decision(as_page.notify, tuple((step,) for step in steps if step is not None))
    if not settings.routes:
        return Decision(tuple(each.name for each in settings.notifiers))
    notify: dict[str, None] = {}
    ladders: list[Ladder] = []
    taken: set[str] = set()
    for route in settings.routes:
        if not _matches(route.match, alert, settings.limits):
            continue
        notify.update(dict.fromkeys(route.notify))
        # What is about a ceiling carries its own question.
        if alert.kind != "ceiling" and (ladder := _ladder(route, settings, frozenset(taken))):
            ladders.append(ladder)
        taken.update(route.names())
        if not route.continue_:
            break
    return Decision(tuple(notify), tuple(ladders))


def _ladder(route: Route, settings: RouteSettings, taken: frozenset[str]) -> Ladder:
    """The route's rungs without actions that an earlier route has; () when nothing is left that acts."""
    modes, limits = route.modes(settings.mode), settings.limits
    if not route.ladder:
        steps = [_step(route.only_rung, 1, modes[0], limits, taken, do=GENTLEST)] if route.act else []
    else:
        steps = [_step(rung, n, modes[n - 1], limits, taken, do=rung.do) for n, rung in enumerate(route.ladder, 1)]
    return tuple(steps) if any(step.acts for step in steps) else ()


def _soft_cap(ladder: Ladder, limits: ActionLimits) -> LadderStep | None:
    """Rung zero of a ladder: what its first rung to normal does, for minutes; None where no rung does that."""
    for step in ladder:
        if step.do in ("shave_to_normal", GENTLEST) and limits.soft_cap_minutes > 0:
            lease_s = 60.0 * limits.soft_cap_minutes
            acts = (
                act._replace(
                    verb="shave", do="shave_to_normal", rung=0, lease_s=lease_s, leaves_normal=True, headroom=1.0
                )
                for act in step.acts
            )
            return LadderStep(0, "shave_to_normal", tuple(acts), step.wait_s)
    return None


def _step(rung: Rung, number: int, mode: Mode, limits: ActionLimits, taken: frozenset[str], *, do: Wish) -> LadderStep:
    wait_s = 60.0 * (limits.verify_within_minutes if rung.verify_within_minutes is None else rung.verify_within_minutes)
    rest_s = 60.0 * (limits.cool_down_minutes if rung.cool_down_minutes is None else rung.cool_down_minutes)
    acts = tuple(
        Act(
            name,
            mode,
            rung.lease_minutes * 60.0,
            verb=VERBS.get(do, "shave"),
            leaves_normal=do in ("shave_to_normal", GENTLEST) and rung.headroom >= 1,
            rung=number,
            do=do,
            verify_within_s=wait_s,
            cool_down_s=rest_s,
            headroom=rung.headroom,
            approvers=rung.approvers,
            answer_within_s=rung.answer_within_minutes * 60.0,
            quiet_times=rung.quiet_times,
        )
        for name in dict.fromkeys(rung.act)
        if name not in taken
    )
    return LadderStep(number, do, acts, wait_s)


def _matches(match: Match, alert: Alert, limits: ActionLimits) -> bool:
    return (
        (not match.kind or alert.kind in match.kind)
        and (not match.tier or alert.tier in match.tier)
        and (match.scope is None or alert.scope == match.scope)
        and tags_match(match.tags, alert.tags)
        and (not match.criticality or (criticality(alert.tags, limits) or "critical") in match.criticality)
        and (not match.environment or _is_in(match.environment, alert.tags))
        and _figures_match(match, alert)
    )


def _is_in(environments: tuple[str, ...], tags: Mapping[str, str]) -> bool:
    found = tags.get("env", tags.get("environment"))
    return found is not None and any(fnmatchcase(found, glob) for glob in environments)


def _figures_match(match: Match, alert: Alert) -> bool:
    if match.confidence_min is not None and alert.confidence < match.confidence_min:
        return False
    if match.dollars_at_risk_min is not None and alert.dollars_at_risk < match.dollars_at_risk_min:
        return False
    if match.dollars_at_risk_max is not None and alert.dollars_at_risk > match.dollars_at_risk_max:
        return False
    if match.budget_left_below is None:
        return True
    left = budget_left(alert)
    return left is not None and left < match.budget_left_below


def budget_left(alert: Alert) -> float | None:
    """The share of the alert's budget that is left, 0 to 1; None without a budget."""
    budget = alert.budget
    if budget is None or budget.amount_usd <= 0:
        return None
    return max(0.0, 1.0 - budget.counted_usd / budget.amount_usd)
