"""The connector seam: one upstream, read forward; the runner retries, sleeps, appends and saves the cursor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import aiohttp
from aiohttp import web
from pydantic import Field, SecretStr

from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.kinds import without
from curb.stream.log.protocol import Message
from curb.stream.records.spend import Alert, PlannedActivity, SpendRecord
from curb.stream.settings import Settings

if TYPE_CHECKING:
    from curb.connectors.fingerprint import Fingerprints
    from curb.connectors.pricing.book import PriceBook


class Context(NamedTuple):
    """Shared things that wiring passes to `Config.build`; a connector uses them and does not own them."""

    clock: Clock
    http: aiohttp.ClientSession
    prices: PriceBook
    #: Where a connector may keep a file of its name, for what is too big for a cursor; made when it is not there.
    state_dir: Path = Path("curb-data/connectors")
    #: Makes prints of prompts; None where `loops` is off, and then no prompt is decoded.
    loops: Fingerprints | None = None


class Batch(NamedTuple):
    """What one read gave. `cursor` is where the next read goes on; `more` asks for it at once."""

    records: Sequence[SpendRecord]
    cursor: str
    more: bool = False
    #: Dead letters for what could not be read; appended with the records.
    dead: Sequence[Message] = ()
    #: Where each record was read, parallel to `records`; goes into the dead letter when the door refuses the record.
    locations: Sequence[str] = ()
    #: Work that was announced in the source; goes to the commands topic.
    plans: Sequence[PlannedActivity] = ()
    #: Alerts about the source itself, such as a delivery that was refused.
    alerts: Sequence[Alert] = ()
    #: Of a bill: charge periods that ended by then (epoch seconds) are complete; later ones may still fill up.
    complete_until: float | None = None
    #: Set at the door: records dated ahead of their receipt and therefore dated by it, and the most they were ahead.
    skewed: int = 0
    skew_s: float = 0.0
    #: Events that are no usage, by name, such as the spans of other libraries: counted, not kept.
    ignored: Mapping[str, int] = MappingProxyType({})
    #: What the sender should look at although it is kept, one sentence each; names of fields, never content.
    warnings: Sequence[str] = ()


@runtime_checkable
class Connector(Protocol):
    """Reads one upstream.

    `read(cursor)` is called by the runner, one call at a time; None means "from the beginning". It returns what lies
    behind the cursor and the cursor behind that; called again with the same cursor it returns at least the same
    records with the same ids. It never retries, sleeps or writes: it raises TransientError or PermanentError.
    """

    async def read(self, cursor: str | None) -> Batch: ...

    async def close(self) -> None: ...


@runtime_checkable
class PushSource(Protocol):
    """Turns the body of one push request into records; the inbox answers 200 only after they are on the log.

    `parse` is pure: same body, same records, but for loop prints under another key. What cannot be read becomes dead
    letters, the rest is kept; it never raises for bad content. `location` names the request for dead letters, `at` is
    when it arrived (epoch seconds).
    """

    def parse(self, body: bytes, *, location: str, at: float) -> Batch: ...


class Door(Protocol):
    """One push request: its body is parsed and appended inside `order`, then `appended` is called, then answered."""

    #: Held from parse to appended; a lock where one request changes how the next is read.
    order: AbstractAsyncContextManager[object]

    def parse(self, body: bytes, *, location: str, at: float) -> Batch: ...

    def refused(self, batch: Batch) -> str | None:
        """Why nothing of the body could be read, or None."""

    def appended(self) -> None:
        """The batch that parse gave is on the log."""

    def answer(self, accepted: int, dead: int) -> web.Response: ...

    def problem(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response: ...


@runtime_checkable
class Receiver(Protocol):
    """A push source with paths below its own and answers of its own, such as OTLP.

    `door` gives None for a path it does not know. `content_type` is the request's, without parameters.
    """

    def door(self, path: str, content_type: str) -> Door | None: ...


@runtime_checkable
class Noted(Protocol):
    """Optional: says what arrived and was not counted, or how far data are known, in `status` and `connectors list`."""

    def notes(self) -> tuple[str, ...]:
        """One sentence each, with names and counts since the process started, bounded in length; no content."""


@runtime_checkable
class Pathed(Protocol):
    """Optional for receivers: says which paths they have below their own."""

    def paths(self) -> tuple[str, ...]:
        """Such as `v1/traces`."""


@dataclass(frozen=True)
class Pull:
    """Curb reads `connector`, and `poll_interval_s` seconds later again."""

    connector: Connector
    poll_interval_s: float


@dataclass(frozen=True)
class Push:
    """Senders post to `/v1/ingest/NAME` with `token`."""

    source: PushSource | Receiver
    token: SecretStr


@dataclass(frozen=True)
class PushWithBackfill:
    """Senders post, and Curb reads from the sender's own log what a post lost."""

    push: Push
    backfill: Pull


