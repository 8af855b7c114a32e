"""Every metric Curb publishes, in one place so that the reference page can be checked against it."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

DEAD_LETTERS = Counter("curb_dead_letters_total", "Records that could not be read.", ["source", "reason"])

RECORDS_READ = Counter("curb_connector_records_total", "Records a connector appended to the log.", ["connector"])
CONNECTOR_ERRORS = Counter(
    "curb_connector_errors_total", "Failed reads of a connector, by whether a retry can help.", ["connector", "kind"]
)
CONNECTOR_LAST_SUCCESS = Gauge(
    "curb_connector_last_success_timestamp_seconds", "When a connector last read or received something.", ["connector"]
)
COST_COMPLETE_UNTIL = Gauge(
    "curb_connector_complete_until_timestamp_seconds",
    "Charge periods of a bill that ended by then are complete, as far as the source's lag is learned.",
    ["connector"],
)
UNTAGGED_PERCENT = Gauge(
    "curb_untagged_percent",
    "Percent of the dollars a connector brought in the last 24 hours that lack a required tag.",
    ["connector", "tag"],
)
UNTAGGED_USD = Gauge(
    "curb_untagged_usd",
    "Dollars a connector brought in the last 24 hours that lack a required tag.",
    ["connector", "tag"],
)
INGEST_SECONDS = Histogram("curb_ingest_seconds", "From request to durable append, per push request.", ["connector"])

EVENTS_ROLLED_UP = Counter("curb_rollup_events_total", "Unique events summed into series.")
EVENTS_DUPLICATE = Counter("curb_rollup_duplicates_total", "Events dropped because their id was seen before.")
EVENTS_LATE = Counter("curb_detector_late_partials_total", "Sums that arrived after their bucket was closed.")
SERIES_FOLDED = Counter(
    "curb_rollup_folded_total",
    "Events whose new tag value was folded into __other__ by the cardinality guard.",
    ["scope"],
)
SERIES = Gauge("curb_detector_series", "Series the detector keeps.")
TICK_SECONDS = Histogram("curb_detector_tick_seconds", "Time to close and score one bucket of all series.")
DETECTOR_TIME = Gauge("curb_detector_event_timestamp_seconds", "Event time up to which buckets are closed.")

THRESHOLD_RISE = Gauge(
    "curb_detector_threshold_rise",
    "Points by which the thresholds of statistics are raised because they alerted more often than their budget.",
    ["partition", "tier"],
)

ALERTS = Counter("curb_alerts_total", "Alerts opened.", ["kind", "tier"])
ALERTS_FIRING = Gauge("curb_alerts_firing", "Alerts firing now.")
ACTIONS = Counter("curb_actions_total", "Ledger entries written.", ["action", "state"])
LEASES_OPEN = Gauge("curb_leases_open", "Actions in force now.")
HALTED = Gauge("curb_halted", "1 while the kill switch is on.")
SLACK_CONNECTED = Gauge(
    "curb_slack_connected", "1 while Slack's buttons and commands reach this process by Socket Mode.", ["notifier"]
)
NOTICES = Counter("curb_notices_total", "Messages to people, by outcome.", ["channel", "state"])

UNIT_COST = Gauge(
    "curb_unit_cost_usd",
    "Dollars per request, per 1,000 tokens, per run or per value of a tag, over the last 24 hours of spend.",
    ["by", "value", "unit"],
)
CAPTURE_RATIO = Gauge(
    "curb_capture_ratio", "Billed over estimated dollars of a pair of sources, over its newest billed days.", ["pair"]
)
CAPTURE_RATIO_LOW = Gauge("curb_capture_ratio_low", "Lower 90 % bound of the capture ratio.", ["pair"])
CAPTURE_RATIO_HIGH = Gauge("curb_capture_ratio_high", "Upper 90 % bound of the capture ratio.", ["pair"])

LOG_COMMIT_SECONDS = Histogram("curb_log_commit_seconds", "Time of one atomic append-and-commit.", ["group"])
