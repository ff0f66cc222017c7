"""What models and scorers are called, and the one colour each model has in all figures."""

import colorsys
import re
import textwrap
from collections.abc import Iterable

AVERAGE = "average"
"""The column that is the unweighted mean over `tables.average_of`."""

MODELS = {"base": "Base", "sft": "SFT", "dpo": "Diffusion-DPO", "clean": "Clean"}
MODELS["diffusion_dpo"] = "Diffusion-DPO (released)"
RELEASED = re.compile(r"spin_iter(\d+)")
"""Names of the published checkpoints of SPIN-Diffusion."""
SCORERS = {
    "pickscore": "PickScore",
    "hps": "HPS",
    "hps_v21": "HPS v2.1",
    "image_reward": "ImageReward",
    "aesthetic": "Aesthetic",
    "aesthetic_v1": "Aesthetic V1",
    "clip": "CLIP",
    "oracle_psnr": "Oracle PSNR",
    "oracle_attributes": "Oracle attributes",
    AVERAGE: "Average",
}
# After Okabe and Ito, safe for the common colour blindnesses: fixed colours for the models every run has,
# the rest in turn for further baselines.
FIXED = {
    "base": "#7f7f7f",
    "sft": "#e69f00",
    "dpo": "#cc79a7",
    "clean": "#009e73",
    "diffusion_dpo": "#882255",
}
FURTHER = ("#d55e00", "#b8a800", "#661100", "#44aa99")
BLUE, VIOLET = 205, 275
"""Hues of iterations trained here, and of released ones."""


def model_label(model: str) -> str:
    """Name a model for readers: iter2 is "SPIN iter 2"; a name without a known label is shown as it is."""
    iteration, released = re.fullmatch(r"iter(\d+)", model), RELEASED.fullmatch(model)
    if released:
        return f"SPIN-Diffusion iter {released[1]} (released)"
    return f"SPIN iter {iteration[1]}" if iteration else MODELS.get(model, model.replace("_", " "))


def narrow_label(model: str) -> str:
    """The same in lines of at most 14 characters where words allow it, for columns that stand side by side."""
    return textwrap.fill(model_label(model), 14, break_long_words=False, break_on_hyphens=True)


def scorer_label(scorer: str) -> str:
    """Name a scorer for readers; one without a known label is shown as it is."""
    return SCORERS.get(scorer, scorer.replace("_", " "))


def average_last(scorers: Iterable[str]) -> list[str]:
    """Each scorer once, in order, the average at the end."""
    return [*(name for name in dict.fromkeys(scorers) if name != AVERAGE), AVERAGE]


def model_colours(models: list[str], iterations: list[str]) -> dict[str, str]:
    """Give each model its colour as #rrggbb: iterations from light to dark blue in their order, released ones violet."""
    released = [model for model in models if RELEASED.fullmatch(model)]
    shades = _shades(iterations, BLUE) | _shades(released, VIOLET)
    further = iter(FURTHER * len(models))
    return {model: shades.get(model) or FIXED.get(model) or next(further) for model in models}


def _shades(models: list[str], hue: int) -> dict[str, str]:
    """Light to dark of one hue; a single model takes the dark end."""
    last = len(models) - 1
    return {model: _shade(index / last if last else 1.0, hue) for index, model in enumerate(models)}


def _shade(share: float, hue: int) -> str:
    red, green, blue = colorsys.hls_to_rgb(hue / 360, 0.68 - 0.38 * share, 0.62 + 0.2 * share)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
