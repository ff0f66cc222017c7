"""Drawing images: an iteration's opponents, and each model's images for the evaluation."""

from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from tasks.stage import run_stage, stage_task


@stage_task(name="opponents", tags=["gpu"])
def draw_opponents(stage: str, root: Path) -> State[Any]:
    """Draw one image per training prompt with the previous iterate; resumes from finished shards."""
    return run_stage(stage, root)


@stage_task(name="generate", tags=["gpu"])
def generate_images(stage: str, root: Path) -> State[Any]:
    """Draw the evaluation's images with one model, the same seeds for every model."""
    return run_stage(stage, root)
