"""The whole self-play loop as one flow: the stages of dvc.yaml, each run by the task of its kind.

`python -m flows` runs it here and now; a deployment runs it through a worker.
"""

import re
from pathlib import Path
from typing import Annotated, Any

import networkx as nx
from prefect import Task, flow
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.order import needed_for, submit_in_order
from flows.refusal import refused_input
from tasks import (  # noqa: F401  (each enters its tasks in TASKS)
    code,
    continual,
    data,
    registry,
    report,
    sample,
    score,
    train,
)
from tasks.process import end_all, stopping
from tasks.project import Project, TornProjectError, open_project
from tasks.stage import BAD_INPUT_STATE, TASKS


def kind(stage: str) -> str:
    """Return `train` for `train@iter1`."""
    return stage.partition("@")[0]


@flow(name="spin-diffusion", task_runner=ThreadPoolTaskRunner())  # type: ignore[arg-type]
def spin_diffusion(
    root: Path = Path("."),
    targets: Annotated[
        list[str] | None, Field(description="Stages to bring up to date; all when empty.")
    ] = None,
    max_workers: Annotated[int, Field(ge=1, description="Stages that may run at once.")] = 2,
    stage_timeout: Annotated[float | None, Field(gt=0, description="Most seconds a stage may run.")] = None,
) -> State[Any]:
    """Bring the project at `root` up to date, stage by stage, as DVC's graph has them."""
    # Refuse bad input before any stage runs.
    refused = refused_input(root)
    if refused:
        return Failed(name=BAD_INPUT_STATE, message=refused)

    # Which stages there are, and which are wanted.
    project = open_project(root, stage_timeout)
    try:
        graph = needed_for(project.graph(), targets)
    except TornProjectError as error:
        return Failed(name=BAD_INPUT_STATE, message=str(error))
    except KeyError as error:
        return Failed(
            name=BAD_INPUT_STATE,
            message=f"targets must name stages of dvc.yaml, got {error.args[0]}; `dvc stage list` shows them.",
        )
    without_task = sorted({kind(stage) for stage in graph} - TASKS.keys())
    if without_task:
        return Failed(
            message=f"dvc.yaml has stages {', '.join(without_task)} without a task; add them to flows/."
        )

    def submit(stage: str, before: list[PrefectFuture[Any]]) -> PrefectFuture[Any]:
        return task_for(stage, project).submit(stage, project.root, wait_for=before)

    # Run them; whatever happens, nothing of it outlives the flow.
    stopping.clear()
    try:
        futures = submit_in_order(graph, submit, max_workers)
    except BaseException:
        stopping.set()
        raise
    finally:
        end_all()  # cancelled or interrupted: nothing goes on writing
    return summary(graph, {stage: future.state for stage, future in futures.items()})


def task_for(stage: str, project: Project) -> Task[..., Any]:
    """Return the stage's task, without its `gpu` tag if DVC has nothing to do: a cached stage takes no GPU slot."""
    stage_task = TASKS[kind(stage)]
    if "gpu" in stage_task.tags and not project.is_stale(stage):
        light = stage_task.with_options()
        light.tags = stage_task.tags - {
            "gpu"
        }  # given to `with_options`, an empty set would keep the old ones
        return light
    return stage_task


def summary(graph: "nx.DiGraph[str]", states: dict[str, State[Any]]) -> State[Any]:
    """Return the flow's state and one sentence: what ran and what was cached, or what failed and what it held up."""
    failed = {stage: state for stage, state in states.items() if state.is_failed() or state.is_crashed()}
    if not failed:
        cached = sum(state.name == "Cached" for state in states.values())
        return Completed(message=f"{len(states) - cached} stages ran, {cached} were cached.")
    waiting = {user for stage in failed for user in nx.ancestors(graph, stage)} - failed.keys()
    reasons = "; ".join(reason(state) for state in failed.values())
    held_up = f" {len(waiting)} stages that wait for it were not run." if waiting else ""
    name = BAD_INPUT_STATE if any(state.name == BAD_INPUT_STATE for state in failed.values()) else "Failed"
    return Failed(name=name, message=f"{reasons}{'' if reasons.endswith('.') else '.'}{held_up}")


def reason(state: State[Any]) -> str:
    """Return a failed task's sentence without what Prefect puts before it."""
    return re.sub(r"^Task run encountered an exception:? (\w+: )?", "", state.message or "a stage failed")
