"""Intervals: cases worked by hand, and what must hold for any scores."""

import math

import numpy as np
import pandas as pd
import pytest

from spin.evaluation import resampling
from spin.evaluation.intervals import (
    deviation_intervals,
    mean_intervals,
    percentile_interval,
    ratio_intervals,
    standard_errors,
    winning_intervals,
)
from spin.evaluation.resampling import (
    Floats,
    Resampled,
    cluster_codes,
    clusters_of,
    resample,
    resampled_medians,
    totals,
)


def scores(seed: int, prompts: int = 40) -> Floats:
    return np.random.default_rng(seed).normal(size=(prompts, 2)).round(1)


def alone(prompts: int, samples: int = 400) -> Resampled:
    """Every prompt its own cluster."""
    return resample(np.arange(prompts), samples, seed=0)


def won(wins: int, prompts: int) -> Floats:
    return (np.arange(prompts) < wins).astype(float)[:, None]


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def test_a_bootstrap_sample_has_as_many_clusters_as_there_are() -> None:
    drawn = resample(np.array([0, 0, 1, 1, 2]), 50, seed=3)
    assert drawn.times.shape == (50, 3)
    assert (drawn.times.sum(1) == 3).all()
    assert drawn.times.std() > 0
    assert (resample(drawn.clusters, 50, seed=3).times == drawn.times).all(), "a seed is a draw"


def test_clusters_are_numbered_by_name_and_a_prompt_without_one_is_alone() -> None:
    frame = pd.DataFrame({"prompt_id": ["p0", "p1", "p2", "p3"], "cluster": ["b", None, "b", ""]})
    assert clusters_of(frame) == ["b", "p1", "b", "p3"]
    assert cluster_codes(clusters_of(frame)).tolist() == [0, 1, 0, 2]
    assert clusters_of(frame[["prompt_id"]]) == ["p0", "p1", "p2", "p3"]


def test_totals_by_hand() -> None:
    assert totals(np.array([[1.0], [2.0], [4.0]]), np.array([1, 0, 1])).tolist() == [[2.0], [5.0]]


def test_medians_of_bootstrap_samples_are_those_of_the_prompts_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    values, drawn = scores(0, 9), resample(np.array([0, 0, 1, 1, 1, 2, 3, 3, 4]), 60, seed=1)
    expected = []
    for times in drawn.times:
        rows = np.repeat(values, times[drawn.clusters], axis=0)
        expected.append(np.median(rows, axis=0))
    assert resampled_medians(values, drawn) == pytest.approx(np.array(expected))
    monkeypatch.setattr(resampling, "CHUNK", 20)
    assert resampled_medians(values, drawn) == pytest.approx(np.array(expected)), "in pieces as at once"


def test_winning_interval_by_hand() -> None:
    # The variance of the mean is .75 * .25 / 19, so n = 19; Student's t with 19 degrees of freedom is 2.0930.
    ((low, high),) = winning_intervals(won(15, 20), np.arange(20), 0.95)
    n, t = 19, 2.09302405
    centre = (n * 0.75 + t**2 / 2) / (n + t**2)
    half = t * math.sqrt(centre * (1 - centre) / (n + t**2))
    assert (low, high) == pytest.approx((centre - half, centre + half))


