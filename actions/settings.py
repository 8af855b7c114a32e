"""Configuration of the actions room: who is told, what may be done, within which limits."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from stream.records import AlertKind, Tier
from stream.settings import Settings

Mode = Literal["shadow", "auto"]
#: Tag → shell-style glob; all of them must match, and a tag the alert does not carry matches nothing.
TagMatcher = dict[str, str]


class Match(Settings):
    """Which alerts a route is for. What is left out matches everything."""

    kind: tuple[AlertKind, ...] = Field(default=(), description="Alert kinds.")
    tier: tuple[Tier, ...] = Field(default=(), description="Alert tiers.")
    scope: str | None = Field(default=None, description="Scope the alert was found in.")
    tags: TagMatcher = Field(default_factory=dict, description="Tag → glob; all must match.")


class Route(Settings):
    """What happens to the alerts it matches."""

    match: Match = Field(default_factory=Match, description="Which alerts; empty matches all.")
    notify: tuple[str, ...] = Field(default=(), description="Names of notifiers that are told.")
    act: tuple[str, ...] = Field(default=(), description="Names of actions that are planned.")
    mode: Literal["inherit", "shadow", "auto"] = Field(
        default="inherit", description="shadow only records what it would do; inherit takes the mode above."
    )
    lease_minutes: float = Field(default=60.0, gt=0, le=7 * 1440, description="After this long the action is undone.")
    continue_: bool = Field(default=False, alias="continue", description="Go on to the next routes after this one.")


class Limits(Settings):
    """How much Curb may do by itself before it leaves the rest to people."""

    max_open_actions: int = Field(default=5, ge=0, description="Actions in force at one time.")
    max_actions_per_hour: int = Field(default=10, ge=0, description="Actions begun within one hour.")
    never_touch: tuple[TagMatcher, ...] = Field(
        default=(), description="Tag matchers; alerts that match one of them are told but never acted on."
    )
    verify_within_minutes: float = Field(
        default=15.0, gt=0, description="The burn must have fallen by then, else the action is called ineffective."
    )
    max_alert_age_minutes: float = Field(
        default=120.0, gt=0, description="Alerts that nothing was heard of for longer are not acted on."
    )
    cool_down_minutes: float = Field(
        default=5.0, ge=0, description="Rest after a lease ended before the same alert may be acted on again."
    )


class ActionsSettings(Settings):
    """The `actions` part of the configuration. `actions` and `notifiers` are validated by the kind each names."""

    mode: Mode = Field(default="shadow", description="shadow records what would be done; auto does it.")
    actions: tuple[Any, ...] = Field(default=(), description="Configured actions, each with kind and name.")
    notifiers: tuple[Any, ...] = Field(default=(), description="Configured notifiers, each with kind and name.")
    routes: tuple[Route, ...] = Field(
        default=(),
        description="The first route that matches decides. With no routes, every notifier is told and nothing is done.",
    )
    limits: Limits = Field(default_factory=Limits, description="Blast radius.")
    warmup_days: float = Field(
        default=3.0, ge=0, description="Nothing known for less is acted on, except new_principal and budget alerts."
    )
    update_minutes: float = Field(
        default=5.0, gt=0, description="A message is edited with new figures at most this often."
    )
    restore_on_resolve: bool = Field(
        default=False, description="Undo as soon as the alert resolves instead of at the end of the lease."
    )

    @model_validator(mode="after")
    def _names_are_known(self) -> ActionsSettings:
        actions = _names("action", self.actions)
        notifiers = _names("notifier", self.notifiers)
        for number, route in enumerate(self.routes):
            _require(f"routes[{number}].act", route.act, actions, "actions")
            _require(f"routes[{number}].notify", route.notify, notifiers, "notifiers")
        return self


def name_of(config: Any) -> str:
    """The name of a configured action or notifier, whether its kind has validated it already or not."""
    return str(config.get("name", "") if isinstance(config, dict) else getattr(config, "name", ""))


def _names(what: str, configs: tuple[Any, ...]) -> list[str]:
    names = [name_of(config) for config in configs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {what}s are named {name!r}; give each its own name")
    return names


def _require(where: str, wanted: tuple[str, ...], known: list[str], section: str) -> None:
    for name in wanted:
        if name not in known:
            hint = f"known names: {', '.join(known)}" if known else f"the list `{section}` is empty"
            raise ValueError(f"{where}: no entry of `{section}` is named {name!r}; {hint}")
