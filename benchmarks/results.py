"""What the benchmarks found by target: lines for people, `results.json`, and a picture for the documentation."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Where everything that was measured is kept, and its picture.
RESULTS = Path(__file__).parent / "results.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "benchmarks.png"
#: Okabe and Ito's palette: kept, missed, and without a gate.
_KEPT, _MISSED, _OPEN = "#0072B2", "#D55E00", "#999999"


@dataclass(frozen=True)
class Measured:
    """One figure over its rounds."""

    name: str
    meaning: str
    values: Sequence[float]
    unit: str = ""
    #: What it has to keep: at least, or at most.
    at_least: float | None = None
    at_most: float | None = None

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def kept(self) -> bool | None:
        """Whether it keeps its gate; None where it has none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def gate(self) -> str:
        """The gate in words; "" for none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}{self.unit}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}{self.unit}"

    @property
    def line(self) -> str:
        """For the terminal."""
        missed = ", MISSED" if self.kept is False else ""
        gate = f"  {self.gate}{missed}" if self.gate else ""
        low, high = min(self.values), max(self.values)
        return f"{self.name:14} {self.meaning:52} {self.value:9.3g}{self.unit}  ({low:.3g} to {high:.3g}){gate}"

    def as_data(self) -> dict[str, Any]:
        """For the file."""
        figures = {"value": self.value, "min": min(self.values), "max": max(self.values)}
        gates = {"at_least": self.at_least, "at_most": self.at_most}
        return figures | {"rounds": [*self.values], "unit": self.unit.strip(), "meaning": self.meaning} | gates


def write(found: Iterable[Measured], path: Path = RESULTS) -> None:
    """All targets in one file; what was not measured is not in it."""
    targets = {each.name: each.as_data() for each in found}
    machine = {"processor": platform.machine(), "python": platform.python_version()}
    text = json.dumps({"targets": targets, "machine": machine}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def kept(path: Path = RESULTS) -> list[Measured]:
    """What the file has."""
    if not path.exists():
        return []
    targets = json.loads(path.read_text(encoding="utf-8"))["targets"]
    return [
        Measured(
            name,
            each["meaning"],
            each["rounds"],
            f" {each['unit']}" if each["unit"] else "",
            each["at_least"],
            each["at_most"],
        )
        for name, each in targets.items()
    ]


def picture(found: Sequence[Measured]) -> Figure:
    """Each figure that has a gate, as so many times its gate: right of the line is better."""
    from matplotlib.figure import Figure

    shown = [each for each in reversed(found) if each.gate]
    figure = Figure(figsize=(9.5, 0.42 * len(shown) + 1.2), dpi=100, facecolor="white")
    axes = figure.add_axes((0.5, 0.16, 0.46, 0.76))
    for row, each in enumerate(shown):
        middle, low, high = (_times(each, value) for value in (each.value, min(each.values), max(each.values)))
        low, high = min(low, high), max(low, high)
        colour = {True: _KEPT, False: _MISSED, None: _OPEN}[each.kept]
        axes.plot([low, high], [row, row], color=colour, lw=5, alpha=0.35, solid_capstyle="round")
        axes.plot([middle], [row], color=colour, marker="o" if each.kept else "D")
    axes.axvline(1.0, color="#444444", lw=1)
    axes.set_xscale("log")
    axes.set_yticks(
        range(len(shown)), [f"{each.name}: {each.meaning}: {each.value:.3g}{each.unit} ({each.gate})" for each in shown]
    )
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.set_xlabel("times its gate, on a log scale; left of 1 is missed")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
    return figure


def _times(each: Measured, value: float) -> float:
    """How far a value keeps its gate: over 1, or under it where it misses; from a hundredth to 10."""
    if each.at_least is not None:
        return max(value / each.at_least, 1e-2)
    if value <= 0:  # nothing at all is as good as it gets
        return 10.0
    return min(10.0, max(1e-2, (each.at_most or 0.0) / value))
