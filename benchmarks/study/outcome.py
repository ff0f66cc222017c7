"""What came out: the planned comparisons with both intervals, and every model's numbers."""

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from benchmarks.study.plan import COMPARISONS, DESCRIBED
from spin.evaluation.intervals import Interval, mean_intervals, ratio_intervals, winning_intervals
from spin.evaluation.resampling import cluster_codes, clusters_of, resample
from spin.evaluation.statistics import Floats, outcomes

AVERAGE_OF = ["pickscore", "hps", "image_reward", "aesthetic"]
PSNR = "oracle_psnr"
SCORERS = [*AVERAGE_OF, "clip", PSNR, "oracle_attributes"]
CONFIDENCE, SAMPLES = 0.95, 4000


class Played:
    """All scores of one base."""

    def __init__(self, scores: pd.DataFrame) -> None:
        frame = scores.sort_values(["seed", "model", "prompt_id"], kind="stable")
        self.models: list[str] = list(dict.fromkeys(scores["model"]))
        prompts = frame.drop_duplicates("prompt_id").sort_values("prompt_id")
        self.clusters = cluster_codes(clusters_of(prompts))
        self.resampled = resample(self.clusters, SAMPLES, 0)
        self.scores: dict[str, dict[int, Floats]] = {model: {} for model in self.models}
        """(prompts, scorers) of each model and seed."""
        for (model, seed), rows in frame.groupby(["model", "seed"]):
            self.scores[str(model)][int(str(seed))] = rows[SCORERS].to_numpy(np.float64)

    def won(self, model: str, over: str) -> Floats:
        """Outcomes averaged over the four scorers, (seeds, prompts)."""
        columns = [SCORERS.index(name) for name in AVERAGE_OF]
        return np.stack(
            [outcomes(ours, theirs)[:, columns].mean(1) for ours, theirs in self._pairs(model, over)]
        )

    def gained(self, model: str, over: str) -> Floats:
        """PSNR above the other's, dB, (seeds, prompts)."""
        return np.stack(
            [(ours - theirs)[:, SCORERS.index(PSNR)] for ours, theirs in self._pairs(model, over)]
        )

    def _pairs(self, model: str, over: str) -> list[tuple[Floats, Floats]]:
        """The scores of both, for the seeds that both have."""
        ours, theirs = self.scores[model], self.scores[over]
        return [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]

    def mean(self, model: str) -> Floats:
        """Mean over seeds, (prompts, scorers)."""
        return np.asarray(np.mean(list(self.scores[model].values()), axis=0))

    def closed(self, model: str, ceiling: str = "clean") -> dict[str, Any]:
        """Share of the gap from the base to the ceiling, by scorer, of the mean over seeds, with its interval over prompts."""
        base, top = self.mean("base"), self.mean(ceiling)
        columns = [SCORERS.index(name) for name in (*AVERAGE_OF, PSNR)]
        above, below = (self.mean(model) - base)[:, columns], (top - base)[:, columns]
        spans = ratio_intervals(above, below, self.resampled, CONFIDENCE)
        shares = above.sum(0) / below.sum(0)
        return {
            SCORERS[column]: {"share": float(share), "low": span.low, "high": span.high}
            for column, share, span in zip(columns, shares, spans, strict=True)
        }


def over_seeds(values: Floats) -> Interval:
    """Student's interval of the mean over seeds, (seeds,)."""
    if len(values) < 2:
        return Interval(-math.inf, math.inf)
    half = student.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return Interval(float(values.mean() - half), float(values.mean() + half))


def verdict(level: float, *intervals: Interval) -> str:
    """Say what all intervals together say: above, below or open."""
    if all(low > level for low, _ in intervals):
        return "holds"
    if all(high < level for _, high in intervals):
        return "the opposite"
    return "open"


def compare(played: Played, model: str, over: str) -> dict[str, Any]:
    """Both primary outcomes of one comparison."""
    won, gained = played.won(model, over), played.gained(model, over)
    (rate,) = winning_intervals(won.mean(0)[:, None], played.clusters, CONFIDENCE)
    (psnr,) = mean_intervals(gained.mean(0)[:, None], played.resampled, CONFIDENCE)
    rate_seeds, psnr_seeds = over_seeds(won.mean(1)), over_seeds(gained.mean(1))
    return {
        "model": model,
        "over": over,
        "win_rate": _told(won, rate, rate_seeds, 0.5),
        "psnr": _told(gained, psnr, psnr_seeds, 0.0),
    }


def _told(values: Floats, prompts: Interval, seeds: Interval, level: float) -> dict[str, Any]:
    return {
        "mean": float(values.mean()),
        "over_prompts": list(prompts),
        "over_seeds": list(seeds),
        "by_seed": values.mean(1).tolist(),
        "verdict": verdict(level, prompts, seeds),
    }


def outcome(scores: pd.DataFrame) -> dict[str, Any]:
    """The planned comparisons and every model's means of one base."""
    played = Played(scores)
    models = [model for model in played.models if model not in ("base", "clean")]
    return {
        "prompts": len(played.clusters),
        "clusters": int(played.clusters.max()) + 1,
        "comparisons": [compare(played, *pair) for pair in COMPARISONS],
        "described": [compare(played, *pair) for pair in DESCRIBED if pair[1] in played.scores],
        "seeds": {model: sorted(scores) for model, scores in played.scores.items()},
        "over_base": {model: compare(played, model, "base") for model in models},
        "means": {
            model: dict(zip(SCORERS, played.mean(model).mean(0).tolist(), strict=True))
            for model in played.models
        },
        "gap_closed": {model: played.closed(model) for model in models},
    }
