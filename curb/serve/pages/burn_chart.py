"""Charts as SVG: sharp on every screen, as wide as the page, without scripts. Colours come from the style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from markupsafe import Markup, escape

from curb.stream.money import usd
from curb.stream.time import DAY_S, HOUR_S, moment
from curb.views.explanation import Mark, Point

#: The plot in units of its own, stretched to the width of the page; heights are pixels.
_WIDTH, _TOP, _HEIGHT, _BELOW = 1000, 24, 190, 26
#: Points that are drawn; of more, the highest of each stretch. By hand: one for each pixel of a wide screen.
_MOST_POINTS = 800
#: Marks closer than this share of the width have one number for all. By hand: two digits on a phone.
_APART = 0.04
#: Ticks below the plot. By hand: as many times as fit on a phone.
_MOST_TICKS = 5
_STEPS_S = (300, 600, 900, 1800, 3600, 2 * 3600, 3 * 3600, 6 * 3600, 12 * 3600, *(DAY_S * n for n in (1, 2, 7, 14)))


class BurnChart(NamedTuple):
    """What is drawn; times are epoch seconds, rates dollars per hour."""

    points: Sequence[Point]
    #: The usual range as multiples of the expected burn.
    band: tuple[float, float] | None = None
    #: What would have been burned without actions: (time, rate).
    without: Sequence[tuple[float, float]] = ()
    marks: Sequence[Mark] = ()
    #: When a limit was in force: (from, to).
    leases: Sequence[tuple[float, float]] = ()


class NumberedMark(NamedTuple):
    """A mark with its number in the picture."""

    number: int
    mark: Mark


def numbered(chart: BurnChart) -> list[NumberedMark]:
    """The marks that are in the picture, in order of time."""
    if len(chart.points) < 2:
        return []
    first, last = chart.points[0].at, chart.points[-1].at
    inside = sorted((each for each in chart.marks if first <= each.at <= last), key=lambda mark: mark.at)
    return [NumberedMark(number, mark) for number, mark in enumerate(inside, 1)]


def draw(chart: BurnChart, label: str) -> Markup | None:
    """An <svg>; None where fewer than two moments are known."""
    if len(chart.points) < 2 or chart.points[-1].at <= chart.points[0].at:
        return None
    points = _fewer(chart.points)
    plot = _Plot(points, chart)
    parts = [
        *plot.grid(),
        f'<svg x="0" y="{_TOP}" width="100%" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'preserveAspectRatio="none">',
        *plot.areas(),
        plot.line("expected", [(each.at, each.expected_usd_per_hour) for each in points]),
        plot.line("without", chart.without),
        plot.line("actual", [(each.at, each.usd_per_hour) for each in points]),
        "</svg>",
        *plot.scale(),
        *plot.ticks(),
        *plot.numbers(),
    ]
    height = _TOP + _HEIGHT + _BELOW
    # Every part is made of numbers and of our own words; only the label comes from elsewhere.
    inside = Markup("".join(parts))
    return Markup('<svg class="chart" role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        label, height, inside
    )


class _Plot:
    def __init__(self, points: Sequence[Point], chart: BurnChart) -> None:
        self._points, self._chart = points, chart
        self._first, self._span = points[0].at, points[-1].at - points[0].at
        rates = [rate for each in points for rate in (each.usd_per_hour, each.expected_usd_per_hour)]
        highest = max(
            (rate for rate in [*rates, *(rate for _, rate in chart.without)] if math.isfinite(rate)), default=0
        )
        self._step = _nice(highest / 4)
        self._top = max(highest * 1.05, self._step)

    def _x(self, at: float) -> float:
        return min(1.0, max(0.0, (at - self._first) / self._span))

    def _y(self, rate: float) -> float:
        return _HEIGHT * (1 - min(1.0, max(0.0, rate / self._top)))

    def line(self, name: str, of: Sequence[tuple[float, float]]) -> str:
        """A line with gaps where nothing is known."""
        path, is_down = [], False
        for at, rate in of:
            if not math.isfinite(rate):
                is_down = False
                continue
            path.append(f"{'L' if is_down else 'M'}{self._x(at) * _WIDTH:.1f} {self._y(rate):.1f}")
            is_down = True
        return f'<path class="line {name}" d="{"".join(path)}"/>' if path else ""

    def areas(self) -> Iterable[str]:
        for since, until in self._chart.leases:
            left, right = self._x(since) * _WIDTH, self._x(until) * _WIDTH
            yield f'<rect class="lease" x="{left:.1f}" y="0" width="{max(2.0, right - left):.1f}" height="{_HEIGHT}"/>'
        if self._chart.band is not None:
            low, high = self._chart.band
            known = [each for each in self._points if math.isfinite(each.expected_usd_per_hour)]
            outline = [(each.at, high * each.expected_usd_per_hour) for each in known]
            outline += [(each.at, low * each.expected_usd_per_hour) for each in reversed(known)]
            corners = " ".join(f"{self._x(at) * _WIDTH:.1f},{self._y(rate):.1f}" for at, rate in outline)
            yield f'<polygon class="band" points="{corners}"/>'

    def grid(self) -> Iterable[str]:
        rate = 0.0
        while rate <= self._top:
            y = _TOP + self._y(rate)
            yield f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
            rate += self._step

    def scale(self) -> Iterable[str]:
        rate = self._step
        while rate <= self._top:
            y = _TOP + self._y(rate) - 4
            yield f'<text class="scale" x="0" y="{y:.1f}">{escape(_short(rate))}</text>'
            rate += self._step

    def ticks(self) -> Iterable[str]:
        step = next((each for each in _STEPS_S if self._span / each <= _MOST_TICKS), 28 * DAY_S)
        at = math.ceil(self._first / step) * step
        while at <= self._first + self._span:
            x = self._x(at)
            if 0.06 <= x <= 0.94:  # a label at the edge would leave the picture
                text = moment(at).strftime("%d %b" if step >= DAY_S else "%H:%M")
                y = _TOP + _HEIGHT + 18
                yield f'<text class="tick" x="{100 * x:.2f}%" y="{y}">{escape(text)}</text>'
            at += step

    def numbers(self) -> Iterable[str]:
        together: list[list[NumberedMark]] = []
        for each in numbered(self._chart):
            x = 100 * self._x(each.mark.at)
            yield f'<line class="mark" x1="{x:.2f}%" x2="{x:.2f}%" y1="{_TOP - 4}" y2="{_TOP + _HEIGHT}"/>'
            if together and self._x(each.mark.at) - self._x(together[-1][0].mark.at) < _APART:
                together[-1].append(each)
            else:
                together.append([each])
        for group in together:
            x = min(0.97, max(0.03, self._x(group[0].mark.at)))
            first, last = group[0].number, group[-1].number
            text = f"{first}" if first == last else f"{first}–{last}"
            yield f'<text class="number" x="{100 * x:.2f}%" y="{_TOP - 9}">{text}</text>'


def _fewer(points: Sequence[Point]) -> Sequence[Point]:
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(len(points) / _MOST_POINTS)
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    return [max(each, key=lambda point: point.usd_per_hour) for each in stretches]


def _nice(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * each for each in (1.0, 2.0, 5.0, 10.0) if power * each >= value * (1 - 1e-9))


def _short(rate: float) -> str:
    if rate < 0.1:  # a unit may cost so little: half a cent more shows
        return f"${Decimal(f'{rate:.2g}'):f}"
    return f"${rate:,.0f}" if rate >= 10 or rate == int(rate) else usd(rate)


def range_words(seconds: float) -> str:
    """ "24 hours", "7 days"."""
    return f"{seconds / DAY_S:g} days" if seconds > DAY_S else f"{seconds / HOUR_S:g} hours"
