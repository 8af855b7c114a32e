"""Throttles a usage plan or a stage of Amazon API Gateway (REST APIs), or disables a key, and gives it all back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from curb.actions.action import ActionContext, DriftError, Effect, Outcome, RateConfig
from curb.actions.calls.compare_and_swap import Swap, another, arrows, is_another, swap
from curb.actions.target import TargetRate, Verb
from curb.stream.clients.aws import AwsClient, AwsRefusal, AwsSettings
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan
from curb.stream.settings import Settings

#: What stands for the -1 of a stage that is not throttled: not a number, so that nobody takes it for a low limit.
UNLIMITED = "unlimited"
ENABLED = "/enabled"
_PLAN, _STAGE = "/throttle", "/*/*"
#: Minutes of each quota period, a month as 30 days. By definition.
_MINUTES = {"DAY": 1440, "WEEK": 7 * 1440, "MONTH": 30 * 1440}
#: Settings of a stage's methods beside the throttle, as they are when nobody has set them.
_UNSET: dict[str, Any] = {"metricsEnabled": False, "dataTraceEnabled": False, "cachingEnabled": False}


def plan_fields(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Throttles of a usage plan (None where there is none), those of its methods, and its quota."""
    throttle = answer.get("throttle") or {"rateLimit": None, "burstLimit": None}
    fields = {f"{_PLAN}/{name}": throttle[name] for name in ("rateLimit", "burstLimit") if name in throttle}
    for stage in answer.get("apiStages", ()):
        for method, own in (stage.get("throttle") or {}).items():
            path = f"/apiStages/{stage['apiId']}:{stage['stage']}/throttle/{method}"
            fields |= {f"{path}/{name}": value for name, value in own.items()}
    if answer.get("quota"):
        fields["/quota/limit"] = answer["quota"].get("limit")
    return fields


