"""Custom resource definitions of real operators, from their Go modules: the API server then judges by their schemas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from tests.real.cache import say
from tests.real.programs import AwayError, go_files


class Operator(NamedTuple):
    """Where its definitions lie."""

    module: str
    version: str
    files: tuple[str, ...]


_KUEUE = tuple(
    f"config/components/crd/bases/kueue.x-k8s.io_{kind}.yaml" for kind in ("workloads", "localqueues", "clusterqueues")
)
_KEDA = tuple(f"config/crd/bases/keda.sh_{kind}.yaml" for kind in ("scaledobjects", "scaledjobs"))
#: Argo Workflows is not among what a Go proxy serves.
OPERATORS = {
    "Kueue": Operator("sigs.k8s.io/kueue", "v0.17.0", _KUEUE),
    "KubeRay": Operator(
        "github.com/ray-project/kuberay/ray-operator", "v1.5.0", ("config/crd/bases/ray.io_rayjobs.yaml",)
    ),
    "Kubeflow training operator": Operator(
        "github.com/kubeflow/training-operator", "v1.8.1", ("manifests/base/crds/kubeflow.org_pytorchjobs.yaml",)
    ),
    "KEDA": Operator("github.com/kedacore/keda/v2", "v2.21.0", _KEDA),
}
#: Annotation of a definition that tests brought and may change.
OURS = "curb.dev/test"
PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def install(post: Callable[[str, Any], Any]) -> None:
    """All that can be downloaded; tests of the others are skipped."""
    for name, operator in OPERATORS.items():
        try:
            sources = go_files(operator.module, operator.version)
        except AwayError as error:
            say("kubernetes", f"without the definitions of {name}: {error}")
            continue
        for file in operator.files:
            body = yaml.safe_load((sources / file).read_text(encoding="utf-8"))
            body["metadata"].setdefault("annotations", {})[OURS] = f"{name} {operator.version}"
            post(PATH, body)
