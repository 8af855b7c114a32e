"""What people press on the dashboard, as records on the log: the same records as those of Slack and the command line.

Ids follow from what is asked and from the page it was asked on: a form that is sent twice is one record.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from aiohttp import web

from curb.actions.ledger.ledger import IN_FORCE
from curb.actions.notify import wording
from curb.actions.policy.roles import may_approve
from curb.actions.policy.routing import decide
from curb.config.auth_proxy import GROUP
from curb.config.file import Role
from curb.connectors.intake.body import Bodies
from curb.serve.pages.forms import Form, read_form
from curb.serve.pages.frame import Pages, local_path, see_other, seen
from curb.stream.errors import TransientError
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS
from curb.stream.records.knowledge import knowledge_message
from curb.stream.records.spend import Alert, Command, LedgerEntry
from curb.stream.time import HOUR_S, iso, utc
from curb.views import knowledge_input as entries

logger = logging.getLogger(__name__)
#: What whoever may approve may press.
_ANSWERS = ("approve", "deny")
#: States in which an action may be in force, so that an undo or a leave means something.
HELD = frozenset({"planned", "applied", "effective", "ineffective", "failed"})
#: Longest time (hours) for a snooze, and for planned work, a silence and a raised budget. By hand: a weekend off; a
#: quarter.
_LONGEST_SNOOZE_H, _LONGEST_H = 72.0, 92 * 24.0
_LONGEST_ID = 256


class RefusedPressError(Exception):
    """A press that is not taken: the status of the answer, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Taken(NamedTuple):
    """What goes on the log, and what the person reads then."""

    message: Message
    notice: str


class _Asked(NamedTuple):
    """One press: the fields of its form, and who pressed."""

    form: Form
    by: str
    groups: tuple[str, ...] = ()


def add_routes(app: web.Application, pages: Pages, bodies: Bodies) -> None:
    """Add `POST /press`."""
    app.router.add_post("/press", Presses(pages, bodies).press)