def stage_fields(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Throttles of a stage and of those methods that have their own."""
    settings = {"*/*": {}} | (answer.get("methodSettings") or {})
    fields = {}
    for method, own in settings.items():
        for name, key in (("rateLimit", "throttlingRateLimit"), ("burstLimit", "throttlingBurstLimit")):
            value = own.get(key)
            fields[f"/{method}/throttling/{name}"] = UNLIMITED if value is not None and value < 0 else value
    return fields


def key_fields(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {ENABLED: bool(answer.get("enabled"))}


def rates(found: Mapping[str, Any], rpm: int, burst_s: float) -> dict[str, float]:
    """What every throttle that was found would be at `rpm`. API Gateway counts per second."""
    rate = math.ceil(rpm / 60 * 10_000) / 10_000
    burst = math.ceil(rpm / 60 * burst_s)
    wanted: dict[str, float] = {}
    for field in found:
        name = field.rpartition("/")[2]
        if name == "rateLimit":
            wanted[field] = rate
        elif name == "burstLimit":
            wanted[field] = burst
    return wanted


def quota_rate(answer: Mapping[str, Any], rpm: int) -> dict[str, int]:
    """The quota that `rpm` comes to in its period, for a usage plan that has one."""
    minutes = _MINUTES.get((answer.get("quota") or {}).get("period", ""))
    return {"/quota/limit": rpm * minutes} if minutes else {}


def tighter(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted values that are lower than what was found."""
    return {
        name: value
        for name, value in wanted.items()
        if found.get(name) is None or found[name] == UNLIMITED or found[name] > value
    }


def patch(values: Mapping[str, Any], answer: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
    """The operations that set `values`. None removes what did not exist before; `answer` is what is there now."""
    operations, removed = [], set()
    for field, value in values.items():
        if value is not None:
            operations.append({"op": "replace", "path": field, "value": _said(value)})
        elif field.startswith(_PLAN):
            removed.add(_PLAN)
        elif _holds_more((answer or {}).get("methodSettings", {}).get("*/*", {})):
            operations.append({"op": "replace", "path": field, "value": "-1"})
        else:
            removed.add(_STAGE)
    return operations + [{"op": "remove", "path": path} for path in sorted(removed)]


def together(swapped: Swap) -> Swap:
    """What did not exist before can only be removed as a whole: where a part of it drifted, all of it did."""
    touched = {field.rpartition("/")[0] for field in swapped.drifted}
    kept = {name for name, value in swapped.back.items() if value is None and name.rpartition("/")[0] in touched}
    back = {name: value for name, value in swapped.back.items() if name not in kept}
    return Swap(swapped.after, back, swapped.drifted | {name: swapped.after[name] for name in kept})


def _holds_more(settings: Mapping[str, Any]) -> bool:
    """Whether somebody has set more than the throttle, which removing the whole entry would take away."""
    level = settings.get("loggingLevel", "OFF")
    return level != "OFF" or any(settings.get(name, unset) != unset for name, unset in _UNSET.items())


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value == UNLIMITED:
        return "-1"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


#: Pages of 500 usage plans or keys. By hand: no account has more, and an endless listing ends.
_MAX_PAGES = 20
_QUOTA_COUNTS = "Calls already made in the running period count against the quota."


class StageSettings(Settings):
    """One stage of one REST API."""

    rest_api_id: str = Field(pattern=r"^[a-z0-9]+$", description="Id of the REST API.")
    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="Name of the stage.")


class Config(RateConfig):
    """Sets throttles of the usage plans of a key, or of a whole stage."""

    kind: Literal["aws_api_gateway"]
    aws: AwsSettings = Field(default=AwsSettings(), description="Which account is asked, and as whom.")
    tag: str = Field(default="api_key", description="Tag of the alert that says which key, by its id in API Gateway.")
    usage_plans: dict[str, str] = Field(
        default={}, description="Value of the tag → id of a usage plan, where the tag holds no key's id."
    )
    stage: StageSettings | None = Field(
        default=None, description="Throttle this whole stage instead, whatever the tags of the alert."
    )
    max_keys: int = Field(
        default=1, ge=1, description="A usage plan that more keys share is left alone: all of them would be throttled."
    )
    burst_s: float = Field(
        default=60.0, gt=0, le=600, description="The burst is what the rate lets through in so many seconds."
    )
    quota: bool = Field(
        default=False, description="Lower the quota of the usage plan as well, to what the rate comes to in its period."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer.")

    @model_validator(mode="after")
    def _one_of_them(self) -> Config:
        if self.stage and self.usage_plans:
            raise ValueError("give either stage or usage_plans")
        return self

    def build(self, context: ActionContext) -> ApiGateway:
        return ApiGateway(self, context.clock)


class ApiGateway:
    """An action on `apigateway/usageplans/<id>`, `apigateway/stages/<api>/<stage>` or `apigateway/apikeys/<id>`.

    Fields are the paths of API Gateway's own patch operations.
    """

    permissions: ClassVar[tuple[str, ...]] = ("apigateway:GET", "apigateway:PATCH")

    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "block"})

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._client = AwsClient("apigateway", config.aws, clock, config.timeout_s)

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        """A plan for each usage plan of the key (to block: for each key), or one for the stage.

        PermanentError for a key no usage plan has, or a usage plan that too many keys share.
        """
        stage, value = self._config.stage, alert.tags.get(self._config.tag, "")
        if stage:
            targets = [f"apigateway/stages/{stage.rest_api_id}/{stage.name}"]
        elif value in ("", UNTAGGED, OTHER) or (self._config.usage_plans and value not in self._config.usage_plans):
            return ()
        elif rate.verb == "block":
            targets = [f"apigateway/apikeys/{key}" for key in await self._keys_of(value)]
        else:
            targets = [f"apigateway/usageplans/{plan}" for plan in await self._usage_plans_of(value)]
        plans = [await self._plan(target, rate) for target in targets]
        return [plan for plan in plans if plan is not None]

    async def apply(self, plan: Plan) -> Outcome:
        if plan.identity:
            _, answer = await self._read(plan.target)
            if is_another(plan, _made_at(answer)):
                raise PermanentError(str(another(plan)))
        await self._update(plan.target, patch(plan.after))
        return Outcome(values=dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        found, answer = await self._read(plan.target)
        if is_another(plan, _made_at(answer)):
            return Effect(in_force=False, values={}, detail=str(another(plan)))
        values = {name: found.get(name) for name in plan.after}
        return Effect(in_force=values == plan.after, values=values)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        try:
            found, answer = await self._read(plan.target)
        except AwsRefusal as error:
            if error.code != "NotFoundException":
                raise
            raise DriftError(f"{plan.target} no longer exists", found={}) from error
        if is_another(plan, _made_at(answer)):
            raise another(plan)
        swapped = together(swap(plan, found))
        if swapped.back:
            await self._update(plan.target, patch(swapped.back, answer))
        swapped.raise_drift()

    async def close(self) -> None:
        self._client.close()

    async def _plan(self, target: str, rate: TargetRate) -> Plan | None:
        found, answer = await self._read(target)
        rpm = 0 if rate.verb == "block" else self._config.rpm_for(rate)
        wanted: dict[str, Any]
        if ENABLED in found:
            wanted = {ENABLED: False}
        else:
            wanted = rates(found, rpm, self._config.burst_s)
            if self._config.quota:
                wanted |= quota_rate(answer, rpm)
        after = tighter(found, wanted)
        if not after:
            return None
        before = {name: found.get(name) for name in after}
        return Plan(
            action=self._config.name,
            target=target,
            summary=f"{rate.verb} {answer.get('name') or target.removeprefix('apigateway/')}: {arrows(before, after)}",
            before=before,
            after=after,
            warning=_QUOTA_COUNTS if "/quota/limit" in after else "",
            identity=_made_at(answer),
        )

    async def _usage_plans_of(self, value: str) -> list[str]:
        """Ids of the usage plans of a subject, each shared by few enough keys."""
        if self._config.usage_plans:
            found = [self._config.usage_plans[value]]
        else:
            found = [each["id"] for each in await self._all("get_usage_plans", keyId=value)]
        if not found:
            raise PermanentError(f"no usage plan has the key {value}")
        for plan in found:
            await self._check_shared(plan)
        return found

    async def _keys_of(self, value: str) -> list[str]:
        if not self._config.usage_plans:
            return [value]
        return await self._check_shared(self._config.usage_plans[value])

    async def _check_shared(self, plan: str) -> list[str]:
        keys = [each["id"] for each in await self._all("get_usage_plan_keys", usagePlanId=plan)]
        if len(keys) > self._config.max_keys:
            raise PermanentError(
                f"the usage plan {plan} has {len(keys)} keys and all would be throttled: "
                "give the subject a usage plan of its own, or raise max_keys"
            )
        return keys

    async def _read(self, target: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of a target, and all that was answered."""
        what, _, rest = target.removeprefix("apigateway/").partition("/")
        if what == "usageplans":
            answer = await self._call("get_usage_plan", usagePlanId=rest)
            return plan_fields(answer), answer
        if what == "apikeys":
            answer = await self._call("get_api_key", apiKey=rest, includeValue=False)
            return key_fields(answer), answer
        api, _, stage = rest.partition("/")
        answer = await self._call("get_stage", restApiId=api, stageName=stage)
        return stage_fields(answer), answer

    async def _update(self, target: str, operations: list[dict[str, str]]) -> None:
        what, _, rest = target.removeprefix("apigateway/").partition("/")
        if what == "usageplans":
            await self._call("update_usage_plan", usagePlanId=rest, patchOperations=operations)
        elif what == "apikeys":
            await self._call("update_api_key", apiKey=rest, patchOperations=operations)
        else:
            api, _, stage = rest.partition("/")
            await self._call("update_stage", restApiId=api, stageName=stage, patchOperations=operations)

    async def _all(self, operation: str, **parameters: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        for _ in range(_MAX_PAGES):
            answer = await self._call(operation, limit=500, **parameters)
            items += answer.get("items", [])
            if not answer.get("position"):
                return items
            parameters["position"] = answer["position"]
        raise PermanentError(f"apigateway {operation}: more than {_MAX_PAGES} pages")

    async def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self._client.call, operation, **parameters)


def _made_at(answer: dict[str, Any]) -> str:
    """When a stage or key was made: a stage that is deleted and made again has the same name. Usage plans have none."""
    made = answer.get("createdDate")
    return made.isoformat() if isinstance(made, datetime) else ""
