"""The table of rules, in the order in which they are asked: demand first, others build on what it sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from curb.detector.heads.demand import UnexplainedHead
from curb.detector.heads.past_findings import PastRule
from curb.detector.rules.abuse import Abuse
from curb.detector.rules.after_soft_cap import AfterSoftCap
from curb.detector.rules.autoscaler import Autoscaler
from curb.detector.rules.caps import DayOneCaps
from curb.detector.rules.failing_requests import ErrorRate
from curb.detector.rules.growing_prompts import GrowingPrompts
from curb.detector.rules.growth import GrowthRule
from curb.detector.rules.idle_gpu import IdleGpu
from curb.detector.rules.jobs import Jobs
from curb.detector.rules.missing_usage import MissingUsage
from curb.detector.rules.more_requests_per_user import Creep
from curb.detector.rules.new_charge import NewCharge
from curb.detector.rules.new_origin import NewOrigins
from curb.detector.rules.new_principal import NewPrincipal
from curb.detector.rules.repetition import Repetition
from curb.detector.rules.silent_feed import SilentFeed
from curb.detector.rules.unit_cost import UnitCostRule
from curb.detector.rules.week_on_week import Weeks
from curb.detector.state.rule import Families, Rule, RuleConfig, RuleContext
from curb.stream.settings import Settings

#: A new rule is one file and one line here. What a rule sets on the view, later ones may read.
RULES: tuple[type[Rule], ...] = (
    UnexplainedHead,
    NewPrincipal,
    NewCharge,
    NewOrigins,
    ErrorRate,
    GrowingPrompts,
    UnitCostRule,
    Creep,
    Weeks,
    IdleGpu,
    Autoscaler,
    Jobs,
    GrowthRule,
    SilentFeed,
    MissingUsage,
    DayOneCaps,
    AfterSoftCap,
    Repetition,
    Abuse,
    PastRule,
)


class DetectorPart(Protocol):
    """The detector's settings, as far as the table needs them: each rule says itself where its own stand."""

    @property
    def rules(self) -> Mapping[str, Settings]: ...


def path_of(rule: type[Rule]) -> str:
    """Where the settings of a rule stand, below `detector`."""
    return rule.settings_at or f"rules.{rule.name}"


def make(settings: DetectorPart, context: RuleContext) -> list[Rule]:
    """The rules of the table that are on in the detector's settings."""
    made = []
    for rule in RULES:
        config = _config(rule, settings)
        if not isinstance(config, RuleConfig) or config.enabled:
            made.append(rule(config, context))
    return made


def families(*others: Rule) -> Families:
    """Those of the table, whether on or off, and of other rules."""
    declared = [rule.families for rule in RULES] + [rule.families for rule in others]
    return Families([family for some in declared for family in some])


def settings_path(family: str) -> str | None:
    """The path, below `detector`, of the settings of the rule that finds a family; None where no rule does."""
    return next((path_of(rule) for rule in RULES if family in {each.name for each in rule.families}), None)


def _config(rule: type[Rule], settings: DetectorPart) -> Settings:
    if not rule.settings_at:
        return settings.rules.get(rule.name, rule.config())
    found: Any = settings
    for part in rule.settings_at.split("."):
        found = getattr(found, part)
    config: Settings = found
    return config


def own_rules() -> dict[str, type[Settings]]:
    """The settings of each rule that is set in `detector.rules`, by the name of the rule."""
    return {rule.name: rule.config for rule in RULES if not rule.settings_at}


def _of_own_rules(given: Any) -> Any:
    """Each mapping as the settings of its rule. Raises ValueError for a rule that is not in the table."""
    own = own_rules()
    if not isinstance(given, dict):
        raise ValueError("must be a mapping of rules to their settings")
    for name in given:
        if name not in own:
            raise ValueError(f"no rule {name!r} is set here; there are: {', '.join(sorted(own)) or 'none'}")
    return {name: _validated(own[name], name, each) for name, each in given.items()}


def _validated(config: type[Settings], name: str, given: Any) -> Settings:
    try:
        return given if isinstance(given, Settings) else config.model_validate(given)
    except ValidationError as error:
        lines = (f"{'.'.join([name, *map(str, each['loc'])])}: {each['msg']}" for each in error.errors())
        raise ValueError("; ".join(lines)) from None


#: The type of `detector.rules`: settings of rules that have no place of their own, by the name of the rule.
OwnRules = Annotated[dict[str, SerializeAsAny[Settings]], BeforeValidator(_of_own_rules)]