def test_after_all_wins_the_interval_still_has_a_width_and_one_prompt_says_nothing() -> None:
    ((low, high),) = winning_intervals(won(256, 256), np.arange(256), 0.95)
    t = 1.96929  # Student's with 255 degrees of freedom
    assert (low, high) == (pytest.approx(256 / (256 + t**2), abs=1e-4), 1.0)
    ((some, most),) = winning_intervals(won(255, 256), np.arange(256), 0.95)
    assert some < low
    assert most == 1.0
    assert winning_intervals(won(1, 1), np.arange(1), 0.95) == [(0.0, 1.0)]
    ((together, _),) = winning_intervals(won(256, 256), np.arange(256) // 8, 0.95)
    assert together < low - 0.05, "32 clusters say less than 256 prompts"


def test_after_nothing_but_ties_the_interval_is_narrow_and_even() -> None:
    """What was not seen may be won or lost: as wide as after nothing but wins, on both sides of one half."""
    ((low, high),) = winning_intervals(np.full((256, 1), 0.5), np.arange(256), 0.95)
    ((least, most),) = winning_intervals(won(256, 256), np.arange(256), 0.95)
    assert (low + high) / 2 == pytest.approx(0.5)
    assert high - low == pytest.approx(most - least)


def test_the_interval_of_the_loser_mirrors_that_of_the_winner() -> None:
    outcomes = np.random.default_rng(0).choice([0.0, 0.25, 0.5, 1.0], size=(60, 3))
    clusters = np.arange(60) // 4
    ours = winning_intervals(outcomes, clusters, 0.95)
    theirs = winning_intervals(1 - outcomes, clusters, 0.95)
    for (low, high), (other_low, other_high) in zip(ours, theirs, strict=True):
        assert (low, high) == pytest.approx((1 - other_high, 1 - other_low))


@pytest.mark.parametrize("copies", [2, 8])
def test_repeating_every_prompt_as_a_cluster_tells_nothing_new(copies: int) -> None:
    outcomes, values = won(21, 30), scores(1, 30)
    clusters = np.repeat(np.arange(30), copies)
    again = np.repeat(outcomes, copies, axis=0)
    assert winning_intervals(again, clusters, 0.95) == [
        pytest.approx(each) for each in winning_intervals(outcomes, np.arange(30), 0.95)
    ]
    once, repeated = alone(30), resample(clusters, 400, seed=0)
    for measure in (mean_intervals, deviation_intervals):
        expected = measure(values, once, 0.95)
        scale = math.sqrt((30 * copies / (30 * copies - 1)) / (30 / 29)) if measure != mean_intervals else 1
        for (low, high), (few, many) in zip(
            measure(np.repeat(values, copies, axis=0), repeated, 0.95), expected, strict=True
        ):
            assert (low, high) == pytest.approx((scale * few, scale * many))
    assert width(winning_intervals(again, np.arange(len(again)), 0.95)[0]) < 0.8 * width(
        winning_intervals(outcomes, np.arange(30), 0.95)[0]
    ), "taken for independent they would"


def test_mean_interval_is_never_nearer_than_students_and_leans_to_the_long_tail() -> None:
    skewed = np.random.default_rng(0).lognormal(size=(30, 1))
    ((low, high),) = mean_intervals(skewed, alone(30, 2000), 0.95)
    mean, error = skewed.mean(), skewed.std(ddof=1) / math.sqrt(30)
    assert low <= mean - 2.0452 * error
    assert high - mean > 1.3 * (mean - low)
    ((other_low, other_high),) = mean_intervals(-skewed, alone(30, 2000), 0.95)
    assert (other_low, other_high) == pytest.approx((-high, -low))


def test_intervals_follow_the_units() -> None:
    values, drawn = scores(2), alone(40)
    for (low, high), (few, many) in zip(
        mean_intervals(1e3 * values + 1e6, drawn, 0.95), mean_intervals(values, drawn, 0.95), strict=True
    ):
        assert (low, high) == pytest.approx((1e6 + 1e3 * few, 1e6 + 1e3 * many))


def test_columns_do_not_touch_each_other_and_pieces_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values, drawn = scores(3), alone(40)
    both = mean_intervals(values, drawn, 0.95)
    assert both[1] == pytest.approx(mean_intervals(values[:, 1:], drawn, 0.95)[0])
    monkeypatch.setattr(resampling, "CHUNK", 130)
    assert mean_intervals(values, drawn, 0.95) == [pytest.approx(each) for each in both]


def test_scores_that_hardly_vary_give_a_finite_interval() -> None:
    """Three of 256 prompts differ: one bootstrap sample in 20 has none of them and no spread at all."""
    rare = 1 - won(3, 256)
    ((low, high),) = mean_intervals(rare, alone(256, 2000), 0.95)
    error = rare.std(ddof=1) / 16
    assert low == pytest.approx(rare.mean() - math.sqrt(3 / 0.1) * error, rel=1e-3), "that sample's distance"
    assert rare.mean() < high < 1.01
    assert mean_intervals(np.ones((30, 1)), alone(30), 0.95) == [(1.0, 1.0)]


def test_one_prompt_has_no_interval() -> None:
    for interval in (
        mean_intervals(scores(0, 1), alone(1), 0.95)
        + deviation_intervals(scores(0, 1), alone(1), 0.95)
        + mean_intervals(scores(0, 8), resample(np.zeros(8, dtype=int), 10, seed=0), 0.95)
    ):
        assert np.isnan(interval).all()


def test_a_ratio_of_paired_sums_is_narrower_than_its_parts() -> None:
    rng = np.random.default_rng(0)
    whole = rng.lognormal(size=(60, 1)) + 0.5
    closed = 0.5 * whole + 0.01 * rng.normal(size=(60, 1))
    ((low, high),) = ratio_intervals(closed, whole, alone(60), 0.95)
    assert low < 0.5 < high
    assert high - low < 0.02
    assert width(mean_intervals(closed, alone(60), 0.95)[0]) > 0.2


def test_standard_errors_by_hand() -> None:
    values = np.array([[1.0], [3.0], [2.0], [6.0]])
    assert standard_errors(values, np.arange(4)) == pytest.approx(np.std(values, ddof=1) / 2)
    # Clusters (1, 3) and (2, 6): totals about the mean 3 are -2 and 2, so sqrt(2 / 1 * 8) / 4 = 1.
    assert standard_errors(values, np.array([0, 0, 1, 1])) == pytest.approx(1.0)


def test_percentile_interval_by_hand() -> None:
    assert percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
