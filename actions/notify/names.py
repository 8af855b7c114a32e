"""One name per key: in what people read, the value of a tag is replaced by the name that people gave it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import msgspec

from curb.stream.records.spend import Alert, LedgerEntry

#: Characters of a value below which sentences are left alone. By hand: such a value may be a common word.
_LEAST = 4
#: Characters of a value that show that a sentence cuts it. By hand: hashes differ in them, and sentences show sixteen.
_CUT = 12
#: Characters of a value behind a name that others share. By hand: a few keys differ in them.
_APART = 6


class TagNames:
    """What the values of tags are called, by (tag, value). A name that two values of a tag share gets the start of
    the value behind it."""

    def __init__(self, names: Mapping[tuple[str, str], str] | None = None) -> None:
        self._names = names or {}
        counts = Counter((tag, name) for (tag, _), name in self._names.items())
        self._shared = {key for key, count in counts.items() if count > 1}

    def of(self, tag: str, value: str) -> str:
        """The name of a value, itself where it has none."""
        name = self._names.get((tag, value))
        if name is None:
            return value
        return f"{name} ({value[:_APART]})" if (tag, name) in self._shared else name

    def alert(self, alert: Alert) -> Alert:
        """The alert in names: its tags, those of its causes, and its sentences."""
        causes = [msgspec.structs.replace(cause, tags=self._tags(cause.tags)) for cause in alert.causes]
        found = {pair for tags in (alert.tags, *(cause.tags for cause in alert.causes)) for pair in tags.items()}
        return msgspec.structs.replace(
            alert,
            tags=self._tags(alert.tags),
            causes=causes,
            reason=self._text(alert.reason, found),
            explanation=self._text(alert.explanation, found),
        )

    def entry(self, entry: LedgerEntry) -> LedgerEntry:
        """The entry with a summary in names."""
        summary = self._text(entry.plan.summary, set(entry.tags.items()))
        return msgspec.structs.replace(entry, plan=msgspec.structs.replace(entry.plan, summary=summary))

    def _tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {tag: self.of(tag, value) for tag, value in tags.items()}

    def _text(self, text: str, found: set[tuple[str, str]]) -> str:
        for tag, value in sorted(found):
            if len(value) >= _LEAST and (name := self.of(tag, value)) != value:
                whole = re.escape(value)
                cut = rf"|(?<!\w){re.escape(value[:_CUT])}\S*?…" if len(value) > _CUT else ""
                text = re.sub(rf"(?<!\w){whole}(?!\w){cut}", lambda _, name=name: name, text)  # type: ignore[misc]
        return text
