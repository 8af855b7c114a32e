"""People's knowledge, as scoring asks for it: plans, silences, verdicts on alerts, and what happened when.

What each verdict on an alert does:

* `not_an_anomaly`: the notice threshold of the alert's fingerprint (its rule on its series) rises by 3, half of which
  is forgotten in 14 days; several add up to 9 at most. The series learns again, also while the alert fires.
* `real`: the episode is never learned, what the series' peaks were raised by on its days is discarded, and the same
  again is reported also where it has come at the same time on earlier days.
* `planned`: the fingerprint is excused until the end of the local day, and for six hours at least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Literal, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.incidents.planned import PlannedActivities, PlanUse
from curb.detector.state import wording as explain
from curb.detector.state.scopes import Scope
from curb.detector.state.view import PlanUsage
from curb.stream.money import usd
from curb.stream.records import spend as records
from curb.stream.records.spend import Annotation, BudgetIncrease, Feedback, PlannedActivity, Silence
from curb.stream.time import utc

Verdict = Literal["real", "not_an_anomaly", "planned"]
_Record = TypeVar("_Record", Annotation, Feedback, Silence)

RISE, MAX_RISE, HALF_LIFE_S = 3.0, 9.0, 14 * 86400.0
#: An annotation this near to the start of an incident is named.
NEAR_S = 2 * 3600.0
_EXCUSED_S = 6 * 3600.0
#: Verdicts are forgotten when next to nothing is left of them; annotations when no incident can start near them.
_FEEDBACK_S, _ANNOTATION_S = 120 * 86400.0, 14 * 86400.0
#: Of each kind; the oldest are forgotten first.
_MAX_RECORDS = 10_000
_MAX_NAMED = 3


class KnowledgeDump(msgspec.Struct):
    """Everything `Knowledge` holds."""

    plans: list[PlanUse] = []
    annotations: list[Annotation] = []
    feedback: list[Feedback] = []
    silences: list[Silence] = []


def fingerprint_of_alert(alert_id: str) -> str:
    """The fingerprint in an alert's id."""
    return alert_id.rpartition("-")[0]


