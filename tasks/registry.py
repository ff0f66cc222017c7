"""The model registry: a version per iteration, which points at the checkpoint that DVC keeps, and the gate before `champion`."""

import re
import sys
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from tasks.process import run
from tasks.stage import BAD_INPUT, BAD_INPUT_STATE, stage_task

register_models = stage_task("register")


@task(name="promote", task_run_name="promote", cache_policy=NO_CACHE, persist_result=False)
def promote(root: Path, arguments: list[str]) -> State[Any]:
    """Run the gate, `spin ARGUMENTS`, in the project; its sentence is the state and an artifact."""
    ended = run([sys.executable, "-m", "spin", *arguments], root, get_run_logger().info)
    sentence = ended.lines[-1].removeprefix("spin: ") if ended.lines else "nothing was printed"
    if ended.code:
        return Failed(name=BAD_INPUT_STATE if ended.code == BAD_INPUT else "Failed", message=sentence)
    create_markdown_artifact(key="gate", markdown=sentence, description=re.sub(r":.*", "", sentence)[:200])
    return Completed(message=sentence)
