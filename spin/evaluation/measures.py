"""Every number of the tables with its interval, as long tables: one row per model and scorer."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from spin.evaluation.champion import enough
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
    Indices,
    Resampled,
    cluster_codes,
    resample,
    resampled_medians,
    totals,
)
from spin.evaluation.results import Results
from spin.evaluation.statistics import deviation, holm, outcomes, prompts_needed, sign_flip_test
from spin.params.evaluation import TableParams

NUM_PERMUTATIONS = 9999
"""Random sign flips of a paired test: the smallest p-value it can give is 1e-4."""


class Measures(NamedTuple):
    """The long tables."""

    means: pd.DataFrame
    """model, scorer, mean, low, high, median, median_low, median_high, std, std_low, std_high."""
    winrates: pd.DataFrame
    """model, over, scorer, win_rate, low, high, ties, n. A model has no row over itself.

    The win rate of `average` is the mean of those over `tables.average_of`, its ties are their sum.
    """
    comparisons: pd.DataFrame
    """model, over, scorer, difference, low, high, median_difference, median_low, median_high, p, p_holm,
    prompts_needed: differences of means and of medians, a paired sign-flip test of the mean corrected for all
    rows, and the prompts that would resolve this difference with 80% power (infinite where it is 0).
    """
    duels: pd.DataFrame
    """model, over, win_rate, low, high, n, decides: every model against every other, by the average winning rate.

    `decides` is whether the interval leaves out one half, of prompts enough to decide anything.
    """
    gaps: pd.DataFrame
    """model, ceiling, scorer, share, low, high: (model - base) / (ceiling - base) of the means; none (nan) for a scorer by
    which the ceiling is not above the base.
    """
    steps: pd.DataFrame
    """model, over, scorer, difference, low, high: each iteration against the one it started from, means, paired."""


def measure(
    results: Results, tables: TableParams, seed: int, steps: Sequence[tuple[str, str]] = ()
) -> Measures:
    """Compute all tables from one draw of resampled prompts, so that they agree; `steps` are pairs (iteration, before it)."""
    resampled = resample(cluster_codes(results.clusters), tables.bootstrap_samples, seed)
    medians = {
        model: resampled_medians(results.of(model), resampled)
        for model in (*results.models, *results.references)
    }
    over = list(dict.fromkeys(["base", *tables.over]))
    return Measures(
        means=_means(results, resampled, medians, tables.confidence),
        winrates=_winrates(results, tables.average_of, over, resampled.clusters, tables.confidence),
        comparisons=_comparisons(results, over, resampled, medians, tables.confidence, seed),
        duels=_duels(results, tables.average_of, resampled.clusters, tables.confidence),
        gaps=_gaps(results, resampled, tables.confidence),
        steps=_steps(results, steps, resampled, tables.confidence),
    )


def outcomes_of(results: Results, model: str, over: str, average_of: Sequence[str]) -> Floats:
    """Outcomes of a model over another by scorer, (prompts, scorers); those of `average` are the mean of its scorers'."""
    averaged = [results.scorers.index(scorer) for scorer in average_of]
    won = outcomes(results.of(model), results.of(over))[:, :-1]  # without the average score
    return np.column_stack([won, won[:, averaged].mean(1)])


def _means(
    results: Results, resampled: Resampled, medians: dict[str, Floats], confidence: float
) -> pd.DataFrame:
    rows = []
    for model in (*results.models, *results.references):
        values = results.of(model)
        means = mean_intervals(values, resampled, confidence)
        spreads = deviation_intervals(values, resampled, confidence)
        for column, scorer in enumerate(results.scorers):
            of_scorer = values[:, column]
            median = percentile_interval(medians[model][:, column], confidence)
            middle = of_scorer.mean(), *means[column], np.median(of_scorer), *median
            rows.append((model, scorer, *middle, deviation(of_scorer, axis=0), *spreads[column]))
    columns = ["model", "scorer", "mean", "low", "high", "median", "median_low", "median_high"]
    return pd.DataFrame(rows, columns=[*columns, "std", "std_low", "std_high"])


