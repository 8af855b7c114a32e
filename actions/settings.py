"""Configuration of the actions room: who is notified, what may be done, within which limits."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, SerializeAsAny, model_validator

from curb.actions.action import ActionConfig, RateConfig
from curb.actions.notify.protocol import NotifierConfig, NotifyConfig
from curb.actions.policy.limits import ActionLimits
from curb.actions.policy.roles import Approver
from curb.actions.policy.route import Mode, Route
from curb.actions.policy.standing import StandingPolicy
from curb.stream.settings import Settings


class ActionsSettings(Settings):
    """The `actions` part of the configuration. `actions` and `notifiers` are validated by the kind each names."""

    mode: Mode = Field(
        default="shadow",
        description="shadow records what would be done, approve asks a person first, auto does it.",
    )
    actions: tuple[SerializeAsAny[ActionConfig], ...] = Field(
        default=(), description="Configured actions, each with kind and name."
    )
    notifiers: tuple[SerializeAsAny[NotifierConfig], ...] = Field(
        default=(), description="Configured notifiers, each with kind and name."
    )
    routes: tuple[Route, ...] = Field(
        default=(),
        description="The first route that matches decides. Without routes, every notifier gets every alert.",
    )
    approvers: dict[str, Approver] = Field(
        default_factory=dict,
        description="Role → who may approve and up to how many dollars at risk; say, the owning team and finance.",
    )
    step_down_minutes: float = Field(
        default=10.0,
        ge=0,
        description="When the burn was normal for so long, the highest rung above the first is undone.",
    )
    standing: tuple[StandingPolicy, ...] = Field(
        default=(),
        description="Ceilings that stand: a limit above all that a key ever needed, renewed while Curb runs. They "
        "count in none of `limits` but never_touch, never_touch_targets and criticality.",
    )
    limits: ActionLimits = Field(default_factory=ActionLimits, description="Blast radius.")
    warmup_days: float = Field(
        default=3.0, ge=0, description="Nothing known for less is acted on, except new_principal and budget alerts."
    )
    update_minutes: float = Field(
        default=5.0, gt=0, description="A message is edited with new figures at most this often."
    )
    telling: NotifyConfig = Field(default=NotifyConfig(), description="Grouping, repeats and the digest of messages.")
    restore_on_resolve: bool = Field(
        default=False, description="Undo as soon as the alert resolves instead of at the end of the lease."
    )

    @model_validator(mode="after")
    def _names_are_known(self) -> ActionsSettings:
        actions = _names("action", self.actions)
        notifiers = _names("notifier", self.notifiers)
        for number, route in enumerate(self.routes):
            _require(f"routes[{number}].notify", route.notify, notifiers, "notifiers")
            _require(f"routes[{number}].act", route.act, actions, "actions")
            for place, rung in enumerate(route.ladder):
                here = f"routes[{number}].ladder[{place}]"
                _require(f"{here}.act", rung.act, actions, "actions")
                _require(f"{here}.approvers", rung.approvers, list(self.approvers), "approvers")
            if "approve" in route.modes(self.mode) and not self.approvers:
                raise ValueError(
                    f"routes[{number}]: mode approve, and nobody may approve; name people in `actions.approvers`"
                )
        _unique("standing policy", [policy.name for policy in self.standing])
        for number, policy in enumerate(self.standing):
            here = f"standing[{number}]"
            _require(f"{here}.act", (policy.act,), actions, "actions")
            _require(f"{here}.approvers", policy.approvers, list(self.approvers), "approvers")
            config = next(config for config in self.actions if config.name == policy.act)
            if not isinstance(config, RateConfig):
                raise ValueError(f"{here}.act: {policy.act!r} of kind {config.kind} limits no rate of requests")
            if config.subject_tag not in ("", policy.by):
                found = f"{policy.act!r} finds its subject by the tag {config.subject_tag!r}, not by {policy.by!r}"
                raise ValueError(f"{here}.by: {found}; a limit for one would bind others")
            if policy.mode_within(self.mode) == "approve" and not self.approvers:
                raise ValueError(f"{here}: mode approve, and nobody may approve; name people in `actions.approvers`")
        _require("telling.digest.notify", self.telling.digest.notify, notifiers, "notifiers")
        return self


def _names(what: str, configs: Sequence[ActionConfig | NotifierConfig]) -> list[str]:
    return _unique(what, [config.name for config in configs])


def _unique(what: str, names: list[str]) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            kinds = what.replace("policy", "policie") + "s"
            raise ValueError(f"two {kinds} are named {name!r}; give each its own name")
    return names


def _require(where: str, wanted: tuple[str, ...], known: list[str], section: str) -> None:
    for name in wanted:
        if name not in known:
            hint = f"known names: {', '.join(known)}" if known else f"the list `{section}` is empty"
            raise ValueError(f"{where}: no entry of `{section}` is named {name!r}; {hint}")
