"""The HPSv2 benchmark's own report: per style the mean over groups of 80 prompts, and their standard deviation.

Wu et al. 2023, arXiv:2306.09341, and `evaluate` of the hpsv2 package: within a style, prompts 0-79 are the first
group, 80-159 the second, and so on; a style's number is the mean of its group means and its spread their population
standard deviation; the overall number is the mean over all images. All are printed times 100.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from spin.errors import EvaluationError
from spin.evaluation.intervals import mean_intervals, percentile_interval
from spin.evaluation.labels import model_label, scorer_label
from spin.evaluation.resampling import resample, resampled_medians
from spin.evaluation.table import Table
from spin.prompts.named import HPS_PER_STYLE, HPS_STYLES

GROUP = 80
OVERALL = "overall"
TIMES = 100.0
COLUMNS = ["style", "mean", "std", "low", "high", "median", "median_low", "median_high", "prompts", "flagged"]


def style_report(
    scores: pd.DataFrame, scorer: str, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Report one model's scores on the benchmark: style, mean, std, low, high, median and its interval, prompts, flagged.

    `scores` has the columns prompt_id, category, image_index, `scorer` and perhaps `flagged`, as the scoring stage
    writes them; prompt ids sort in the benchmark's order. Several images of a prompt are averaged first. A flagged
    image takes no part and is counted; its prompt keeps its place, so that groups stay what they are. `std` is over
    groups, and none for the overall row; low and high are the bootstrap interval of the mean over prompts. The median
    (median_low, median_high: percentiles of its bootstrap) is over prompts, not over groups.
    Raises `EvaluationError` if the scores are not those of the whole benchmark.
    """
    _check(scores, scorer)
    rows = []
    flagged = scores["flagged"] if "flagged" in scores else pd.Series(False, index=scores.index)
    values = scores.assign(value=TIMES * scores[scorer].where(~flagged))
    for style in HPS_STYLES:
        of_style = values[values["category"] == style]
        by_prompt = of_style.groupby("prompt_id", sort=True)["value"].mean()  # nan: only flagged images
        groups = np.nanmean(by_prompt.to_numpy(np.float64).reshape(-1, GROUP), axis=1)
        count = int(flagged[of_style.index].sum())
        rows.append(
            _row(
                style, by_prompt, float(groups.mean()), float(groups.std()), count, samples, confidence, seed
            )
        )
    overall = values.groupby("prompt_id", sort=True)["value"].mean()
    mean, none = float(overall.mean()), float("nan")
    rows.append(_row(OVERALL, overall, mean, none, int(flagged.sum()), samples, confidence, seed))
    return pd.DataFrame(rows, columns=COLUMNS)


def is_benchmark(scores: pd.DataFrame) -> bool:
    """Whether these are scores of the benchmark's whole prompt set, told by its styles and their counts."""
    if "category" not in scores:
        return False
    counts = scores.groupby("category")["prompt_id"].nunique().to_dict()
    return bool(counts == dict.fromkeys(HPS_STYLES, HPS_PER_STYLE))


def style_tables(
    reports: Mapping[str, pd.DataFrame], scorer: str, version: str, protocol: str
) -> list[Table]:
    """Lay out the means and medians of several models; `version` says which HPS, `protocol` how images were drawn."""
    long = pd.concat([report.assign(model=model) for model, report in reports.items()])
    long = long.rename(columns={"style": "scorer"})
    spreads = [
        f"{model_label(model)} {', '.join(f'{std:.2f}' for std in report['std'].iloc[:-1])}"
        for model, report in reports.items()
    ]
    flagged = sum(int(report["flagged"].iloc[-1]) for report in reports.values())
    left_out = f"{flagged} images were left out as flagged."
    notes = [
        f"{version}, times 100, as the benchmark's own code has it: a style is the mean of its groups of {GROUP} prompts.",
        f"Standard deviation over groups, {', '.join(HPS_STYLES)}: {'; '.join(spreads)}.",
        "Several images of a prompt are averaged, whatever the reduction of the protocol.",
        left_out,
        protocol,
    ]
    title, said = (
        f"{scorer_label(scorer)} by style of its benchmark",
        f"{version}, times 100, the median over prompts.",
    )
    means = long.rename(columns={"mean": "value"})
    medians = long[["model", "scorer", "median", "median_low", "median_high"]]
    medians = medians.rename(columns={"median": "value", "median_low": "low", "median_high": "high"})
    return [
        Table(f"styles_{scorer}", title, means, [], [], notes),
        Table(f"styles_{scorer}_median", f"{title}, medians", medians, [], [], [said, left_out, protocol]),
    ]


def _row(
    style: str,
    by_prompt: "pd.Series[float]",
    mean: float,
    std: float,
    flagged: int,
    samples: int,
    confidence: float,
    seed: int,
) -> tuple[object, ...]:
    values = np.asarray(by_prompt.dropna(), dtype=np.float64)[:, None]
    resampled = resample(np.arange(len(values)), samples, seed)  # a prompt of the benchmark shares nothing
    (interval,) = mean_intervals(values, resampled, confidence)
    middle = percentile_interval(resampled_medians(values, resampled)[:, 0], confidence)
    return style, mean, std, *interval, float(np.median(values)), *middle, len(values), flagged


def _check(scores: pd.DataFrame, scorer: str) -> None:
    for name in ("prompt_id", "category", scorer):
        if name not in scores:
            raise EvaluationError(
                f"the HPSv2 report needs the column {name}, found {', '.join(map(str, scores.columns))}; score again."
            )
    counts = scores.groupby("category")["prompt_id"].nunique()
    for style in sorted({*HPS_STYLES, *map(str, counts.index)}):
        expected = HPS_PER_STYLE if style in HPS_STYLES else 0
        if int(counts.get(style, 0)) != expected:
            raise EvaluationError(
                f"the HPSv2 report needs the benchmark's {expected} prompts of style {style or 'none'}, got"
                f" {int(counts.get(style, 0))}; generate and score the whole prompt set hpsv2."
            )
    if not np.isfinite(scores[scorer].to_numpy(np.float64)).all():
        raise EvaluationError(f"{scorer} must have finite scores, got NaN or infinite ones; score again.")
