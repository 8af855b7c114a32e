"""Settings of the life of alerts."""

from __future__ import annotations

from pydantic import Field

from curb.stream.settings import Settings


class AlertBudget(Settings):
    """Alerts of statistics that people have time for. Where there are more their thresholds rise by and by."""

    notices_per_day: float = Field(
        default=10.0, gt=0, description="New notices a day for every thousand series that may alert; for fewer as well."
    )
    pages_per_day: float = Field(default=5.0, gt=0, description="The same for pages.")


class AlertSettings(Settings):
    """When alerts update and end, and what the rules beside the score look for."""

    update_every_s: float = Field(
        default=300, gt=0, description="A firing alert is told anew at least this often, and when its rate moves 10 %."
    )
    calm_usd_per_hour: float = Field(
        default=0.5, ge=0, description="A burn within 20 % plus this much of the expected one counts as calm."
    )
    calm_s: float = Field(default=15 * 60, gt=0, description="A finding ends after this long at a calm rate.")
    quiet_s: float = Field(default=60 * 60, gt=0, description="A finding ends after this long with a low score.")
    join_s: float = Field(
        default=24 * 3600, ge=0, description="What fires again within this time belongs to the old alert."
    )
    freeze_s: float = Field(
        default=48 * 3600, ge=0, description="How long a firing series does not learn; then this is its new normal."
    )
    budget: AlertBudget = Field(default=AlertBudget(), description="How many alerts of statistics are too many.")
    response_notice_s: float = Field(default=8 * 3600, ge=0, description="Time until a person sees a notice.")
    response_page_s: float = Field(default=3600, ge=0, description="Time until a person answers a page.")
