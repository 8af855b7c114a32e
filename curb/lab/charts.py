"""Pictures for notebooks. Each returns a matplotlib Figure, which a notebook draws by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from curb.detector.forecast.days import day_of
from curb.evaluate.tune import TriedSetting, frontier
from curb.lab.forecasts import MadeForecast
from curb.lab.gpus import NodeUse
from curb.lab.history import History
from curb.lab.policies import Policy
from curb.lab.seasons import Seasons
from curb.stream.time import HOUR_S, moment
from curb.views.explanation import Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that stay apart for the colour-blind (Okabe and Ito), and grey for everything else.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#8a8f98"
#: Characters of a label. By hand: three stand side by side.
_LONGEST_LABEL = 40


def _label(name: str) -> str:
    """A value of a tag as a label: one short line that is no formula. Legends leave out what begins with `_`."""
    line = "".join(each if each.isprintable() else " " for each in name)
    line = line if len(line) <= _LONGEST_LABEL else line[: _LONGEST_LABEL - 1] + "…"
    return (" " if line.startswith("_") else "") + line.replace("$", r"\$")


def _figure(rows: int = 1, height: float = 3.2, columns: int = 1) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), dpi=72, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=rows > 1, squeeze=False).ravel()
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", alpha=0.25)
    return figure, axes


def _in_dollars(axes: Axes, label: str = "dollars an hour") -> None:
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter("${x:,.2f}" if axes.get_ylim()[1] < 3 else "${x:,.0f}")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))


def _named(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9, loc="upper left", ncols=3)


def spend_chart(history: History, *tags: str, most: int = 5) -> Figure:
    """Dollars per hour over time: the most expensive values of the tags, stacked, and all others in grey."""
    found = history.by(*tags)
    shown = list(found.items())[:most]
    others = sum((each for _, each in list(found.items())[most:]), np.zeros(history.hours))
    figure, (axes,) = _figure()
    colours = [*_COLOURS[: len(shown)], _GREY]
    labels = [_label(name) for name, _ in shown] + ["all others"]
    axes.stackplot(history.times, *(each for _, each in shown), others, colors=colours, labels=labels, lw=0)
    _in_dollars(axes)
    _named(axes)
    return figure


def seasons_chart(history: History, found: Seasons) -> Figure:
    """Spend with trend and season, and the rest with the hours that they do not explain."""
    figure, (above, below) = _figure(2, 4.6)
    above.plot(history.times, found.usd, color=_GREY, lw=1, label="spent")
    above.plot(history.times, found.trend + found.season, color=_COLOURS[0], lw=1.6, label="trend and season")
    above.plot(history.times, found.trend, color=_COLOURS[2], lw=1.6, ls="--", label="trend")
    _in_dollars(above)
    _named(above)
    below.plot(history.times, found.rest, color=_GREY, lw=1)
    odd = found.rest > 5 * found.spread
    below.plot(history.times[odd], found.rest[odd], "o", ms=4, color=_COLOURS[1], label="over 5 σ")
    below.set_ylabel("the rest")
    _named(below)
    return figure


def frontier_chart(tried: Sequence[TriedSetting], best: TriedSetting) -> Figure:
    """Incidents found and dollars lost against alerts a day; the line joins the settings that no other beats."""
    figure, axes = _figure(columns=2, height=3.6)
    ahead = sorted(frontier(list(tried)), key=lambda each: each.alerts_per_day)
    for each, field, label in zip(
        axes, ("recall", "lost_share"), ("injected incidents found", "their dollars lost before the alert"), strict=True
    ):
        each.plot(*_places(tried, field), "o", color=_GREY, label="tried")
        each.plot(*_places(ahead, field), "o-", color=_COLOURS[0], label="no other is better")
        each.plot(*_places(tried[:1], field), "s", ms=9, mfc="none", color=_COLOURS[1], label="now")
        each.plot(*_places([best], field), "D", ms=10, mfc="none", color=_COLOURS[2], label="recommended")
        each.set_xlabel("notices and pages a day on the history as it is")
        each.set_ylabel(label)
        each.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        each.margins(0.1)
    axes[0].legend(frameon=False, fontsize=9)
    return figure


def _places(tried: Sequence[TriedSetting], field: str) -> tuple[list[float], list[float]]:
    return [each.alerts_per_day for each in tried], [getattr(each, field) for each in tried]


def incident_chart(history: History, found: Explanation, policies: Sequence[Policy] = ()) -> Figure:
    """The burn of an incident against the expected one, and the limit of each policy while it holds."""
    figure, (axes,) = _figure()
    times = _local(history, [point.at for point in found.points])
    usual = np.array([point.expected_usd_per_hour for point in found.points])
    axes.plot(times, [point.usd_per_hour for point in found.points], color=_COLOURS[0], lw=2, label="spent")
    axes.plot(times, usual, color=_GREY, lw=1.5, ls="--", label="expected")
    alert = found.alert
    axes.axvline(_local(history, [alert.fired_at])[0], color="black", lw=1, ls=":", label=f"{alert.tier}")
    for number, policy in enumerate(policies):
        if alert.tier not in policy.tiers:
            continue
        begin = alert.fired_at + policy.after_minutes * 60
        span = _local(history, [begin, begin + policy.lease_minutes * 60])
        limit = policy.keeps * alert.expected_usd_per_hour
        axes.plot(span, [limit, limit], color=_COLOURS[1 + number % 5], lw=3, label=_label(policy.name))
    _in_dollars(axes)
    _named(axes)
    return figure


def _local(history: History, seconds: Sequence[float]) -> np.ndarray[Any, Any]:
    return np.array([moment(at).astimezone(history.zone).replace(tzinfo=None) for at in seconds], "datetime64[s]")


def calibration_chart(made: Sequence[MadeForecast]) -> Figure:
    """Each forecast with its interval, and what its period came to."""
    figure, (axes,) = _figure()
    at = np.array([day_of(each.day) for each in made], "datetime64[D]")
    expected = np.array([each.forecast_usd for each in made])
    low, high = np.array([each.low_usd for each in made]), np.array([each.high_usd for each in made])
    errors = np.maximum(0.0, np.array([expected - low, high - expected]))
    axes.errorbar(at, expected, errors, fmt="o", color=_COLOURS[0], capsize=3, label="forecast, 80 % interval")
    axes.step(at, [each.actual_usd for each in made], where="mid", color=_COLOURS[1], lw=2, label="came to")
    axes.set_xlabel("made at the start of")
    _in_dollars(axes, "dollars of the period")
    _named(axes)
    return figure


def money_chart(history: History, tag: str = "model", most: int = 4) -> Figure:
    """Billed over estimated dollars of each day, per value of a tag; 1 is where both agree."""
    figure, (axes,) = _figure()
    billed = history.by(tag, kind="costs")
    for number, (name, estimated) in enumerate(list(history.by(tag).items())[:most]):
        mine, theirs = history.daily(estimated), history.daily(billed.get(name, np.zeros(history.hours)))
        ratio = np.divide(theirs.usd, mine.usd, out=np.full(len(mine.usd), np.nan), where=mine.usd > 0)
        days = np.array([day_of(mine.first_day + day) for day in range(len(ratio))], "datetime64[D]")
        axes.plot(days, ratio, "o-", ms=3, color=_COLOURS[number % 6], label=_label(name))
    axes.axhline(1.0, color=_GREY, lw=1, ls="--")
    axes.set_ylabel("billed / estimated")
    axes.set_ylim(bottom=0)
    _named(axes)
    return figure


def idle_chart(history: History, nodes: Sequence[NodeUse]) -> Figure:
    """Percent busy by node and hour: dark is idle, white is off."""
    figure, (axes,) = _figure(height=0.9 + 0.5 * max(1, len(nodes)))
    grid = np.array([each.busy for each in nodes])
    edges = np.append(history.times, history.times[-1] + np.timedelta64(HOUR_S, "s"))
    mesh = axes.pcolormesh(edges, np.arange(len(nodes) + 1), grid, vmin=0, vmax=100, cmap="viridis")
    axes.set_yticks(np.arange(len(nodes)) + 0.5, [_label(each.name) for each in nodes])
    axes.invert_yaxis()
    axes.grid(visible=False)
    figure.colorbar(mesh, label="% busy", pad=0.01)
    return figure
