"""Bootstrap samples of prompts that keep together what belongs together.

Prompts that share something (two objects, a writer) are no independent sample. They carry the same cluster, and whole
clusters are drawn with replacement (Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8).
A prompt that shares nothing is a cluster of its own, which is the usual bootstrap.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
CHUNK = 1 << 21
"""Counts held at a time, 16 MiB of float64."""


class Resampled(NamedTuple):
    """How often each cluster is in each bootstrap sample; one draw serves all models and scorers, which keeps them paired."""

    clusters: Indices
    """(N,), the cluster of each prompt, from 0 to C - 1."""
    times: NDArray[np.uint16]
    """(S, C), every row adds up to C."""

    def chunks(self) -> Iterator[Floats]:
        """Rows of `times`, (s, C), so many at a time that nothing outgrows `CHUNK` elements."""
        rows = max(1, CHUNK // len(self.clusters))
        for start in range(0, len(self.times), rows):
            yield self.times[start : start + rows].astype(np.float64)


def clusters_of(prompts: pd.DataFrame) -> list[str]:
    """Name the cluster of each row of `prompts`, one prompt a row: its `cluster`, or where it has none its `prompt_id`."""
    own = prompts["prompt_id"].astype(str)
    if "cluster" not in prompts:
        return list(own)
    named = prompts["cluster"].fillna("").astype(str)
    return list(named.where(named != "", own))


def cluster_codes(clusters: Sequence[str]) -> Indices:
    """Number the clusters by their names in order, (N,) names -> (N,) from 0 to C - 1."""
    return np.asarray(np.unique(np.asarray(clusters, dtype=str), return_inverse=True)[1], dtype=np.intp)


def resample(clusters: Indices, num_samples: int, seed: int) -> Resampled:
    """Draw `num_samples` bootstrap samples, each of as many clusters as there are."""
    count = int(clusters.max()) + 1
    drawn = np.random.default_rng(seed).integers(count, size=(num_samples, count), dtype=np.int32)
    drawn += count * np.arange(num_samples, dtype=np.int32)[:, None]
    times = np.bincount(drawn.ravel(), minlength=num_samples * count)
    return Resampled(clusters, times.reshape(num_samples, count).astype(np.uint16))


def totals(values: Floats, clusters: Indices) -> Floats:
    """Add up each cluster's prompts, (N, M) -> (C, M)."""
    summed = np.zeros((int(clusters.max()) + 1, *values.shape[1:]))
    np.add.at(summed, clusters, values)
    return summed


def resampled_medians(values: Floats, resampled: Resampled) -> Floats:
    """Median of every bootstrap sample, (N, M) -> (S, M): what `np.median` gives of the prompts drawn."""
    orders = [np.argsort(column, kind="stable") for column in values.T]
    rows = []
    for times in resampled.chunks():
        columns = []
        for order, column in zip(orders, values.T, strict=True):
            drawn = times[:, resampled.clusters[order]].cumsum(1)  # (s, N), prompts up to this score
            half = drawn[:, -1:] / 2
            lower, upper = (drawn >= half).argmax(1), (drawn > half).argmax(1)
            columns.append((column[order][lower] + column[order][upper]) / 2)
        rows.append(np.stack(columns, 1))
    return np.concatenate(rows)
