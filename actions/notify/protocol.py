"""The notifier seam: notifies people of an incident once, and edits the message in place."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import Field, model_validator

from curb.actions.action import ActionContext
from curb.stream.errors import PermanentError
from curb.stream.kinds import without
from curb.stream.records.spend import TIER_RANK, Alert, LedgerEntry, Tier
from curb.stream.settings import Settings, TimeZone


class Digest(Settings):
    """One message a day with what was not worth a message of its own, and with what Curb did."""

    notify: tuple[str, ...] = Field(
        default=(),
        description="Names of the notifiers that get it; none: alerts of the digest tier are sent at once.",
    )
    at: str = Field(
        default="09:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="Local time of day at which it is sent."
    )


class NotifyConfig(Settings):
    """Grouping, repeats and the digest of messages."""

    people_answer_after_minutes: float = Field(
        default=15.0, gt=0, le=1440, description="How long a person typically takes to answer; waiting is priced by it."
    )
    dashboard_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s<>|]+$",
        description="Where a message links to; {alert_id} in it becomes the id, else /alerts/ID is added.",
    )
    group_by: tuple[str, ...] = Field(
        default=("team",), description="Alerts with the same values of these tags are one owner's; () groups nothing."
    )
    group_wait_seconds: float = Field(
        default=5.0, ge=0, le=300, description="An owner's first alert waits this long for others to share its message."
    )
    group_interval_minutes: float = Field(
        default=5.0, ge=0, description="Alerts of the same owner, no louder, within this long after a message join it."
    )
    inhibit: bool = Field(
        default=True,
        description="A wider alert and the narrower alerts that it covers share a message, and so do a budget and a "
        "runaway of the same key within a day; actions are unaffected.",
    )
    repeat_hours: float = Field(
        default=4.0, ge=0, description="A page that still fires is repeated after this long; 0: never."
    )
    repeat_tier: Literal["page", "notice"] = Field(default="page", description="The lowest tier that is repeated.")
    charts: bool = Field(default=True, description="Put a picture of the spend into the thread, where a channel can.")
    time_zone: TimeZone = Field(default="UTC", description="Local times of people and of the digest.")
    digest: Digest = Field(default=Digest(), description="The daily digest.")

    @model_validator(mode="after")
    def _no_tag_twice(self) -> NotifyConfig:
        if len(set(self.group_by)) < len(self.group_by):
            raise ValueError("group_by names a tag twice")
        return self

    def repeats(self, tier: Tier) -> bool:
        """True when an alert of this tier is sent again while it fires."""
        return self.repeat_hours > 0 and TIER_RANK[tier] >= TIER_RANK[self.repeat_tier]


class Notice(NamedTuple):
    """What to say now about one incident: the newest revision and what Curb did about it so far."""

    #: Unique per (channel, alert_id, what it says); the outbox key and the idempotency key of the call.
    key: str
    alert: Alert
    ledger: tuple[LedgerEntry, ...] = ()
    #: Alerts in the same message: of the same owner, or narrower ones that `alert` covers.
    others: tuple[Alert, ...] = ()
    telling: NotifyConfig = NotifyConfig()
    #: Until when (epoch seconds) somebody asked for quiet, or None.
    snoozed_until: float | None = None
    #: The alert by which the message is known from its first to its last word; "" where there is only one.
    lead_id: str = ""

    @property
    def lead(self) -> Alert:
        """The alert the message is named after, whichever heads it now."""
        return next((each for each in self.others if each.alert_id == self.lead_id), self.alert)

    @property
    def is_firing(self) -> bool:
        """Whether any of its alerts still fires."""
        return any(alert.status == "firing" for alert in (self.alert, *self.others))

    def alert_of(self, entry: LedgerEntry) -> Alert:
        """The alert that an entry of the ledger is about."""
        return next((each for each in self.others if each.alert_id == entry.alert_id), self.alert)


#: Why there is a reply: the figures of the first message, a step of an action, a higher tier, a higher threshold of a
#: budget, one more alert, firing again or still, over, a new picture.
ReplyKind = Literal["figures", "step", "tier", "crossed", "also", "again", "repeat", "resolved", "chart"]


class Reply(NamedTuple):
    """One line below a message; it is sent once and never edited."""

    #: Unique per (channel, alert_id, what it is about).
    key: str
    kind: ReplyKind
    notice: Notice
    alert: Alert
    entry: LedgerEntry | None = None
    #: Shown in the channel as well, because edits of a message wake nobody.
    loud: bool = False


class DayDigest(NamedTuple):
    """What happened in a day that was not worth a message of its own, and what Curb did in it."""

    key: str
    #: The local day on whose morning it is sent, such as "2026-03-01", and the moment it ends at.
    day: str
    until: float
    alerts: tuple[Alert, ...]
    #: The newest entry of every action that had one in the day.
    ledger: tuple[LedgerEntry, ...]
    telling: NotifyConfig = NotifyConfig()


class Letter(NamedTuple):
    """A text for people that is no alert, such as a month's report, with a file."""

    #: Unique per (channel, what it is about): a letter that was sent once is not sent again where that can be seen.
    key: str
    title: str
    lines: tuple[str, ...]
    file_name: str
    #: One HTML file that needs nothing from elsewhere.
    html: bytes


