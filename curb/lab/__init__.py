"""For notebooks: one's own log as arrays, pictures and tables, and settings tried on it. Reads only; changes nothing.

    from curb import lab
    history = lab.from_log("curb.yaml")
    print(lab.spend_table(history, "team"))

Money is US dollars, times are epoch seconds unless a name says otherwise, arrays have one value per hour.
"""

from curb.lab.charts import (
    calibration_chart,
    frontier_chart,
    idle_chart,
    incident_chart,
    money_chart,
    seasons_chart,
    spend_chart,
)
from curb.lab.example import example
from curb.lab.forecasts import MadeForecast, calibration_table, forecasts_of
from curb.lab.gpus import NodeUse, idle_table, node_use
from curb.lab.history import History, LoggedAlert, from_log
from curb.lab.policies import Policy, PolicyOutcome, incident_of, policy_table, what_if
from curb.lab.seasons import Seasons, odd_hours, seasons
from curb.lab.tables import (
    alert_table,
    budget_table,
    capture_table,
    odd_hour_table,
    setting_table,
    spend_table,
    verdict_table,
)
from curb.lab.tuning import tried_settings

__all__ = [
    "History",
    "LoggedAlert",
    "MadeForecast",
    "NodeUse",
    "Policy",
    "PolicyOutcome",
    "Seasons",
    "alert_table",
    "budget_table",
    "calibration_chart",
    "calibration_table",
    "capture_table",
    "example",
    "forecasts_of",
    "from_log",
    "frontier_chart",
    "idle_chart",
    "idle_table",
    "incident_chart",
    "incident_of",
    "money_chart",
    "node_use",
    "odd_hour_table",
    "odd_hours",
    "policy_table",
    "seasons",
    "seasons_chart",
    "setting_table",
    "spend_chart",
    "spend_table",
    "tried_settings",
    "verdict_table",
    "what_if",
]
