"""Every number of the tables with its interval, as long tables: one row per model and scorer."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from spin.evaluation.labels import AVERAGE
from spin.evaluation.results import Results
from spin.evaluation.statistics import (
    Floats,
    Indices,
    bootstrap,
    deviation,
    holm,
    outcomes,
    percentile_interval,
    prompts_needed,
    resample_prompts,
    sign_flip_test,
    winning_interval,
)
from spin.params.evaluation import TableParams

NUM_PERMUTATIONS = 9999
"""Random sign flips of a paired test: the smallest p-value it can give is 1e-4."""


class Measures(NamedTuple):
    """The three long tables."""

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


class Replicates(NamedTuple):
    """Bootstrap replicates by model, (samples, scorers), paired over models and scorers."""

    mean: dict[str, Floats]
    median: dict[str, Floats]
    std: dict[str, Floats]


def measure(results: Results, tables: TableParams, seed: int) -> Measures:
    """Compute all three tables from one draw of resampled prompts, so that they agree with each other."""
    resampled = resample_prompts(len(results.prompt_ids), tables.bootstrap_samples, seed)
    names = (*results.models, *results.references)
    replicates = Replicates(
        {model: bootstrap(results.of(model), resampled) for model in names},
        {model: bootstrap(results.of(model), resampled, np.median) for model in names},
        {model: bootstrap(results.of(model), resampled, deviation) for model in names},
    )
    over = list(dict.fromkeys(["base", *tables.over]))  # the champion is chosen over the base
    return Measures(
        means=_means(results, replicates, tables.confidence),
        winrates=_winrates(results, tables.average_of, over, resampled, tables.confidence),
        comparisons=_comparisons(results, over, replicates, tables.confidence, seed),
    )


def _means(results: Results, replicates: Replicates, confidence: float) -> pd.DataFrame:
    rows = []
    for model in (*results.models, *results.references):
        for column, scorer in enumerate(results.scorers):
            values = results.of(model)[:, column]
            mean = percentile_interval(replicates.mean[model][:, column], confidence)
            median = percentile_interval(replicates.median[model][:, column], confidence)
            std = percentile_interval(replicates.std[model][:, column], confidence)
            middle = values.mean(), *mean, np.median(values), *median
            rows.append((model, scorer, *middle, deviation(values, axis=0), *std))
    columns = ["model", "scorer", "mean", "low", "high", "median", "median_low", "median_high"]
    return pd.DataFrame(rows, columns=[*columns, "std", "std_low", "std_high"])


def _winrates(
    results: Results, average_of: Sequence[str], over: list[str], resampled: Indices, confidence: float
) -> pd.DataFrame:
    averaged = [results.scorers.index(scorer) for scorer in average_of]
    rows = []
    for opponent in over:
        for model in (*results.models, *results.references):
            if model == opponent:
                continue
            won = outcomes(results.of(model), results.of(opponent))[:, :-1]  # without the average score
            ties = (won == 0.5).sum(0)
            won = np.column_stack([won, won[:, averaged].mean(1)])
            ties = np.append(ties, ties[averaged].sum())
            for column, scorer in enumerate(results.scorers):
                interval = winning_interval(won[:, column], resampled, confidence)
                rate = won[:, column].mean()
                rows.append((model, opponent, scorer, rate, *interval, ties[column], len(won)))
    return pd.DataFrame(rows, columns=["model", "over", "scorer", "win_rate", "low", "high", "ties", "n"])


def _comparisons(
    results: Results, over: list[str], replicates: Replicates, confidence: float, seed: int
) -> pd.DataFrame:
    rows = []
    for opponent in over:
        for model in results.models:
            if model == opponent:
                continue

            # Differences on the same prompts: test, resampled mean and median.
            ours, theirs = results.of(model), results.of(opponent)
            p_values = sign_flip_test(ours - theirs, NUM_PERMUTATIONS, seed)
            means = replicates.mean[model] - replicates.mean[opponent]
            medians = replicates.median[model] - replicates.median[opponent]
            for column, scorer in enumerate(results.scorers):
                a, b = ours[:, column], theirs[:, column]
                mean = percentile_interval(means[:, column], confidence)
                median = percentile_interval(medians[:, column], confidence)
                difference, spread = float((a - b).mean()), float((a - b).std(ddof=1)) if len(a) > 1 else 0.0
                needed = prompts_needed(difference, spread, confidence)
                middle = np.median(a) - np.median(b)
                row = (difference, *mean, middle, *median, p_values[column])
                rows.append((model, opponent, scorer, *row, needed))
    columns = ["model", "over", "scorer", "difference", "low", "high"]
    columns += ["median_difference", "median_low", "median_high", "p", "prompts_needed"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.insert(list(frame).index("p") + 1, "p_holm", holm(frame["p"].to_numpy(np.float64)))
    return frame


def champion(winrates: pd.DataFrame, candidates: Sequence[str]) -> str:
    """Return the candidate with the highest average winning rate over the base; of equals the earliest."""
    average = winrates[(winrates["over"] == "base") & (winrates["scorer"] == AVERAGE)]
    rates = average.set_index("model")["win_rate"]
    return max(candidates, key=lambda name: float(rates[name]))