class Notifier(Protocol):
    """Sends notices to one channel.

    `send` posts a new message, or edits the one called `ref` in place where the channel can, and returns the
    reference of the message. `find` returns the reference of a message sent earlier with this key, or None where
    there is none or the channel cannot look back; it is called after a crash between sending and recording.
    They raise TransientError or PermanentError, and never retry or sleep.
    """

    async def send(self, notice: Notice, ref: str) -> str: ...

    async def find(self, key: str) -> str | None: ...

    async def close(self) -> None: ...


@runtime_checkable
class Threads(Protocol):
    """A notifier whose messages have threads. `ref` is the message's; both return the reply's reference.

    A chart for which there is nothing to draw is no reply: `reply` returns "".
    """

    async def reply(self, reply: Reply, ref: str) -> str: ...

    async def find_reply(self, key: str, ref: str) -> str | None: ...


@runtime_checkable
class Repeats(Protocol):
    """A notifier whose messages are forgotten unless they are sent again while they fire."""

    #: Seconds after which a message that still fires is sent again.
    repeat_s: float


@runtime_checkable
class Exact(Protocol):
    """A notifier that machines read: tags keep their values, where people read the names of `detector.names`."""

    exact_tags: Literal[True]


@runtime_checkable
class Digests(Protocol):
    """A notifier that can send a digest; `find` finds it by its key."""

    async def send_digest(self, digest: DayDigest) -> str: ...


@runtime_checkable
class TakesLetters(Protocol):
    """A notifier that can send a letter; `find` finds it by its key."""

    async def send_letter(self, letter: Letter) -> str: ...


class NotifierConfig(Settings):
    """Base of every kind's `Config`: it narrows `kind` to a Literal, adds its own keys and builds the notifier."""

    kind: str = Field(description="The kind of notifier.")
    name: str = Field(pattern=r"^[a-z0-9-]+$", description="Unique name of this notifier.")

    @abstractmethod
    def build(self, context: ActionContext) -> Notifier:
        """The configured notifier; whoever calls this closes it."""


def open_notifier(config: NotifierConfig, context: ActionContext) -> Notifier:
    """The notifier that `config` builds. Raises PermanentError saying which promise of this page is not kept."""
    notifier = config.build(context)
    missing = without(notifier, Notifier, "send", "find", "close")
    if hasattr(notifier, "reply") or hasattr(notifier, "find_reply"):
        # With one of the two its threads would be left out.
        missing += without(notifier, Threads, "reply", "find_reply")
    if missing:
        raise PermanentError(f"notifier {config.name} of kind {config.kind}: {'; '.join(missing)}")
    return notifier
