"""Whose usage it is, from the attributes of OpenTelemetry."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from curb.connectors.tokens.otlp import Value

#: Tag → attributes it is taken from, of the span or else of the resource; the first that is there. Names that start
#: with `metadata.` are LiteLLM's, which vouches for them.
DEFAULT_TAGS: dict[str, tuple[str, ...]] = {
    "team": (
        "metadata.user_api_key_team_alias",
        "metadata.user_api_key_team_id",
        "team",
        "team.name",
        "team.id",
        "ai.telemetry.metadata.team",
        "service.namespace",
    ),
    "project": ("project", "project.name", "service.name"),
    "env": ("deployment.environment.name", "deployment.environment"),
    "api_key": ("metadata.user_api_key_hash", "api_key.id", "user_api_key_hash"),
    "key_alias": ("metadata.user_api_key_alias",),
    "org": ("metadata.user_api_key_org_alias", "metadata.user_api_key_org_id", "organization.id"),
    "user": ("metadata.user_api_key_user_id", "enduser.id", "user.id", "user.email"),
    "agent": ("gen_ai.agent.name", "agent.name", "agent_name", "ai.telemetry.functionId"),
    "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "ai.model.provider"),
    "region": ("cloud.region",),
}

#: The Vercel AI SDK adds the kind of model to the provider: "openai.chat".
_KIND_OF_MODEL = re.compile(r"\.(?:chat|responses|completion|messages|embedding|textEmbedding|generative-ai)$")


class Reading(NamedTuple):
    """How one connector reads attributes: parts of its configuration."""

    name: str
    tags: Mapping[str, tuple[str, ...]]
    default_tags: Mapping[str, str]
    free_models: frozenset[str]
    cost_attribute: str | None = None


def text_of(found: Mapping[str, Value], names: tuple[str, ...]) -> str:
    """The first of these attributes that is there and not empty."""
    return next((str(found[name]) for name in names if found.get(name, "") != ""), "")


def tags_of(
    wanted: Mapping[str, tuple[str, ...]],
    default: Mapping[str, str],
    found: Mapping[str, Value],
    resource: Mapping[str, Value],
    models: Sequence[str],
) -> dict[str, str]:
    """Tags from the attributes of the span or point, else of its resource, else of the configuration."""
    tags = dict(default)
    for tag, names in wanted.items():
        if value := text_of(found, names) or text_of(resource, names):
            tags[tag] = _KIND_OF_MODEL.sub("", value) if tag == "provider" else value
    if models:
        tags["model"] = models[-1]
    return tags
