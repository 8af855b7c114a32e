"""The ledger: a pure fold over curb.actions that says what is open, which messages were sent, and what comes next."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from curb.stream.records.spend import ActionsMessage, LedgerEntry, LedgerState, NoticeEntry
from curb.stream.time import DAY_S

#: States in which the action may be in force and still has to be undone.
OPEN: frozenset[LedgerState] = frozenset({"planned", "applied", "effective", "ineffective"})
#: How the detail of a `failed` entry begins when the change may still be in force.
NOT_UNDONE = "could not be undone: "
#: How `ending_why` begins when the change was refused, and what was done of it is being given back.
NOT_APPLIED = "could not be applied: "
#: `by` of a change that Curb found and nobody announced.
SOMEBODY = "somebody else"
#: Who ended a lease that the daemon did not end in time.
REAPER = "curb-reaper"
#: `by` of what Curb did by itself; anything else is a person.
CURB_ITSELF = frozenset({"curb", REAPER})
#: Seconds for which a person's word against a ceiling counts. By hand: a week.
RESPECTED_S = 7 * DAY_S
#: States of what was never tried, or never became an action.
NOT_BEGUN: frozenset[LedgerState] = frozenset({"skipped", "shadow", "proposed", "denied", "approved", "failed"})
#: States in which the change is in force.
IN_FORCE: frozenset[LedgerState] = frozenset({"applied", "effective", "ineffective"})


def action_id_for(alert_id: str, action: str, episode: int, target: str = "") -> str:
    """The id of the `episode`-th (from 1) attempt of one action on one target for one alert; the same everywhere.

    Without a target: of having done nothing.
    """
    named = f"{alert_id}\0{action}\0{target}" if target else f"{alert_id}\0{action}"
    digest = hashlib.sha256(named.encode()).hexdigest()[:16]
    return digest if episode == 1 else f"{digest}-{episode}"


@dataclass
class ActionState:
    """One action: its entries in ledger order."""

    entries: list[LedgerEntry] = field(default_factory=list)

    @property
    def last(self) -> LedgerEntry:
        return self.entries[-1]

    @property
    def is_open(self) -> bool:
        return self.last.state in OPEN

    @property
    def applied_at(self) -> float | None:
        return next((entry.at for entry in self.entries if entry.state in IN_FORCE), None)

    @property
    def is_pending(self) -> bool:
        """Somebody is asked, and nothing is changed until then."""
        return self.last.state == "proposed"

    @property
    def in_force(self) -> bool:
        return self.last.state in IN_FORCE

    def has_answered(self, command_id: str) -> bool:
        return any(entry.command_id == command_id for entry in self.entries)

    @property
    def message_key(self) -> str:
        """The part of a message key that this action adds; it changes when there is something new to say."""
        answers = sum(1 for entry in self.entries if entry.command_id)
        late = ":late" if self.last.overdue else ""
        return f"{self.last.action_id}:{self.last.state}{late}" + (f":{answers}" if answers else "")

    @property
    def is_stuck(self) -> bool:
        """It could not be undone, in the words of older versions, which gave up; it is tried again like the others."""
        return self.last.state == "failed" and self.last.detail.startswith(NOT_UNDONE)

    @property
    def is_held(self) -> bool:
        """It is or may be in force."""
        return self.is_open or self.is_stuck

    @property
    def is_standing(self) -> bool:
        """A ceiling, or a question about ceilings."""
        return bool(self.last.standing)

    @property
    def is_refused(self) -> bool:
        """It should be over, and giving it back was in vain so far."""
        return self.is_stuck or (self.is_open and self.last.tries > 0)


def in_order(states: Iterable[ActionState]) -> tuple[LedgerEntry, ...]:
    """All entries of several actions by time; those of one stay in their order, also when the clock was set back."""
    dated: list[tuple[float, LedgerEntry]] = []
    for state in states:
        at = float("-inf")
        for entry in state.entries:
            at = max(at, entry.at)
            dated.append((at, entry))
    return tuple(entry for _, entry in sorted(dated, key=lambda pair: pair[0]))


class Ledger:
    """State per action id and the outbox per (channel, alert, part). Folding an entry twice changes nothing."""

    def __init__(self, messages: Iterable[ActionsMessage] = ()) -> None:
        self._actions: dict[str, ActionState] = {}
        self._of_alert: dict[str, list[str]] = {}
        #: Of thousands of actions that were refused or are over few are asked for at every turn: what is or may be in
        #: force or waits for an answer, what was begun, and ceilings.
        self._live: dict[str, ActionState] = {}
        self._begun: dict[str, ActionState] = {}
        self._standing: dict[str, ActionState] = {}
        #: Entries about each alert so far.
        self._entries_about: Counter[str] = Counter()
        self._notices: dict[tuple[str, str, str], list[NoticeEntry]] = {}
        self._channels: dict[str, dict[tuple[str, str, str], None]] = {}
        for message in messages:
            self.add(message)

    def add(self, message: ActionsMessage) -> None:
        if isinstance(message, NoticeEntry):
            self._add_notice(message)
        else:
            self._add_entry(message)

    def _add_entry(self, entry: LedgerEntry) -> None:
        state = self._actions.get(entry.action_id)
        if state is None:
            state = self._actions[entry.action_id] = ActionState()
            self._of_alert.setdefault(entry.alert_id, []).append(entry.action_id)
        # Whoever is about to end a lease may not know yet that the reaper, or a person, has ended it.
        is_about_to_end = entry.overdue or entry.ending
        still_held = entry.state in OPEN or entry.detail.startswith(NOT_UNDONE)
        is_renewal = entry.renewals > 0 and entry.state in OPEN
        comes_late = (is_about_to_end or is_renewal) and still_held and state.entries and not state.is_held
        if entry in state.entries or comes_late:
            return
        if state.entries and _repeats(state.last, entry):
            state.entries.pop()
        state.entries.append(entry)
        self._entries_about[entry.alert_id] += 1
        self._index(entry.action_id, state)

    def _index(self, action_id: str, state: ActionState) -> None:
        if state.is_held or state.is_pending:
            self._live[action_id] = state
        else:
            self._live.pop(action_id, None)
        if state.last.state not in NOT_BEGUN:
            self._begun[action_id] = state
        if state.is_standing:
            self._standing[action_id] = state

    def _add_notice(self, notice: NoticeEntry) -> None:
        # Two are enough: the newest, and the newest that was sent (its reference is what gets edited).
        sent = [entry for entry in self.before(notice) if isinstance(entry, NoticeEntry)]
        about = (notice.channel, notice.alert_id, notice.part)
        self._notices[about] = [*sent, notice]
        self._channels.setdefault(notice.alert_id, {})[about] = None

    # --- actions ---

    def action(self, action_id: str) -> ActionState | None:
        return self._actions.get(action_id)

    def actions(self) -> Iterator[ActionState]:
        return iter(list(self._actions.values()))

    def live(self) -> list[ActionState]:
        """What is or may be in force, or waits for an answer."""
        return list(self._live.values())

    def begun(self) -> list[ActionState]:
        """Everything that was begun, also what is over."""
        return list(self._begun.values())

    def entries_about(self, alert_id: str) -> int:
        """How many entries on actions there were so far: as long as it stays the same, nothing was done."""
        return self._entries_about[alert_id]

    def open_actions(self) -> list[ActionState]:
        return [state for state in self._live.values() if state.is_open]

    def for_alert(self, alert_id: str) -> list[ActionState]:
        """All actions on one alert, oldest first."""
        return [self._actions[action_id] for action_id in self._of_alert.get(alert_id, [])]

    def attempts(self, alert_id: str, action: str) -> list[ActionState]:
        """The episodes of one action on one alert, oldest first."""
        return [state for state in self.for_alert(alert_id) if state.last.plan.action == action]

    def holder(self, target: str) -> ActionState | None:
        """The action that has `target` now: one open plan per target, undoing stacked plans would restore wrongly."""
        held = (state for state in self._live.values() if state.is_held)
        return next((state for state in held if state.last.plan.target == target), None)

    def held_targets(self) -> frozenset[str]:
        """Every target that some action has now."""
        return frozenset(s.last.plan.target for s in self._live.values() if s.is_held)

    def without(self, action_ids: frozenset[str]) -> Ledger:
        """The same without these actions."""
        if not action_ids:
            return self
        return Ledger(e for name, state in self._actions.items() if name not in action_ids for e in state.entries)

    def begun_since(self, at: float, *, lowest_rung: int = 0) -> int:
        """How many actions were planned (not shadow, not skipped) at `at` or later; 1 leaves soft caps out."""
        counted = (state for state in self._begun.values() if state.last.rung >= lowest_rung)
        return sum(1 for state in counted if _planned_at(state) >= at)

    # --- outbox ---

    def last_notice(self, channel: str, alert_id: str, part: str = "") -> NoticeEntry | None:
        """The newest about the message on an alert, or about one reply (`part`) in its thread."""
        kept = self._notices.get((channel, alert_id, part))
        return kept[-1] if kept else None

    def notices(self, channel: str, alert_id: str) -> list[NoticeEntry]:
        """What is kept about the message on an alert: the newest that was sent, and the newest."""
        return list(self._notices.get((channel, alert_id, ""), []))

    def sent_ref(self, channel: str, alert_id: str) -> str:
        """What the other side calls the message about this alert, or "" when it has none."""
        kept = self._notices.get((channel, alert_id, ""), [])
        return next((entry.ref for entry in reversed(kept) if entry.state == "sent" and entry.ref), "")

    # --- memory ---

    def before(self, message: ActionsMessage) -> list[LedgerEntry] | list[NoticeEntry]:
        """What is kept about the same action, or the same alert on the same channel, oldest first."""
        if isinstance(message, LedgerEntry):
            state = self._actions.get(message.action_id)
            return list(state.entries) if state else []
        kept = self._notices.get((message.channel, message.alert_id, message.part), [])
        return [entry for entry in kept if entry.state == "sent"][-1:]

    def about(self, alert_id: str) -> list[ActionsMessage]:
        """The newest entry of every action on an alert, and the newest notice of every channel about it."""
        entries: list[ActionsMessage] = [state.last for state in self.for_alert(alert_id)]
        return entries + [self._notices[about][-1] for about in self._channels.get(alert_id, ())]

    def standing(self, action: str = "") -> dict[str, list[ActionState]]:
        """Ceilings, and questions about them, of one action or all, by fingerprint, oldest first."""
        found: dict[str, list[ActionState]] = {}
        for state in self._standing.values():
            if state.is_standing and (not action or state.last.plan.action == action):
                found.setdefault(state.last.fingerprint, []).append(state)
        return found

    def drop(self, action_id: str) -> None:
        """Forget one action. The log keeps it."""
        state = self._pop(action_id)
        if state is not None:
            left = [other for other in self._of_alert.pop(state.last.alert_id, []) if other != action_id]
            if left:
                self._of_alert[state.last.alert_id] = left

    def forget(self, before: float, keep_alerts: frozenset[str]) -> None:
        """Drop what ended before `before`, except for the alerts that are still worked on. The log keeps it all."""
        for alert_id, action_ids in list(self._of_alert.items()):
            states = [self._actions[action_id] for action_id in action_ids]
            if alert_id in keep_alerts or any(s.is_held or s.is_standing or s.last.at >= before for s in states):
                continue
            for action_id in action_ids:
                self._pop(action_id)
            del self._of_alert[alert_id]
            del self._entries_about[alert_id]
        for about, kept in list(self._notices.items()):
            if about[1] not in keep_alerts and kept[-1].at < before:
                del self._notices[about]
                del self._channels[about[1]][about]
                if not self._channels[about[1]]:
                    del self._channels[about[1]]

    def _pop(self, action_id: str) -> ActionState | None:
        for index in (self._live, self._begun, self._standing):
            index.pop(action_id, None)
        return self._actions.pop(action_id, None)


def _repeats(last: LedgerEntry, entry: LedgerEntry) -> bool:
    """Whether an entry only says the same once more: of months of tries or renewals the newest is kept."""
    if entry.renewals > last.renewals > 0:
        return entry.state == last.state and entry.tries == last.tries == 0 and not last.command_id
    return entry.tries > last.tries > 0 and entry.state == last.state and not last.command_id


def _planned_at(state: ActionState) -> float:
    return next((entry.at for entry in state.entries if entry.state == "planned"), float("-inf"))
