"""Every metric Curb publishes, in one place so that the reference page can be checked against it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from prometheus_client import Counter, Gauge, Histogram

DEAD_LETTERS = Counter("curb_dead_letters_total", "Records that could not be read.", ["source", "reason"])

FIELDS_DROPPED = Counter(
    "curb_connector_fields_dropped_total",
    "Optional fields of an event that were dropped because they were not what they should be.",
    ["source", "field"],
)
PRICED_BY_LIST = Counter(
    "curb_priced_by_list_total",
    "Calls whose reported cost was not believed and that were priced by list, by reason; no_price: no price is known.",
    ["source", "reason"],
)

RECORDS_READ = Counter("curb_connector_records_total", "Records a connector appended to the log.", ["connector"])
OTEL_SPANS = Counter(
    "curb_otel_spans_total",
    "Spans received, by outcome: call (counted), repeated (a call that another span reports as well), around (agent, "
    "chain or tool around calls), other (no call), refused (dead letter).",
    ["connector", "outcome"],
)
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
CLOCK_SKEWED = Counter(
    "curb_clock_skewed_records_total",
    "Records dated ahead of their receipt, which count at the receipt.",
    ["connector"],
)
CLOCK_SKEW = Gauge(
    "curb_clock_skew_seconds", "How far the last such records were ahead: the sender's clock is off.", ["connector"]
)
INGEST_SECONDS = Histogram("curb_ingest_seconds", "From request to durable append, per push request.", ["connector"])

LAG_SECONDS = Gauge(
    "curb_lag_seconds", "All that was on the log so many seconds ago has been processed, by worker.", ["worker"]
)
INGEST_REFUSED = Counter(
    "curb_ingest_refused_total",
    "Push requests answered 503 because Curb was behind, or overloaded mostly by this source.",
    ["connector"],
)
INGEST_NOT_TAKEN = Counter(
    "curb_ingest_not_taken_total",
    "Posts that reached no connector, by reason (unknown_path, no_token, wrong_token) and whose path it was, if any.",
    ["connector", "reason"],
)
HTTP_CONNECTIONS = Gauge("curb_http_connections", "Open connections to the HTTP port.")
HTTP_CONNECTIONS_CLOSED = Counter(
    "curb_http_connections_closed_total",
    "Connections closed early: head, body or answer (the client was too slow with it), evicted (it had "
    "waited longest, and a new one needed its place), refused (no place was free).",
    ["reason"],
)
HTTP_ACCEPT_ERRORS = Counter("curb_http_accept_errors_total", "Tries to accept a connection that failed.")
HTTP_WRONG_TOKENS = Counter(
    "curb_http_wrong_tokens_total",
    "Requests to the API, to a page or to sign in with a token that is none of http.token and http.tokens.",
)

EVENTS_ROLLED_UP = Counter("curb_rollup_events_total", "Unique events summed into series.")
EVENTS_DUPLICATE = Counter("curb_rollup_duplicates_total", "Events dropped because their id was seen before.")
DEDUPE_WINDOW = Gauge(
    "curb_dedupe_window_seconds", "How far back ids of events are known, so that one sent again counts once.", ["input"]
)
DEDUPE_SHORT = Gauge(
    "curb_dedupe_window_short", "1 while that is less than a source may send again, 0 otherwise.", ["input"]
)
EVENTS_LATE = Counter("curb_detector_late_partials_total", "Sums that arrived after their bucket was closed.")
SERIES_FOLDED = Counter(
    "curb_rollup_folded_total",
    "Events whose new tag value was folded into __other__ by the cardinality guard.",
    ["scope"],
)
FEED_RECORDS = Counter(
    "curb_feed_records_total",
    "What became of the records of a source: counted; of these late, not_scored, fallback (priced by it), "
    "usage_missing and clock_ahead; duplicate, refused and ignored ones were not. "
    "Sources past 1,000 share one name.",
    ["source", "outcome"],
)
FEED_USD = Counter("curb_feed_usd_total", "The same in dollars, where they are known.", ["source", "outcome"])
FEED_LOST = Gauge(
    "curb_feed_lost_percent",
    "Percent of a source's records, or of its dollars where that is more, of this hour and the one before that were "
    "not counted or not scored.",
    ["source"],
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
CEILINGS = Gauge("curb_ceilings", "Standing ceilings in force now; not among curb_leases_open.")
LEASES_REFUSED = Gauge(
    "curb_leases_refused", "Actions that should be over and cannot be given back so far.", ["action"]
)
UNDO_REFUSED = Counter("curb_undo_failures_total", "Tries to give an action back that were in vain.", ["action"])
HALTED = Gauge("curb_halted", "1 while the kill switch is on.")
SAVED = Counter(
    "curb_saved_usd_total",
    "Dollars that actions saved, counted when an action ends: what the burn before would have cost, less what was "
    "spent.",
    ["action"],
)
SAVING = Gauge("curb_saving_usd", "Dollars that the actions in force now have saved so far.", ["action"])
REFUSED = Counter(
    "curb_refused_requests_total",
    "Requests that targets refused because of an action, where they count them; counted when an action ends.",
    ["action"],
)
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


class ScrapedMetric(NamedTuple):
    """A metric that is worked out at each scrape, from the state of the daemon."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    meaning: str


