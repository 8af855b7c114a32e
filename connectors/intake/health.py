"""How one connector is doing, as the runner and the inbox keep it while they run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Health:
    """Counts since the start of the process; times are epoch seconds, None before the first."""

    records: int = 0
    dead: int = 0
    #: The latest begin of a charge that is on the log: how far the source's own data reach.
    newest_charge_at: float | None = None
    #: Failures by whether a retry can help: transient, permanent, unexpected.
    errors: Counter[str] = field(default_factory=Counter)
    last_error: str = ""
    last_error_at: float | None = None

    def heard(self, newest: float | None, accepted: int, dead: int) -> None:
        """Something came and is on the log; `newest` is the latest begin of an accepted charge, None without one."""
        self.records += accepted
        self.dead += dead
        if newest is not None and (self.newest_charge_at is None or newest > self.newest_charge_at):
            self.newest_charge_at = newest

    def failed(self, kind: str, detail: str, at: float) -> None:
        """A read or an append failed."""
        self.errors[kind] += 1
        self.last_error, self.last_error_at = detail, at
