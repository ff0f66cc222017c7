"""What the numbers say, in plain sentences that are true whichever way they came out."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from spin.evaluation.champion import ALIGNMENT, FEWEST, MOST_LOST, enough, met
from spin.evaluation.diversity import diversity_line
from spin.evaluation.labels import AVERAGE, model_label, scorer_label
from spin.evaluation.measures import Measures
from spin.evaluation.notes import ceiling_line, few_line
from spin.params.schema import Params


def champion_line(chosen: dict[str, Any]) -> str:
    """Say which iteration, or which model of a run without any, is best, over which others and by how much.

    `chosen` is the summary of the tables whose prompts choose. Fewer prompts than decide anything are said first.
    """
    name, choice = chosen["champion"], chosen["choice"]
    label, kind = model_label(name), "iteration" if chosen["iterations"] else "model"
    others = [other for other in choice["candidates"] if other != name]
    prompts = f"{chosen['statistics']['num_prompts']} {chosen['protocol']['prompt_set']} prompts"
    numbers = f"on {prompts} it wins {rates_line(met(chosen, name, others or ['base']), _confidence(chosen))}"
    if not others:
        return f"{label} is the only {kind}: {numbers}."
    if not choice["decided"]:
        few = f"{prompts} decide nothing, {FEWEST} are the fewest that may"
        return f"{few}: {label} is named the best {kind} only because it comes first, {numbers}."
    if choice["circle"]:
        said = f"{label} is taken for the best {kind}, of which each is beaten by another: {numbers}."
    elif choice["equals"]:
        equals = " and ".join(map(model_label, choice["equals"]))
        said = f"{label} is taken for the best {kind} as the earliest of those that nobody beats: {numbers}."
        said += f" These prompts cannot tell it from {equals}."
    else:
        said = f"{label} is the best {kind}, head to head: {numbers}."
    return said + _left_out(chosen)


def rates_line(rows: Sequence[dict[str, Any]], confidence: float | None = None) -> str:
    """List winning rates with their intervals: "63.5% over SPIN iter 1 (57.1 to 69.4) and ..."; the first names its level."""
    said: list[str] = []
    for row in rows:
        level = f"{confidence:g}% interval " if confidence is not None and not said else ""
        interval = f"({level}{100 * row['low']:.1f} to {100 * row['high']:.1f})"
        said.append(f"{100 * row['win_rate']:.1f}% over {model_label(row['over'])} {interval}")
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def findings(measures: Measures, summary: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """The summary of a run, sentence by sentence: the champion first, what speaks against it included.

    `measures` and `summary` are of the prompts that report, `chosen` is the summary of those that choose.
    """
    name, iterations = chosen["champion"], summary["iterations"]
    decides = enough(summary["statistics"]["num_prompts"])
    sentences = [champion_line(chosen), *_on_these_prompts(summary, chosen)]
    models = list(dict.fromkeys(row["model"] for row in summary["head_to_head"]))
    others = [over for over in models if over not in ("base", *chosen["choice"]["candidates"])]
    (base,) = met(summary, name, ["base"])
    sentences.append(f"Over the base it wins {100 * base['win_rate']:.1f}% ({_span(base)}). {_verdict(base)}")
    if others and iterations:
        sentences.append(f"It wins {rates_line(met(summary, name, others))}.")
    if len(iterations) > 1:
        before = ["base", *iterations]
        steps = [met(summary, model, [before[place]])[0] for place, model in enumerate(iterations)]
        said = ", ".join(f"{100 * row['win_rate']:.1f}% over {model_label(row['over'])}" for row in steps)
        sentences.append(f"From iteration to iteration, each over the model before it: {said}.")
    sentences += [*_gap(summary, name), *_better(met(summary, name, others))]
    sentences += _higher_mean(summary["mean"], name, chosen["choice"]["candidates"])
    sentences += diversity_line(summary, name) or diversity_line(chosen, name)
    if decides:
        sentences.append(_losses(measures.comparisons, name, 1 - summary["statistics"]["confidence"]))
    if summary["above_ceiling"]:
        above = ", ".join(model_label(model) for model, _ in summary["above_ceiling"])
        sentences.append(f"Beware of {above}: {ceiling_line(summary)}")
    return sentences


def _on_these_prompts(summary: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """What prompts that did not choose say of the choice, or that they are the same that did."""
    name, others = chosen["champion"], [o for o in chosen["choice"]["candidates"] if o != chosen["champion"]]
    if not others:
        return []
    if summary["protocol"]["prompt_set"] == chosen["protocol"]["prompt_set"]:
        return ["It was chosen on the very prompts that report here, which flatters its numbers a little."]
    rows = met(summary, name, others)
    said = [f"On these {rows[0]['n']} prompts, which did not choose it, it wins {rates_line(rows)}."]
    if summary["champion"] != name and enough(rows[0]["n"]):
        said.append(f"By these prompts {model_label(summary['champion'])} would be chosen.")
    return said


def _left_out(chosen: dict[str, Any]) -> str:
    """Name the candidates that lost too much alignment."""
    lost, given = chosen["choice"]["misaligned"], chosen["choice"]["candidates"]
    if not lost:
        return ""
    fell = f"mean {scorer_label(ALIGNMENT)} is more than {MOST_LOST:g} standard deviations below the base's"
    if lost == given:
        return f" Beware: of every candidate the {fell}, so none was left out for it."
    names = " and ".join(map(model_label, lost))
    return f" {names} {'were' if len(lost) > 1 else 'was'} left out: the {fell}."


def _gap(summary: dict[str, Any], name: str) -> list[str]:
    """How much of the way to the ceiling the champion went."""
    return [
        f"It closes {100 * row['share']:.0f}% of the gap from the base to {model_label(row['ceiling'])} in the average score "
        f"({100 * row['low']:.0f} to {100 * row['high']:.0f})."
        for row in summary["gap_closed"]
        if row["model"] == name
    ]


def _higher_mean(means: dict[str, dict[str, float]], name: str, given: Sequence[str]) -> list[str]:
    """Say that another candidate has the higher mean, which the choice does not look at."""
    best = max(given, key=lambda candidate: means[candidate][AVERAGE])
    if means[best][AVERAGE] <= means[name][AVERAGE]:
        return []
    than = f"{means[best][AVERAGE]:.4g} against {means[name][AVERAGE]:.4g}"
    return [
        f"{model_label(best)} has the highest mean of the average score, {than}; the choice is by prompts won, not by how far."
    ]


def _better(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Name the models outside the choice that beat the champion."""
    beaten = [row for row in rows if row["decides"] and row["win_rate"] < 0.5]
    names = " and ".join(model_label(row["over"]) for row in beaten)
    verb = "beat" if len(beaten) > 1 else "beats"
    return [f"It is not the best model of the run: {names} {verb} it."] if beaten else []


