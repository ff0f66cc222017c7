"""Scores as the scoring stage writes them, drawn from known distributions, for tests of tables and report."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spin.runtime.files import write_json

SCORERS = ("pickscore", "hps", "image_reward", "aesthetic", "clip", "oracle_psnr", "oracle_attributes")
LEVEL = {"base": 0.0, "sft": 0.9, "dpo": 1.1, "iter1": 0.7, "iter2": 1.2, "iter3": 1.4, "clean": 1.3}
SCALE = {"pickscore": (20.6, 0.8), "hps": (0.268, 0.012), "image_reward": (0.2, 0.7), "aesthetic": (7.3, 1.1)}
SCALE |= {"clip": (0.31, 0.02), "oracle_psnr": (18.5, 1.8), "oracle_attributes": (0.9, 0.1)}


def protocol(**changes: Any) -> dict[str, Any]:
    return {
        "prompt_set": "test",
        "num_prompts": 64,
        "images_per_prompt": 1,
        "seed": 1000,
        "scheduler": "ddim",
        "num_inference_steps": 15,
        "guidance_scale": 3.0,
        "eta": 0.0,
        "resolution": 32,
    } | changes


def score_frame(model: str, num_prompts: int = 64, num_images: int = 1) -> pd.DataFrame:
    prompts = np.random.default_rng(0).normal(size=num_prompts).repeat(num_images)  # what all models share
    generator = np.random.default_rng(sum(map(ord, model)))
    rows = len(prompts)
    frame = pd.DataFrame(
        {
            "prompt_id": [f"test-{row // num_images:05d}" for row in range(rows)],
            "prompt": [f"a red circle above blue square number {row // num_images}" for row in range(rows)],
            "category": "",
            "image_index": [row % num_images for row in range(rows)],
            "seed": [1000 + row for row in range(rows)],
        }
    )
    for scorer in SCORERS:
        centre, spread = SCALE[scorer]
        z = LEVEL[model] + 0.6 * prompts + 0.8 * generator.normal(size=rows)
        frame[scorer] = centre + spread * z
    frame["oracle_attributes"] = (frame["oracle_attributes"] * 6).round().clip(0, 6) / 6  # makes ties
    return frame


def write_scores(folder: Path, frame: pd.DataFrame, **changes: Any) -> None:
    """Write one model's scores; `changes` go into its protocol."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "scores.parquet")
    cards = {scorer: {"version": "tiny-1", "sha256": "ab" * 32, "scale": "as drawn"} for scorer in SCORERS}
    scores = {scorer: float(frame[scorer].mean()) for scorer in SCORERS}
    images = len(frame) // frame["prompt_id"].nunique()
    stated = protocol(num_prompts=frame["prompt_id"].nunique(), images_per_prompt=images) | changes
    write_json(
        folder / "summary.json", {"model": folder.name, "mean": scores, "scorers": cards, "protocol": stated}
    )


def write_run(scores: Path, num_prompts: int = 64, num_images: int = 1) -> None:
    """Write the scores of all models of the toy profile, and of the clean renderings."""
    for model in LEVEL:
        write_scores(scores / model, score_frame(model, num_prompts, 1 if model == "clean" else num_images))
