"""One line of a bill as `connectors.restate` takes it, after rows of the same key were summed."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from curb.stream.records.spend import ChargeKind

CommitmentStatus = Literal["", "Used", "Unused"]


class Dimensions(msgspec.Struct, frozen=True):
    """The dimensions of a charge: as many as Curb's tags and scopes can see, and no more."""

    service_name: str = ""
    sub_account_id: str = ""
    resource_id: str = ""
    provider_name: str = ""
    region_id: str = ""
    usage_type: str = ""
    charge_kind: ChargeKind = "usage"
    commitment_discount_status: CommitmentStatus = ""
    #: FOCUS: Usage, Purchase, Tax, Credit or Adjustment. Only Usage is scored.
    charge_category: str = "Usage"
    billing_currency: str = "USD"
    #: Corrects a period that was invoiced already (FOCUS ChargeClass "Correction"): never new usage.
    correction: bool = False
    #: (tag, value), sorted by tag.
    tags: tuple[tuple[str, str], ...] = ()


class Charge(NamedTuple):
    """Dollars of one key. `start` is the start of the charge period, epoch seconds; `seconds` is its length."""

    start: int
    seconds: int
    effective_cost: float
    billed_cost: float
    dimensions: Dimensions


class Snapshot(NamedTuple):
    """Which state of which billing period a series of charges is."""

    #: Billing period, such as "2026-10", or whatever else is delivered as a whole: one account's month, one file.
    period: str
    #: What changes when the content does: manifest id, etag, export time. The same version is not taken twice.
    version: str
    #: When the source made it, epoch seconds; lags are measured against it.
    as_of: float
    #: Charge periods it speaks for, [from, until) of their start, epoch seconds; None is the whole billing period.
    #: A key within that is missing here has vanished; one outside is left as it was.
    covers: tuple[float, float] | None = None


class LineKind(NamedTuple):
    """What a line is: FOCUS charge category, Curb's finer kind, and whether it corrects an invoiced period."""

    category: str
    kind: ChargeKind
    commitment: CommitmentStatus = ""
    correction: bool = False