class Presses:
    """Takes the buttons of one daemon's pages."""

    def __init__(self, pages: Pages, bodies: Bodies) -> None:
        self._pages, self._daemon, self._bodies = pages, pages.daemon, bodies
        on_action, on_alert = self._on_action, self._on_alert
        self._verbs: dict[str, Callable[[_Asked], _Taken]] = {
            "approve": on_action,
            "deny": on_action,
            "undo": on_action,
            "leave": on_action,
            "extend": on_action,
            "halt": self._switch,
            "resume": self._switch,
            "snooze": on_alert,
            "planned": on_alert,
            "real": on_alert,
            "not_an_anomaly": on_alert,
            "silence": on_alert,
            "raise_budget": on_alert,
        }

    async def press(self, request: web.Request) -> web.Response:
        """303 to the page it came from with a notice, or a page that says why it was refused."""
        try:
            form = await read_form(request, self._bodies)
            session = self._pages.session(request)
            if session is None or not session.is_form_of(form["form_token"]):
                raise RefusedPressError(403, "This form is of an earlier sign-in. Load the page again, then repeat it.")
            verb = form["verb"]
            if verb not in self._verbs:
                raise RefusedPressError(400, "There is no such button.")
            if (needed := self._needed(form)) not in session.roles:
                raise RefusedPressError(403, f"This needs a role that may {needed}, which yours may not.")
            taken = self._verbs[verb](_Asked(form, session.by, session.groups))
            await self._daemon.log.append([taken.message])
        except RefusedPressError as refused:
            return self._pages.render(request, "refused.html", code=refused.status, why=str(refused))
        except web.HTTPException as error:
            return self._pages.render(request, "refused.html", code=error.status, why=error.text or error.reason)
        except TransientError as error:
            logger.warning("a press is not on the log", extra={"error": str(error)})
            why = f"The log cannot be reached, nothing was done: {error}"
            return self._pages.render(request, "refused.html", code=503, why=why)
        logger.info("pressed", extra={"verb": verb, "by": session.by, "on": form["action_id"] or form["alert_id"]})
        session.notice = taken.notice
        return see_other(local_path(form["next"]))

    def _needed(self, form: Form) -> Role:
        """The role for a button. What ends again is to operate; more money and a new usual stay."""
        verb = form["verb"]
        if verb in _ANSWERS:
            return "approve"
        alert = self._daemon.view.alerts.get(form["alert_id"][:_LONGEST_ID])
        accepts = verb == "not_an_anomaly" and alert is not None and alert.status == "firing"
        return "admin" if accepts or verb == "raise_budget" else "operate"

    # --- actions ---

    def _on_action(self, asked: _Asked) -> _Taken:
        verb, action_id = asked.form["verb"], asked.form["action_id"]
        found = self._daemon.view.actions.get(action_id[:_LONGEST_ID])
        if not found:
            raise RefusedPressError(404, "No such action is known here.")
        last = found[-1]
        if verb in ("undo", "leave") and last.state not in HELD:
            raise RefusedPressError(409, f"It is not in force any more: {wording.step(last)}.")
        if verb == "extend" and last.state not in IN_FORCE:
            raise RefusedPressError(409, f"It is not in force: {wording.step(last)}.")
        if verb in ("approve", "deny") and last.state != "proposed":
            raise RefusedPressError(409, f"It waits for no answer any more: {wording.step(last)}.")
        if verb in (*_ANSWERS, "extend"):
            asked = asked._replace(by=self._in_whose_name(asked, last))
        # Undone is undone, whoever asks; of an approval it matters who gave it.
        who = asked.by if verb in ("approve", "deny", "extend") else ""
        command = self._command(asked, {"action_id": action_id}, action_id, asked.form["seen"] or seen(last), who)
        return _Taken(command, f"Noted: {_WORDS[verb]}. What comes of it is in the ledger below in a moment.")

    def _in_whose_name(self, asked: _Asked, entry: LedgerEntry) -> str:
        """The person, or "group:NAME (person)" for the first of their groups that may approve it."""
        settings, alert = self._daemon.config.actions, self._daemon.view.alerts.get(entry.alert_id)
        names = [asked.by, *(f"{GROUP}{group}" for group in asked.groups)]
        known = {person for approver in settings.approvers.values() for person in approver.people}
        may = [name for name in names if name in known]
        if alert is not None:
            acts = (act for act in decide(alert, settings).act if act.name == entry.plan.action)
            roles = next((act.approvers for act in acts if act.rung == entry.rung), ())
            risk = alert.dollars_at_risk
            may = [name for name in may if not may_approve(settings.approvers, name, roles, risk)] or may
        return asked.by if not may or may[0] == asked.by else f"{may[0]} ({asked.by})"

    def _switch(self, asked: _Asked) -> _Taken:
        verb, reason = asked.form["verb"], wording.clean(asked.form["reason"], 300).strip()
        command = self._command(asked, {"reason": reason} if reason else {}, _once(asked))
        return _Taken(command, f"Noted: {_WORDS[verb]}.")

    def _command(self, asked: _Asked, args: dict[str, str], *once: str) -> Message:
        verb = asked.form["verb"]
        command = msgspec.convert(
            {"id": _id(verb, *once), "kind": verb, "at": self._daemon.clock.now(), "by": asked.by, "args": args},
            Command,
        )
        return Message(COMMANDS, _encoded(command), key=verb.encode())

    # --- alerts ---

    def _on_alert(self, asked: _Asked) -> _Taken:
        alert = self._daemon.view.alerts.get(asked.form["alert_id"][:_LONGEST_ID])
        if alert is None:
            raise RefusedPressError(404, "No such alert is known here.")
        if asked.form["verb"] == "snooze":
            return self._snooze(asked, alert)
        now = self._daemon.clock.now()
        kind, given, notice = self._knowledge(asked, alert, now)
        try:
            record = entries.accept(kind, given, at=now, by=asked.by)
            record.id = _id(asked.form["verb"], alert.alert_id, _once(asked))
            return _Taken(knowledge_message(record), notice)
        except entries.NotAcceptedError as error:
            raise RefusedPressError(400, f"{error}.") from None
        except UnicodeEncodeError:
            raise RefusedPressError(400, "A text that is no Unicode.") from None

    def _snooze(self, asked: _Asked, alert: Alert) -> _Taken:
        if alert.status == "resolved":
            raise RefusedPressError(409, "This alert is over; there is nothing to quiet.")
        hours = _number(asked.form, "hours", _LONGEST_SNOOZE_H)
        until = self._daemon.clock.now() + hours * HOUR_S
        args = {"alert_id": alert.alert_id, "until": f"{until:.0f}"}
        notice = f"Noted: quiet about this alert until {utc(until)}. What Curb does about it goes on."
        return _Taken(self._command(asked, args, alert.alert_id, _once(asked)), notice)

    def _knowledge(self, asked: _Asked, alert: Alert, now: float) -> tuple[type[entries.Input], dict[str, object], str]:
        """What kind of record, its fields, and what the person reads then."""
        form, verb = asked.form, asked.form["verb"]
        if verb in ("real", "not_an_anomaly"):
            given: dict[str, object] = {"alert_id": alert.alert_id, "verdict": verb, "note": form["reason"]}
            return entries.FeedbackInput, given, f"Noted: {verb.replace('_', ' ')}."
        if not alert.tags:
            raise RefusedPressError(400, "This alert has no tags that it could be about.")
        until = now + _number(form, "hours", _LONGEST_H) * HOUR_S
        if verb == "silence":
            given = {"matchers": dict(alert.tags), "until": iso(until), "reason": form["reason"]}
            return (
                entries.SilenceInput,
                given,
                f"Noted: alerts with these tags are kept for the digest until {utc(until)}.",
            )
        usd = _number(form, "usd", 1e9)
        if verb == "planned":
            given = {"tags": dict(alert.tags), "start": iso(now), "end": iso(until), "max_usd": usd}
            notice = f"Noted: up to ${usd:,.0f} more is expected until {utc(until)}."
            return entries.PlanInput, {**given, "reason": form["reason"]}, notice
        if alert.budget is None:
            raise RefusedPressError(400, "This alert is not about a budget.")
        given = {"budget": alert.budget.name, "amount_usd": usd, "expires_at": iso(until), "match": dict(alert.tags)}
        return entries.IncreaseInput, given, f"Noted: ${usd:,.0f} more until {utc(until)}."


_WORDS = {
    "approve": "approved",
    "deny": "denied",
    "undo": "it is to be undone",
    "leave": "it is left in force for good",
    "extend": "it is to be extended",
    "halt": "halted; nothing new is begun, and leases still end",
    "resume": "resumed",
}


def _once(asked: _Asked) -> str:
    """What the form carries of the page it was made for."""
    once = asked.form["once"]
    if not 0 < len(once) <= _LONGEST_ID:
        raise RefusedPressError(400, "The form is incomplete. Load the page again, then repeat it.")
    return f"{once} {asked.by}"


def _number(form: Form, name: str, most: float) -> float:
    try:
        value = float(form[name].strip().replace(",", "").removeprefix("$"))
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        what = {"hours": "The time", "usd": "The amount"}[name]
        raise RefusedPressError(400, f"{what} is not a number over 0 and up to {most:,.0f}.")
    return value


def _id(*parts: str) -> str:
    """The same for the same parts."""
    return "page-" + hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _encoded(command: Command) -> bytes:
    try:
        return encode(command)
    except UnicodeEncodeError:
        raise RefusedPressError(400, "A text that is no Unicode.") from None
