"""The spend chart: a PNG of the promised size whatever the data, and labels that never lie on one another."""

from __future__ import annotations

import builtins
import struct
from typing import Any

import pytest

from curb.stream.errors import PermanentError
from curb.views.charts import _figure, _Labels, burn, spend_chart

T0 = 1786716000.0
MINUTES = [T0 + 60 * i for i in range(120)]
EVENTS = [
    (T0 + 3600, "agent loop starts"),
    (T0 + 3640, "detected, $31/h"),
    (T0 + 3660, "throttled to 8 requests/min"),
    (T0 + 3900, "verified"),
    (T0 + 7000, "lease ends, limit restored"),
]


def png_size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[12:16] == b"IHDR"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_everything_drawn_is_a_png_of_1200_by_560() -> None:
    flat = [2.0] * 120
    full = spend_chart(
        MINUTES,
        [3.0] * 120,
        flat,
        expected_low=[1.0] * 120,
        expected_high=[4.0] * 120,
        counterfactual=[36.0] * 120,
        title="a $ and another $",
        subtitle="x_1^2",
        events=EVENTS,
        leases=[(T0 + 3660, T0 + 7000), (T0 + 7060, T0 + 7100)],
        budget_line=9,
    )
    bare = spend_chart(MINUTES, flat, flat, title="flat")
    assert png_size(full) == png_size(bare) == (1200, 560)
    assert full != bare


def test_all_zero_spend_still_draws() -> None:
    zero = [0.0] * 120
    assert png_size(spend_chart(MINUTES, zero, zero, title="", events=EVENTS)) == (1200, 560)


def test_a_chart_of_one_minute_is_refused() -> None:
    with pytest.raises(ValueError, match="two minutes"):
        spend_chart([T0], [1.0], [1.0], title="x")


@pytest.mark.parametrize("shift_s", [0, 30, 60, 100, 3500, -3600])
def test_labels_never_overlap_and_stay_inside(shift_s: float) -> None:
    figure = _figure()
    events = [(at + shift_s, text) for at, text in EVENTS]
    labels = _Labels(figure, MINUTES, events)
    boxes = [(begin, begin + 6 + labels._width_px(text), row) for _, begin, row, text in labels._labels]
    shown = [e for e in events if MINUTES[0] <= e[0] <= MINUTES[-1]]
    assert len(boxes) == len(shown)
    for i, (low, high, row) in enumerate(boxes):
        assert 0 <= low < high <= 1200
        for other_low, other_high, other_row in boxes[i + 1 :]:
            assert row != other_row or high <= other_low or other_high <= low


def test_lines_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one value per minute"):
        spend_chart(MINUTES, [1.0] * 120, [1.0] * 119, title="x")


def test_burn_is_the_mean_of_the_last_minutes_per_hour() -> None:
    assert burn([0.1, 0.2, 0.3, 0.0], window=2) == pytest.approx([6, 9, 15, 9])


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PermanentError, match=r"curbd\[charts\]"):
        spend_chart(MINUTES, [1.0] * 120, [1.0] * 120, title="x")
