"""Settings of the detector for bills, made from those for usage."""

from __future__ import annotations

from collections.abc import Sequence

from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Scope

#: Seconds of a bucket of a bill: the finest period that providers write. By definition.
BUCKET_S = 3600
#: Seconds for which spend must be back to normal before an alert on a bill ends. Chosen by hand: a night's lull within
#: an incident of days is no end.
CALM_S = 12 * 3600.0
#: Alerts go on as long as their cause does, and say at each delivery what is known by then.
_ALERTS = {"adopt": False, "calm_s": CALM_S, "quiet_s": CALM_S, "update_every_s": 0.5}

#: What a bill is grouped by where nobody says otherwise: what is judged, totals of accounts, and where it comes from.
BILL_SCOPES = (
    Scope(name="bill", group_by=("provider", "account", "service"), sources=("costs",), role="bill"),
    Scope(name="bill-account", group_by=("provider", "account"), sources=("costs",), detect=False, role="total"),
    Scope(
        name="bill-origin",
        group_by=("provider", "account", "service", "region", "usage_type"),
        sources=("costs",),
        detect=False,
        role="origin",
    ),
)


def default_scopes(tags: Sequence[str]) -> tuple[Scope, ...]:
    """`BILL_SCOPES`, with what else bills distinguish, such as teams and resources, among what an excess comes from."""
    *others, origin = BILL_SCOPES
    return (*others, origin.model_copy(update={"group_by": tuple(dict.fromkeys([*origin.group_by, *tags]))}))


def bill_scopes(scopes: Sequence[Scope]) -> tuple[Scope, ...]:
    """The scopes whose series are made of bills alone."""
    return tuple(scope for scope in scopes if scope.is_billed)


def bill_settings(settings: DetectorSettings) -> DetectorSettings | None:
    """How bills are summed and judged; None where no scope is made of bills alone."""
    scopes = bill_scopes(settings.scopes)
    if not scopes:
        return None
    names = {scope.name for scope in scopes}
    return settings.model_copy(
        update={
            "bucket_s": BUCKET_S,
            "phase_s": 0,
            "grace_s": 0.0,  # a bucket closes when its source says that it is complete
            "time_zone": "UTC",  # as the days of bills are
            "scopes": tuple(map(_judged, scopes)),
            "budgets": (),  # count as soon as dollars are known, beside those on usage
            "metrics": tuple(watch for watch in settings.metrics if watch.scope in names),
            "scorers": tuple(each for each in settings.scorers if set(getattr(each, "scopes", ())) <= names),
            "alerts": settings.alerts.model_copy(update=_ALERTS),
            # Whether a bill comes is known from its deliveries; whether there is usage says nothing about them.
            "feed": settings.feed.model_copy(update={"enabled": False}),
        }
    )


def _judged(scope: Scope) -> Scope:
    """A scope of bills as its lane has it: nobody on a bill has requests or users by which to judge."""
    return scope.model_copy(update={"role": "bill"}) if scope.role == "principal" else scope


def usage_settings(settings: DetectorSettings) -> DetectorSettings:
    """The settings for all else: series of bills alone count there in totals and budgets, and are not judged."""
    names = {scope.name for scope in bill_scopes(settings.scopes)}
    if not names:
        return settings
    scopes = tuple(
        scope.model_copy(update={"detect": False, "role": "total"}) if scope.name in names else scope
        for scope in settings.scopes
    )
    kept = {
        "metrics": tuple(watch for watch in settings.metrics if watch.scope not in names),
        "scorers": tuple(each for each in settings.scorers if not set(getattr(each, "scopes", ())) <= names),
    }
    return settings.model_copy(update={"scopes": scopes, **kept})
