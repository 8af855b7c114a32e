"""What arrived over OTLP and was not counted, by name, so that a source that counts nothing does not look healthy."""

from __future__ import annotations

import re
from collections import Counter

#: Names that are kept apart; the rest is counted together.
MAX_NAMES = 200
#: Names in one note.
_SHOWN = 8
#: Names that sound like usage stand first.
_USAGE = re.compile(r"gen_?ai|llm|token|cost|usage", re.IGNORECASE)
_OTHERS = "others"
#: Longer names are cut.
_NAME_CHARS = 100


class Scopes:
    """Instrumentation scopes and metrics of one connector since the process started."""

    def __init__(self) -> None:
        self._calls: set[str] = set()
        self._idle: Counter[str] = Counter()
        self._unread: Counter[str] = Counter()
        self._not_counted: Counter[str] = Counter()
        #: What was not counted since `take`.
        self._fresh: Counter[str] = Counter()
        #: True once something was counted.
        self.counted = False

    def saw_spans(self, scope: str, count: int, *, calls: bool) -> None:
        """`count` spans of an instrumentation scope; `calls` when they were calls to a model."""
        self.counted |= calls
        name = _name(scope) or "no scope"
        if calls:
            if len(self._calls) < MAX_NAMES:
                self._calls.add(name)
        else:
            _add(self._idle, name, count)
            _add(self._fresh, f"spans of {name}", count)

    def saw_metric(self, name: str, points: int, *, known: bool) -> None:
        """`points` data points that were not counted; `known` when the other signal counts the same usage."""
        _add(self._not_counted if known else self._unread, _name(name), points)
        _add(self._fresh, f"metric {_name(name)}", points)

    def saw_request(self, path: str) -> None:
        """A request of the signal that `count` leaves out, not looked at."""
        _add(self._not_counted, f"requests to {path}", 1)
        _add(self._fresh, f"requests to {path}", 1)

    def take(self) -> dict[str, int]:
        """Names and counts of what was not counted since the last call."""
        taken, self._fresh = dict(self._fresh), Counter()
        return taken

    def notes(self) -> tuple[str, ...]:
        """One sentence for each kind of thing that was not counted."""
        idle = Counter({name: count for name, count in self._idle.items() if name not in self._calls})
        given = (
            ("spans without a call to a model, by scope", idle),
            ("metrics that Curb does not read", self._unread),
            ("not counted because `count` names the other signal", self._not_counted),
        )
        return tuple(f"{what}: {_listed(names)}" for what, names in given if names)


def _name(given: str) -> str:
    return "".join(char for char in given if char.isprintable())[:_NAME_CHARS]


def _add(names: Counter[str], name: str, count: int) -> None:
    names[name if name in names or len(names) < MAX_NAMES else _OTHERS] += count


def _listed(names: Counter[str]) -> str:
    ordered = sorted(names.items(), key=lambda item: (not _USAGE.search(item[0]), -item[1], item[0]))
    shown = ", ".join(f"{name} ({count:,})" for name, count in ordered[:_SHOWN])
    return shown + (f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")