#: What stands in every tag of the series or rows that are published only as their sum.
REST = "__rest__"
#: A label for each tag of a series, `tag_team` for team; characters that no label may have are `_`.
_TAGS = "tag_*"
_SERIES = ("scope", _TAGS)
_BUDGET = ("budget", "scope", _TAGS)
_ALERT = ("alert_id", "kind", "tier", "scope", _TAGS)

SPEND_USD = ScrapedMetric(
    "curb_spend_usd_total",
    "counter",
    _SERIES,
    "Dollars charged to a series since its first record, without credits. The sum of the others counts from the start "
    "of the process. Every scope counts the same dollars: select one.",
)
CREDITS_USD = ScrapedMetric(
    "curb_credits_usd_total", "counter", ("scope",), "Dollars that bills took back: credits, refunds, restatements."
)
BURN = ScrapedMetric(
    "curb_burn_usd_per_hour", "gauge", _SERIES, "Dollars an hour that a series burns now, over 5 minutes."
)
EXPECTED_BURN = ScrapedMetric(
    "curb_expected_usd_per_hour", "gauge", _SERIES, "Dollars an hour that a series is expected to burn now."
)
BUDGET_AMOUNT = ScrapedMetric(
    "curb_budget_amount_usd", "gauge", _BUDGET, "Amount of a budget in its period, with what was added to it."
)
BUDGET_SPENT = ScrapedMetric("curb_budget_spent_usd", "gauge", _BUDGET, "Dollars of a budget spent in its period.")
BUDGET_FORECAST = ScrapedMetric(
    "curb_budget_forecast_usd", "gauge", _BUDGET, "Dollars that a budget will have spent at the end of its period."
)
BUDGET_FORECAST_LOW = ScrapedMetric(
    "curb_budget_forecast_low_usd", "gauge", _BUDGET, "Lower bound of the forecast's 80 % interval."
)
BUDGET_FORECAST_HIGH = ScrapedMetric(
    "curb_budget_forecast_high_usd", "gauge", _BUDGET, "Upper bound of the forecast's 80 % interval."
)
BUDGET_BREACH = ScrapedMetric(
    "curb_budget_breach_timestamp_seconds",
    "gauge",
    _BUDGET,
    "When a budget is expected to be spent; absent where it is not within its period.",
)
BUDGET_BREACH_PROBABILITY = ScrapedMetric(
    "curb_budget_breach_probability", "gauge", _BUDGET, "How likely a budget is overspent at the end of its period."
)
BUDGET_PERIOD_END = ScrapedMetric(
    "curb_budget_period_end_timestamp_seconds", "gauge", _BUDGET, "When the period of a budget ends."
)
ALERT_AT_RISK = ScrapedMetric(
    "curb_alert_at_risk_usd",
    "gauge",
    _ALERT,
    "Dollars at risk of an alert that fires. Every process publishes all alerts.",
)
ALERT_EXCESS = ScrapedMetric(
    "curb_alert_excess_usd", "gauge", _ALERT, "Dollars over the expected ones of an alert that fires, so far."
)
DETECTOR_LAG = ScrapedMetric(
    "curb_detector_lag_seconds",
    "gauge",
    (),
    "How far the closed buckets of the slowest partition are behind the clock.",
)
READY = ScrapedMetric(
    "curb_ready", "gauge", (), "1 while everything on the log is read in time and the log can be written."
)
MODE = ScrapedMetric(
    "curb_actions_mode", "gauge", ("mode",), "1 for the mode that actions are in: shadow, approve or auto."
)
BUILD_INFO = ScrapedMetric("curb_build_info", "gauge", ("version", "python"), "1, with the version that runs.")
