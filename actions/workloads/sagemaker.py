"""Takes SageMaker endpoints down to few instances, and stops training and tuning jobs, which cannot be resumed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from curb.actions.action import ActionContext
from curb.actions.target import TargetRate, Verb
from curb.actions.workloads.aws_workload import AwsCalls, AwsWorkloadConfig, Tags, tagged, tags_of
from curb.actions.workloads.protocol import Found, Seen, WorkloadAction, wanted_tags
from curb.stream.clients.aws import AwsRefusal
from curb.stream.clock import Clock
from curb.stream.errors import TransientError
from curb.stream.records.spend import Alert, Plan

_PREFIX = "sagemaker/"
#: Seconds until an endpoint that is being updated is read again. By hand: an update takes minutes.
_UPDATING_S = 30.0
_RUNS = "InProgress"
ENDPOINT, TRAINING, TUNING = "endpoint", "training-job", "hyper-parameter-tuning-job"
_TYPES = {"endpoints": ENDPOINT, "training_jobs": TRAINING, "tuning_jobs": TUNING}


class Config(AwsWorkloadConfig):
    """Endpoints keep at least `min_instances` per variant; jobs are stopped only when they are listed."""

    kind: Literal["sagemaker"]
    objects: tuple[Literal["endpoints", "training_jobs", "tuning_jobs"], ...] = Field(
        default=("endpoints",),
        min_length=1,
        description="The kinds of work that may be stopped. A stopped job cannot be restored: that needs an approval.",
    )
    min_instances: int = Field(default=1, ge=1, description="Instances that each variant of an endpoint keeps.")
    tagging_endpoint_url: str = Field(default="", description="Another address of the tagging API.")

    def build(self, context: ActionContext) -> Sagemaker:
        return Sagemaker(self, context.clock)


class Sagemaker(WorkloadAction):
    """An action on `sagemaker/<ARN>`."""

    permissions: ClassVar[tuple[str, ...]] = (
        "tag:GetResources",
        "sagemaker:ListTags",
        "sagemaker:ListEndpoints",
        "sagemaker:DescribeEndpoint",
        "sagemaker:UpdateEndpointWeightsAndCapacities",
        "sagemaker:ListTrainingJobs",
        "sagemaker:DescribeTrainingJob",
        "sagemaker:StopTrainingJob",
        "sagemaker:ListHyperParameterTuningJobs",
        "sagemaker:DescribeHyperParameterTuningJob",
        "sagemaker:StopHyperParameterTuningJob",
    )
    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "pause"})

    def __init__(self, config: Config, clock: Clock) -> None:
        super().__init__(config.name, config.at_most)
        self._config = config
        self._sagemaker = AwsCalls("sagemaker", config, clock)
        endpoint = config.tagging_endpoint_url
        self._tagging = AwsCalls("resourcegroupstaggingapi", config, clock, endpoint_url=endpoint)

    async def find(self, alert: Alert, rate: TargetRate) -> list[Found] | None:
        wanted = wanted_tags(self._config.tags, alert)
        types = [_TYPES[each] for each in self._config.objects if each == "endpoints" or rate.verb == "pause"]
        if wanted is None or not types:
            return None
        mine = await tagged(self._tagging, wanted, [f"sagemaker:{each}" for each in types])
        running = {arn for each in types for arn in await self._running(each)}
        found: list[Found] = []
        able = 0
        for arn, tags in sorted(mine.items()):
            if able < self._at_most:  # to look closely at all of many takes too long
                look = self._endpoint(arn, tags) if type_of(arn) == ENDPOINT else self._job(arn, tags, arn in running)
                each = await look
                found += [each._replace(population=len(running))] if each is not None else []
                able += each is not None and bool(each.after) and not each.refusal
        return found

    async def _running(self, type_: str) -> list[str]:
        """ARNs of what runs in the account and region, whoever it belongs to."""
        operation, result, arn, state = {
            ENDPOINT: ("list_endpoints", "Endpoints", "EndpointArn", "InService"),
            TRAINING: ("list_training_jobs", "TrainingJobSummaries", "TrainingJobArn", _RUNS),
            TUNING: (
                "list_hyper_parameter_tuning_jobs",
                "HyperParameterTuningJobSummaries",
                "HyperParameterTuningJobArn",
                _RUNS,
            ),
        }[type_]
        found = await self._sagemaker.pages(operation, result, StatusEquals=state, MaxResults=100)
        return [str(each[arn]) for each in found]

    async def _endpoint(self, arn: str, tags: Tags) -> Found | None:
        least, title = self._config.min_instances, f"endpoint {name_of(arn)}"
        if refusal := self._config.mark_refusal(tags):
            return Found(f"{_PREFIX}{arn}", title, {"instances": None}, {"instances": least}, refusal)
        described = await self._described(arn)
        if described is None:
            return None
        above = {variant: count for variant, count in _instances(described).items() if count > least}
        if any("ManagedInstanceScaling" in each for each in described.get("ProductionVariants", ())):
            refusal = "SageMaker scales it by itself"
        elif described["EndpointStatus"] != "InService":
            refusal = f"it is {described['EndpointStatus']}"
        made = _made_at(described)
        return Found(f"{_PREFIX}{arn}", title, above, dict.fromkeys(above, least), refusal, identity=made)

    async def _job(self, arn: str, tags: Tags, runs: bool) -> Found | None:
        """Of a job that has ended nothing is asked: there may be very many."""
        refusal, warning = self._config.mark_refusal(tags), ""
        if runs and not refusal:
            described = await self._described(arn)
            if described is None:
                return None
            warning = _lost(described, type_of(arn))
            refusal = "its tuning job would start another in its place" if described.get("TuningJobArn") else ""
        return Found(
            f"{_PREFIX}{arn}",
            f"{type_of(arn).replace('-job', ' job')} {name_of(arn)}",
            {"running": True} if runs else {},
            {"running": False} if runs else {},
            refusal=refusal,
            reversible=False,
            warning=warning,
        )

    async def read(self, plan: Plan) -> Seen | None:
        arn = plan.target.removeprefix(_PREFIX)
        described = await self._described(arn)
        if described is None:
            return None
        tags = tags_of(await self._sagemaker.pages("list_tags", "Tags", ResourceArn=arn, MaxResults=100))
        marked = self._config.is_marked(tags)
        if type_of(arn) == ENDPOINT:
            counts = _instances(described)
            values, status = {field: counts.get(field) for field in plan.after}, described["EndpointStatus"]
            return Seen(values, marked, status, _made_at(described), self._config.is_critical(tags))
        status = described.get("TrainingJobStatus") or described.get("HyperParameterTuningJobStatus")
        return Seen({"running": status == _RUNS}, marked)

    async def write(self, plan: Plan, values: dict[str, Any], seen: Seen) -> None:
        arn = plan.target.removeprefix(_PREFIX)
        if type_of(arn) == TRAINING:
            await self._sagemaker.call("stop_training_job", TrainingJobName=name_of(arn))
        elif type_of(arn) == TUNING:
            await self._sagemaker.call("stop_hyper_parameter_tuning_job", HyperParameterTuningJobName=name_of(arn))
        elif seen.version != "InService":
            raise TransientError(f"the endpoint {name_of(arn)} is {seen.version}", _UPDATING_S)
        else:
            counts = [{"VariantName": each, "DesiredInstanceCount": count} for each, count in sorted(values.items())]
            await self._sagemaker.call(
                "update_endpoint_weights_and_capacities", EndpointName=name_of(arn), DesiredWeightsAndCapacities=counts
            )

    async def close(self) -> None:
        await self._sagemaker.close()
        await self._tagging.close()

    async def _described(self, arn: str) -> dict[str, Any] | None:
        """What SageMaker says of it, or None when it is gone."""
        operation, key = {
            ENDPOINT: ("describe_endpoint", "EndpointName"),
            TRAINING: ("describe_training_job", "TrainingJobName"),
            TUNING: ("describe_hyper_parameter_tuning_job", "HyperParameterTuningJobName"),
        }[type_of(arn)]
        try:
            return await self._sagemaker.call(operation, **{key: name_of(arn)})
        except AwsRefusal as refusal:
            # SageMaker has a word for it only for some of them; of the others the message says it.
            if refusal.code == "ResourceNotFound" or "could not find" in str(refusal).lower():
                return None
            raise


def type_of(arn: str) -> str:
    """`endpoint`, `training-job` or `hyper-parameter-tuning-job`."""
    return arn.split(":", 5)[5].split("/", maxsplit=1)[0]


def name_of(arn: str) -> str:
    return arn.rpartition("/")[2]


def _made_at(described: dict[str, Any]) -> str:
    """When it was made: an endpoint that is deleted and made again has the same ARN."""
    made = described.get("CreationTime")
    return made.isoformat() if isinstance(made, datetime) else str(made or "")


def _instances(described: dict[str, Any]) -> dict[str, int]:
    """Variant → instances wanted; a serverless variant has none."""
    return {
        str(each["VariantName"]): int(each["DesiredInstanceCount"])
        for each in described.get("ProductionVariants", ())
        if each.get("DesiredInstanceCount")
    }


def _lost(described: dict[str, Any], type_: str) -> str:
    """What stopping a job costs, from whether it keeps checkpoints."""
    definitions = [described] if type_ == TRAINING else described.get("TrainingJobDefinitions") or []
    definitions = definitions or [described.get("TrainingJobDefinition", {})]
    places = [each.get("CheckpointConfig", {}).get("S3Uri", "") for each in definitions]
    what = "A stopped training job" if type_ == TRAINING else "A stopped tuning job"
    if all(places):
        return (
            f"{what} cannot be resumed. It keeps checkpoints in {', '.join(sorted(set(places)))}: a new job with the "
            "same CheckpointConfig goes on from the last one, what came after that is lost."
        )
    return f"{what} cannot be resumed, and it keeps no checkpoints (no CheckpointConfig): all it did so far is lost."
