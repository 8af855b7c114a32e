"""Pictures of spend over time: what was expected, what was spent, what Curb did, what would have been spent."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from curb.stream.errors import PermanentError
from curb.stream.time import moment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_PX, _HEIGHT_PX, _DPI = 1200, 560, 100
# Okabe and Ito's palette: distinct for every kind of colour vision; line styles differ as well.
_ACTUAL, _COUNTERFACTUAL, _LEASE, _BUDGET = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_INK, _GREY, _PALE = "#1d1c1d", "#6b6f76", "#e6e8eb"
_LEFT, _RIGHT, _BOTTOM = 0.068, 0.975, 0.155
_ROW_PX, _LABEL_GAP_PX = 21, 12


class _Lines(NamedTuple):
    minutes: Sequence[float]
    actual: Sequence[float]
    expected: Sequence[float]
    expected_low: Sequence[float] | None
    expected_high: Sequence[float] | None
    counterfactual: Sequence[float] | None


def burn(usd_per_minute: Sequence[float], window: int = 3) -> list[float]:
    """Dollars per hour as the mean of the last `window` minutes, which is what a person can follow with the eye."""
    rates = []
    for i in range(len(usd_per_minute)):
        seen = usd_per_minute[max(0, i - window + 1) : i + 1]
        rates.append(sum(seen) / len(seen) * 60)
    return rates


def spend_chart(
    minutes: Sequence[float],
    actual: Sequence[float],
    expected: Sequence[float],
    *,
    expected_low: Sequence[float] | None = None,
    expected_high: Sequence[float] | None = None,
    counterfactual: Sequence[float] | None = None,
    title: str,
    subtitle: str = "",
    events: Sequence[tuple[float, str]] = (),
    leases: Sequence[tuple[float, float]] = (),
    budget_line: float | None = None,
    by_day: bool = False,
) -> bytes:
    """A PNG of 1200 × 560.

    `minutes` are epoch seconds; every line has one value per minute, in dollars per hour. `expected_low` and
    `expected_high` go together. `events` are (epoch seconds, label); `leases` (from, to) are shaded; `budget_line` is
    in dollars per hour. `by_day` they are drawn as dollars per day. Raises PermanentError when matplotlib is missing,
    ValueError for fewer than two minutes or lines of another length.
    """
    unit = "day" if by_day else "hour"
    if by_day:
        actual, expected = _daily(actual), _daily(expected)
        expected_low, expected_high = _daily(expected_low or ()) or None, _daily(expected_high or ()) or None
        counterfactual = _daily(counterfactual or ()) or None
        budget_line = None if budget_line is None else 24 * budget_line
    lines = _Lines(minutes, actual, expected, expected_low, expected_high, counterfactual)
    if len(minutes) < 2:
        raise ValueError("a chart needs at least two minutes")
    if any(line is not None and len(line) != len(minutes) for line in lines):
        raise ValueError("every line needs one value per minute")
    figure = _figure()
    rows = _Labels(figure, lines.minutes, events)
    top = 1 - (78 + (rows.height_px if events else 8)) / _HEIGHT_PX
    axes = figure.add_axes((_LEFT, _BOTTOM, _RIGHT - _LEFT, top - _BOTTOM))
    for number, (begin, end) in enumerate(leases):
        label = "_" if number else "limit in force"
        axes.axvspan(begin, end, color=_LEASE, alpha=0.10, lw=0, zorder=0, label=label)
    if budget_line is not None:
        axes.axhline(budget_line, color=_BUDGET, lw=1.8, ls="-.", zorder=2, label=f"budget, per {unit}")
    _draw_lines(axes, lines)
    _style_axes(axes, lines.minutes, unit)
    rows.draw(axes)
    figure.text(0.016, 0.972, _plain(title), size=16, weight="bold", color=_INK, va="top")
    figure.text(0.016, 0.912, _plain(subtitle), size=11, color=_GREY, va="top")
    _legend(axes)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DPI)
    return out.getvalue()


def _daily(usd_per_hour: Sequence[float]) -> list[float]:
    return [24 * each for each in usd_per_hour]


def _figure() -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise PermanentError("charts need matplotlib: install curbd[charts]") from None
    figure = Figure(figsize=(_WIDTH_PX / _DPI, _HEIGHT_PX / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _legend(axes: Axes) -> None:
    """The line drawn last matters most and comes first."""
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        names[::-1],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.105),
        ncols=6,
        frameon=False,
        fontsize=10.5,
        handlelength=2.6,
    )


def _draw_lines(axes: Axes, lines: _Lines) -> None:
    x = list(lines.minutes)
    if lines.expected_low is not None and lines.expected_high is not None:
        axes.fill_between(
            x, lines.expected_low, lines.expected_high, color=_GREY, alpha=0.18, lw=0, zorder=1, label="usual range"
        )
    axes.plot(x, lines.expected, color=_GREY, lw=1.8, ls=(0, (5, 2)), zorder=3, label="expected")
    if lines.counterfactual is not None:
        higher = [a < c for a, c in zip(lines.actual, lines.counterfactual, strict=True)]
        axes.fill_between(
            x, lines.actual, lines.counterfactual, where=higher, color=_COUNTERFACTUAL, alpha=0.13, lw=0, zorder=1
        )
        axes.plot(
            x, lines.counterfactual, color=_COUNTERFACTUAL, lw=2, ls=(0, (1.2, 1.2)), zorder=4, label="without Curb"
        )
    axes.plot(x, lines.actual, color=_ACTUAL, lw=2.6, zorder=5, solid_joinstyle="round", label="spent")


def _style_axes(axes: Axes, minutes: Sequence[float], unit: str) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    axes.set_xlim(minutes[0], minutes[-1])
    axes.set_ylim(0, max(axes.get_ylim()[1], 0.01) * 1.02)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GREY)
    axes.grid(axis="y", color=_PALE, lw=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_GREY, labelsize=10.5, length=0, pad=6)
    axes.tick_params(axis="x", length=4)
    axes.yaxis.set_major_formatter(FuncFormatter(_dollars))
    axes.xaxis.set_major_locator(MultipleLocator(_tick_spacing_s(minutes[-1] - minutes[0])))
    axes.xaxis.set_major_formatter(FuncFormatter(_clock))
    axes.set_ylabel(f"dollars per {unit}", color=_GREY, size=10.5, labelpad=8)
    axes.annotate(
        "UTC", (1, 0), (0, -34), xycoords="axes fraction", textcoords="offset points", color=_GREY, size=9, ha="right"
    )


class _Labels:
    """The marker labels above the plot: each to the right of its line, in a row of its own where two would meet.

    An earlier label sits higher, so the line of a later one ends below it. A label that would leave the picture ends
    at the edge instead and takes the row above all it meets.
    """

    def __init__(self, figure: Figure, minutes: Sequence[float], events: Sequence[tuple[float, str]]) -> None:
        self._figure = figure
        left, right = _LEFT * _WIDTH_PX, _RIGHT * _WIDTH_PX
        scale = (right - left) / (minutes[-1] - minutes[0])
        shown = sorted(e for e in events if minutes[0] <= e[0] <= minutes[-1])
        placed: list[tuple[float, float, int]] = []
        self._labels: list[tuple[float, float, int, str]] = []
        measured = [(at, left + (at - minutes[0]) * scale, f"{_clock(at)}  {_plain(text)}") for at, text in shown]
        sized = [(at, x, text, self._width_px(text)) for at, x, text in reversed(measured)]
        for at, x, text, width in sorted(sized, key=lambda label: label[1] + label[3] > right):
            begin = min(x, right - width - 8)
            end = max(x, begin + width + _LABEL_GAP_PX)
            row = 1 + max((r for low, high, r in placed if low < end and begin < high), default=-1)
            placed.append((begin, end, row))
            self._labels.append((at, begin, row, text))
        self.height_px = (max((label[2] for label in self._labels), default=0) + 1) * _ROW_PX + 6

    def _width_px(self, text: str) -> float:
        drawn = self._figure.text(0, 0, text, size=10)
        width = float(drawn.get_window_extent().width)
        drawn.remove()
        return width

    def draw(self, axes: Axes) -> None:
        bottom, height = axes.get_position().y1 * _HEIGHT_PX, axes.get_position().height * _HEIGHT_PX
        axes_left, axes_width = axes.get_position().x0 * _WIDTH_PX, axes.get_position().width * _WIDTH_PX
        for at, begin, row, text in self._labels:
            top_px = 11 + row * _ROW_PX
            first, last = axes.get_xlim()
            under_text = axes_left + (at - first) / (last - first) * axes_width > begin + 1
            axes.plot(
                [at, at],
                [0, 1 + (top_px + (-8 if under_text else 6)) / height],
                transform=axes.get_xaxis_transform(),
                color=_INK,
                lw=1,
                alpha=0.75,
                zorder=6,
                clip_on=False,
            )
            y = (bottom + top_px) / _HEIGHT_PX
            self._figure.text((begin + 6) / _WIDTH_PX, y, text, size=10, color=_INK, va="center")


def _tick_spacing_s(span_s: float) -> float:
    for spacing_s in (60, 300, 600, 900, 1800, 3600, 7200, 14400, 43200):
        if span_s / spacing_s <= 13:
            return spacing_s
    return 86400


def _clock(at: float, _: Any = None) -> str:
    return moment(at).strftime("%H:%M")


def _dollars(value: float, _: Any = None) -> str:
    return f"${value:,.0f}" if value >= 10 or value == int(value) else f"${value:,.2f}"


def _plain(text: str) -> str:
    """Tag values may hold anything: a dollar sign must not begin a formula."""
    return text.replace("$", r"\$")
