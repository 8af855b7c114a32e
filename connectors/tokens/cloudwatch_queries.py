"""What is asked of CloudWatch: metrics by name and dimension, and the presets for Bedrock and SageMaker."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field, model_validator

from curb.stream.settings import Settings

#: Fields of a usage query, in the order in which their sums are kept.
USAGE_FIELDS = (
    "effective_cost",
    "requests",
    "errors",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
GPU_FIELDS = ("gpu_utilization",)


class KnownResource(Settings):
    """What the metrics do not say of a model, an inference profile, an endpoint or a machine."""

    match: str = Field(min_length=1, description="Value of any dimension; `*` and `?` stand for any text and letter.")
    model: str = Field(
        "", description="Model whose price holds, for an application inference profile or a custom model."
    )
    instance: str = Field("", description="Instance type, such as ml.p4d.24xlarge; prices its GPUs.")
    gpus: int = Field(0, ge=0, le=64, description="GPUs of the instance; default: what the price list says.")
    tags: dict[str, str] = Field(default={}, description="Tags, such as its team.")


class MetricQuery(Settings):
    """Metrics that become records: one for each combination of the dimensions and each period."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$", max_length=64, description="Unique name; part of the records' ids.")
    preset: Literal["", "bedrock", "sagemaker_endpoints"] = Field(
        "", description="Ready-made metrics and tags: tokens of Bedrock, or GPUs of SageMaker endpoints."
    )
    record: Literal["usage", "gpu"] = Field("usage", description="What the records are of.")
    namespace: str = Field("", max_length=255, description="Namespace of the metrics, such as AWS/Bedrock.")
    metrics: dict[str, tuple[str, ...]] = Field(
        default={},
        description="Field → metrics that are added up. usage: effective_cost, requests, errors, input_tokens, "
        "output_tokens, cache_read_input_tokens, cache_creation_input_tokens; gpu: gpu_utilization (percent).",
    )
    dimensions: dict[str, str] = Field(
        default={},
        description="Every dimension of the metrics → its value, with `*` for any: those with other dimensions count "
        "the same again and are left out.",
    )
    labels: dict[str, str] = Field(default={}, description="Tag → dimension it is taken from.")
    known: tuple[KnownResource, ...] = Field(
        default=(), description="What the metrics do not say; the first that fits counts."
    )
    tags: dict[str, str] = Field(default={}, description="Tags for every record of this query.")
    input_has_cached: bool = Field(True, description="Whether input_tokens contains the cached ones (bedrock: not).")
    sample_s: int = Field(60, ge=1, le=3600, description="gpu: seconds between two samples of one machine or GPU.")
    sample_of: Literal["instance", "gpu"] = Field("instance", description="gpu: whether a sample is of a machine.")

    @model_validator(mode="after")
    def _fields_fit(self) -> MetricQuery:
        if self.preset and (self.metrics or self.namespace):
            raise ValueError("give `preset`, or `namespace` and `metrics`, not both")
        if not self.preset and not (self.metrics and self.namespace and self.dimensions):
            raise ValueError("`namespace`, `metrics` and `dimensions` are needed, or a preset")
        fields = GPU_FIELDS if self.record == "gpu" else USAGE_FIELDS
        unknown = sorted(self.metrics.keys() - set(fields))
        if unknown:
            raise ValueError(f"metrics: {', '.join(unknown)} unknown for {self.record}; there are {', '.join(fields)}")
        strange = sorted(set(self.labels.values()) - set(self.resolved().dimensions))
        if strange:
            raise ValueError(f"labels: {', '.join(strange)} is no dimension of this query")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields in the order of their sums; of GPUs: samples, and the sum of their percents."""
        return ("samples", "gpu_utilization") if self.record == "gpu" else USAGE_FIELDS

    def resolved(self) -> MetricQuery:
        """The same with the preset filled in; what the query says itself wins."""
        if not self.preset:
            return self
        preset = PRESETS[self.preset]
        merged = {key: {**preset[key], **getattr(self, key)} for key in ("dimensions", "labels")}
        return self.model_copy(update={**preset, **merged, "preset": ""})

    def about(self, dimensions: Mapping[str, str]) -> KnownResource | None:
        """What is known of this combination."""
        values = dimensions.values()
        return next((each for each in self.known if any(fnmatchcase(value, each.match) for value in values)), None)


PRESETS: dict[str, dict[str, Any]] = {
    "bedrock": {
        "record": "usage",
        "namespace": "AWS/Bedrock",
        "metrics": {
            # Invocations are those that succeeded.
            "requests": ("Invocations", "InvocationClientErrors", "InvocationServerErrors"),
            "errors": ("InvocationClientErrors", "InvocationServerErrors"),
            "input_tokens": ("InputTokenCount",),
            "output_tokens": ("OutputTokenCount",),
            "cache_read_input_tokens": ("CacheReadInputTokens",),
            "cache_creation_input_tokens": ("CacheWriteInputTokens",),
        },
        "dimensions": {"ModelId": "*"},
        "labels": {"model": "ModelId"},
        "input_has_cached": False,
    },
    "sagemaker_endpoints": {
        "record": "gpu",
        "namespace": "/aws/sagemaker/Endpoints",
        "metrics": {"gpu_utilization": ("GPUUtilization",)},
        "dimensions": {"EndpointName": "*", "VariantName": "*"},
        "labels": {"group": "EndpointName", "node": "EndpointName", "variant": "VariantName"},
    },
}
