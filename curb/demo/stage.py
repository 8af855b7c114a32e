"""The script of the demo on the clock: the looping key, start and end of the live part. Times are epoch seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from curb.demo.incident import AgentLoop
from curb.demo.trace import Trace
from curb.stream.settings import Settings


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


def set_stage(directory: Path) -> Stage:
    """Load trace and script from `directory`. Raises FileNotFoundError or ValueError."""
    import yaml

    trace = Trace.load(directory)
    script = Script.model_validate(yaml.safe_load((directory / "script.yml").read_text(encoding="utf-8")))
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
