"""Configuration of the detector."""

from __future__ import annotations

from collections import Counter

from pydantic import Field, field_validator, model_validator

from curb.detector.budgets.budget import Budget, ExchangeRate, check_budgets
from curb.detector.fast.alerts import Config as FastConfig
from curb.detector.forecast.pool import PoolSettings
from curb.detector.forecast.slow_lane import LaneSettings
from curb.detector.forecast.spend_history import HistorySettings
from curb.detector.heads.demand import Config as DemandConfig
from curb.detector.heads.drift import DriftSettings
from curb.detector.heads.past import ScoreSettings
from curb.detector.incidents.bill_waste import Config as WasteConfig
from curb.detector.incidents.commitments import Config as CommitmentConfig
from curb.detector.incidents.incidents import AlertSettings
from curb.detector.rollup.dedupe import DedupeSettings
from curb.detector.rollup.tag_table import GuardSettings
from curb.detector.rules.abuse import Config as PopulationConfig
from curb.detector.rules.autoscaler import Config as AutoscalerConfig
from curb.detector.rules.failing_requests import Config as ErrorConfig
from curb.detector.rules.growing_prompts import Config as ContextConfig
from curb.detector.rules.growth import Config as GrowthConfig
from curb.detector.rules.idle_gpu import Config as IdleGpuConfig
from curb.detector.rules.jobs import Config as JobConfig
from curb.detector.rules.metric_rule import MetricWatch
from curb.detector.rules.missing_usage import Config as MissingUsageConfig
from curb.detector.rules.more_requests_per_user import Config as CreepConfig
from curb.detector.rules.new_charge import Config as NewChargeConfig
from curb.detector.rules.new_origin import Config as NewOriginConfig
from curb.detector.rules.new_principal import Config as NewPrincipalConfig
from curb.detector.rules.repetition import Config as RepetitionConfig
from curb.detector.rules.silent_feed import Config as FeedConfig
from curb.detector.rules.table import OwnRules
from curb.detector.rules.unit_cost import Config as UnitCostConfig
from curb.detector.rules.week_on_week import Config as WeekConfig
from curb.detector.scorers.kinds import Scorers, check_scorers
from curb.detector.state.scopes import DEFAULT_SCOPES, Scope
from curb.stream.settings import Settings, TimeZone


class ForecastSettings(Settings):
    """Forecasts of budgets' periods, and the slow lane."""

    history: HistorySettings = Field(default=HistorySettings(), description="Which series keep a history.")
    pool: PoolSettings = Field(default=PoolSettings(), description="The worker processes for fits.")
    lane: LaneSettings = Field(default=LaneSettings(), description="The slow lane.")


class PrincipalRules(Settings):
    """Rules on keys, users and whoever else spends."""

    new_principal: NewPrincipalConfig = Field(default=NewPrincipalConfig(), description="Keys never seen before.")
    new_origin: NewOriginConfig = Field(default=NewOriginConfig(), description="New models and regions of a key.")
    errors: ErrorConfig = Field(default=ErrorConfig(), description="Failing requests that cost.")
    context: ContextConfig = Field(default=ContextConfig(), description="Growing prompts.")
    unit_cost: UnitCostConfig = Field(default=UnitCostConfig(), description="Requests that became more expensive.")
    creep: CreepConfig = Field(default=CreepConfig(), description="Slow growth without users.")
    weeks: WeekConfig = Field(default=WeekConfig(), description="Slow growth where users are not known.")
    missing_usage: MissingUsageConfig = Field(default=MissingUsageConfig(), description="Requests that look free.")
    repetition: RepetitionConfig = Field(default=RepetitionConfig(), description="Calls that go round.")


class BillRules(Settings):
    """Rules on bills: scopes whose only source is costs."""

    new_charge: NewChargeConfig = Field(default=NewChargeConfig(), description="What was not on the bill before.")
    commitments: CommitmentConfig = Field(
        default=CommitmentConfig(), description="Savings plans and reservations that are used less, or pay for less."
    )
    waste: WasteConfig = Field(default=WasteConfig(), description="Storage, volumes, snapshots, spot: digest lines.")


class MachineRules(Settings):
    """Rules on machines: GPU nodes and the groups in which they scale."""

    idle_gpu: IdleGpuConfig = Field(default=IdleGpuConfig(), description="Machines that are on and do nothing.")
    autoscaler: AutoscalerConfig = Field(
        default=AutoscalerConfig(), description="Groups that grow beyond what they ever needed."
    )


