"""The script of the demo on the clock: the looping key, start and end of the live part. Times are epoch seconds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from curb.demo.incident import AgentLoop
from curb.demo.trace import Trace
from curb.stream.settings import Settings


class QuickScript(Settings):
    """What `curb demo --quick` changes: the script, and two settings of `curb.yaml`."""

    loop_starts_minute: float
    loop_ends_minute: float
    loop_factor: float
    history_days: float
    live_minutes: float
    lease_minutes: float
    bucket_s: int


class Script(Settings):
    """`script.yml` beside the trace: offsets in minutes from the start of the live part."""

    loop_key: str
    loop_starts_minute: float
    loop_ends_minute: float
    loop_factor: float
    #: Days of the trace that are fed as history before the live part.
    history_days: float
    live_starts_hour: float
    live_minutes: float
    rpm_limit: int
    quick: QuickScript

    def shortened(self) -> Script:
        """The script of `curb demo --quick`; the settings go to the environment that `curb.yaml` reads."""
        os.environ["CURB_DEMO_LEASE_MINUTES"] = str(self.quick.lease_minutes)
        os.environ["CURB_DEMO_BUCKET_S"] = str(self.quick.bucket_s)
        return self.model_copy(update=self.quick.model_dump(exclude={"lease_minutes", "bucket_s"}))


@dataclass(frozen=True)
class Stage:
    """A trace with its script on the clock."""

    trace: Trace
    script: Script
    history_start: float
    live_start: float
    live_end: float
    loop: AgentLoop

    @property
    def limits(self) -> dict[str, dict[str, int]]:
        """The limits the gateway has when the demo begins."""
        return {self.loop.key: {"rpm_limit": self.script.rpm_limit}}


def set_stage(directory: Path, quick: bool = False) -> Stage:
    """Load trace and script from `directory`. Raises FileNotFoundError or ValueError."""
    import yaml

    trace = Trace.load(directory)
    script = Script.model_validate(yaml.safe_load((directory / "script.yml").read_text(encoding="utf-8")))
    script = script.shortened() if quick else script
    live_start = trace.start + script.history_days * 86400 + script.live_starts_hour * 3600
    live_end = live_start + script.live_minutes * 60
    if live_end > trace.end:
        raise ValueError(f"the trace ends {live_end - trace.end:.0f} s before the demo does")
    loop = AgentLoop(
        script.loop_key,
        live_start + script.loop_starts_minute * 60,
        live_start + script.loop_ends_minute * 60,
        script.loop_factor,
    )
    return Stage(trace, script, trace.start, live_start, live_end, loop)
