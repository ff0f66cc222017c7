"""The sentences under the tables: without them a number means nothing."""

from typing import Any

import pandas as pd

from spin.evaluation.champion import FEWEST, enough
from spin.evaluation.labels import AVERAGE, model_label, scorer_label

CEILING_SCORER = "aesthetic"
"""Judges quality alone, of which a clean reference is the top by construction."""


def protocol_line(summary: dict[str, Any]) -> str:
    """Say how images were drawn, reduced and compared."""
    protocol, statistics = summary["protocol"], summary["statistics"]
    images = protocol["images_per_prompt"]
    drawn = (
        f"{images} image a prompt" if images == 1 else f"{images} images a prompt ({protocol['reduction']})"
    )
    text = (
        f"Protocol: {statistics['num_prompts']} {protocol['prompt_set']} prompts, {drawn}, seed "
        f"{protocol['seed']}, {protocol['scheduler']} {protocol['num_inference_steps']} steps, guidance "
        f"{protocol['guidance_scale']}, eta {protocol['eta']}, {protocol['resolution']} px; {intervals_line(summary)}"
    )
    left_out = statistics["flagged_prompts"]
    return text + (
        f" {left_out} more prompts with a flagged image of some model are left out." if left_out else ""
    )


def intervals_line(summary: dict[str, Any]) -> str:
    """Say how intervals were made, as the end of a sentence."""
    statistics = summary["statistics"]
    prompts, clusters = statistics["num_prompts"], statistics["num_clusters"]
    over = "prompts" if clusters == prompts else f"the {clusters} clusters of prompts"
    return (
        f"{100 * statistics['confidence']:g}% intervals over {over}, paired: Agresti-Coull of winning rates, bootstrap t "
        f"of means ({statistics['bootstrap_samples']} samples)."
    )


def few_line(summary: dict[str, Any]) -> str:
    """Say that there are too few prompts to decide anything; empty where there are enough."""
    prompts = summary["statistics"]["num_prompts"]
    if enough(prompts):
        return ""
    return (
        f"{prompts} prompts decide nothing: with fewer than {FEWEST} the numbers are of these prompts alone, and none is "
        "marked as the best."
    )


def scorers_line(summary: dict[str, Any]) -> str:
    """Say what the scorers are and what Average means."""
    cards, order = summary["scorers"], summary["statistics"]["scorers"]
    named = [f"{scorer_label(name)} {cards[name]['version']}" for name in order]
    average = ", ".join(map(scorer_label, summary["statistics"]["average_of"]))
    return f"Scorers: {', '.join(named)}. Average: the unweighted mean of {average}."


def ties_line(rows: pd.DataFrame) -> str:
    """Say how ties were counted and how many there were, from one baseline's rows of winrates."""
    single = rows[(rows["scorer"] != AVERAGE) & (rows["ties"] > 0)]
    counts = []
    for scorer in dict.fromkeys(single["scorer"]):
        ties = rows.loc[rows["scorer"] == scorer, "ties"]
        few, many = int(ties.min()), int(ties.max())
        count = str(few) if few == many else f"{few}\N{EN DASH}{many}"
        counts.append(f"{scorer_label(scorer)} {count}")
    found = f"{', '.join(counts)} per model" if counts else "none"
    return f"Ties count half; ties among {rows['n'].iloc[0]} prompts: {found}."


def ceiling_line(summary: dict[str, Any]) -> str:
    """Say what the arrow means."""
    ceilings = " and ".join(map(model_label, summary["references"]))
    return (
        f"\N{UPWARDS ARROW} scored above {ceilings} on {scorer_label(CEILING_SCORER)}: the scorer is pleased "
        "beyond what a perfect image earns, which is over-optimisation and not quality."
    )


def gap_line(ceiling: str) -> str:
    """Say what a share of the gap is."""
    return (
        f"(mean - mean of {model_label('base')}) / (mean of {model_label(ceiling)} - mean of {model_label('base')}) on the "
        f"same prompts; empty where {model_label(ceiling)} is not above {model_label('base')} by its whole interval."
    )


def comparisons_line(comparisons: pd.DataFrame) -> str:
    """Say what the columns of the comparisons mean."""
    return (
        f"p: paired sign-flip test, two-sided; Holm: corrected for all {len(comparisons)} rows. Prompts "
        "needed: to find a difference of this size with 80% power at this confidence, before correction."
    )
