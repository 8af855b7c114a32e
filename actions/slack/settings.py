"""Configuration of the people in Slack: who may press which button and use which slash command."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints

from curb.stream.settings import Settings

#: What a person can ask for in Slack.
Verb = Literal["approve", "deny", "undo", "snooze", "planned", "not_an_anomaly", "halt", "resume", "status"]
VERBS: tuple[Verb, ...] = get_args(Verb)
UserId = Annotated[str, StringConstraints(pattern=r"^[UW][A-Z0-9]{6,20}$")]
_Users = tuple[UserId, ...]


class May(Settings):
    """Slack user ids per verb, such as U0123456789. Nobody may do what is left out, and there is no button for it."""

    approve: _Users = Field(default=(), description="Say yes to an action that waits for it.")
    deny: _Users = Field(default=(), description="Say no to an action that waits.")
    undo: _Users = Field(default=(), description="Take back what Curb did.")
    snooze: _Users = Field(default=(), description="Quiet one alert for a time.")
    planned: _Users = Field(default=(), description="Announce work that will cost more.")
    not_an_anomaly: _Users = Field(default=(), description="Say that an alert was none.")
    halt: _Users = Field(default=(), description="Stop all new actions at once.")
    resume: _Users = Field(default=(), description="Let Curb act again after a halt.")
    status: _Users = Field(default=(), description="Ask for the status with /curb status.")

    def users(self, verb: Verb) -> tuple[str, ...]:
        """Who may do it."""
        found: tuple[str, ...] = getattr(self, verb)
        return found
