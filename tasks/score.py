"""Scoring: every reward model on the images of one model."""

from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from tasks.stage import run_stage, stage_task


@stage_task(name="score", tags=["gpu"])
def score_images(stage: str, root: Path) -> State[Any]:
    """Score one model's images with all scorers, a row per image."""
    return run_stage(stage, root)


@stage_task(name="reference", tags=["gpu"])
def score_reference(stage: str, root: Path) -> State[Any]:
    """Render and score a level that the tables are read against."""
    return run_stage(stage, root)
