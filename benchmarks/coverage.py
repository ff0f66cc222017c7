"""How often the intervals of the tables cover the truth, and how often a winner is named where nobody is better.

    python -m benchmarks.coverage [--repetitions 2000] [--out benchmarks/results/coverage]

Prompts are drawn from distributions whose truth is known. `tests/evaluation/test_coverage.py` asks the same functions for
fewer repetitions. What a single scorer's wins of independent prompts cover is no simulation but the sum over all counts.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom, norm

from benchmarks.record import about_here, about_line, write_record
from spin.evaluation.champion import enough
from spin.evaluation.intervals import Interval, mean_intervals, ratio_intervals, winning_intervals
from spin.evaluation.resampling import Floats, Indices, Resampled, resample

CONFIDENCE = 0.95
SAMPLES = 2000
"""Bootstrap samples, as in the profiles."""
BLOCK = 100
"""Repetitions that share their bootstrap samples, as the models of one table do."""
SHARED = 0.3
"""Correlation of the scores of two prompts of a cluster, before they are cut into wins or made skewed."""
COMMON = 0.4
"""Correlation of two scorers on one image."""
TIES = 0.3
SIZES = (30, 256, 500)
MEANS = ((20, 1), (30, 1), (256, 1), (72, 8), (256, 8))
"""(prompts, prompts of a cluster) of the means."""
RATES: dict[str, Callable[[int], float]] = {
    "50%": lambda _: 0.5,
    "90%": lambda _: 0.9,
    "98%": lambda _: 0.98,
    "1 - 1/N": lambda prompts: 1 - 1 / prompts,
    "1 - 0.17/N": lambda prompts: 1 - 0.17 / prompts,
}
Simulation = tuple[str, int, int]
"""(kind, prompts, prompts of a cluster)."""


def clusters_of(prompts: int, together: int) -> Indices:
    """Clusters of so many prompts each, the last one perhaps smaller."""
    return np.arange(prompts, dtype=np.intp) // together


def latent(clusters: Indices, repetitions: int, rng: np.random.Generator) -> Floats:
    """Standard normal scores, (N, R), that correlate by `SHARED` inside a cluster; independent where it is one prompt."""
    own = rng.normal(size=(len(clusters), repetitions))
    count = int(clusters.max()) + 1
    if count == len(clusters):
        return own
    return np.sqrt(SHARED) * rng.normal(size=(count, repetitions))[clusters] + np.sqrt(1 - SHARED) * own


def draw_outcomes(of: Simulation, rate: float, repetitions: int, rng: np.random.Generator) -> Floats:
    """Outcomes (N, R) whose expectation is `rate`: of one scorer, of one with ties, or the mean of four scorers."""
    kind, prompts, together = of
    score = latent(clusters_of(prompts, together), repetitions, rng)
    if kind == "one scorer":
        return (score < norm.ppf(rate)).astype(np.float64)
    if kind == "ties":
        ties = min(TIES, 1.8 * (1 - rate))  # of the rest some are lost
        won = (score < norm.ppf(rate - ties / 2)).astype(np.float64)
        return (won + (score < norm.ppf(rate + ties / 2))) / 2
    scorers = rng.normal(size=(4, *score.shape))
    each = np.sqrt(COMMON) * score + np.sqrt(1 - COMMON) * scorers
    return np.asarray((each < norm.ppf(rate)).mean(0), dtype=np.float64)


def draw_scores(of: Simulation, repetitions: int, rng: np.random.Generator) -> tuple[Floats, float]:
    """Scores (N, R) and their expectation: `normal`, or `lognormal` with a skewness of 6."""
    kind, prompts, together = of
    score = latent(clusters_of(prompts, together), repetitions, rng)
    return (np.exp(score), float(np.exp(0.5))) if kind == "lognormal" else (score, 0.0)


def winning_coverage(of: Simulation, rate: float, repetitions: int, seed: int = 0) -> float:
    """Share of intervals of a winning rate that hold `rate`."""
    won = draw_outcomes(of, rate, repetitions, np.random.default_rng(seed))
    return _share(winning_intervals(won, clusters_of(*of[1:]), CONFIDENCE), rate)


def exact_winning_coverage(prompts: int, rate: float) -> float:
    """The same of one scorer without ties on independent prompts: the probability of the counts whose interval holds it."""
    counts = np.arange(prompts + 1)
    won = (np.arange(prompts)[:, None] < counts).astype(np.float64)  # a column per count
    intervals = winning_intervals(won, np.arange(prompts), CONFIDENCE)
    holds = [low <= rate <= high for low, high in intervals]
    return float(binom.pmf(counts, prompts, rate)[holds].sum())


def wilson_coverage(prompts: int, rate: float) -> float:
    """What Wilson's interval would cover, for comparison: rates within z standard errors of their own of the count."""
    counts, z = np.arange(prompts + 1), norm.ppf((1 + CONFIDENCE) / 2)
    holds = np.abs(counts - prompts * rate) <= z * np.sqrt(prompts * rate * (1 - rate))
    return float(binom.pmf(counts, prompts, rate)[holds].sum())


def false_claims(of: Simulation, repetitions: int, seed: int = 0) -> float:
    """Share of comparisons of equally good models in which one of them is called the better."""
    won = draw_outcomes(of, 0.5, repetitions, np.random.default_rng(seed))
    intervals = winning_intervals(won, clusters_of(*of[1:]), CONFIDENCE)
    return (1 - _share(intervals, 0.5)) if enough(of[1]) else 0.0


