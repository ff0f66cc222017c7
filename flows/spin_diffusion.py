"""The whole self-play loop as one flow: the stages of dvc.yaml, each run by the task of its kind.

`python -m flows` runs it here and now; `flows.self_play` and `flows.evaluate` run it through a worker.
"""

import os
import re
from pathlib import Path
from typing import Any

import networkx as nx
from prefect import Task, flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed

from flows.forms import Running
from flows.left_running import under_way
from flows.links import publish_runs_page
from flows.order import UnknownStageError, evaluated_up_to, needed_for, submit_in_order
from flows.refusal import refused_input, unreachable_input
from spin.paths import REGISTRY
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
from tasks.commands import push
from tasks.process import end_all, stopping
from tasks.project import Project, TornProjectError, open_project
from tasks.registry import promote
from tasks.stage import BAD_INPUT_STATE, CACHED_STATE, RESTORED_STATE, TASKS
from tasks.warm import let_cool

FLOW = "spin-diffusion"
NO_REMOTE = "pull and push need a DVC remote, found none; name one by `dvc remote add -d store URL`."


def kind(stage: str) -> str:
    """Return `train` for `train@iter1`."""
    return stage.partition("@")[0]


@flow(name=FLOW)
def spin_diffusion(
    root: Path = Path("."),
    targets: list[str] | None = None,
    max_workers: int = 2,
    stage_timeout: float | None = None,
) -> State[Any]:
    """Bring the project at `root` up to date: `python -m flows`. What a deployment asks for stands in `flows.forms`."""
    with under_way(root):
        return bring_up_to_date(root, targets, Running(max_workers=max_workers, stage_timeout=stage_timeout))


def bring_up_to_date(
    root: Path, targets: list[str] | None, how: Running, up_to: str | None = None
) -> State[Any]:
    """Bring the stages that `targets` and the iteration `up_to` name up to date, all for None, as DVC's graph has them."""
    # Refuse bad input before any stage runs.
    refused = refused_input(root)
    if refused:
        return Failed(name=BAD_INPUT_STATE, message=refused)

    # Which stages there are, and which are wanted.
    project = open_project(root, how.stage_timeout, how.pull, how.push)
    try:
        graph = project.graph()
        graph = needed_for(
            graph, targets if up_to is None else [*(targets or []), *evaluated_up_to(graph, up_to)]
        )
    except (TornProjectError, UnknownStageError) as error:
        return Failed(name=BAD_INPUT_STATE, message=str(error))
    if (how.pull or how.push) and project.remote() is None:
        return Failed(name=BAD_INPUT_STATE, message=NO_REMOTE)
    if not how.pull and (missing := unreachable_input(project, graph)):
        return Failed(name=BAD_INPUT_STATE, message=missing)
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
        futures = submit_in_order(graph, submit, how.max_workers)
    except BaseException:
        stopping.set()
        raise
    finally:
        let_cool(project.root)
        end_all()  # cancelled or interrupted: nothing goes on writing

    # Say what came of it, here, in the registry and on the remote.
    publish_runs_page(root)
    states = {stage: future.state for stage, future in futures.items()}
    state = summary(graph, states)
    if state.is_completed() and "register" in states and states["register"].name != CACHED_STATE:
        meet_champion(project)
    if how.push and state.is_completed():
        return pushed(project, sorted(graph), state)
    return state


def meet_champion(project: Project) -> None:
    """Let the best of the run meet the champion; that nobody is promoted, or MLflow is away, is no failure of the flow."""
    if (
        os.environ.get("SPIN_TRACKING", "on") == "on"
        and (project.root / REGISTRY / "registry.json").is_file()
    ):
        promote(project.root, ["promote"], return_state=True)


def pushed(project: Project, stages: list[str], state: State[Any]) -> State[Any]:
    """Send what the stages made to the remote, also those that had nothing to do, and return the flow's state."""
    problem = push(stages, project, get_run_logger().info)
    if problem is None:
        return state
    return Failed(
        message=f"{state.message} But the remote did not take all of it ({problem}); start it again."
    )


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
        names = [state.name for state in states.values()]
        cached, restored = names.count(CACHED_STATE), names.count(RESTORED_STATE)
        came = f"{restored} came from DVC's cache or remote, " if restored else ""
        return Completed(message=f"{len(states) - cached - restored} stages ran, {came}{cached} were cached.")
    waiting = {user for stage in failed for user in nx.ancestors(graph, stage)} - failed.keys()
    reasons = "; ".join(reason(state) for state in failed.values())
    held_up = f" {len(waiting)} stages that wait for it were not run." if waiting else ""
    name = BAD_INPUT_STATE if any(state.name == BAD_INPUT_STATE for state in failed.values()) else "Failed"
    return Failed(name=name, message=f"{reasons}{'' if reasons.endswith('.') else '.'}{held_up}")


def reason(state: State[Any]) -> str:
    """Return a failed task's sentence without what Prefect puts before it."""
    return re.sub(r"^Task run encountered an exception:? (\w+: )?", "", state.message or "a stage failed")
