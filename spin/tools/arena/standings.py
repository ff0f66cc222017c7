"""What the votes say: winning rates with intervals, and beside them what the reward models said of the same images."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from spin.errors import EvaluationError
from spin.evaluation.intervals import winning_intervals
from spin.evaluation.labels import model_label, scorer_label
from spin.evaluation.statistics import Floats, sign_flip_test
from spin.runtime.files import read_parquet

KEYS = ["prompt_id", "image_index"]
CONFIDENCE = 0.95
NUM_PERMUTATIONS = 9999
NOT_SCORES = {"prompt", "category", "seed", "flagged"}


class Standing(NamedTuple):
    """How often one model was preferred to another, by people or by a scorer."""

    model: str
    over: str
    judge: str
    """`people`, or a scorer."""
    win_rate: float
    low: float
    high: float
    """95% interval over prompts (Agresti and Coull)."""
    votes: int
    ties: int
    prompts: int
    p: float
    """Paired sign-flip test over prompts, two-sided, of a winning rate of one half."""
    agreement: float
    """Share of people's decided votes in which this judge prefers the same image, its ties half; 1 for people."""


def standings(
    votes: pd.DataFrame, models: Sequence[str], scores: Mapping[str, pd.DataFrame] | None = None
) -> list[Standing]:
    """Count the votes on every pair of models; scorers are asked about the same images as people were.

    Several votes on one prompt are averaged first: prompts are the sample. `votes` is `Votes.read()`.
    """
    rows = []
    for model, over in itertools.combinations(models, 2):
        pair = votes[(votes["left"].isin([model, over])) & (votes["right"].isin([model, over]))]
        if pair.empty:
            continue
        chosen = pair["left"].where(pair["choice"] == "left", pair["right"])
        people = np.where(pair["choice"] == "tie", 0.5, (chosen == model).astype(float))
        rows.append(_standing(model, over, "people", people, people, pair["prompt_id"]))
        for judge, automatic in _judged(pair, model, over, scores or {}).items():
            rows.append(_standing(model, over, judge, automatic, people, pair["prompt_id"]))
    return rows


def read_scores(folder: Path, models: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Read `folder`/MODEL/scores.parquet of all models; raises `EvaluationError` if one is missing or torn."""
    frames = {}
    for model in models:
        path = folder / model / "scores.parquet"
        try:
            frames[model] = read_parquet(path).set_index(KEYS)
        except (OSError, ValueError, KeyError):
            raise EvaluationError(
                f"--scores needs the scores of {model}, but {path} is missing or torn; score that model first."
            ) from None
    return frames


def standings_table(rows: Sequence[Standing], votes: pd.DataFrame) -> str:
    """Lay out the standings as text."""
    from tabulate import tabulate

    if not rows:
        return "No votes yet."
    lines = [
        [
            f"{model_label(row.model)} over {model_label(row.over)}",
            judge_label(row.judge),
            f"{100 * row.win_rate:.1f}% [{100 * row.low:.1f}, {100 * row.high:.1f}]",
            f"{row.p:.2g}",
            f"{row.votes} on {row.prompts} prompts",
            row.ties,
            "" if row.judge == "people" else f"{100 * row.agreement:.0f}%",
        ]
        for row in rows
    ]
    headers = ["models", "judge", "winning rate", "p", "votes", "ties", "agrees with people"]
    return tabulate(lines, headers=headers, disable_numparse=True) + f"\n\n{side_line(votes)}"


def judge_label(judge: str) -> str:
    """Name a judge for readers."""
    return "People" if judge == "people" else scorer_label(judge)


def side_line(votes: pd.DataFrame) -> str:
    """Say how often the left image was preferred: far from one half, judges did not look."""
    decided = votes[votes["choice"] != "tie"]
    left = f"{100 * (decided['choice'] == 'left').mean():.0f}%" if len(decided) else "none"
    return (
        f"Ties count half. Intervals: 95%, Agresti-Coull over prompts. Of {len(decided)} decided votes {left} were for the"
        " image on the left."
    )


def _judged(
    pair: pd.DataFrame, model: str, over: str, scores: Mapping[str, pd.DataFrame]
) -> dict[str, Floats]:
    """Outcomes of `model` by scorer on the images that were voted on; 0.5 is a tie."""
    if model not in scores or over not in scores:
        return {}
    images = pd.MultiIndex.from_frame(pair[KEYS])
    lacking = [name for name in (model, over) if not images.isin(scores[name].index).all()]
    if lacking:
        raise EvaluationError(
            f"--scores must hold the images that were voted on, but lacks some of {lacking[0]}; score it again."
        )
    ours, theirs = scores[model].loc[images], scores[over].loc[images]
    names = [name for name in ours if name in theirs and name not in NOT_SCORES]
    return {
        str(name): 0.5 * (1 + np.sign(ours[name].to_numpy(float) - theirs[name].to_numpy(float)))
        for name in names
        if pd.api.types.is_numeric_dtype(ours[name])
    }


def _standing(
    model: str, over: str, judge: str, outcomes: Floats, people: Floats, prompts: "pd.Series[str]"
) -> Standing:
    means = pd.Series(outcomes).groupby(prompts.to_numpy()).mean()
    by_prompt: Floats = np.asarray(means, dtype=np.float64)
    ((low, high),) = winning_intervals(by_prompt[:, None], np.arange(len(by_prompt)), CONFIDENCE)
    p = float(sign_flip_test(by_prompt[:, None] - 0.5, NUM_PERMUTATIONS, seed=0)[0])
    decided = people != 0.5
    agreement = float((1 - np.abs(outcomes - people))[decided].mean()) if decided.any() else float("nan")
    ties = int((outcomes == 0.5).sum())
    rate = float(by_prompt.mean())
    return Standing(model, over, judge, rate, low, high, len(outcomes), ties, len(by_prompt), p, agreement)
