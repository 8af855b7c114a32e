"""Input by HTTP or the command line, checked and turned into records: plans, silences, feedback and the like."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from curb.connectors.validate import clean, clean_tags, shorten
from curb.stream.log.protocol import Log
from curb.stream.log.topics import COMMANDS
from curb.stream.records import spend as records
from curb.stream.records.knowledge import read_knowledge, refusal
from curb.stream.records.spend import Knowledge

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_MAX_TEXT_CHARS = 1000
#: How long verdicts and annotations are listed; their effects end by themselves.
_LISTED_S = 30 * 86400.0
T = TypeVar("T", bound=Knowledge)


class NotAcceptedError(ValueError):
    """The input makes no sense; the text names the field and the reason."""


class PlanInput(msgspec.Struct, forbid_unknown_fields=True):
    """Planned work."""

    tags: dict[str, str]
    start: _Moment
    end: _Moment
    max_usd: float
    reason: str = ""
    by: str = ""

    def record(self, id: str, at: float) -> records.PlannedActivity:
        """Raises NotAcceptedError for past work."""
        if self.end.timestamp() <= at:
            raise NotAcceptedError("end is in the past: a plan cannot change past decisions")
        start, end = self.start.timestamp(), self.end.timestamp()
        return records.PlannedActivity(
            id=id, at=at, tags=self.tags, start=start, end=end, max_usd=self.max_usd, reason=self.reason, by=self.by
        )


class FeedbackInput(msgspec.Struct, forbid_unknown_fields=True):
    """Feedback on an alert."""

    alert_id: str
    verdict: Literal["real", "not_an_anomaly", "planned"]
    note: str = ""
    by: str = ""

    def record(self, id: str, at: float) -> records.Feedback:
        return records.Feedback(
            id=id, at=at, alert_id=clean(self.alert_id), verdict=self.verdict, note=self.note, by=self.by
        )


class SilenceInput(msgspec.Struct, forbid_unknown_fields=True):
    """Alerts to mute."""

    matchers: dict[str, str]
    until: _Moment
    reason: str = ""
    by: str = ""

    def record(self, id: str, at: float) -> records.Silence:
        """Raises NotAcceptedError for a past silence."""
        if self.until.timestamp() <= at:
            raise NotAcceptedError("until is in the past")
        until = self.until.timestamp()
        return records.Silence(id=id, at=at, matchers=self.matchers, until=until, reason=self.reason, by=self.by)


class AnnotationInput(msgspec.Struct, forbid_unknown_fields=True):
    """Something that happened, now unless `at` says when."""

    kind: Literal["deploy", "launch", "note"]
    text: str = ""
    tags: dict[str, str] = {}
    at: _Moment | None = None
    by: str = ""

    def record(self, id: str, at: float) -> records.Annotation:
        """Raises NotAcceptedError for what has not happened."""
        if self.at is not None and self.at.timestamp() > at:
            raise NotAcceptedError("at is in the future: for planned work, add a plan")
        at = at if self.at is None else self.at.timestamp()
        return records.Annotation(id=id, at=at, kind=self.kind, tags=self.tags, text=self.text, by=self.by)


class IncreaseInput(msgspec.Struct, forbid_unknown_fields=True):
    """More money for a budget, for a time."""

    budget: str
    amount_usd: float
    expires_at: _Moment
    match: dict[str, str] = {}
    by: str = ""

    def record(self, id: str, at: float) -> records.BudgetIncrease:
        """Raises NotAcceptedError for a past increase, or an amount of zero."""
        if self.expires_at.timestamp() <= at:
            raise NotAcceptedError("expires_at is in the past")
        if self.amount_usd == 0:
            raise NotAcceptedError("amount_usd is 0")
        until = self.expires_at.timestamp()
        return records.BudgetIncrease(
            id=id, at=at, budget=self.budget, match=self.match, amount_usd=self.amount_usd, expires_at=until, by=self.by
        )


Input = PlanInput | FeedbackInput | SilenceInput | AnnotationInput | IncreaseInput


def accept(kind: type[Input], given: Any, *, at: float, by: str) -> Knowledge:
    """A record with a new id of `given`, a JSON object; its author is `by` unless it names one.

    Raises NotAcceptedError.
    """
    try:
        asked = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        hint = "; times need a zone, such as 2026-03-01T18:00:00Z" if "RFC3339" in text or "timezone" in text else ""
        raise NotAcceptedError(text + hint) from None
    record = asked.record(uuid.uuid4().hex[:12], at)
    _clean(record)
    record.by = record.by or by
    why = refusal(record)
    if why is not None:
        raise NotAcceptedError(why)
    return record


def _clean(record: Knowledge) -> None:
    """Texts and tags like those of spend records, so that they match and can be shown anywhere."""
    for name in ("reason", "text", "note", "by"):
        if hasattr(record, name):
            setattr(record, name, shorten(clean(getattr(record, name)), _MAX_TEXT_CHARS))
    for name in ("tags", "matchers", "match"):
        if hasattr(record, name):
            given: Mapping[str, str] = getattr(record, name)
            cleaned = clean_tags(dict(given))
            if len(cleaned) < len(given):
                raise NotAcceptedError(f"{name} has an empty name or value")
            setattr(record, name, cleaned)


async def known(log: Log, kind: type[T], now: float) -> list[T]:
    """Records that still count, oldest first: the newest record of each id. Reads the whole topic."""
    newest: dict[str, T] = {}
    async for record in _entries(log):
        if isinstance(record, kind) and (record.id not in newest or record.at >= newest[record.id].at):
            newest[record.id] = record
    return sorted(_counting(newest.values(), now), key=lambda record: record.at)


async def _entries(log: Log) -> AsyncIterator[Knowledge]:
    async for message in log.scan(COMMANDS):
        for record in read_knowledge(message.value, lambda *_: None):
            yield record


def _counting(found: Iterable[T], now: float) -> list[T]:
    return [record for record in found if _ends_at(record) > now]


def _ends_at(record: Knowledge) -> float:
    """When it stops to count; 0 for what was withdrawn."""
    if isinstance(record, records.PlannedActivity):
        return record.end if record.max_usd else 0.0
    if isinstance(record, records.Silence):
        return record.until
    if isinstance(record, records.BudgetIncrease):
        return record.expires_at if record.amount_usd else 0.0
    return record.at + _LISTED_S


def withdrawn(record: T, at: float, by: str) -> T:
    """The record that ends `record` now. Raises NotAcceptedError for what cannot be taken back."""
    changes: dict[str, Any] = {"at": at, "by": by}
    if isinstance(record, records.PlannedActivity):
        changes["max_usd"] = 0.0
    elif isinstance(record, records.Silence):
        changes["until"] = at
    elif isinstance(record, records.BudgetIncrease):
        changes["amount_usd"] = 0.0
    else:
        raise NotAcceptedError("what happened cannot be taken back; give another verdict instead")
    return msgspec.structs.replace(record, **changes)