def _confidence(summary: dict[str, Any]) -> float:
    return 100 * float(summary["statistics"]["confidence"])


def _span(row: dict[str, Any]) -> str:
    return f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"


def _verdict(row: dict[str, Any]) -> str:
    """Read an interval against one half, where the prompts are enough."""
    if not enough(row["n"]):
        return f"{row['n']} prompts decide nothing."
    if row["low"] > 0.5:
        return "The whole interval is above one half: it is better than the base."
    if row["high"] < 0.5:
        return "The whole interval is below one half: it is worse than the base."
    return "The interval includes one half: these prompts do not show a difference from the base."


def _losses(comparisons: pd.DataFrame, name: str, alpha: float) -> str:
    """Name the scorers on which the champion is significantly below the base."""
    rows = comparisons[(comparisons["model"] == name) & (comparisons["over"] == "base")]
    lost = rows.loc[(rows["difference"] < 0) & (rows["p_holm"] < alpha), "scorer"]
    names = ", ".join(scorer_label(scorer) for scorer in lost)
    if names:
        return f"The mean of {model_label(name)} is significantly below the base's on {names} (paired test, Holm-corrected)."
    return f"The mean of {model_label(name)} is significantly below the base's on no scorer (paired test, Holm-corrected)."


def limits(params: Params, summary: dict[str, Any]) -> list[str]:
    """What the numbers do not say."""
    confidence = 100 * summary["statistics"]["confidence"]
    sentences = [
        f"The {confidence:g}% intervals cover the choice of prompts only. Training again with another seed "
        "moves every number too, and these intervals do not contain that.",
        "The scorers are learned stand-ins for people. Training that pleases them need not please anyone.",
        "Intervals are not corrected for the number of cells, nor those of the choice for the number of candidates; the "
        "paired tests are (Holm).",
    ]
    statistics = summary["statistics"]
    if not enough(statistics["num_prompts"]):
        sentences.append(
            f"{few_line(summary)} Means of so few skewed scores are covered less often than said."
        )
    if statistics["num_clusters"] < statistics["num_prompts"]:
        sentences.append(
            f"The {statistics['num_prompts']} prompts come in {statistics['num_clusters']} clusters that share something. "
            "Intervals and tests keep a cluster together, and hold the better the more clusters there are."
        )
    if summary["protocol"]["images_per_prompt"] == 1:
        sentences.append(
            "Each prompt was drawn once: luck of the seed is shared by all models, but not averaged out."
        )
    if params.data.kind == "toy":
        sentences.append(
            "This is the embedded world of 32 px scenes. It shows that the method does what it claims, and "
            "says nothing about photographs."
        )
    return sentences
