"""What models and scorers are called, and the one colour each model has in all figures."""

import colorsys
import re

AVERAGE = "average"
"""The column that is the unweighted mean over `tables.average_of`."""

MODELS = {"base": "Base", "sft": "SFT", "dpo": "Diffusion-DPO", "clean": "Clean"}
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
FIXED = {"base": "#7f7f7f", "sft": "#e69f00", "dpo": "#cc79a7", "clean": "#009e73"}
FURTHER = ("#d55e00", "#b8a800", "#882255", "#44aa99")


def model_label(model: str) -> str:
    """Name a model for readers: iter2 is "SPIN iter 2"; a name without a known label is shown as it is."""
    iteration = re.fullmatch(r"iter(\d+)", model)
    return f"SPIN iter {iteration[1]}" if iteration else MODELS.get(model, model.replace("_", " "))


def scorer_label(scorer: str) -> str:
    """Name a scorer for readers; one without a known label is shown as it is."""
    return SCORERS.get(scorer, scorer.replace("_", " "))


def model_colours(models: list[str], iterations: list[str]) -> dict[str, str]:
    """Give each model its colour as #rrggbb: iterations go from light to dark blue, in their order."""
    further = iter(FURTHER * len(models))
    return {
        model: _blue(iterations.index(model), len(iterations))
        if model in iterations
        else FIXED.get(model) or next(further)
        for model in models
    }


def _blue(index: int, count: int) -> str:
    """The blue of iteration `index` of `count`; a single iteration takes the dark end."""
    share = index / (count - 1) if count > 1 else 1.0
    red, green, blue = colorsys.hls_to_rgb(205 / 360, 0.68 - 0.38 * share, 0.62 + 0.2 * share)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