def _winrates(
    results: Results, average_of: Sequence[str], over: list[str], clusters: Indices, confidence: float
) -> pd.DataFrame:
    averaged = [results.scorers.index(scorer) for scorer in average_of]
    rows = []
    for opponent in over:
        for model in (*results.models, *results.references):
            if model == opponent:
                continue
            won = outcomes_of(results, model, opponent, average_of)
            ties = (won == 0.5).sum(0)
            ties[-1] = ties[averaged].sum()
            intervals = winning_intervals(won, clusters, confidence)
            for column, scorer in enumerate(results.scorers):
                rate = won[:, column].mean()
                rows.append((model, opponent, scorer, rate, *intervals[column], ties[column], len(won)))
    return pd.DataFrame(rows, columns=["model", "over", "scorer", "win_rate", "low", "high", "ties", "n"])


def _duels(results: Results, average_of: Sequence[str], clusters: Indices, confidence: float) -> pd.DataFrame:
    rows = []
    for model, opponent in itertools.permutations(results.models, 2):
        won = outcomes_of(results, model, opponent, average_of)[:, -1:]
        ((low, high),) = winning_intervals(won, clusters, confidence)
        decides = enough(len(won)) and not low <= 0.5 <= high
        rows.append((model, opponent, won.mean(), low, high, len(won), decides))
    return pd.DataFrame(rows, columns=["model", "over", "win_rate", "low", "high", "n", "decides"])


def _gaps(results: Results, resampled: Resampled, confidence: float) -> pd.DataFrame:
    rows = []
    for ceiling in results.references:
        whole = results.of(ceiling) - results.of("base")
        above = np.array([low > 0 for low, _ in mean_intervals(whole, resampled, confidence)])
        for model in results.models:
            if model == "base":
                continue
            closed = results.of(model) - results.of("base")
            shares = np.full((len(results.scorers), 3), np.nan)
            if above.any():
                intervals = ratio_intervals(closed[:, above], whole[:, above], resampled, confidence)
                shares[above, 0] = closed[:, above].sum(0) / whole[:, above].sum(0)
                shares[above, 1:] = intervals
            rows += [(model, ceiling, *row) for row in zip(results.scorers, *shares.T, strict=True)]
    return pd.DataFrame(rows, columns=["model", "ceiling", "scorer", "share", "low", "high"])


def _steps(
    results: Results, steps: Sequence[tuple[str, str]], resampled: Resampled, confidence: float
) -> pd.DataFrame:
    rows = []
    for model, over in steps:
        apart = results.of(model) - results.of(over)
        intervals = mean_intervals(apart, resampled, confidence)
        for scorer, difference, interval in zip(results.scorers, apart.mean(0), intervals, strict=True):
            rows.append((model, over, scorer, difference, *interval))
    return pd.DataFrame(rows, columns=["model", "over", "scorer", "difference", "low", "high"])


def _comparisons(
    results: Results,
    over: list[str],
    resampled: Resampled,
    medians: dict[str, Floats],
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    rows = []
    for opponent in over:
        for model in results.models:
            if model == opponent:
                continue

            # Differences on the same prompts: test, mean and resampled median.
            ours, theirs = results.of(model), results.of(opponent)
            apart = ours - theirs
            p_values = sign_flip_test(totals(apart, resampled.clusters), NUM_PERMUTATIONS, seed)
            means = mean_intervals(apart, resampled, confidence)
            medians_apart = medians[model] - medians[opponent]
            spreads = standard_errors(apart, resampled.clusters) * len(apart) ** 0.5
            for column, scorer in enumerate(results.scorers):
                median = percentile_interval(medians_apart[:, column], confidence)
                difference = float(apart[:, column].mean())
                needed = prompts_needed(difference, float(spreads[column]), confidence)
                middle = np.median(ours[:, column]) - np.median(theirs[:, column])
                row = (difference, *means[column], middle, *median, p_values[column])
                rows.append((model, opponent, scorer, *row, needed))
    columns = ["model", "over", "scorer", "difference", "low", "high"]
    columns += ["median_difference", "median_low", "median_high", "p", "prompts_needed"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.insert(list(frame).index("p") + 1, "p_holm", holm(frame["p"].to_numpy(np.float64)))
    return frame
