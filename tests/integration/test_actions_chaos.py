"""Stories in which anything goes wrong at any moment: each ends restored or as the ledger says.

250 of them, a thousand with CURB_TEST_LONG=1.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from types import SimpleNamespace

import pytest

from curb.actions.calls import bounded as calls
from curb.actions.ledger.ledger import ActionState
from curb.actions.lifecycle.lease import ActionWorker
from curb.stream.records.spend import LedgerEntry
from tests.fakes.chaos import REFUSALS, decoded
from tests.fakes.chaos_story import Story
from tests.sizes import size

#: Where a process can die between two steps of an action: each gets its share of the stories.
ARROWS = (
    "before plan gate",
    "after plan gate",
    "before append proposed",
    "after append proposed",
    "before append planned",
    "after append planned",
    "before apply gate",
    "after apply gate",
    "before apply jobs",
    "after apply jobs",
    "before append applied",
    "after append applied",
    "verify gate",
    "before append effective",
    "after append effective",
    "before undo gate",
    "after undo gate",
    "before undo jobs",
    "after undo jobs",
    "before append restored",
    "after append restored",
    "before append sending",
    "before send",
    "after send",
    "find",
    "before append sent",
    "after append sent",
    "before commit",
    "after commit",
)
#: Where each of REFUSALS is said first in some stories. Only a ladder comes to the jobs.
REFUSED_AT = {
    name: tuple(
        f"{point} {name}"
        for point in ("before plan", "after plan", "before apply", "after apply", "verify", "before undo", "after undo")
    )
    for name in ("gate", "jobs")
}
MODES = ("auto", "auto", "auto", "approve", "approve", "shadow")
STORIES, PARTS = 1000, 4


def a_story(seed: int) -> Story:
    mode = MODES[seed % len(MODES)]
    ladder = seed % 4 > 1
    points, turn = REFUSED_AT["jobs" if ladder else "gate"], seed // 4
    refused_at = points[turn % len(points)], list(REFUSALS)[turn // len(points) % len(REFUSALS)]
    arrow = ARROWS[seed % len(ARROWS)]
    return Story(
        seed, mode, ladder=ladder, kill_first_at=arrow, refuse_first_at=refused_at, standing=seed % 5 in (2, 3)
    )


@pytest.fixture(autouse=True)
def the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are jittered; here from a seed. What is logged of all the troubles is not kept."""
    monkeypatch.setattr(calls, "random", SimpleNamespace(Random=lambda: random.Random(1)))
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)


@pytest.mark.parametrize("part", range(size(1, PARTS)))
async def test_it_ends_restored_or_as_the_ledger_says(part: int) -> None:
    """To see one again: `await a_story(SEED).run()`."""
    seen: Counter[tuple[str, str]] = Counter()
    done: Counter[str] = Counter()
    ceilings: Counter[str] = Counter()
    for seed in range(part * STORIES // PARTS, (part + 1) * STORIES // PARTS):
        story = a_story(seed)
        await story.run()
        assert not story.wrong, f"story {seed}: " + "; ".join(story.wrong)
        seen += story.trouble.seen
        entries = (entry for entry in decoded(story.log) if isinstance(entry, LedgerEntry) and entry.standing)
        ceilings += Counter(f"{entry.do} {entry.state}" for entry in entries)
        done += Counter(f"{change.verb} {gate.name}" for gate in (story.gate, story.jobs) for change in gate.changes)
    killed = {point for point, what in seen if what == "kill"}
    assert len(killed & set(ARROWS)) > len(ARROWS) - 6
    assert {what for _, what in seen} == {"kill", *REFUSALS}
    refused = Counter(point for point, what in seen if what in REFUSALS)
    assert min(refused[point] for point in REFUSED_AT["gate"]) >= 4, refused
    assert sum(refused[point] for point in REFUSED_AT["jobs"]) >= 14, refused
    assert min(done[what] for what in ("apply gate", "undo gate", "apply jobs", "undo jobs")) > 5
    assert min(ceilings[f"ceiling {state}"] for state in ("shadow", "planned", "effective", "restored", "drift")) > 5
    assert min(ceilings[each] for each in ("allow ceilings approved", "raise ceiling proposed")) > 1


async def test_a_defect_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at the target before a plan is applied once more, what people set meanwhile is lost."""

    async def begin(self: ActionWorker, state: ActionState) -> None:
        await self._apply(state)

    monkeypatch.setattr(ActionWorker, "_begin", begin)
    found: list[str] = []
    for seed in range(60):
        story = a_story(seed)
        await story.run()
        found += story.wrong
    assert any("people left" in wrong or "raises a limit" in wrong for wrong in found)


async def test_a_story_is_the_same_every_time() -> None:
    first, again = a_story(8), a_story(8)
    await first.run()
    await again.run()
    assert first.trouble.seen == again.trouble.seen
    assert [m.value for m in first.log.of("curb.actions")] == [m.value for m in again.log.of("curb.actions")]
