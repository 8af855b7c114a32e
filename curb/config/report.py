"""The report that the daemon sends by itself after each week or month."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args, get_type_hints

from pydantic import Field, model_validator

from curb.actions.notify.protocol import NotifierConfig
from curb.stream.settings import Settings


class ReportSettings(Settings):
    """When, to whom, and by what the daemon reports spend. `curb report --send` does the same once."""

    schedule: Literal["week", "month"] | None = Field(
        default=None,
        description="Report each full `week` or `month` of `detector.time_zone`, once. Default: no report; the command "
        "`curb report` works without.",
    )
    after_hours: float = Field(
        default=30.0,
        ge=0,
        le=144,
        description="Hours after the end of the week or month, when what came late is in: 30 is 06:00 on the second "
        "day. What the daemon missed while it was down is sent when it is up again.",
    )
    by: tuple[str, ...] = Field(default=("team",), min_length=1, description="Tags to report by.")
    money: Literal["estimated", "billed", "both"] | None = Field(
        default=None,
        description="Estimated from usage and GPUs, billed, or both added up. Default: estimated where there are any.",
    )
    notify: tuple[str, ...] = Field(
        default=(), description="Notifiers that get it: `slack`, `apprise`, `webhook` or `console`."
    )

    @model_validator(mode="after")
    def _somebody_gets_it(self) -> ReportSettings:
        if self.schedule is not None and not self.notify:
            raise ValueError("a report with a schedule goes to nobody; name a notifier under `notify`")
        return self


def unreachable_readers(report: ReportSettings, notifiers: Sequence[NotifierConfig]) -> Iterable[tuple[str, str, str]]:
    """Path, problem and hint of each notifier of the report that is not there, or takes no letters."""
    known = {each.name: each for each in notifiers}
    for number, name in enumerate(report.notify):
        path = f"report.notify[{number}]"
        if name not in known:
            there = ", ".join(known) or "none"
            yield path, f"no notifier is called {name!r}", f"there are: {there}; see actions.notifiers"
        elif not _takes_letters(known[name]):
            yield path, f"{name} of kind {known[name].kind} takes no reports", "slack, apprise, webhook and console do"


def _takes_letters(config: NotifierConfig) -> bool:
    """By the return type of `build`; of a kind that does not say it, the daemon finds out."""
    returned = get_type_hints(type(config).build).get("return")
    kinds = get_args(returned) or (returned,)
    return any(kind is None or not isinstance(kind, type) or hasattr(kind, "send_letter") for kind in kinds)