def mean_coverage(of: Simulation, repetitions: int, seed: int = 0) -> float:
    """Share of intervals of a mean that hold the expectation."""

    def block(number: int, resampled: Resampled, rng: np.random.Generator) -> float:
        scores, truth = draw_scores(of, number, rng)
        return number * _share(mean_intervals(scores, resampled, CONFIDENCE), truth)

    return _blocks(of, repetitions, seed, block)


def percentile_coverage(of: Simulation, repetitions: int, seed: int = 0) -> float:
    """What percentiles of the bootstrap cover, for comparison."""

    def block(number: int, resampled: Resampled, rng: np.random.Generator) -> float:
        scores, truth = draw_scores(of, number, rng)
        times = np.concatenate(list(resampled.chunks()))[:, resampled.clusters]
        means = times @ scores / times.sum(1, keepdims=True)
        low, high = np.percentile(means, [2.5, 97.5], axis=0)
        return float(((low <= truth) & (truth <= high)).sum())

    return _blocks(of, repetitions, seed, block)


def gap_coverage(of: Simulation, repetitions: int, seed: int = 0) -> float:
    """Share of intervals of the closed gap that hold it: half of a gap of one standard deviation, paired by the prompt."""

    def block(number: int, resampled: Resampled, rng: np.random.Generator) -> float:
        scores, truth = draw_scores(of, number, rng)
        spread = np.sqrt((np.e - 1) * np.e) if of[0] == "lognormal" else 1.0
        whole = spread + 0.7 * (scores - truth)  # how far the ceiling is above the base
        closed = 0.5 * whole + 0.4 * spread * rng.normal(size=whole.shape)
        return number * _share(ratio_intervals(closed, whole, resampled, CONFIDENCE), 0.5)

    return _blocks(of, repetitions, seed, block)


def _blocks(
    of: Simulation,
    repetitions: int,
    seed: int,
    block: Callable[[int, Resampled, np.random.Generator], float],
) -> float:
    """Add up blocks of repetitions, each with bootstrap samples of its own."""
    rng, covered = np.random.default_rng(seed), 0.0
    for start in range(0, repetitions, BLOCK):
        resampled = resample(clusters_of(*of[1:]), SAMPLES, seed + start)
        covered += block(min(BLOCK, repetitions - start), resampled, rng)
    return covered / repetitions


def _share(intervals: Sequence[Interval], truth: float) -> float:
    return sum(low <= truth <= high for low, high in intervals) / len(intervals)


def measure(repetitions: int) -> dict[str, Any]:
    """All of the tables: title -> rows of named cells."""
    exact = {
        "one scorer, exact": exact_winning_coverage,
        "one scorer, Wilson's interval, exact": wilson_coverage,
    }
    winning: list[dict[str, Any]] = [
        {"outcomes": name, "prompts": prompts}
        | {rate: covered(prompts, of(prompts)) for rate, of in RATES.items()}
        for name, covered in exact.items()
        for prompts in SIZES
    ]
    for kind, together in itertools.product(("one scorer", "ties", "average of four"), (1, 8)):
        winning += [
            {"outcomes": kind if together == 1 else f"{kind}, clusters of {together}", "prompts": prompts}
            | {
                rate: winning_coverage((kind, prompts, together), of(prompts), repetitions)
                for rate, of in RATES.items()
            }
            for prompts in SIZES
            if (kind, together) != ("one scorer", 1)  # it stands there exactly
        ]
    means = [
        {"scores": f"{kind}{', clusters of 8' if together > 1 else ''}", "prompts": prompts}
        | {"mean": mean_coverage((kind, prompts, together), repetitions)}
        | {"share of a gap": gap_coverage((kind, prompts, together), repetitions)}
        | {"mean, by percentiles": percentile_coverage((kind, prompts, together), repetitions)}
        for kind in ("normal", "lognormal")
        for prompts, together in MEANS
    ]
    claims = [
        {"outcomes": kind}
        | {
            f"{prompts}{' in clusters of 8' if together > 1 else ''}": false_claims(
                (kind, prompts, together), 10 * repetitions
            )
            for prompts, together in ((5, 1), *MEANS)
            if prompts != 30
        }
        for kind in ("one scorer", "ties", "average of four")
    ]
    return {
        "Winning rates, by the true rate": winning,
        "Means and shares of a gap": means,
        "Equally good models of which one is called better, by the number of prompts": claims,
    }


def to_markdown(tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The tables in percent."""
    lines: list[str] = []
    for title, rows in tables.items():
        lines += ["", f"**{title}**", "", f"| {' | '.join(rows[0])} |"]
        lines.append("|---|" + "---:|" * (len(rows[0]) - 1))
        for row in rows:
            cells = (f"{100 * cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row.values())
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description="Coverage of the intervals in the tables.")
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coverage"))
    given = parser.parse_args()
    started = time.monotonic()
    tables = measure(given.repetitions)
    about = about_here(["numpy", "scipy"]) | {"repetitions": given.repetitions}
    command = f"`python -m benchmarks.coverage --repetitions {given.repetitions}`"
    took = f"{command}, {time.monotonic() - started:.0f} s. {about_line(about)}"
    error = 100 * (CONFIDENCE * (1 - CONFIDENCE) / given.repetitions) ** 0.5
    what = f"In percent: how many of 95% intervals cover the truth. {given.repetitions} repetitions, standard error {error:.1f}."
    lines = ["# coverage", "", took, "", what, *to_markdown(tables)]
    write_record(given.out, {"about": about, "tables": tables}, lines)


if __name__ == "__main__":
    main()
