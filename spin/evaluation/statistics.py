"""Statistics of paired scores: one number per prompt and model, the same prompts for every model.

Scores are float64 arrays over prompts, (N,), higher is better. Uncertainty is over prompts: they are the
sample, and every model answers the same ones, so comparisons resample prompts and keep the pairs together.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentiles), ch. 15 (permutation)
    Clopper and Pearson 1934, Biometrika 26 (exact binomial bounds)
    Holm 1979, Scandinavian Journal of Statistics 6 (step-down correction)
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int32]
Reduction = Literal["mean", "median", "best"]
CHUNK = 1 << 22
"""Elements resampled or sign-flipped at a time, 32 MiB of float64."""


class WinningRate(NamedTuple):
    """How often one model scores above another."""

    rate: float  # in [0, 1]; a tie counts half, so rate(a, b) + rate(b, a) = 1
    ties: int  # prompts on which both scores are equal
    prompts: int


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def outcomes(scores: Floats, over: Floats) -> Floats:
    """Return who wins each prompt: 1.0 a win of `scores`, 0.5 a tie, 0.0 a loss; shapes broadcast.

    Their mean is the winning rate, and over several metrics the mean of the winning rates.
    """
    return np.asarray(0.5 * (1.0 + np.sign(scores - over)), dtype=np.float64)


def winning_rate(scores: Floats, over: Floats) -> WinningRate:
    """Share of prompts, (N,), on which `scores` is above `over`, ties counted half."""
    return WinningRate(float(outcomes(scores, over).mean()), int((scores == over).sum()), len(scores))


def reduce_images(images: Floats, how: Reduction, average_of: list[int]) -> Floats:
    """Make one number of each prompt's images: (N, images, scorers) -> (N, scorers).

    `mean` and `median` go scorer by scorer. `best` keeps the one image with the highest mean over the scorers
    `average_of` (the first of equals) and reports all scorers on it, as the paper does with 5 images.
    """
    if how == "best":
        winner = images[:, :, average_of].mean(2).argmax(1)  # (N,)
        return np.asarray(images[np.arange(len(images)), winner], dtype=np.float64)
    return np.asarray(images.mean(1) if how == "mean" else np.median(images, axis=1), dtype=np.float64)


def resample_prompts(num_prompts: int, num_samples: int, seed: int) -> Indices:
    """Draw the bootstrap samples, (num_samples, N) prompt indices; one draw serves all models and metrics."""
    return np.random.default_rng(seed).integers(num_prompts, size=(num_samples, num_prompts), dtype=np.int32)


def bootstrap(values: Floats, resampled: Indices, statistic: Callable[..., Floats] = np.mean) -> Floats:
    """Return the statistic of every resampled set, (N, ...) and (S, N) -> (S, ...); it takes `axis=1`.

    The replicates of two models made with one `resampled` are paired: subtract them for a difference.
    """
    rows = max(1, CHUNK // values.size)
    chunks = [resampled[start : start + rows] for start in range(0, len(resampled), rows)]
    return np.concatenate([statistic(values[chunk], axis=1) for chunk in chunks])


def deviation(values: Floats, axis: int) -> Floats:
    """Sample standard deviation along `axis`; 0 of a single value."""
    if values.shape[axis] < 2:
        return np.zeros(np.delete(values.shape, axis))
    return np.asarray(values.std(axis=axis, ddof=1), dtype=np.float64)


def percentile_interval(replicates: Floats, confidence: float) -> Interval:
    """Cut (1 - confidence) / 2 of the bootstrap replicates, (S,), off either end."""
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(replicates, [tail, 100 - tail])
    return Interval(float(low), float(high))


def winning_interval(won: Floats, resampled: Indices, confidence: float) -> Interval:
    """Interval of a winning rate from its outcomes, (N,) in [0, 1].

    Percentile bootstrap. Where every prompt was won, or every one lost, resampling sees no variation and
    would claim certainty; there the bound is Clopper and Pearson's: (alpha / 2)^(1 / N) after N wins.
    """
    exact = ((1 - confidence) / 2) ** (1 / len(won))
    if (won == 1).all():
        return Interval(exact, 1.0)
    if (won == 0).all():
        return Interval(0.0, 1 - exact)
    return percentile_interval(bootstrap(won, resampled), confidence)


def sign_flip_test(differences: Floats, num_permutations: int, seed: int) -> Floats:
    """Two-sided p-values of "the differences are symmetric about 0", by flipping signs: (N, M) -> (M,).

    All 2^N flips when they are at most `num_permutations`, else that many random ones and the observed one,
    so that p is never 0. A flip turns all M columns of a prompt, so that they stay comparable.
    Worked case: differences 1, 2, 3; of the 8 flips only +++ and --- reach |sum| 6, so p = 2 / 8.
    """
    observed = np.abs(differences.sum(0)) - 1e-12 * np.abs(differences).sum(
        0
    )  # equal sums differ by rounding
    num_prompts = len(differences)
    if 2**num_prompts <= num_permutations:
        signs = 2.0 * (np.arange(2**num_prompts)[:, None] >> np.arange(num_prompts) & 1) - 1.0
        return np.asarray((np.abs(signs @ differences) >= observed).mean(0), dtype=np.float64)
    generator, rows = np.random.default_rng(seed), max(1, CHUNK // num_prompts)
    extreme = np.ones(differences.shape[1])
    for start in range(0, num_permutations, rows):
        shape = (min(rows, num_permutations - start), num_prompts)
        signs = generator.integers(2, size=shape, dtype=np.int8) * 2.0 - 1.0
        extreme += (np.abs(signs @ differences) >= observed).sum(0)
    return extreme / (num_permutations + 1)


def holm(p_values: Floats) -> Floats:
    """Adjust p-values, (M,), so that rejecting those below alpha errs even once with probability < alpha.

    Worked case: .01, .04, .03 -> .03, .06, .06 (the smallest times 3, the next times 2, never falling).
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(scaled, 1.0)
    return adjusted


def prompts_needed(difference: float, deviation: float, confidence: float, power: float = 0.8) -> float:
    """Prompts at which a paired difference of this size is found significant with probability `power`.

    `deviation` is the standard deviation over prompts of the per-prompt differences. Normal
    approximation, rounded up: N = ((z_(1 - alpha / 2) + z_power) * deviation / difference)^2; infinite for 0.
    """
    if difference == 0:
        return math.inf
    z = NormalDist().inv_cdf((1 + confidence) / 2) + NormalDist().inv_cdf(power)
    return max(2.0, float(math.ceil((z * deviation / difference) ** 2)))
