"""Training: self-play iterations and the baselines they are compared with."""

from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from tasks.stage import run_stage, stage_task


@stage_task(name="train", tags=["gpu"])
def train_iteration(stage: str, root: Path) -> State[Any]:
    """Play one SPIN iteration; a retry resumes from the last step checkpoint."""
    return run_stage(stage, root)


@stage_task(name="baseline", tags=["gpu"])
def train_baseline(stage: str, root: Path) -> State[Any]:
    """Train a baseline from the base model with the same trainer."""
    return run_stage(stage, root)


@stage_task(name="continual", tags=["gpu"])
def train_continual(stage: str, root: Path) -> State[Any]:
    """Go on inside an iteration and move to the next one, and score both on the way."""
    return run_stage(stage, root)
