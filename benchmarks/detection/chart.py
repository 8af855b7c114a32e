"""Pictures of the benchmark: every method by recall, noise and dollars lost; and one incident as Curb saw it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.evaluate.score import Label, epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from curb.stream.records.spend import SpendRecord

#: Okabe and Ito's palette, told apart with every kind of colour vision; the marks differ as well.
_FAMILIES = {
    "Curb": ("#D55E00", "*"),
    "naive": ("#56B4E9", "o"),
    "vendor": ("#009E73", "s"),
    "River": ("#CC79A7", "^"),
    "Prophet": ("#E69F00", "D"),
}
_ACTUAL, _EXPECTED, _EXCESS, _ALERT = "#0072B2", "#444444", "#E69F00", "#D55E00"
_INK, _GREY, _PALE = "#1d1c1d", "#6b6f76", "#e6e8eb"
_HOUR, _DAY = 3600.0, 86400.0
#: Above this many hours a picture shows hours instead of steps.
_FINE_H = 36.0
_COLOURS = 128


class Point(NamedTuple):
    """One method, as the mean over streams."""

    name: str
    family: str
    recall: float
    noise_per_day: float
    lost_share: float


def overview(points: Sequence[Point], title: str) -> Figure:
    """Recall over noise a day; the larger the mark, the more dollars were lost. Best is the upper left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.2), dpi=100, facecolor="white")
    axes = figure.add_axes((0.07, 0.12, 0.9, 0.75))
    axes.set_xscale("symlog", linthresh=0.5, linscale=0.6)
    axes.set_xlim(-0.04, max(point.noise_per_day for point in points) * 2.6 + 0.5)
    axes.set_ylim(-0.03, 1.06)
    for family in dict.fromkeys(point.family for point in points):
        mine = [point for point in points if point.family == family]
        colour, mark = _FAMILIES.get(family, (_GREY, "o"))
        sizes = [_size(point) for point in mine]
        x, y = [point.noise_per_day for point in mine], [point.recall for point in mine]
        axes.scatter(x, y, s=sizes, c=colour, marker=mark, alpha=0.75, edgecolors=_INK, linewidths=0.7, zorder=3)
        axes.scatter([], [], s=60, c=colour, marker=mark, edgecolors=_INK, linewidths=0.7, label=family)
    _label_points(axes, points)
    ticks = [t for t in (0, 0.25, 0.5, 1, 2, 5, 10, 20, 50) if t <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("alerts a day on nothing", color=_INK)
    axes.set_ylabel("incidents caught", color=_INK)
    _style(axes)
    axes.legend(loc="lower left", frameon=False, ncols=5)
    figure.text(0.02, 0.965, _plain(title), size=15, weight="bold", color=_INK, va="top")
    note = "The larger the mark, the larger the share of the incidents' dollars that was lost before the first alert."
    figure.text(0.02, 0.915, note, size=10, color=_GREY, va="top")
    return figure


def _label_points(axes: Axes, points: Sequence[Point]) -> None:
    """A name and the dollars lost beside each mark, on the left at the edge, moved until it covers nothing."""
    right_edge = axes.transAxes.transform((1, 0))[0]
    marks = [(*axes.transData.transform((p.noise_per_day, p.recall)), _radius_px(p)) for p in points]
    taken = [(x - r, x + r, y - r, y + r) for x, y, r in marks]
    for (x, y, radius), point in sorted(zip(marks, points, strict=True), key=lambda pair: pair[0][1]):
        text = f"{point.name} ({point.lost_share:.0%} lost)"
        width = 6.5 * len(text)
        left = x + radius + 5 if x + radius + width < right_edge else x - radius - width - 5
        for nudge in sorted(range(-120, 121, 3), key=abs):
            box = (left, left + width, y - 6 + nudge, y + 7 + nudge)
            if not any(box[0] < e and b < box[1] and box[2] < t and f < box[3] for b, e, f, t in taken):
                break
        taken.append(box)
        pixels = axes.transData.inverted()
        at = pixels.transform((box[0], box[2] + 2))
        axes.text(at[0], at[1], _plain(text), size=9, color=_INK, zorder=4)
        if abs(nudge) > 6:
            near = pixels.transform((box[0] if left > x else box[1], box[2] + 6))
            axes.plot([point.noise_per_day, near[0]], [point.recall, near[1]], color=_GREY, lw=0.7, zorder=2)


def _radius_px(point: Point) -> float:
    """Marks are measured in points, of which an inch has 72; pictures have 100 pixels to the inch."""
    return float(_size(point) ** 0.5 / 2 * 100 / 72)


def _size(point: Point) -> float:
    """Of a mark, in square points."""
    return (90 if point.family == "Curb" else 45) + 1400 * point.lost_share


# --- one incident -------------------------------------------------------------------------------------------------


class Spend(NamedTuple):
    """Dollars per hour of one subject."""

    starts: NDArray[np.float64]
    usd_per_hour: NDArray[np.float64]


def spend_of(events: Sequence[SpendRecord], tags: Mapping[str, str], begin: float, end: float, step_s: float) -> Spend:
    """What records that carry all `tags` cost between two times, per step."""
    count = max(1, int((end - begin) // step_s))
    usd = np.zeros(count)
    wanted = tags.items()
    for event in events:
        at = int((event.charge_period_start - begin) // step_s)
        if 0 <= at < count and wanted <= event.tags.items():
            usd[at] += event.effective_cost
    return Spend(begin + np.arange(count, dtype=np.float64) * step_s, usd * (_HOUR / step_s))


def subject_of(label: Label) -> dict[str, str]:
    """The tag that names who an incident happened to."""
    name = next(tag for tag in ("api_key", "node", "group") if tag in label.tags)
    return {name: label.tags[name]}


def incident(
    events: Sequence[SpendRecord],
    label: Label,
    alert: Mapping[str, Any] | None,
    step_s: float,
    expected: Sequence[tuple[float, float]] = (),
) -> Figure:
    """Spend around an incident, what of it was put in, what was expected, and when Curb told it in which words.

    `alert` is a line of a back-test's output (with `told`, what it said at first), None for a missed incident.
    `expected` is (epoch seconds, dollars per hour) in order of time; without it, what the alert says.
    """
    length = label.end - label.start
    begin = label.start - max(3 * _HOUR, min(0.5 * length, _DAY))
    begin -= begin % _HOUR
    end = label.end + max(3 * _HOUR, min(0.25 * length, _DAY / 2))
    if (end - begin) / _HOUR > _FINE_H:
        step_s = max(step_s, _HOUR)
    spend = spend_of(events, subject_of(label), begin, end, step_s)
    figure, axes = _incident_axes(label, alert)
    hours = (spend.starts - label.start) / _HOUR
    axes.axvspan(0, length / _HOUR, color=_PALE, alpha=0.6, lw=0, zorder=0, label="the incident")
    excess, _ = np.histogram(label.truth_at, [*spend.starts, spend.starts[-1] + step_s], weights=label.truth_usd)
    excess *= _HOUR / step_s
    top, bottom = spend.usd_per_hour, np.maximum(spend.usd_per_hour - excess, 0)
    axes.fill_between(hours, bottom, top, step="post", color=_EXCESS, alpha=0.45, lw=0, label="put in", zorder=1)
    axes.step(hours, top, where="post", color=_ACTUAL, lw=1.4, label="spend", zorder=3)
    known = expected or _told_expectation(alert)
    if known:
        x = [(at - label.start) / _HOUR for at, _ in known]
        axes.step(x, [usd for _, usd in known], where="post", color=_EXPECTED, lw=1.6, ls="--", label="expected")
    if alert is not None:
        at = (epoch(alert["fired_at"]) - label.start) / _HOUR
        axes.axvline(at, color=_ALERT, lw=2, zorder=4, label=f"{alert['tier']}, {_after(at)}")
    _finish_incident(axes, hours, step_s, top, label)
    return figure


def _told_expectation(alert: Mapping[str, Any] | None) -> list[tuple[float, float]]:
    if alert is None or alert.get("expected_usd_per_hour") is None:
        return []
    until = alert.get("resolved_at") or alert["fired_at"]
    begin, usd = epoch(alert.get("started_at") or alert["fired_at"]), float(alert["expected_usd_per_hour"])
    return [(begin, usd), (max(epoch(until), begin + _HOUR), usd)]


def _incident_axes(label: Label, alert: Mapping[str, Any] | None) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.8), dpi=100, facecolor="white")
    axes = figure.add_axes((0.075, 0.13, 0.9, 0.56))
    subject = " ".join(subject_of(label).values())
    name = label.kind.replace("_", " ")
    figure.text(0.02, 0.965, _plain(f"{name} on {subject}, ${label.excess_usd:,.0f}"), size=14, weight="bold", va="top")
    sentence = "Curb told nobody." if alert is None else alert.get("told") or alert["explanation"]
    wrapped = "\n".join(textwrap.wrap(sentence, 125)[:3])
    figure.text(0.02, 0.89, _plain(wrapped), size=10, color=_GREY, va="top", linespacing=1.3)
    return figure, axes


def _finish_incident(
    axes: Axes, hours: NDArray[np.float64], step_s: float, usd: NDArray[np.float64], label: Label
) -> None:
    axes.set_xlim(hours[0], hours[-1] + step_s / _HOUR)
    axes.set_ylim(0, max(float(usd.max()) * 1.15, 0.1))
    began = datetime.fromtimestamp(label.start, UTC).strftime("%a %d %b %H:%M")
    axes.set_xlabel(f"hours since it began, {began} UTC", color=_INK)
    axes.set_ylabel(_plain("$ per hour"), color=_INK)
    _style(axes)
    axes.legend(loc="upper left", frameon=False, ncols=5, bbox_to_anchor=(0, 1.13), borderaxespad=0, fontsize=9)


def _after(hours: float) -> str:
    return (
        f"{hours * 60:.0f} min after"
        if hours < 3
        else f"{hours:.1f} h after"
        if hours < 48
        else f"{hours / 24:.1f} d after"
    )


def _style(axes: Axes) -> None:
    axes.grid(color=_PALE, lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_GREY, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_PALE)


def _plain(text: str) -> str:
    """Text in which no dollar begins a formula."""
    return text.replace("$", r"\$")


def write(figure: Figure, path: Path) -> None:
    """As PNG of few colours, a third of the size; the same bytes for the same picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        path, format="png", optimize=True
    )
