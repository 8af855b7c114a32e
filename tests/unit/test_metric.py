"""The metric head: what it fires on, what it stays quiet on, and that neither company nor the future matters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curb.detector.rules.metric_rule import CHANNELS, MetricHead
from curb.detector.rules.metric_tail import HIGH, LOW, MetricSettings, MetricTail

Floats = NDArray[np.float64]

WARMUP = 200
#: At 12 pure noise fires less than once in 50,000 samples.
SMALL = MetricSettings(warmup_points=WARMUP, fire_at=12)


def noise(points: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(100.0, 5.0, points)


def run(values: Floats, settings: MetricSettings = SMALL, warmups: list[int] | None = None) -> tuple[Floats, Floats]:
    """Scores and surprises, shape (steps, series), of values of that shape; 96 steps a day."""
    head = MetricHead(settings)
    for number in range(values.shape[1]):
        head.grow(number + 1, warmups[number] if warmups else None)
    steps = [head.step(value, at % 96 / 96) for at, value in enumerate(values)]
    return np.array([step.score for step in steps]), np.array([step.surprise for step in steps])


def run_one(values: Floats, settings: MetricSettings = SMALL) -> tuple[Floats, Floats]:
    scores, surprises = run(values[:, None], settings)
    return scores[:, 0], surprises[:, 0]


def fires(values: Floats, settings: MetricSettings = SMALL) -> list[int]:
    return np.nonzero(run_one(values, settings)[0])[0].tolist()


# --- what it fires on ---------------------------------------------------------------------------------------------


def test_a_spike_on_noise_fires_at_once_and_once() -> None:
    values = noise(600)
    values[400] = 200.0
    assert fires(values) == [400]


def test_a_lasting_shift_fires_within_two_samples() -> None:
    values = noise(600)
    values[400:] += 40
    assert fires(values)[0] in {400, 401}


def test_a_drop_fires_unless_only_too_high_counts() -> None:
    values = noise(600)
    values[400] = 0.0
    assert fires(values) == [400]
    assert fires(values, SMALL.model_copy(update={"one_sided": True})) == []


def test_a_rise_fires_also_where_only_too_high_counts() -> None:
    values = noise(600)
    values[400] = 200.0
    assert fires(values, SMALL.model_copy(update={"one_sided": True})) == [400]


def test_the_usual_peak_of_a_day_is_no_news_but_at_night_it_is() -> None:
    day = 100 + 80 * (np.arange(96) // 24 == 2)
    values = np.tile(day, 20).astype(np.float64) + noise(96 * 20) - 100
    settings = MetricSettings(warmup_points=3 * 96, fire_at=12)
    calm = values.copy()
    assert fires(calm, settings) == []
    values[96 * 18 + 10 : 96 * 18 + 16] += 80
    assert fires(values, settings) == [96 * 18 + 10]
    head = MetricHead(settings)
    head.grow(1)
    found = [head.step(values[at : at + 1], at % 96 / 96) for at in range(96 * 18 + 11)]
    assert CHANNELS[int(found[-1].channel[0])] == "season"


def test_after_firing_a_series_holds_off() -> None:
    values = noise(700)
    values[400:500:10] = 1e3 * 2.0 ** np.arange(10)
    # Silent for a fifth of the warm-up, however large the surprise is meanwhile.
    assert fires(values) == [400, 450]
    assert run_one(values)[1][410:450:10].min() > SMALL.fire_at


def test_nothing_fires_while_it_is_watched() -> None:
    values = noise(WARMUP)
    values[30] = 1e6
    assert not run_one(values)[1].any()


# --- bad input ----------------------------------------------------------------------------------------------------


def bad_series() -> dict[str, Floats]:
    sparse = np.where(np.random.default_rng(2).random(800) < 0.02, 5.0, 0.0)
    spike = np.zeros(800)
    spike[300] = 1e300
    gap = noise(800)
    gap[300:500] = np.nan
    odd = noise(800)
    odd[[10, 300, 301]] = [np.nan, np.inf, -np.inf]
    return {
        "constant": np.full(800, 0.1),
        "zero": np.zeros(800),
        "sparse": sparse,
        "negative": -noise(800),
        "all missing": np.full(800, np.nan),
        "spike": spike,
        "gap": gap,
        "odd": odd,
        "extremes": np.where(np.arange(800) % 2, 1e308, -1e308),
        "tiny": 1e-300 * noise(800),
        "large": 1e15 + noise(800),
    }


@pytest.mark.parametrize("name", bad_series())
def test_scores_and_state_stay_finite(name: str) -> None:
    head = MetricHead(SMALL)
    head.grow(1)
    for at, value in enumerate(bad_series()[name]):
        step = head.step(np.array([value]), at % 96 / 96)
        assert np.isfinite(step.surprise).all()
        assert 0 <= step.score[0] < 1
    for key, array in head.dump().items():
        assert np.isfinite(array).all() or (key == "tail.extremes" and not np.isnan(array).any()), key


@pytest.mark.parametrize("name", ["constant", "zero", "negative", "all missing", "gap", "odd", "tiny", "large"])
def test_these_never_fire(name: str) -> None:
    assert fires(bad_series()[name]) == []


def test_one_huge_spike_on_a_flat_series_is_one_event() -> None:
    values = np.full(1500, 45.0)
    values[1000] = 1e9
    assert fires(values) == [1000]


def test_after_one_huge_spike_the_series_is_seen_as_before() -> None:
    values = noise(1500)
    values[400] = 1e9
    values[1200] = 220.0
    assert fires(values) == [400, 1200]


def test_a_gap_changes_nothing() -> None:
    values = noise(500)
    values[450] = 200.0
    gap = np.insert(values, 300, np.full(77, np.nan))
    head, gapless = MetricHead(SMALL), MetricHead(SMALL)
    for each in (head, gapless):
        each.grow(1)
    scores = [head.step(np.array([value]), 0.5).surprise[0] for value in gap]
    expected = [gapless.step(np.array([value]), 0.5).surprise[0] for value in values]
    assert scores[300:377] == [0.0] * 77
    assert scores[:300] + scores[377:] == expected


# --- company, future and state ------------------------------------------------------------------------------------

SAMPLES = st.lists(
    st.one_of(
        st.floats(-1e6, 1e6), st.sampled_from([0.0, 1.0, math.nan, math.inf, 1e300]), st.integers(-3, 3).map(float)
    ),
    min_size=40,
    max_size=100,
)
TINY = MetricSettings(warmup_points=30)


@pytest.mark.parametrize(("least", "most"), [(1.1e-308, 1.0), (5e-324, 1e100)])
def test_a_sample_infinitely_far_beyond_a_range_next_to_nothing_is_a_finite_surprise(least: float, most: float) -> None:
    _, surprise = run_one(np.array([0.0] * 40 + [least, most]), TINY)
    assert np.isfinite(surprise).all()
    assert surprise[-1] > surprise[:-1].max()


@settings(max_examples=15, deadline=None)
@given(SAMPLES, SAMPLES, st.integers(31, 39))
def test_scores_of_the_past_do_not_depend_on_the_future(first: list[float], other: list[float], cut: int) -> None:
    one, two = np.array(first), np.array(first[:cut] + other)
    for left, right in zip(run_one(one, TINY), run_one(two, TINY), strict=True):
        assert left[:cut].tolist() == right[:cut].tolist()


@settings(max_examples=10, deadline=None)
@given(st.lists(SAMPLES, min_size=2, max_size=4))
def test_a_series_scores_the_same_alone_and_in_company(lists: list[list[float]]) -> None:
    length = max(map(len, lists))
    values = np.array([each + [math.nan] * (length - len(each)) for each in lists]).T
    together = run(values, TINY)
    for number in range(len(lists)):
        alone = run_one(values[:, number], TINY)
        for left, right in zip(alone, together, strict=True):
            assert left.tolist() == right[:, number].tolist()


def test_scoring_alone_changes_nothing() -> None:
    head = MetricHead(SMALL)
    head.grow(2)
    for value in noise(100):
        head.step(np.array([value, np.nan]), 0.1)
    before = {name: array.copy() for name, array in head.dump().items()}
    head.score(np.array([500.0, 1.0]), 0.9)
    assert all(np.array_equal(array, before[name]) for name, array in head.dump().items())


def test_a_loaded_head_goes_on_as_the_one_that_was_dumped() -> None:
    values = np.stack([noise(300, 1), noise(300, 2)], axis=1)
    values[250] = 300.0
    head = MetricHead(SMALL)
    head.grow(2)
    for value in values[:200]:
        head.step(value, 0.0)
    twin = MetricHead(SMALL)
    twin.load({name: array.copy() for name, array in head.dump().items()})
    for value in values[200:]:
        assert twin.step(value, 0.0).surprise.tolist() == head.step(value, 0.0).surprise.tolist()


def test_state_of_other_constants_is_refused() -> None:
    head = MetricHead(SMALL)
    head.grow(1)
    with pytest.raises(ValueError, match="has shape"):
        MetricHead(SMALL.model_copy(update={"season_bins": 24})).load(head.dump())


def test_series_may_come_later_with_a_warm_up_of_their_own() -> None:
    values = np.stack([noise(200, 3), noise(200, 4)], axis=1)
    values[45] = 300.0
    scores, _ = run(values, SMALL, [30, WARMUP])
    assert (scores[45] > 0).tolist() == [True, False]
    head = MetricHead(SMALL)
    head.grow(1)
    head.step(np.array([1.0]), 0.0)
    head.grow(3)
    assert head.n == 3
    assert head.step(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.5, 0.999])).score.tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="from 1 to 200"):
        head.grow(4, WARMUP + 1)


def test_a_series_takes_two_kilobytes() -> None:
    assert MetricHead(MetricSettings(), capacity=1000).bytes_per_series < 2048


def test_a_season_that_would_never_be_known_is_refused() -> None:
    with pytest.raises(ValueError, match="season_known must be less"):
        MetricSettings(season_known=7)


# --- the tail -----------------------------------------------------------------------------------------------------


def test_the_warm_up_finds_the_edges_and_the_mean_excess() -> None:
    settings = MetricSettings(warmup_points=100, tail_share=0.05, first_excess=1e-12)
    tail = MetricTail(settings, 1, 1)
    tail.columns.grow(1)
    index = np.array([0])
    values = np.random.default_rng(5).permutation(np.arange(1.0, 101.0))
    for seen, value in enumerate(values, 1):
        tail.warm(np.array([[value]]), index, np.array([seen]))
    tail.settle(index, np.array([100]))
    # Five of a hundred are beyond either edge, by 1 to 5.
    assert tail.columns["edge"][HIGH, 0, 0] == 95
    assert tail.columns["edge"][LOW, 0, 0] == -6
    assert tail.columns["excess"][:, 0, 0] == pytest.approx(15 / 6)
    assert tail.surprise(np.array([[95.0]]), index)[0, 0] == 0
    # One mean excess farther out is e times rarer.
    expected = -math.log10(0.05) + math.log10(math.e)
    assert tail.surprise(np.array([[97.5]]), index)[0, 0] == pytest.approx(expected, abs=1e-4)
    assert tail.surprise(np.array([[3.5]]), index)[0, 0] == pytest.approx(expected, abs=1e-4)


def test_edges_follow_until_the_share_outside_is_right() -> None:
    settings = MetricSettings(warmup_points=30, edge_rate=0.02)
    tail = MetricTail(settings, 1, 1)
    tail.columns.grow(1)
    index, values = np.array([0]), np.random.default_rng(6).normal(0, 1, 20_000)
    for seen, value in enumerate(values[:30], 1):
        tail.warm(np.array([[value]]), index, np.array([seen]))
    tail.settle(index, np.array([30]))
    out = 0
    for at, value in enumerate(values[30:]):
        out += at > 5_000 and value > tail.columns["edge"][HIGH, 0, 0]
        tail.learn(np.array([[value]]), index)
    assert out / 14_969 == pytest.approx(settings.tail_share, rel=0.2)
