"""The topics of the log: names, many partitions or one, and which keep only the latest value per key."""

from __future__ import annotations

from dataclasses import dataclass

USAGE = "curb.usage"
COSTS = "curb.costs"
GPU = "curb.gpu"
SPEND = "curb.spend"
ALERTS = "curb.alerts"
ACTIONS = "curb.actions"
COMMANDS = "curb.commands"
CURSORS = "curb.cursors"
STATE = "curb.state"
DEAD_LETTER = "curb.dead_letter"
RECONCILED = "curb.reconciled"
PEAKS = "curb.peaks"
NAMES = "curb.names"
GRID = "curb.grid"


@dataclass(frozen=True)
class TopicSpec:
    """How a topic is created. `many` topics get the configured number of partitions, the others exactly one."""

    many: bool = False
    compacted: bool = False


TOPICS: dict[str, TopicSpec] = {
    USAGE: TopicSpec(many=True),
    COSTS: TopicSpec(many=True),
    GPU: TopicSpec(many=True),
    SPEND: TopicSpec(many=True),
    # One partition: the group coordinator elects the single active planner and executor, a standby takes over.
    ALERTS: TopicSpec(),
    ACTIONS: TopicSpec(),
    COMMANDS: TopicSpec(),
    CURSORS: TopicSpec(compacted=True),
    STATE: TopicSpec(compacted=True),
    DEAD_LETTER: TopicSpec(),
    # Keys: a pair of sources for how it stands, "pair/YYYY-MM-DD" for each of its days.
    RECONCILED: TopicSpec(compacted=True),
    # Keys: a principal, "scope" and its tags.
    PEAKS: TopicSpec(compacted=True),
    # Keys: a tag and one of its values.
    NAMES: TopicSpec(compacted=True),
    # Keys: "chosen", and "seen/" with an input.
    GRID: TopicSpec(compacted=True),
}

#: Written by sources, read by the rollup.
RAW_TOPICS = (USAGE, COSTS, GPU)
