"""Routes the calls of a LiteLLM key to cheaper models by aliases of the key, and takes the aliases back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import aiohttp
from pydantic import Field, field_validator

from curb.actions.action import ActionContext, PricePart
from curb.actions.levers.litellm_enforced import Row, may_call
from curb.actions.levers.litellm_lever import LitellmLever, ProxyConfig, made_at
from curb.actions.target import TargetRate, Verb
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan


class Config(ProxyConfig):
    """Sets `aliases` of the key an alert is about: what asks for one model is answered by a cheaper one."""

    kind: Literal["litellm_models"]
    cheaper: dict[str, str] = Field(
        min_length=1,
        description="Model → cheaper model, by the names that callers and the proxy use. The price book must know both "
        "(see prices.aliases), and the second must be cheaper.",
    )
    tag: str = Field(default="api_key", description="Tag of the alert that holds the hash of the key.")

    @field_validator("cheaper")
    @classmethod
    def _to_another(cls, cheaper: dict[str, str]) -> dict[str, str]:
        for model, to in cheaper.items():
            if not model or not to or model == to:
                raise ValueError(f"{model!r}: {to!r} must be another model")
        return cheaper

    def cheaper_models(self) -> Mapping[str, str]:
        return self.cheaper

    def build(self, context: ActionContext) -> CheaperModels:
        return CheaperModels(self, context.http, context.clock, context.price_part)


class CheaperModels(LitellmLever):
    """An action on `litellm/key/<hash>/aliases`. The fields of its plans are the aliases it sets, and no others.

    LiteLLM looks an alias up once: what asks for a model gets the model of its alias. It checks the access of the key
    for that model alone, so a key that may not call it would be refused.
    """

    #: What the admin key must be allowed to call; nothing else is called.
    permissions: ClassVar[tuple[str, ...]] = (
        "GET /key/info",
        "POST /key/update",
        "GET /v1/models",
        *("GET /team/info", "GET /v2/user/info", "GET /organization/info"),
    )

    verbs: ClassVar[frozenset[Verb]] = frozenset({"reroute"})

    def __init__(
        self, config: Config, http: aiohttp.ClientSession, clock: Clock, price_part: PricePart | None = None
    ) -> None:
        super().__init__(config, "key", http, clock, suffix="/aliases")
        self._config, self._price_part = config, price_part

    def fields(self, row: Row) -> Row:
        """The aliases of the key."""
        aliases = row.get("aliases")
        return aliases if isinstance(aliases, Mapping) else {}

    def change(self, row: Row, values: Mapping[str, Any]) -> dict[str, Any]:
        """All aliases, because the proxy replaces them together: those that were found, and `values`."""
        merged = {**self.fields(row), **values}
        return {"aliases": {name: to for name, to in merged.items() if to is not None}}

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        """Nothing without a key in the tags, for a key whose calls are refused, or that is routed so already.

        PermanentError for a key the proxy does not know, and where none of the cheaper models can be used: the proxy
        has no such model, the key may not call it, or it is not cheaper.
        """
        tag = alert.tags.get(self._config.tag, "")
        if rate.verb not in self.verbs or tag in ("", UNTAGGED, OTHER):
            return ()
        row = await self._row(tag)
        wanted = self._wanted(self.fields(row))
        above = await self._above_if_it_passes(row)
        if above is None or not wanted:
            return ()
        models, why_not = await self._models(), dict[str, None]()
        after: dict[str, Any] = {}
        parts: list[float | None] = []
        for name, (model, to) in wanted.items():
            part = None if self._price_part is None else self._price_part(to, model)
            if not any(fnmatchcase(to, listed) for listed in models):
                why_not[f"the proxy lists no model {to}"] = None
            elif not may_call(to, row, above):
                why_not[f"the key may not call {to}: name it in `models` of the key and of what is above it"] = None
            elif part is not None and part >= 1.0:
                why_not[f"{to} is not cheaper than {model} any more"] = None
            else:
                after[name] = to
                parts.append(part)
        if not after:
            raise PermanentError("; ".join(why_not))
        routes = ", ".join(f"{name} → {to}" for name, to in after.items())
        plan = Plan(
            action=self._config.name,
            target=self._target(tag),
            summary=f"route key {row.get('key_alias') or tag[:12]} to cheaper models: {routes}",
            before={name: self.fields(row).get(name) for name in after},
            after=after,
            identity=made_at(row),
            # The highest of them: no call counts for more than the least that one of them saves.
            price_part=None if None in parts else max(part for part in parts if part is not None),
        )
        return (plan,)

    def _wanted(self, aliases: Row) -> dict[str, tuple[str, str]]:
        """Name that is asked for → the model that answers it now, and the cheaper one."""
        found = {}
        for name in (*self._config.cheaper, *aliases):
            model = str(aliases.get(name, name))
            if (to := self._config.cheaper.get(model)) is not None and self._config.cheaper.get(name) != model:
                found[name] = (model, to)
        return found

    async def _models(self) -> list[str]:
        """Every model that the proxy lists; one with a `*` is a pattern."""
        answer = await self._exchange("GET", self._base / "v1/models")
        listed = answer.get("data")
        if not isinstance(listed, list):
            raise TransientError("GET /v1/models: the answer has no list `data`")
        return [str(each.get("id")) for each in listed if isinstance(each, Mapping)]
