"""Statistics of paired scores: one number per prompt and model, the same prompts for every model.

Scores are float64 arrays over prompts, (N,), higher is better. Uncertainty is over prompts: they are the
sample, and every model answers the same ones, so comparisons keep the pairs together. Intervals are in `intervals`.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 15 (permutation)
    Holm 1979, Scandinavian Journal of Statistics 6 (step-down correction)
"""

import math
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Reduction = Literal["mean", "median", "best"]
CHUNK = 1 << 22
"""Elements sign-flipped at a time, 32 MiB of float64."""
TIE = 1e-5
"""Scores nearer than this share of their mean size are a tie. They come from float32 networks: the same image scored in
batches of 1, 7, 32 and 96 differs by up to 4e-7 of it, and larger networks and other kernels add more rounding. It is
below 4e-4 of the standard deviation over prompts of every scorer here."""


class WinningRate(NamedTuple):
    """How often one model scores above another."""

    rate: float  # in [0, 1]; a tie counts half, so rate(a, b) + rate(b, a) = 1
    ties: int  # prompts on which neither score is above the other
    prompts: int


def outcomes(scores: Floats, over: Floats) -> Floats:
    """Return who wins each prompt, (N, ...) and (N, ...): 1.0 a win of `scores`, 0.5 a tie, 0.0 a loss.

    Their mean is the winning rate, and over several metrics the mean of the winning rates. A tie is a difference of at
    most `TIE` of the mean size of both models' scores, scorer by scorer, so that units do not matter.
    """
    size = (np.abs(scores).mean(0) + np.abs(over).mean(0)) / 2
    difference = scores - over
    return np.where(np.abs(difference) <= TIE * size, 0.5, (difference > 0).astype(np.float64))


def winning_rate(scores: Floats, over: Floats) -> WinningRate:
    """Share of prompts, (N,), on which `scores` is above `over`, ties counted half."""
    won = outcomes(scores, over)
    return WinningRate(float(won.mean()), int((won == 0.5).sum()), len(scores))


def reduce_images(images: Floats, how: Reduction, average_of: list[int]) -> Floats:
    """Make one number of each prompt's images: (N, images, scorers) -> (N, scorers).

    `mean` and `median` go scorer by scorer. `best` keeps the one image with the highest mean over the scorers
    `average_of` (the first of equals) and reports all scorers on it, as the paper does with 5 images.
    """
    if how == "best":
        winner = images[:, :, average_of].mean(2).argmax(1)  # (N,)
        return np.asarray(images[np.arange(len(images)), winner], dtype=np.float64)
    return np.asarray(images.mean(1) if how == "mean" else np.median(images, axis=1), dtype=np.float64)


def deviation(values: Floats, axis: int) -> Floats:
    """Sample standard deviation along `axis`; 0 of a single value."""
    if values.shape[axis] < 2:
        return np.zeros(np.delete(values.shape, axis))
    return np.asarray(values.std(axis=axis, ddof=1), dtype=np.float64)


def sign_flip_test(differences: Floats, num_permutations: int, seed: int) -> Floats:
    """Two-sided p-values of "the differences are symmetric about 0", by flipping signs: (N, M) -> (M,).

    Give the totals of clusters where prompts come in such: what belongs together flips together.
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
