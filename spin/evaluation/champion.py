"""Which model is the best of a run: decided head to head, on prompts that it was not trained on.

A winning rate over the base saturates: three iterations that win 94.6%, 92.4% and 92.2% over it may win and lose among
each other all the same. So every model meets every other on the same prompts and seeds, and one beats another where the
whole interval of its average winning rate is above one half. The champion

1. has not lost alignment: a candidate is left out if its mean CLIP score is below the base's by more than `MOST_LOST`
   of the standard deviation of the base's scores, with the whole paired interval;
2. is beaten by no other candidate. Of several such, which these prompts cannot tell apart, it is the earliest: one that
   cost more training has to earn it;
3. where all are beaten in a circle, wins the most of these meetings, and of equals has the highest mean winning rate.

The prompts that choose are those of a set that was held out for it (`val`), if the run evaluates one, and else the main
set; then the same prompts choose and report, and the page says so. Fewer than `FEWEST` prompts decide nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from spin.params.schema import Params

FEWEST = 20
"""Prompts below which nothing is decided: at 20 the intervals of means cover 93% even of lognormal scores, at 9 90%."""
ALIGNMENT = "clip"
"""The scorer that asks whether the image is of the prompt: the one that falls as the others rise."""
MOST_LOST = 0.1
"""Standard deviations over prompts; half of what Cohen 1988 (Statistical Power Analysis, section 2.2) calls a small
effect. In the embedded world perfect images are 0.14 above the base and the iterations within 0.03 of it."""
HELD_OUT_TO_CHOOSE = ("val", "pickapic_validation_unique")


class Choice(NamedTuple):
    """The champion, and what there is to say of how it was found."""

    champion: str
    equals: list[str]
    """Other candidates that no candidate beats either; these prompts cannot tell them from the champion."""
    circle: bool
    """Whether every candidate is beaten by another."""
    misaligned: list[str]
    """Candidates left out because they lost alignment; where it is all of them, none was."""
    decided: bool
    """Whether there were prompts enough to decide anything."""


def enough(num_prompts: int) -> bool:
    """Whether so many prompts may decide between models."""
    return num_prompts >= FEWEST


def choosing_set(params: Params) -> str:
    """The prompt set that chooses the champion: the first evaluated one held out for it, else the main one.

    Validation captions that are too few to decide anything do not take the choice from a main set that has more.
    """
    few = not enough(getattr(params.data, "num_val", FEWEST))
    held_out = (
        name
        for name in params.evaluate.prompt_sets
        if params.prompt_sets[name].prompts in HELD_OUT_TO_CHOOSE
        and not (few and params.prompt_sets[name].prompts == "val")
    )
    return next(held_out, params.evaluate.main_prompt_set)


def candidates(params: Params) -> list[str]:
    """The models that may become champion: the iterations, or in a run without any, every model but the base."""
    return list(params.iterations) or [name for name in params.evaluate.models if name != "base"]


def choose(duels: pd.DataFrame, given: Sequence[str], misaligned: Sequence[str] = ()) -> Choice:
    """Choose among the candidates `given`, earliest first, by the `duels` of `Measures`; see above for the rule."""
    lost = [name for name in given if name in misaligned]
    allowed = [name for name in given if name not in lost] or list(given)
    among = duels[duels["model"].isin(allowed) & duels["over"].isin(allowed)]
    beaten = set(among.loc[among["decides"] & (among["win_rate"] < 0.5), "model"])
    unbeaten = [name for name in allowed if name not in beaten]
    decided = bool((duels["n"] >= FEWEST).all())
    if unbeaten:
        return Choice(unbeaten[0], unbeaten[1:], False, lost, decided)
    won = among.assign(won=among["decides"] & (among["win_rate"] > 0.5)).groupby("model")
    standing = {name: (won["won"].sum()[name], won["win_rate"].mean()[name]) for name in allowed}
    return Choice(max(allowed, key=lambda name: standing[name]), [], True, lost, decided)


def misaligned(comparisons: pd.DataFrame, means: pd.DataFrame, given: Sequence[str]) -> list[str]:
    """The models of `given` that are shown to have lost more alignment than allowed; none without that scorer.

    `comparisons` and `means` are those of `Measures`, whose differences over the base are paired.
    """
    spread = means.loc[(means["model"] == "base") & (means["scorer"] == ALIGNMENT), "std"]
    if spread.empty:
        return []
    rows = comparisons[(comparisons["over"] == "base") & (comparisons["scorer"] == ALIGNMENT)]
    fallen = set(rows.loc[rows["high"] < -MOST_LOST * float(spread.iloc[0]), "model"])
    return [name for name in given if name in fallen]


def met(summary: dict[str, Any], model: str, others: Sequence[str]) -> list[dict[str, Any]]:
    """The meetings of `model` with `others` in a summary of tables, in their order: over, win_rate, low, high, decides."""
    rows = {(row["model"], row["over"]): row for row in summary.get("head_to_head", [])}
    return [rows[model, other] for other in others if (model, other) in rows]
