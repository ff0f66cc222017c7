"""Images, curves and checkpoints beside the fake scores, laid out as the stages write them."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from spin.runtime.files import write_json
from spin.toy.world import degrade, render, split_scenes, to_uint8
from tests.evaluation.fake_scores import LEVEL, protocol, score_frame, write_scores

WEIGHTS = {"unet": "0"}
BASE = {"source": "embedded", "revision": None, "family": "stable-diffusion", "weights": WEIGHTS}
CURVE_SEEDS = {"sft": 1, "dpo": 2, "iter1": 3, "iter2": 4, "iter3": 5}


def write_samples(folder: Path, frame: pd.DataFrame) -> None:
    """Write a picture for every row of a score frame, more degraded the lower the model's level."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(7)
    severity = float(np.clip(0.6 - 0.45 * LEVEL[folder.name], 0, 1))
    frame = frame[["prompt_id", "prompt", "category", "image_index", "seed"]].copy()
    frame["image"] = [f"images/{row:05d}-{index}.png" for row, index in enumerate(frame["image_index"])]
    scenes = split_scenes()["test"]
    frame["prompt"] = [scenes[row % len(scenes)].caption for row in range(len(frame))]
    for row, name in enumerate(frame["image"]):
        picture = degrade(render(scenes[row % len(scenes)]), severity, generator)
        Image.fromarray(to_uint8(picture)).save(folder / name)
    frame.to_parquet(folder / "manifest.parquet")
    write_json(folder / "protocol.json", protocol(num_prompts=len(frame)))


def curve_frame(stage: str, num_steps: int = 64) -> pd.DataFrame:
    generator, step = np.random.default_rng(CURVE_SEEDS[stage]), np.arange(1, num_steps + 1)
    share = step / num_steps
    noise = generator.normal(size=(6, num_steps))
    frame = pd.DataFrame({"step": step, "loss": 0.09 - 0.02 * share + 0.006 * noise[0]})
    if stage != "sft":
        frame["loss"] = np.log(2) - 0.3 * share + 0.05 * noise[0]
        frame["implicit_accuracy"] = np.clip(0.5 + 0.35 * share + 0.06 * noise[1], 0, 1)
        frame["margin"] = 8e-5 * share + 1e-5 * noise[2]
        frame["error_gen"] = 0.1 + 0.01 * share
        frame["error_gen_change"] = 0.004 * share + 4e-4 * noise[4]
    frame["error_real"] = 0.09 - 0.002 * share
    frame["error_real_change"] = -0.002 * share + 3e-4 * noise[3]
    frame["grad_norm"] = np.exp(0.3 * noise[5]) * (1.2 - 0.5 * share)
    frame["learning_rate"] = 1e-4 * 0.5 * (1 + np.cos(np.pi * share))
    return frame


def write_outputs(outputs: Path, num_prompts: int = 64) -> None:
    """Write scores, samples, curves and checkpoints of every model below `outputs`."""
    for model in LEVEL:
        frame = score_frame(model, num_prompts)
        write_scores(outputs / "scores" / "test" / model, frame)
        write_samples(outputs / "samples" / "test" / model, frame)
        write_json(
            outputs / "checkpoints" / model / "model.json",
            {"name": model, "base": BASE, "unet_sha256": f"{sum(map(ord, model)):064x}"},
        )
    (outputs / "curves").mkdir()
    for stage in CURVE_SEEDS:
        curve_frame(stage).to_csv(outputs / "curves" / f"{stage}.csv", index=False)
