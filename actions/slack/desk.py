"""From what a person asks in Slack to records on curb.commands: who may, what about, once.

Ids follow from what is asked: a button that is pressed twice, and a request that is sent again, make the same record,
which is carried out once. Only a halt and a resume take Slack's own id of the press: after a resume, a second halt is
meant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from curb.actions.notify import wording
from curb.actions.notify.names import TagNames
from curb.actions.slack import modal as slack_modal
from curb.actions.slack import slash as slack_slash
from curb.actions.slack.buttons import Verb
from curb.actions.slack.notifier import Config
from curb.actions.slack.requests import Asked, Filled, Person, Pressed, Slashed
from curb.stream.clock import Clock
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS
from curb.stream.money import usd
from curb.stream.records.knowledge import knowledge_message, refusal
from curb.stream.records.spend import Alert, Command, Feedback, LedgerEntry, PlannedActivity
from curb.stream.time import utc

_HELD = ("planned", "applied", "effective", "ineffective", "drift", "failed")


class KnownState(Protocol):
    """What is on the log, as this process has read it."""

    def alert(self, alert_id: str) -> Alert | None: ...

    def action(self, action_id: str) -> Sequence[LedgerEntry]: ...

    def tags(self) -> Iterable[str]:
        """The tags that spend can be announced for."""
        ...

    async def status(self) -> Sequence[str]:
        """A few lines for people."""
        ...

    async def names(self) -> TagNames:
        """What people call the values of tags."""
        ...


class SlackAnswer(NamedTuple):
    """What follows: records to append, words that only the person sees, and a dialog or what is wrong with one."""

    text: str = ""
    messages: tuple[Message, ...] = ()
    view: dict[str, Any] | None = None
    errors: dict[str, str] | None = None


class Desk:
    """Answers the people of one Slack app; `configs` are its notifiers by name, the first one is for slash commands."""

    def __init__(
        self, configs: Mapping[str, Config], known: KnownState, clock: Clock, *, time_zone: str = "UTC"
    ) -> None:
        self._configs, self._known, self._clock, self._time_zone = configs, known, clock, time_zone

    @property
    def first(self) -> Config:
        """Whose people may use slash commands."""
        return next(iter(self._configs.values()))

    async def answer(self, asked: Asked) -> SlackAnswer:
        """Reads and decides; appends nothing itself."""
        if isinstance(asked, Pressed):
            return self._pressed(asked, await self._known.names() if asked.press.verb == "planned" else TagNames())
        if isinstance(asked, Filled):
            return self._filled(asked)
        return await self._slashed(asked)

    # --- buttons ---

    def _pressed(self, asked: Pressed, names: TagNames) -> SlackAnswer:
        press, person = asked.press, asked.person
        if (refused := self._refused(press.notifier, press.verb, person)) is not None:
            return refused
        if press.verb in ("approve", "deny", "undo"):
            return self._on_action(press.verb, press.action_id, person, press.seen)
        if press.verb in ("halt", "resume"):
            return self._switch(press.verb, person, f"{asked.at_ts}/{press.alert_id}", f"alert {press.alert_id}")
        alert = self._known.alert(press.alert_id)
        if alert is None:
            return SlackAnswer("Curb does not know this alert any more; nothing was done.")
        if press.verb == "planned":
            return SlackAnswer(view=slack_modal.view(names.alert(alert), press.notifier, self._clock.now()))
        if press.verb == "not_an_anomaly":
            return self._verdict(alert, person)
        if press.verb == "snooze":
            until = self._clock.now() + self._configs[press.notifier].snooze_hours * 3600.0
            return self._snooze(alert.alert_id, until, person, press.seen)
        return SlackAnswer("There is no such button.")

    def _refused(self, notifier: str, verb: Verb, person: Person) -> SlackAnswer | None:
        config = self._configs.get(notifier)
        if config is None:
            return SlackAnswer("This message is of a notifier that is no longer configured; nothing was done.")
        if person.id in config.may.users(verb):
            return None
        users = config.may.users(verb)
        who = f"{len(users)} {'person' if len(users) == 1 else 'people'} may" if users else "nobody may"
        return SlackAnswer(
            f"You may not {_WORDS[verb]}: {who}. It is set in {config.name}, may.{verb}. Nothing was done."
        )

    def _on_action(self, verb: Verb, action_id: str, person: Person, seen: str) -> SlackAnswer:
        entries = self._known.action(action_id)
        if not entries:
            return SlackAnswer(f"No action {_shown(action_id)} is known here; nothing was done.")
        last = entries[-1]
        if verb == "undo" and last.state not in _HELD:
            return SlackAnswer(f"There is nothing to undo: {wording.step(last)}.")
        if verb != "undo" and last.state != "proposed":
            return SlackAnswer(f"It waits for no answer any more: {wording.step(last)}.")
        command = self._command(verb, person, {"action_id": action_id}, action_id, seen or _seen(last))
        return SlackAnswer(f"Noted: {_WORDS[verb]}. The thread says what came of it.", (_message(command),))

    def _switch(self, verb: Verb, person: Person, once: str, reason: str) -> SlackAnswer:
        args = {"reason": reason} if verb == "halt" and reason else {}
        command = self._command(verb, person, args, once)
        words = {
            "halt": "Halted: nothing new is begun until /curb resume. Leases still end.",
            "resume": "Resumed: Curb may act again.",
        }
        return SlackAnswer(words[verb], (_message(command),))

    def _snooze(self, alert_id: str, until: float, person: Person, once: str) -> SlackAnswer:
        command = self._command("snooze", person, {"alert_id": alert_id, "until": f"{until:.0f}"}, alert_id, once)
        words = f"Quiet about this alert until {utc(until)}. What Curb does about it goes on."
        return SlackAnswer(words, (_message(command),))

    def _verdict(self, alert: Alert, person: Person) -> SlackAnswer:
        record = Feedback(
            id=_id("feedback", alert.alert_id, person.id),
            at=self._clock.now(),
            alert_id=alert.alert_id,
            verdict="not_an_anomaly",
            by=person.by,
        )
        return SlackAnswer("Noted: not an anomaly.", (knowledge_message(record),))

    # --- the dialog ---

    def _filled(self, asked: Filled) -> SlackAnswer:
        try:
            alert_id, notifier = slack_modal.about(asked)
            if (refused := self._refused(notifier, "planned", asked.person)) is not None:
                return SlackAnswer(errors={"until": refused.text})
            meant = slack_modal.meant(asked, self._clock.now())
        except slack_modal.RefusedError as error:
            return SlackAnswer(errors=error.errors)
        alert = self._known.alert(alert_id)
        if alert is None:
            return SlackAnswer(errors={"until": "Curb does not know this alert any more"})
        plan = PlannedActivity(
            id=_id("planned", asked.view_id, asked.person.id),
            at=self._clock.now(),
            tags=dict(alert.tags),
            start=self._clock.now(),
            end=meant.until,
            max_usd=meant.max_usd,
            reason=meant.reason,
            by=asked.person.by,
        )
        return self._plan(plan, "max_usd")

    def _plan(self, plan: PlannedActivity, field: str = "") -> SlackAnswer:
        """`field` is that of the dialog in which a refusal is shown."""
        if why := refusal(plan):
            return SlackAnswer(why, errors={field: why} if field else None)
        more, until = usd(plan.max_usd), utc(plan.end)
        words = f"Noted: up to {more} more is expected until {until}. Its id is {plan.id}."
        return SlackAnswer(words, (knowledge_message(plan),))

    # --- slash commands ---

    async def _slashed(self, asked: Slashed) -> SlackAnswer:
        try:
            slash = slack_slash.parse(asked.text, now=self._clock.now(), time_zone=self._time_zone)
        except slack_slash.SlashError as error:
            return SlackAnswer(str(error))
        if slash.verb is None:
            return SlackAnswer(slack_slash.HELP)
        if (refused := self._refused(self.first.name, slash.verb, asked.person)) is not None:
            return refused
        # Slack's id of this command; the text of a request that is sent again is the same.
        once = f"{asked.team}/{asked.trigger_id}/{asked.text}"
        if slash.verb == "status":
            return SlackAnswer("\n".join(await self._known.status()))
        if slash.verb in ("halt", "resume"):
            return self._switch(slash.verb, asked.person, once, wording.clean(slash.text, 300))
        if slash.verb == "snooze":
            return self._slash_snooze(slash, asked.person, once)
        if slash.verb == "planned":
            return self._slash_planned(slash, asked.person, once)
        return self._on_action(slash.verb, slash.subject, asked.person, "")

    def _slash_snooze(self, slash: slack_slash.Slash, person: Person, once: str) -> SlackAnswer:
        alert = self._known.alert(slash.subject)
        if alert is None:
            return SlackAnswer(
                f"No alert {_shown(slash.subject)} is known here; its id stands at the end of its message."
            )
        if alert.status == "resolved":
            return SlackAnswer("This alert is over; there is nothing to quiet.")
        return self._snooze(alert.alert_id, slash.until, person, once)

    def _slash_planned(self, slash: slack_slash.Slash, person: Person, once: str) -> SlackAnswer:
        tags = {name: wording.clean(value, 256).strip() for name, value in slash.tags}
        known = set(self._known.tags())
        if unknown := sorted(tags.keys() - known):
            return SlackAnswer(f"No spend has the tag {', '.join(unknown)}; there are: {', '.join(sorted(known))}.")
        plan = PlannedActivity(
            id=_id("planned", once, person.id),
            at=self._clock.now(),
            tags=tags,
            start=self._clock.now(),
            end=slash.until,
            max_usd=slash.max_usd,
            reason=wording.clean(slash.text, 500),
            by=person.by,
        )
        return self._plan(plan)

    def _command(self, verb: Verb, person: Person, args: dict[str, str], *once: str) -> Command:
        return Command(
            # Undone is undone, whoever asks; of an approval it matters who gave it.
            id=_id(verb, *once, "" if verb == "undo" else person.id),
            kind=verb,  # type: ignore[arg-type]  # the callers' verbs are those of Command
            at=self._clock.now(),
            by=person.by,
            args=args,
        )


_WORDS: dict[Verb, str] = {
    "approve": "approve actions",
    "deny": "deny actions",
    "undo": "undo actions",
    "snooze": "snooze alerts",
    "planned": "announce planned activity",
    "not_an_anomaly": "say what an alert was",
    "halt": "halt Curb",
    "resume": "resume Curb",
    "status": "ask for the status",
}


def _id(*parts: str) -> str:
    """The same for the same parts, on every machine."""
    return "slack-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _seen(entry: LedgerEntry) -> str:
    return f"{entry.state}@{entry.at:.3f}"


def _shown(given: str) -> str:
    return wording.clean(given, 60)


def _message(command: Command) -> Message:
    return Message(COMMANDS, encode(command), key=command.kind.encode())
