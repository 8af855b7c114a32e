"""`curb explain`: what is put together from the log, from a recording, and how it is shown."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from curb.cli.explain_table import show
from curb.cli.main import app
from curb.detector.budgets.budget import Budget
from curb.detector.settings import DetectorSettings
from curb.evaluate.backtest import replay
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ACTIONS
from curb.stream.records.knowledge import knowledge_message
from curb.stream.records.spend import (
    Alert,
    Annotation,
    BudgetStatus,
    Cause,
    Feedback,
    LedgerEntry,
    Plan,
    PlannedActivity,
)
from curb.views.explain_chart import draw
from curb.views.explanation import (
    BudgetLine,
    Explanation,
    NoSuchAlertError,
    Point,
    Recorded,
    decided_by,
    explain,
    read_log,
    usual_range,
)
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.memory_log import MemoryLog

pytestmark = pytest.mark.long

HOUR, DAY = 3600.0, 86400.0
KEY = an_alert().tags
SETTINGS = DetectorSettings()


def entry(state: Any, at: float, *, alert_id: str = "a1", action_id: str = "x1") -> LedgerEntry:
    plan = Plan(action="limits", target="k1", summary="limit to 20/min", before={}, after={})
    return LedgerEntry(
        action_id=action_id,
        state=state,
        at=at,
        alert_id=alert_id,
        fingerprint="f1",
        plan=plan,
    )


def said(alert_id: str, verdict: Any = "real", **more: Any) -> Feedback:
    return Feedback(id=f"f-{alert_id}-{verdict}", at=T0, alert_id=alert_id, verdict=verdict, **more)


def told(alerts: Sequence[Alert] = (), revisions: Sequence[Alert] = (), **more: Any) -> Explanation:
    """The explanation of a1 among `alerts`."""
    own = list(revisions) or [an_alert()]
    newest = {each.alert_id: each for each in (*alerts, own[-1])}
    return explain("a1", Recorded(revisions=own, alerts=newest, **more), SETTINGS)


def budget_status(**more: Any) -> BudgetStatus:
    fields = {"name": "q", "period": "month", "period_start": T0, "period_end": T0 + DAY, "threshold": 80.0}
    return msgspec.convert(fields | {"amount_usd": 50.0, "spent_usd": 40.0} | more, BudgetStatus)


# --- put together -----------------------------------------------------------------------------------------------------


def test_what_nobody_knows_is_said() -> None:
    with pytest.raises(NoSuchAlertError, match="no alert b"):
        explain("b", Recorded(), SETTINGS)


def test_earlier_alerts_of_the_fingerprint_come_first_then_the_nearest_of_the_kind() -> None:
    def before(alert_id: str, days: float, **more: Any) -> Alert:
        return an_alert(**{"alert_id": alert_id, "fired_at": T0 - days * DAY, "fingerprint": alert_id} | more)

    alerts = [
        before("other-team", 1, tags={"team": "ads", "project": "x", "api_key": "k9"}),
        before("other-kind", 1, kind="idle"),
        before("same-team", 9, tags={**KEY, "project": "x", "api_key": "k2"}),
        before("same-old", 20, fingerprint="f1"),
        before("same-new", 10, fingerprint="f1"),
        before("later", -1, fingerprint="f1"),
    ]
    ledger = [entry("applied", T0, alert_id="same-new"), entry("restored", T0 + 1, alert_id="same-new")]
    knowledge = [said("same-old", "not_an_anomaly", by="ana", note="batch"), said("a1")]
    found = told(alerts, ledger=ledger, knowledge=knowledge)
    assert [each.alert_id for each in found.similar] == ["same-new", "same-old", "same-team", "other-team"]
    assert [each.same for each in found.similar] == ["fingerprint", "fingerprint", "kind", "kind"]
    assert [each.done for each in found.similar] == [["restored: limit to 20/min"], [], [], []]
    assert [each.said for each in found.similar] == [[], ["not an anomaly (ana): batch"], [], []]
    assert [each.verdict for each in found.said] == ["real"]


def test_marks_are_in_order_and_tell_the_tier_that_changed() -> None:
    first = an_alert(tier="notice")
    second = an_alert(revision=2, updated_at=T0 + 300)
    last = an_alert(revision=3, updated_at=T0 + HOUR, resolved_at=T0 + HOUR, status="resolved")
    ledger = [entry("planned", T0 + 301), entry("applied", T0 + 302), entry("restored", T0 + 1800)]
    near = Annotation(id="n", at=T0 - 600, kind="deploy", tags={"team": "search"}, text="rank 2.1")
    far = Annotation(id="m", at=T0 - 600, kind="deploy", tags={"team": "ads"}, text="ads 7")
    found = told(revisions=[first, second, last], ledger=ledger, knowledge=[far, near])
    assert [(mark.at - T0, mark.text) for mark in found.marks] == [
        (-600, "deploy rank 2.1"),
        (-300, "starts"),
        (0, "notice: $240.00/h"),
        (300, "becomes a page"),
        (302, "applied: limit to 20/min"),
        (1800, "restored: limit to 20/min"),
        (3600, "resolved"),
    ]
    assert [point.at - T0 for point in found.points] == [0, 300, 3600]


def test_only_plans_that_show_in_the_series_and_hold_are_named() -> None:
    def plan(id: str, start: float, tags: dict[str, str] = KEY, max_usd: float = 5.0, at: float = 0) -> PlannedActivity:
        return PlannedActivity(id=id, at=T0 + at, tags=tags, start=T0 + start, end=T0 + start + HOUR, max_usd=max_usd)

    knowledge = [
        plan("now", -HOUR / 2),
        plan("over", -2 * HOUR),
        plan("to come", HOUR),
        plan("elsewhere", 0, {"team": "ads"}),
        plan("withdrawn", 0),
        plan("withdrawn", 0, max_usd=0, at=1),
    ]
    assert [each.id for each in told(knowledge=knowledge).plans] == ["now"]


def test_budgets_are_those_that_count_the_series() -> None:
    lines = [BudgetLine({"team": "search"}, budget_status()), BudgetLine({"team": "ads"}, budget_status())]
    assert told(budgets=lines).budgets == lines[:1]


def test_without_a_daemon_budgets_are_what_their_alerts_said_last() -> None:
    def alert(alert_id: str, at: float, spent_usd: float, team: str = "search") -> Alert:
        status = budget_status(spent_usd=spent_usd)
        return an_alert(alert_id=alert_id, kind="budget", tags={"team": team}, updated_at=at, budget=status)

    alerts = [alert("b2", T0 + 5, 47.0), alert("b1", T0, 40.0), alert("b3", T0 + 9, 49.0, "ads")]
    (line,) = told(alerts).budgets
    assert (line.tags, line.budget.spent_usd) == ({"team": "search"}, 47.0)


@pytest.mark.parametrize(
    ("channel", "window", "key", "value"),
    [
        ("dollars/30min", "30-minute", "detector.score.floors_usd[1]", SETTINGS.score.floors_usd[1]),
        ("unexplained/8h", "", "detector.unexplained.page_threshold", SETTINGS.unexplained.page_threshold),
        (
            "unexplained/480min",
            "8-hour",
            "detector.unexplained.ratio_floors[3]",
            SETTINGS.unexplained.ratio_floors[3],
        ),
        ("new_model", "", "detector.principals.new_origin.min_usd", SETTINGS.principals.new_origin.min_usd),
    ],
)
def test_the_settings_that_decided(channel: str, window: str, key: str, value: float) -> None:
    words, found = decided_by(an_alert(channel=channel), SETTINGS)
    assert words == window
    (setting,) = [each for each in found if each.key == key]
    assert setting.value == value
    assert setting.meaning
    assert not any("enabled" in each.key for each in found)


def test_a_budget_is_decided_by_its_own_settings_and_a_fact_by_none() -> None:
    settings = DetectorSettings(budgets=(Budget(name="q", scope="team", amount_usd=50),))
    alert = an_alert(kind="budget", channel="budget/80", budget=budget_status())
    _, found = decided_by(alert, settings)
    assert ("detector.budgets[q].amount_usd", 50.0) in [(each.key, each.value) for each in found]
    assert decided_by(an_alert(channel="pricing/unknown_model"), settings) == ("", [])


def test_the_usual_range_is_nine_tenths_of_what_was_before() -> None:
    points = [Point(T0 + i, float(i), 10.0) for i in range(101)]
    assert usual_range(points) == pytest.approx((0.5, 9.5))
    asleep = [Point(T0 + i, 5.0, 0.01) for i in range(100)]
    assert usual_range([*asleep, *points]) == pytest.approx((0.5, 9.5))
    assert usual_range(points[:10]) is None
    assert usual_range([Point(T0 + i, 1.0, 0.0) for i in range(50)]) is None


async def test_the_log_is_read_and_what_cannot_be_read_is_left_out() -> None:
    log = MemoryLog()
    revisions = [an_alert(revision=2, usd_per_hour=2.0), an_alert(revision=1)]
    await log.append(
        [
            *(alert_message(each) for each in revisions),
            alert_message(an_alert(alert_id="other")),
            Message(ACTIONS, encode(entry("applied", T0)) + b"\nnonsense"),
            knowledge_message(said("a1")),
            command_message("halt", T0),
        ]
    )
    found = await read_log(log, "a1")
    assert [each.revision for each in found.revisions] == [1, 2]
    assert found.alerts.keys() == {"a1", "other"}
    assert found.alerts["a1"].usd_per_hour == 2.0
    assert [each.state for each in found.ledger] == ["applied"]
    assert found.knowledge == [said("a1")]


# --- shown ------------------------------------------------------------------------------------------------------------


def shown(found: Explanation) -> str:
    out = io.StringIO()
    show(Console(file=out, width=150), found)
    return out.getvalue()


def test_causes_have_bars_as_long_as_their_shares() -> None:
    causes = [
        Cause(tags={**KEY, "model": "large"}, excess_usd=14.25, share=0.75),
        Cause(tags={**KEY, "model": "small"}, excess_usd=4.75, share=0.25),
    ]
    text = shown(told(revisions=[an_alert(causes=causes, confidence=0.93)]))
    lines = [line for line in text.splitlines() if "█" in line]
    assert ["model=large" in lines[0], "model=small" in lines[1]] == [True, True]
    assert lines[0].count("█") == 3 * lines[1].count("█")
    assert "$14.25" in lines[0]
    assert "confidence 93%" in text
    assert "score 9.0" in text


def test_what_people_wrote_is_never_markup() -> None:
    nasty = "[bold]x[/bold] \x1b[31m"
    found = told(
        [an_alert(alert_id="b", fired_at=T0 - DAY, tags={"team": nasty})],
        revisions=[an_alert(explanation=nasty, tags={"team": nasty})],
        knowledge=[said("a1", note=nasty), said("b", note=nasty)],
        budgets=[BudgetLine({}, budget_status(name=nasty))],
    )
    text = shown(found)
    assert "\x1b[31m" not in text
    assert text.count("[bold]x[/bold]") >= 5


def png_size(png: bytes) -> tuple[int, int]:
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_a_picture_needs_two_moments() -> None:
    with pytest.raises(ValueError, match="fewer than two moments"):
        draw(told())
    revisions = [an_alert(revision=i, updated_at=T0 + 300 * i) for i in range(1, 4)]
    ledger = [entry("applied", T0 + 310), entry("restored", T0 + 800)]
    assert png_size(draw(told(revisions=revisions, ledger=ledger))) == (1200, 560)


# --- of a recording ---------------------------------------------------------------------------------------------------

START = datetime(2025, 3, 3, tzinfo=UTC).timestamp()


def line(at: float, key: str, usd: float, number: int, model: str = "m") -> dict[str, object]:
    when = datetime.fromtimestamp(at, UTC).isoformat()
    tags = {"team": "search", "project": "rank", "api_key": key, "model": model, "region": "eu"}
    tokens = {"input_tokens": 1000, "output_tokens": 100, "requests": 20, "errors": 0, "users": 5}
    return {"src": "llm", "id": f"{number}", "ts": when, "recv": when, "tags": tags, "cost_usd": usd} | tokens


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five quiet days, then two hours in which one key spends forty times as much, then quiet again."""
    path = tmp_path_factory.mktemp("recording")
    lines, number = [], 0
    for step in range(int(5.5 * 288)):
        at = START + 300 * step
        burst = 5 * DAY <= at - START < 5 * DAY + 2 * HOUR
        for key in ("k1", "k2"):
            number += 1
            lines.append(line(at, key, 4.0 if burst and key == "k1" else 0.1, number))
    with gzip.open(path / "events.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in lines)
    return path


@pytest.fixture(scope="module")
def alert_id(recording: Path) -> str:
    lives = replay(recording, SETTINGS).alerts.values()
    return next(life.last.alert_id for life in lives if life.last.tags.get("api_key") == "k1")


def curb(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["explain", *arguments])


def test_a_recorded_alert_is_explained_with_the_burn_around_it(recording: Path, alert_id: str, tmp_path: Path) -> None:
    chart = tmp_path / "chart.png"
    missing = str(tmp_path / "none.yaml")
    result = curb(alert_id, "--dir", str(recording), "--json", "--chart", str(chart), "-c", missing)
    assert result.exit_code == 0, result.output
    found = msgspec.json.decode(result.stdout.strip(), type=Explanation)
    assert found.alert.alert_id == alert_id
    before = [point for point in found.points if point.at < found.alert.started_at]
    during = [point for point in found.points if found.alert.fired_at <= point.at < START + 5 * DAY + 2 * HOUR]
    assert len(before) > 24
    assert all(point.usd_per_hour == pytest.approx(1.2, abs=0.01) for point in before[1:])
    assert all(point.usd_per_hour == pytest.approx(48, rel=0.01) for point in during[1:])
    assert found.usual_range is not None
    assert found.marks[0].text == "starts"
    assert png_size(chart.read_bytes()) == (1200, 560)


def test_a_recording_without_the_alert_says_so(recording: Path) -> None:
    result = curb(f"0123456789abcdef-{int(START + 5 * DAY)}", "--dir", str(recording))
    assert result.exit_code == 1
    assert "raise no alert" in result.output
    assert "not the id" in curb("nonsense", "--dir", str(recording)).output


def test_a_recording_that_is_not_there(tmp_path: Path) -> None:
    result = curb("a-1", "--dir", str(tmp_path))
    assert result.exit_code == 2
    assert "events.jsonl" in result.output
