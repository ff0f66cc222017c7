"""Intervals cover the truth as often as they say, and nobody is called better by chance. See benchmarks/coverage.py."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.coverage import (
    RATES,
    SIZES,
    draw_scores,
    exact_winning_coverage,
    false_claims,
    gap_coverage,
    mean_coverage,
    percentile_coverage,
    winning_coverage,
)
from spin.evaluation.intervals import deviation_intervals, percentile_interval
from spin.evaluation.resampling import resample, resampled_medians

ROOT = Path(__file__).parents[2]
REPETITIONS = 1000
ERROR = math.sqrt(0.95 * 0.05 / REPETITIONS)
"""Standard error of a coverage found by simulation."""
KINDS = ("one scorer", "ties", "average of four")


def is_near_what_it_says(covered: float, most: float = 0.97, error: float = ERROR) -> bool:
    return 0.93 - 2 * error <= covered <= most + 2 * error


@pytest.mark.parametrize("prompts", SIZES)
@pytest.mark.parametrize("rate", RATES)
def test_winning_rates_of_independent_prompts_are_covered(prompts: int, rate: str) -> None:
    """No simulation but the exact probability.

    Counts are whole: near 98% of 30 prompts an interval holds 87.9% or 97.8%, and at 1 - 1/N (where losses are nearly
    Poisson with mean 1) 92% or 98%. There at least 93% are asked for, and no more than the next count brings.
    """
    covered = exact_winning_coverage(prompts, RATES[rate](prompts))
    at_the_edge = rate.startswith("1 - ") or prompts == 30
    assert 0.93 <= covered <= (1.0 if rate == "1 - 0.17/N" else 0.985 if at_the_edge else 0.97)


@pytest.mark.parametrize("prompts", [3, 5, 20, 72, 256])
def test_no_rate_is_covered_less_than_it_says(prompts: int) -> None:
    rates = [*np.linspace(0.5, 0.99, 50), *(1 - np.geomspace(0.01, 3, 50) / (3 * prompts))]
    assert min(exact_winning_coverage(prompts, float(rate)) for rate in rates) > 0.94


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("together", [1, 8])
@pytest.mark.parametrize("rate", RATES)
def test_winning_rates_with_ties_averages_and_clusters_are_covered(
    kind: str, together: int, rate: str
) -> None:
    edge = rate not in ("50%", "90%")
    for prompts in (256, 500):
        covered = winning_coverage((kind, prompts, together), RATES[rate](prompts), REPETITIONS)
        assert is_near_what_it_says(covered, most=1.0 if edge else 0.97), prompts


@pytest.mark.parametrize(
    "of", [("normal", 30, 1), ("normal", 256, 1), ("lognormal", 30, 1), ("lognormal", 256, 1)]
)
def test_means_and_shares_of_a_gap_are_covered(of: tuple[str, int, int]) -> None:
    assert is_near_what_it_says(mean_coverage(of, REPETITIONS))
    assert is_near_what_it_says(gap_coverage(of, REPETITIONS))


@pytest.mark.parametrize("kind", ["normal", "lognormal"])
def test_means_of_prompts_in_clusters_are_covered(kind: str) -> None:
    for prompts in (72, 256):
        assert is_near_what_it_says(mean_coverage((kind, prompts, 8), REPETITIONS)), prompts


def test_percentiles_of_the_bootstrap_would_not_do() -> None:
    """That the simulation can tell: what the tables did before covers 89% of 30 lognormal scores."""
    assert percentile_coverage(("lognormal", 30, 1), REPETITIONS) < 0.91


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("prompts", "together"), [(5, 1), (20, 1), (256, 1), (72, 8), (256, 8)])
def test_of_equally_good_models_one_is_called_better_in_6_of_100_cases_at_most(
    kind: str, prompts: int, together: int
) -> None:
    claimed = false_claims((kind, prompts, together), 10 * REPETITIONS)
    assert claimed <= 0.06
    assert (claimed == 0) == (prompts < 20), "few prompts decide nothing, and many may"


@pytest.mark.parametrize("prompts", [30, 256])
def test_standard_deviations_of_normal_scores_and_all_medians_are_covered(prompts: int) -> None:
    rng, resampled = np.random.default_rng(0), resample(np.arange(prompts), 1000, seed=1)
    normal, _ = draw_scores(("normal", prompts, 1), 300, rng)
    skewed, _ = draw_scores(("lognormal", prompts, 1), 300, rng)
    spreads = deviation_intervals(normal, resampled, 0.95)
    error = math.sqrt(0.95 * 0.05 / 300)
    assert is_near_what_it_says(np.mean([low <= 1 <= high for low, high in spreads]), error=error)
    for values, median in ((normal, 0.0), (skewed, 1.0)):
        intervals = [percentile_interval(each, 0.95) for each in resampled_medians(values, resampled).T]
        covered = np.mean([low <= median <= high for low, high in intervals])
        assert is_near_what_it_says(float(covered), error=error)


def test_the_documentation_shows_what_was_recorded() -> None:
    recorded = (ROOT / "benchmarks/results/coverage.md").read_text(encoding="utf-8")
    tables = recorded[recorded.index("In percent") :].strip()
    assert tables in (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
