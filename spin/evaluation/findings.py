"""What the numbers say, in plain sentences that are true whichever way they came out."""

from typing import Any

import pandas as pd

from spin.evaluation.labels import AVERAGE, model_label, scorer_label
from spin.evaluation.measures import Measures
from spin.evaluation.notes import ceiling_line
from spin.params.schema import Params

FEW_PROMPTS = 30
"""Below which a percentile bootstrap covers noticeably less than it says."""


def champion_line(summary: dict[str, Any]) -> str:
    """Say which iteration, or which model of a run without any, is best and how sure that it beats the base."""
    name = summary["champion"]
    rate = summary["win_rate_over_base"][name]
    confidence = 100 * summary["statistics"]["confidence"]
    kind = "iteration" if summary["iterations"] else "model"
    return (
        f"{model_label(name)} is the best {kind}: it wins {100 * rate[AVERAGE]:.1f}% over the base on "
        f"average ({confidence:g}% interval {100 * rate['low']:.1f} to {100 * rate['high']:.1f})."
    )


def findings(measures: Measures, summary: dict[str, Any], iterations: list[str]) -> list[str]:
    """The summary of a run, sentence by sentence: the champion first, what speaks against it included."""
    name, rates = summary["champion"], summary["win_rate_over_base"]
    sentences = [champion_line(summary), _verdict(rates[name])]
    if len(iterations) > 1:
        steps = ", ".join(f"{100 * rates[iteration][AVERAGE]:.1f}%" for iteration in iterations)
        sentences.append(f"From iteration to iteration that winning rate is {steps}.")
    average = measures.winrates[measures.winrates["scorer"] == AVERAGE].set_index(["over", "model"])
    for over in dict.fromkeys(measures.winrates["over"]):
        if over not in ("base", name):
            rate, low, high = (100 * float(average[key][over, name]) for key in ("win_rate", "low", "high"))
            sentences.append(f"Over {model_label(over)} it wins {rate:.1f}% ({low:.1f} to {high:.1f}).")
    best = max(rates, key=lambda model: float(rates[model][AVERAGE]))
    if rates[best][AVERAGE] > rates[name][AVERAGE]:
        won = 100 * rates[best][AVERAGE]
        sentences.append(
            f"It is not the best model of the run: {model_label(best)} wins {won:.1f}% over the base."
        )
    sentences.append(_losses(measures.comparisons, name, 1 - summary["statistics"]["confidence"]))
    if summary["above_ceiling"]:
        models = ", ".join(model_label(model) for model, _ in summary["above_ceiling"])
        sentences.append(f"Beware of {models}: {ceiling_line(summary)}")
    return sentences


def _verdict(rate: dict[str, float]) -> str:
    """Read an interval against one half."""
    if rate["low"] > 0.5:
        return "The whole interval is above one half: it is better than the base."
    if rate["high"] < 0.5:
        return "The whole interval is below one half: it is worse than the base."
    return "The interval includes one half: these prompts do not show a difference from the base."


def _losses(comparisons: pd.DataFrame, name: str, alpha: float) -> str:
    """Name the scorers on which the champion is significantly below the base."""
    rows = comparisons[(comparisons["model"] == name) & (comparisons["over"] == "base")]
    lost = rows.loc[(rows["difference"] < 0) & (rows["p_holm"] < alpha), "scorer"]
    names = ", ".join(scorer_label(scorer) for scorer in lost)
    if names:
        return f"Its mean is significantly below the base's on {names} (paired test, Holm-corrected)."
    return "Its mean is significantly below the base's on no scorer (paired test, Holm-corrected)."


def limits(params: Params, summary: dict[str, Any]) -> list[str]:
    """What the numbers do not say."""
    confidence = 100 * summary["statistics"]["confidence"]
    sentences = [
        f"The {confidence:g}% intervals cover the choice of prompts only. Training again with another seed "
        "moves every number too, and these intervals do not contain that.",
        "The scorers are learned stand-ins for people. Training that pleases them need not please anyone.",
        "Intervals are not corrected for the number of cells; the paired tests are (Holm).",
    ]
    if summary["statistics"]["num_prompts"] < FEW_PROMPTS:
        sentences.append(
            f"Only {summary['statistics']['num_prompts']} prompts were judged: a bootstrap over so few is too "
            "narrow, of a single one it has no width at all."
        )
    if len(summary["iterations"]) > 1:
        sentences.append(
            "The best iteration was chosen on these very prompts, which flatters its number a little."
        )
    if summary["protocol"]["images_per_prompt"] == 1:
        sentences.append(
            "Each prompt was drawn once: luck of the seed is shared by all models, but not averaged out."
        )
    if params.data.kind == "toy":
        sentences.append(
            "This is the embedded world of 32 px scenes. It shows that the method does what it claims, and "
            "says nothing about photographs. Its test prompts share their objects in groups of eight, "
            "so they are not quite independent and the intervals are somewhat narrow."
        )
    return sentences
