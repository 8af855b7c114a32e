"""Whose usage it is, from the attributes of OpenTelemetry."""

from __future__ import annotations

from collections.abc import Mapping

from curb.connectors.tokens.otlp import Value

#: Tag → attributes it is taken from, of the span or else of the resource; the first that is there.
DEFAULT_TAGS: dict[str, tuple[str, ...]] = {
    "team": ("team", "team.name", "service.namespace"),
    "project": ("project", "project.name", "service.name"),
    "env": ("deployment.environment.name", "deployment.environment"),
    "api_key": ("api_key.id", "user_api_key_hash"),
    "user": ("enduser.id", "user.id"),
    "agent": ("gen_ai.agent.name",),
    "provider": ("gen_ai.provider.name", "gen_ai.system"),
    "region": ("cloud.region",),
}
MODELS = ("gen_ai.response.model", "gen_ai.request.model")


def models_of(found: Mapping[str, Value]) -> list[str]:
    """The model that answered and the model that was asked for, as far as they are reported."""
    return [model for name in MODELS if isinstance(model := found.get(name), str) and model]


def tags_of(
    wanted: Mapping[str, tuple[str, ...]],
    default: Mapping[str, str],
    found: Mapping[str, Value],
    resource: Mapping[str, Value],
    models: list[str],
) -> dict[str, str]:
    """Tags from the attributes of the span or point, else of its resource, else of the configuration."""
    tags = dict(default)
    for tag, names in wanted.items():
        value = next((found[name] for name in names if name in found), None)
        if value is None:
            value = next((resource[name] for name in names if name in resource), None)
        if value is not None and value != "":
            tags[tag] = str(value)
    if models:
        tags["model"] = models[-1]
    return tags