class Knowledge:
    """Pure and bounded. A record replaces the one of its id, unless it is older. Budgets keep their own increases."""

    def __init__(self, scopes: Sequence[Scope], time_zone: str) -> None:
        self._zone = ZoneInfo(time_zone)
        self._plans = PlannedActivities(scopes)
        self._annotations: dict[str, Annotation] = {}
        #: By alert: only the newest verdict counts.
        self._feedback: dict[str, Feedback] = {}
        self._silences: dict[str, Silence] = {}

    def add(self, record: records.Knowledge) -> None:
        """Take in a record; the same one again changes nothing."""
        if isinstance(record, PlannedActivity):
            self._plans.add(record)
        elif isinstance(record, Annotation):
            _put(self._annotations, record.id, record)
        elif isinstance(record, Feedback):
            _put(self._feedback, record.alert_id, record)
        elif isinstance(record, Silence):
            _put(self._silences, record.id, record)
        else:
            assert isinstance(record, BudgetIncrease)

    def expire(self, at: float) -> None:
        """Forget what can no longer matter at `at` (epoch seconds, never falling). Cheap; call it with every bucket."""
        self._plans.expire(at)
        _drop(self._annotations, lambda each: each.at + _ANNOTATION_S <= at)
        _drop(self._feedback, lambda each: each.at + _FEEDBACK_S <= at)
        _drop(self._silences, lambda each: each.until <= at)

    @property
    def has_opinions(self) -> bool:
        """Whether anybody silenced or judged anything."""
        return bool(self._feedback or self._silences)

    # --- planned activity -----------------------------------------------------------------------------------------

    def plans_for(self, scope: str, tags: Mapping[str, str], at: float) -> list[PlanUsage]:
        """The plans that hold at `at` for a series, with what is used of them; see `planned.covers` for which."""
        return self._plans.of(scope, tags, at)

    def planned_usd(
        self,
        at: float,
        cost: NDArray[np.float64],
        expected: NDArray[np.float64],
        scopes: Sequence[str],
        tags: Sequence[Mapping[str, str]],
    ) -> NDArray[np.float64]:
        """Dollars of the bucket that starts at `at` which plans explain, shape (series,); see `planned.take`.

        Call it once per bucket: it takes from the caps.
        """
        return self._plans.take(at, cost, expected, scopes, tags)

    # --- silences -------------------------------------------------------------------------------------------------

    def silenced(self, tags: Mapping[str, str], at: float) -> Silence | None:
        """The silence that holds at `at` for an alert with `tags`, the longest one, or None.

        All matchers of a silence must be carried; `*` and `?` are wildcards.
        """
        found = [each for each in self._silences.values() if at < each.until and _matches(each.matchers, tags)]
        return max(found, key=lambda each: (each.until, each.id), default=None)

    # --- verdicts -------------------------------------------------------------------------------------------------

    def verdict(self, alert_id: str) -> Verdict | None:
        """What people say this alert was: `not_an_anomaly` lifts its freeze, `real` is never learned."""
        given = self._feedback.get(alert_id)
        return None if given is None else given.verdict

    def rises(self, at: float) -> dict[str, float]:
        """By fingerprint: by how much its notice threshold is raised at `at`; those that are not are left out."""
        rises: dict[str, float] = {}
        for given in self._feedback.values():
            if given.verdict == "not_an_anomaly":
                fingerprint = fingerprint_of_alert(given.alert_id)
                left = RISE * 0.5 ** (max(0.0, at - given.at) / HALF_LIFE_S)
                rises[fingerprint] = min(MAX_RISE, rises.get(fingerprint, 0.0) + left)
        return rises

    def excused_until(self, fingerprint: str) -> float:
        """Until when alerts of this fingerprint are planned work (epoch seconds); 0 if nobody said so."""
        planned = [each for each in self._feedback.values() if each.verdict == "planned"]
        own = [each.at for each in planned if fingerprint_of_alert(each.alert_id) == fingerprint]
        return max((max(_next_midnight(at, self._zone), at + _EXCUSED_S) for at in own), default=0.0)

    def real_fingerprints(self) -> set[str]:
        """What people called real in the last months: it is reported again, however often it comes."""
        return {fingerprint_of_alert(each.alert_id) for each in self._feedback.values() if each.verdict == "real"}

    # --- annotations ----------------------------------------------------------------------------------------------

    def annotations_near(self, tags: Mapping[str, str], started_at: float) -> list[Annotation]:
        """What happened within two hours of `started_at` and shares all tags both have; the nearest first.

        An annotation without tags is about everything; one whose tags the alert does not have at all is about nothing.
        """
        near = [
            each
            for each in self._annotations.values()
            if abs(each.at - started_at) <= NEAR_S and _is_about(each.tags, tags)
        ]
        return sorted(near, key=lambda each: (abs(each.at - started_at), each.id))

    # --- words ----------------------------------------------------------------------------------------------------

    def words(self, scope: str, tags: Mapping[str, str], started_at: float, at: float) -> str:
        """People's knowledge about an alert, as sentences for its explanation; empty if nothing."""
        said = [_happened(each, started_at) for each in self.annotations_near(tags, started_at)[:_MAX_NAMED]]
        said += [_planned(usage) for usage in self.plans_for(scope, tags, at)[:_MAX_NAMED]]
        silence = self.silenced(tags, at)
        if silence is not None:
            said.append(_silent(silence))
        return " ".join(said)

    # --- saving ---------------------------------------------------------------------------------------------------

    def dump(self) -> KnowledgeDump:
        """What `load` takes."""
        return KnowledgeDump(
            self._plans.dump(),
            list(self._annotations.values()),
            list(self._feedback.values()),
            list(self._silences.values()),
        )

    def load(self, dump: KnowledgeDump) -> None:
        """Take over what `dump` gave."""
        self._plans.load(dump.plans)
        self._annotations = {each.id: each for each in dump.annotations}
        self._feedback = {each.alert_id: each for each in dump.feedback}
        self._silences = {each.id: each for each in dump.silences}


def _put(kept: dict[str, _Record], key: str, record: _Record) -> None:
    known = kept.get(key)
    if known is None or record.at >= known.at:
        kept[key] = record
    if len(kept) > _MAX_RECORDS:
        del kept[min(kept, key=lambda each: (kept[each].at, each))]


def _drop(kept: dict[str, _Record], over: Callable[[_Record], bool]) -> None:
    for key in [key for key, record in kept.items() if over(record)]:
        del kept[key]


def _matches(matchers: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    return all(key in tags and fnmatchcase(tags[key], pattern) for key, pattern in matchers.items())


def _is_about(about: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    both = about.keys() & tags.keys()
    return not about or (bool(both) and all(about[key] == tags[key] for key in both))


def _next_midnight(at: float, zone: ZoneInfo) -> float:
    day = datetime.fromtimestamp(at, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return (day + timedelta(days=1)).timestamp()


def _happened(note: Annotation, started_at: float) -> str:
    ago = explain.duration(abs(note.at - started_at))
    when = f"{ago} before" if note.at <= started_at else f"{ago} after"
    what = f"{note.kind} {note.text}".strip()
    return f"{when} it began: {what}{_by(note.by)}."


def _planned(usage: PlanUsage) -> str:
    plan = usage.plan
    return (
        f"Planned{f' ({plan.reason})' if plan.reason else ''}{_by(plan.by)}: {usd(usage.used_usd)} of "
        f"{usd(plan.max_usd)} used."
    )


def _silent(silence: Silence) -> str:
    return f"Silenced until {utc(silence.until)}{_by(silence.by)}{f': {silence.reason}' if silence.reason else ''}."


def _by(who: str) -> str:
    return f" by {who}" if who else ""
