"""A params.yaml for a first look: every stage on the same data and base, each with next to nothing to do."""

from typing import Any

import yaml

from spin.runtime.launch import has_gpus

SMALLEST_SIDE = 256
"""Pixels: no published base draws anything below."""
STEPS, BATCH, ROWS, SAMPLER_STEPS = 2, 4, 256, 4
"""Updates of a training stage, pairs in each, rows read of a source that can be read in part, steps to draw an image."""


def quick_resolution(resolution: int) -> int:
    """Half the profile's, which its base can still draw, but no less than SMALLEST_SIDE and no more than the profile's."""
    return min(resolution, max(SMALLEST_SIDE, resolution // 2))


def quickly(text: str, rows: int | None) -> str:
    """Return the parameters in `text`, of a source of so many rows (None: unknown), with as little work as each stage takes.

    Data and base are as in `text`, so that what they give serves the full run too; rows beyond `ROWS` are left out where
    the source can be read in part. Models are evaluated on the previews' captions. Nothing is registered with full runs.
    """
    raw: dict[str, Any] = yaml.safe_load(text)

    # Data: what it is, unless it is large and can be read in part.
    if "max_rows" in raw["data"] and (rows is None or rows > ROWS):
        raw["data"] |= {"max_rows": ROWS}
        raw["data"] |= {key: min(raw["data"][key], ROWS // 16) for key in ("num_val", "num_test")}

    # Training; a CPU is many times slower in half precision.
    if not has_gpus():
        for section in ("training", "opponents", "evaluate"):
            raw[section]["precision"] = "fp32"
    training = raw["training"]
    training["batch_size"] = min(BATCH, training["batch_size"])
    if training["micro_batch_size"] != "auto":
        training["micro_batch_size"] = min(training["batch_size"], training["micro_batch_size"])
        if training["batch_size"] % training["micro_batch_size"]:
            training["micro_batch_size"] = 1
    training["preview_every"] = min(STEPS, training["preview_every"])
    for stage in (*raw["iterations"].values(), *raw["baselines"].values()):
        stage |= {"num_steps": STEPS, "warmup_steps": 0}
    for comparison in raw["continual"].values():
        comparison |= {"every": STEPS, "prompts": "test"}

    # Drawing and judging.
    for section in ("opponents", "evaluate"):
        raw[section]["num_inference_steps"] = min(SAMPLER_STEPS, raw[section]["num_inference_steps"])
    raw["prompt_sets"] = {"test": {"prompts": "val", "source": None, "images_per_prompt": None}}
    raw["evaluate"] |= {"prompt_sets": ["test"], "images_per_prompt": 1}
    raw["tables"]["bootstrap_samples"] = min(1000, raw["tables"]["bootstrap_samples"])
    for key in ("experiment", "registered_model"):
        raw["tracking"][key] += "-quick"
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=10**6)