class DetectorSettings(Settings):
    """How spend is grouped, scored and compared with budgets."""

    bucket_s: int = Field(
        default=60, ge=1, description="Seconds summed before scoring, at least 10; must divide an hour."
    )
    phase_s: int = Field(
        default=0,
        ge=0,
        description="Seconds after each multiple of `bucket_s` at which buckets begin, as where rows about hours begin "
        "at 24 minutes past; less than `bucket_s`.",
    )
    fit_buckets: bool = Field(
        default=True,
        description="Whether buckets are as long as rows, and begin where they do, where all rows are about longer "
        "periods than `bucket_s`. Processes that share a log agree on them.",
    )
    grace_s: float = Field(
        default=30, ge=0, description="Seconds after its end that a bucket waits for late records before it is scored."
    )
    max_skew_s: float = Field(
        default=900,
        ge=0,
        description="Seconds that scoring waits for an input partition that was up to date and fell silent. A "
        "partition with a backlog is waited for.",
    )
    max_delay_s: float = Field(
        default=2 * 86400,
        ge=0,
        description="Sources whose records come late are scored later by their usual delay, up to this many seconds; "
        "what comes later still is counted, not scored.",
    )
    max_age_days: float = Field(default=40, gt=0, description="Records older than this go to the dead letters.")
    max_future_s: float = Field(
        default=300, ge=0, description="Records charged later than this after receipt go to the dead letters."
    )
    time_zone: TimeZone = Field(default="UTC", description="Business time zone: days, weeks and budgets follow it.")
    warmup_s: float = Field(
        default=3 * 86400, ge=0, description="Age of a stream, in seconds, up to which no principal is called new."
    )
    scopes: tuple[Scope, ...] = Field(default=DEFAULT_SCOPES, min_length=1, description="How spend is grouped.")
    names: dict[str, str] = Field(
        default={"api_key": "key_alias"},
        description="Tag → the tag that holds its name: messages to people call its values by it. {}: by themselves.",
    )
    budgets: tuple[Budget, ...] = Field(default=(), description="Money that may be spent per period.")
    exchange_rates: tuple[ExchangeRate, ...] = Field(
        default=(), description="Dollar rates of budgets in other currencies."
    )
    dedupe: DedupeSettings = Field(default=DedupeSettings(), description="How long ids are remembered.")
    guard: GuardSettings = Field(default=GuardSettings(), description="How many series tags may make.")
    alerts: AlertSettings = Field(default=AlertSettings(), description="When alerts update and end.")
    score: ScoreSettings = Field(default=ScoreSettings(), description="How spend is scored against its own past.")
    drift: DriftSettings = Field(
        default=DriftSettings(), description="Whether the level of a series moves at once after a lasting change."
    )
    unexplained: DemandConfig = Field(
        default=DemandConfig(), description="How spend is scored against the demand for it."
    )
    fast: FastConfig = Field(default=FastConfig(), description="Runaways of a key within their first minute.")
    forecast: ForecastSettings = Field(
        default=ForecastSettings(), description="Forecasts, their history, the slow lane."
    )
    population: PopulationConfig = Field(
        default=PopulationConfig(), description="How abuse is distinguished from growth and runaways."
    )
    metrics: tuple[MetricWatch, ...] = Field(default=(), description="Metrics watched beside dollars.")
    scorers: Scorers = Field(default=(), description="Detectors beside Curb's own heads; one kind each.")
    machines: MachineRules = Field(default=MachineRules(), description="Rules on machines and those that start them.")
    bills: BillRules = Field(default=BillRules(), description="Rules on bills.")
    jobs: JobConfig = Field(default=JobConfig(), description="Recurring and planned jobs of a key.")
    feed: FeedConfig = Field(default=FeedConfig(), description="Sources that go quiet.")
    growth: GrowthConfig = Field(default=GrowthConfig(), description="Spend that climbs for four weeks.")
    principals: PrincipalRules = Field(
        default=PrincipalRules(), description="Rules on who spends: new keys, models, errors, prompts, slow growth."
    )
    rules: OwnRules = Field(default={}, description="Settings of rules that were added, by the name of the rule.")

    @property
    def buckets(self) -> tuple[int, int]:
        """Their length and their phase, seconds."""
        return self.bucket_s, self.phase_s

    @field_validator("bucket_s")
    @classmethod
    def _divides_an_hour(cls, bucket_s: int) -> int:
        if 3600 % bucket_s:
            raise ValueError(f"bucket_s must divide 3600; {bucket_s} does not")
        if bucket_s < 10:
            raise ValueError(f"bucket_s must be at least 10, not {bucket_s}")
        return bucket_s

    @model_validator(mode="after")
    def _names_fit(self) -> DetectorSettings:
        if self.phase_s >= self.bucket_s:
            raise ValueError(f"phase_s must be less than bucket_s ({self.bucket_s}), not {self.phase_s}")
        for what, names in (
            ("scope", [s.name for s in self.scopes]),
            ("budget", [b.name for b in self.budgets]),
            ("metric", [m.name for m in self.metrics]),
        ):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"{what} {', '.join(twice)} is defined twice")
        check_budgets(self.budgets, self.scopes, self.exchange_rates)
        check_scorers(self.scorers, self.scopes)
        scopes = {scope.name for scope in self.scopes}
        for watch in self.metrics:
            if watch.scope not in scopes:
                known = ", ".join(sorted(scopes))
                raise ValueError(f"metric {watch.name}: no scope {watch.scope!r}; there are {known}")
        return self
