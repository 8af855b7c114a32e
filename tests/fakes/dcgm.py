"""A dcgm-exporter: GPUs with their pods, as text; faults on demand."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web

from tests.fakes.faults import Faults

KIND = "dcgm"
BLANK = "9223372036854775794"


def line(metric: str, value: float | str, **labels: str) -> str:
    """One sample."""
    inner = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{metric}{{{inner}}} {value}\n"


@dataclass
class FakeGpu:
    """One GPU; `pods` are (namespace, pod) of those that hold it, each of which repeats its totals."""

    index: int = 0
    uuid: str = "GPU-0"
    model: str = "NVIDIA H100 80GB HBM3"
    util: float | str = 80
    memory_mib: float | str = 40960
    power_w: float | str = 500
    pods: list[tuple[str, str]] = field(default_factory=list)
    #: (GPU_I_ID, profile, busy 0 to 1, (namespace, pod) or None) of each MIG instance.
    mig: list[tuple[str, str, float, tuple[str, str] | None]] = field(default_factory=list)

    def text(self, node: str, host_label: str = "hostname") -> str:
        own = {"gpu": str(self.index), "UUID": self.uuid, "modelName": self.model, host_label: node}
        if self.mig:
            return "".join(self._instance(own, *each) for each in self.mig)
        out = ""
        for namespace, pod in self.pods or [("", "")]:
            labels = {**own, "container": "main" if pod else "", "namespace": namespace, "pod": pod}
            out += line("DCGM_FI_DEV_GPU_UTIL", self.util, **labels)
            out += line("DCGM_FI_DEV_FB_USED", self.memory_mib, **labels)
            out += line("DCGM_FI_DEV_POWER_USAGE", self.power_w, **labels)
            out += line("DCGM_FI_DEV_MEMORY_TEMP", BLANK, **labels)
        return out

    def _instance(
        self, own: dict[str, str], number: str, profile: str, busy: float, pod: tuple[str, str] | None
    ) -> str:
        namespace, name = pod or ("", "")
        labels = {**own, "GPU_I_ID": number, "GPU_I_PROFILE": profile, "namespace": namespace, "pod": name}
        return (
            line("DCGM_FI_PROF_GR_ENGINE_ACTIVE", busy, **labels)
            + line("DCGM_FI_DEV_FB_USED", 1024, **labels)
            + line("DCGM_FI_DEV_POWER_USAGE", self.power_w, **labels)
        )


class DcgmExporter:
    """Serves /metrics of one node."""

    def __init__(self, node: str, gpus: list[FakeGpu]) -> None:
        self.node, self.gpus = node, gpus
        self.faults = Faults()
        self.content_type = "text/plain; version=0.0.4; charset=utf-8"
        #: Bytes cut from the end of the text.
        self.cut = 0
        self.tokens: list[str] = []

    def text(self) -> str:
        head = "# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).\n# TYPE DCGM_FI_DEV_GPU_UTIL gauge\n"
        return head + "".join(gpu.text(self.node) for gpu in self.gpus)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        self.tokens.append(request.headers.get("Authorization", ""))
        body = self.text().encode()
        return web.Response(body=body[: len(body) - self.cut], headers={"Content-Type": self.content_type})
