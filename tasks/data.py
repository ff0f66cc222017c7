"""What is made before the first iteration: the training set, the base model's reference, the cache of latents."""

from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from tasks.stage import run_stage, stage_task


@stage_task(name="data")
def prepare_data(stage: str, root: Path) -> State[Any]:
    """Make the training set's manifest or a prompt set, or find a base or released model and record what it is."""
    return run_stage(stage, root)


@stage_task(name="cache", tags=["gpu"])
def cache_latents(stage: str, root: Path) -> State[Any]:
    """Encode the real images and captions once, for every iteration."""
    return run_stage(stage, root)
