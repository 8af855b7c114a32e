"""Everything there is to say about one alert, put together from what is on the log or in a recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import msgspec
import numpy as np
from pydantic import BaseModel

from curb.actions.notify import wording
from curb.detector.heads.windows import WINDOW_NAMES, WINDOWS_MIN
from curb.detector.incidents.knowledge import Knowledge
from curb.detector.incidents.planned import covers
from curb.detector.rules.table import settings_path
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Log
from curb.stream.log.topics import ACTIONS, ALERTS, COMMANDS
from curb.stream.records import spend as records
from curb.stream.records.knowledge import read_knowledge
from curb.stream.records.spend import (
    ActionsMessage,
    Alert,
    Annotation,
    BudgetStatus,
    Feedback,
    LedgerEntry,
    PlannedActivity,
)

_SIMILAR = 5
#: So many points before the incident make a usual range.
_RANGE_POINTS, _RANGE = 24, (5, 95)


class NoSuchAlertError(Exception):
    """There is no such alert on the log."""


class Point(msgspec.Struct):
    """Burn of the series at a moment, $/h, 5-minute averages."""

    at: float
    usd_per_hour: float
    expected_usd_per_hour: float


class Mark(msgspec.Struct):
    """Something that happened, in few words."""

    at: float
    text: str


class Setting(msgspec.Struct):
    """A setting that had a say: its path in the configuration, its value and what it means."""

    key: str
    value: Any
    meaning: str


class Similar(msgspec.Struct):
    """An earlier alert: on the same series and rule ("fingerprint") or of the same kind ("kind")."""

    alert_id: str
    same: str
    kind: str
    tier: str
    tags: dict[str, str]
    fired_at: float
    excess_usd: float
    #: What was over, in words; "" where nothing can be.
    over: str = ""
    #: Feedback with notes, and the actions taken.
    said: list[str] = []
    done: list[str] = []


class BudgetLine(msgspec.Struct):
    """A budget that counts this series, as it stands."""

    tags: dict[str, str]
    budget: BudgetStatus


class Explanation(msgspec.Struct):
    """One alert and all around it."""

    alert: Alert
    #: The window that decided, in words; empty for a rule without windows.
    window: str
    settings: list[Setting]
    points: list[Point]
    #: The usual range of the burn as multiples of the expected one; None where too little was seen before.
    usual_range: tuple[float, float] | None
    marks: list[Mark]
    similar: list[Similar]
    said: list[Feedback]
    annotations: list[Annotation]
    plans: list[PlannedActivity]
    actions: list[LedgerEntry]
    budgets: list[BudgetLine]


class Recorded(msgspec.Struct):
    """The records that explain an alert."""

    #: All revisions of the alert, oldest first.
    revisions: list[Alert] = []
    #: The newest revision of every alert.
    alerts: dict[str, Alert] = {}
    ledger: list[LedgerEntry] = []
    knowledge: list[records.Knowledge] = []
    budgets: list[BudgetLine] = []
    #: Burn of the series where it was collected; else it is drawn from the revisions.
    points: list[Point] = []


async def read_log(log: Log, alert_id: str) -> Recorded:
    """The records on the log. Reads three topics whole; skips unreadable lines."""
    found = Recorded()
    async for message in log.scan(ALERTS):
        for alert in decode_lines(message.value, Alert, lambda *_: None):
            known = found.alerts.get(alert.alert_id)
            if known is None or known.revision <= alert.revision:
                found.alerts[alert.alert_id] = alert
            if alert.alert_id == alert_id:
                found.revisions.append(alert)
    async for message in log.scan(ACTIONS):
        for entry in decode_lines(message.value, cast(Any, ActionsMessage), lambda *_: None):
            if isinstance(entry, LedgerEntry):
                found.ledger.append(entry)
    async for message in log.scan(COMMANDS):
        found.knowledge += read_knowledge(message.value, lambda *_: None)
    found.revisions.sort(key=lambda alert: alert.revision)
    return found


def explain(alert_id: str, recorded: Recorded, settings: DetectorSettings) -> Explanation:
    """Raises NoSuchAlertError."""
    alert = recorded.alerts.get(alert_id)
    if alert is None:
        raise NoSuchAlertError(f"no alert {alert_id}; see: curb alerts --all")
    actions = [entry for entry in recorded.ledger if entry.alert_id == alert_id]
    knowledge = Knowledge(settings.scopes, settings.time_zone)
    for record in recorded.knowledge:
        knowledge.add(record)
    annotations = knowledge.annotations_near(alert.tags, alert.started_at)
    points = recorded.points or [
        Point(each.updated_at, each.usd_per_hour, each.expected_usd_per_hour) for each in recorded.revisions
    ]
    window, decided = decided_by(alert, settings)
    return Explanation(
        alert=alert,
        window=window,
        settings=decided,
        points=points,
        usual_range=usual_range([each for each in points if each.at < alert.started_at]),
        marks=sorted(_marks(alert, recorded.revisions, actions, annotations), key=lambda mark: mark.at),
        similar=_similar(alert, recorded),
        said=_said(recorded, alert_id),
        annotations=annotations,
        plans=_plans(alert, recorded, settings),
        actions=actions,
        budgets=_budgets(alert, recorded),
    )


# --- what decided -----------------------------------------------------------------------------------------------------


def decided_by(alert: Alert, settings: DetectorSettings) -> tuple[str, list[Setting]]:
    """The window, in words, and the settings of the rule or the statistic that the channel of an alert names."""
    family, _, variant = alert.channel.partition("/")
    window = next((i for i, minutes in enumerate(WINDOWS_MIN) if variant == f"{minutes:g}min"), None)
    words = "" if window is None else WINDOW_NAMES[window]
    name = alert.budget.name if alert.budget is not None else family.partition("-")[2]
    wanted = f"[{name}]" if name else f".{settings_path(family) or family}"
    for path, part in _parts(settings, "detector"):
        if path.endswith(wanted):
            return words, list(_settings_of(path, part, window))
    return words, []


def _parts(settings: BaseModel, path: str) -> Iterator[tuple[str, BaseModel]]:
    """All groups of settings with their paths; those of a list by their names, scopes apart: they decide nothing."""
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        if isinstance(value, BaseModel):
            yield f"{path}.{field}", value
            yield from _parts(value, f"{path}.{field}")
        elif isinstance(value, dict):
            yield from ((f"{path}.{field}.{name}", each) for name, each in value.items() if isinstance(each, BaseModel))
        elif isinstance(value, tuple) and field != "scopes":
            named = [each for each in value if isinstance(each, BaseModel) and hasattr(each, "name")]
            yield from ((f"{path}.{field}[{each.name}]", each) for each in named)


def _settings_of(path: str, part: BaseModel, window: int | None) -> Iterator[Setting]:
    """Settings with one value, and of settings with a value for each window the deciding one."""
    for name, field in type(part).model_fields.items():
        value, key = getattr(part, name), f"{path}.{name}"
        if isinstance(value, tuple) and len(value) == len(WINDOWS_MIN) and window is not None:
            value, key = value[window], f"{key}[{window}]"
        if isinstance(value, bool | int | float | str) and name != "enabled":
            yield Setting(key, value, (field.description or "").split(". ")[0])


def usual_range(before: Sequence[Point]) -> tuple[float, float] | None:
    """How the burn lay around the expected one before the incident: 90 % of it, as multiples.

    Hours of which little is expected are left out: a few cents there are many times nothing.
    """
    mean = sum(each.expected_usd_per_hour for each in before) / max(1, len(before))
    counted = [each for each in before if each.expected_usd_per_hour >= mean / 2 > 0]
    if len(counted) < _RANGE_POINTS:
        return None
    ratios = [each.usd_per_hour / each.expected_usd_per_hour for each in counted]
    low, high = np.percentile(ratios, _RANGE).tolist()
    return float(low), float(high)


# --- what happened around it ------------------------------------------------------------------------------------------


def _marks(
    alert: Alert, revisions: Sequence[Alert], actions: Iterable[LedgerEntry], annotations: Iterable[Annotation]
) -> Iterator[Mark]:
    yield Mark(alert.started_at, "starts")
    first = revisions[0] if revisions else alert
    yield Mark(alert.fired_at, f"{first.tier}: {wording.dollars(first)}".removesuffix(": "))
    for before, after in pairwise(revisions):
        if before.tier != after.tier:
            yield Mark(after.updated_at, f"becomes a {after.tier}")
    for entry in actions:
        if entry.state in ("applied", "restored", "drift", "failed"):
            yield Mark(entry.at, f"{entry.state}: {entry.plan.summary}")
    for each in annotations:
        yield Mark(each.at, f"{each.kind} {each.text}".strip())
    if alert.resolved_at is not None:
        yield Mark(alert.resolved_at, "resolved")


def _similar(alert: Alert, recorded: Recorded) -> list[Similar]:
    """Earlier alerts of the same fingerprint, newest first, then of the same kind, nearest tags first."""
    earlier = [each for each in recorded.alerts.values() if each.fired_at < alert.fired_at]
    same = sorted((each for each in earlier if each.fingerprint == alert.fingerprint), key=lambda each: -each.fired_at)
    kind = [each for each in earlier if each.fingerprint != alert.fingerprint and each.kind == alert.kind]
    kind.sort(key=lambda each: (-len(each.tags.items() & alert.tags.items()), -each.fired_at, each.alert_id))
    found = [("fingerprint", each) for each in same] + [("kind", each) for each in kind]
    return [
        Similar(
            alert_id=each.alert_id,
            same=how,
            kind=each.kind,
            tier=each.tier,
            tags=each.tags,
            fired_at=each.fired_at,
            excess_usd=each.excess_usd,
            over=wording.over(each, ""),
            said=[words_of(each_said) for each_said in _said(recorded, each.alert_id)],
            done=_done(recorded.ledger, each.alert_id),
        )
        for how, each in found[:_SIMILAR]
    ]


def words_of(feedback: Feedback) -> str:
    """A verdict with who gave it."""
    by, note = f" ({feedback.by})" if feedback.by else "", f": {feedback.note}" if feedback.note else ""
    return f"{feedback.verdict.replace('_', ' ')}{by}{note}"


def _said(recorded: Recorded, alert_id: str) -> list[Feedback]:
    found = [each for each in recorded.knowledge if isinstance(each, Feedback) and each.alert_id == alert_id]
    return sorted(found, key=lambda each: each.at)


def _done(ledger: Iterable[LedgerEntry], alert_id: str) -> list[str]:
    """Where each action ended."""
    newest = {entry.action_id: entry for entry in ledger if entry.alert_id == alert_id}
    return [f"{entry.state}: {entry.plan.summary}" for entry in newest.values()]


def _plans(alert: Alert, recorded: Recorded, settings: DetectorSettings) -> list[PlannedActivity]:
    """Announced work that shows in this series and holds while the incident lasts."""
    newest: dict[str, PlannedActivity] = {}
    for each in recorded.knowledge:
        if isinstance(each, PlannedActivity) and (each.id not in newest or each.at >= newest[each.id].at):
            newest[each.id] = each
    scope = next((each for each in settings.scopes if each.name == alert.scope), None)
    until = alert.resolved_at or alert.updated_at
    return [
        plan
        for plan in sorted(newest.values(), key=lambda plan: plan.start)
        if plan.max_usd
        and plan.start <= until
        and plan.end >= alert.started_at
        and covers(plan.tags, scope, alert.tags)
    ]


def _budgets(alert: Alert, recorded: Recorded) -> list[BudgetLine]:
    """Budgets that count the series: what was given, else what alerts on budgets said of them last."""
    lines = list(recorded.budgets)
    if not lines:
        newest: dict[tuple[str, str], tuple[float, BudgetLine]] = {}
        for each in recorded.alerts.values():
            if each.budget is not None:
                key = (each.budget.name, repr(sorted(each.tags.items())))
                if key not in newest or newest[key][0] <= each.updated_at:
                    newest[key] = each.updated_at, BudgetLine(each.tags, each.budget)
        lines = [line for _, line in newest.values()]
    return [line for line in lines if _counts(line.tags, alert.tags)]


def _counts(budget: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    return budget.items() <= tags.items()