#: How the records of a connector arrive: one of these three, matched with `match` wherever it matters.
Source = Pull | Push | PushWithBackfill


class ConnectorConfig(Settings, ABC):
    """One entry of `connectors`. A kind adds `kind: Literal["its_name"]`, its own fields and `build`."""

    kind: str
    name: str = Field(
        pattern=r"^[a-z0-9-]+$",
        max_length=64,
        description="Unique name: lower-case letters, digits and dashes; where data are pushed, the end of the URL.",
    )

    @property
    def overlap_s(self) -> float:
        """How far back it may send again what it sent, seconds: ids must be remembered for so long."""
        return 0.0

    @property
    def looks_back(self) -> bool:
        """Whether it can be asked for its past, as `curb backfill` does."""
        return "first_hours" in type(self).model_fields

    @property
    def reads_bills(self) -> bool:
        """Whether it brings a bill, which is judged on its own once it is complete."""
        return False

    @property
    def bill_tags(self) -> tuple[str, ...]:
        """Tags that its bill distinguishes, beside provider, account, service, region and usage type."""
        return ()

    @abstractmethod
    def build(self, context: Context) -> Source:
        """The connector. It may open files and clients, and makes no request; raises PermanentError or ValueError."""


def open_source(config: ConnectorConfig, context: Context) -> Source:
    """The source that `config` builds. Raises PermanentError saying which promise of this page is not kept."""
    source = config.build(context)
    match source:
        case Pull():
            missing = without(source.connector, Connector, "read", "close")
        case Push():
            missing = _missing_push(source)
        case PushWithBackfill():
            missing = _missing_push(source.push) + without(source.backfill.connector, Connector, "read", "close")
        case _:
            missing = [f"build(context) returns {type(source).__name__}, not Pull, Push or PushWithBackfill"]
    if missing:
        raise PermanentError(f"connector {config.name} of kind {config.kind}: {'; '.join(missing)}")
    return source


def _missing_push(push: Push) -> list[str]:
    missing = [] if isinstance(push.source, Receiver) else without(push.source, PushSource, "parse")
    if not isinstance(push.token, SecretStr):
        missing.append(f"Push(source, token) gets a {type(push.token).__name__} as token, not a SecretStr")
    return missing


class Check(NamedTuple):
    """What one cheap, reading call to the upstream showed, such as "list objects under s3://bill/cur"."""

    what: str
    ok: bool
    #: What was found, or what is missing and who grants it. Shown to people: never a secret, never content.
    detail: str = ""
    #: The permission, role or scope that is needed, in the upstream's own words; empty where none is.
    permission: str = ""


@runtime_checkable
class Checkable(Protocol):
    """Optional for connectors and push sources: tries credentials and permissions, for `curb connectors check NAME`.

    `check()` makes a few cheap calls that only read (one page, one object, one row), in the order in which a first read
    needs them, and gives one Check for each; it stops where the next could not work. What the upstream refuses is a
    Check with `ok=False`, not an error; TransientError or PermanentError may still be raised when nothing can be said.
    It writes nothing, moves no cursor and keeps no state; it may be called while the connector is being read elsewhere.
    """

    async def check(self) -> list[Check]: ...
