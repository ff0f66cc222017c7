"""The model registry: a thin entry per iteration, which points at the checkpoint that DVC keeps."""

from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from tasks.stage import run_stage, stage_task


@stage_task(name="register")
def register_models(stage: str, root: Path) -> State[Any]:
    """Register every iteration and move the alias `champion` to the best."""
    return run_stage(stage, root)
