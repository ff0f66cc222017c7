"""The DVC stage runner: what every task does, whatever its kind.

DVC alone decides what is stale, so Prefect's caching is off. A stage with nothing to do ends as `Cached`; the others run
as `dvc repro --single-item STAGE` in a supervised subprocess, which may find the result of the same work in place of it.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from spin.stages.table import STAGES
from tasks.commands import CHATTER, STAGE_EXIT, dvc, push
from tasks.process import Exit, stopping
from tasks.progress import ProgressBar
from tasks.project import Project, project_at
from tasks.warm import keep_warm

BAD_INPUT = 2
"""Exit code of `python -m spin` when its one sentence says what the user can mend."""
BAD_INPUT_STATE = "BadInput"
"""Name of the failed state of such a stage, and of a flow that met one."""

CACHED_STATE, RESTORED_STATE = "Cached", "Restored"
"""Names of completed states of a stage that was not run: it was up to date, or DVC had the result of the same work."""

INTERRUPTED_STATE, FULL_DISK_STATE = "Interrupted", "FullDisk"
NOT_RETRIED = {BAD_INPUT_STATE, INTERRUPTED_STATE, FULL_DISK_STATE}
"""Names of failed states that a second try cannot mend; Prefect retries a returned state as it does an exception."""

_INTERRUPTED = {130, 143, -2, -15, 252}
"""Exit codes of what SIGINT or SIGTERM ended, as shells and as Python say it; and DVC's own after Ctrl-C."""

_FULL = re.compile(r"No space left on device|Errno 28|Disk quota exceeded")


Show = Callable[[str, Path], None]
"""(stage, root): puts what the stage made on the flow run's page."""

TASKS: dict[str, Task[..., Any]] = {}
"""The task of each kind of stage; the kind is the stage's name up to `@`."""


class StageError(Exception):
    """A stage did not end well; the message is one sentence."""


class BadInputError(StageError):
    """The stage says that its input is wrong: running it again cannot help."""


class StageInterruptedError(StageError):
    """Somebody ended the stage: starting it again is theirs to decide."""


class FullDiskError(StageError):
    """The stage, or DVC's cache, had no room: running it again would only fill it further."""


class Work(NamedTuple):
    """What it took to bring a stage up to date."""

    seconds: float
    ran: bool
    """Whether the stage was run; if not, DVC had the result of the same work in its cache or on its remote."""


def run_stage(stage: str, root: Path) -> State[Any]:
    """Bring one DVC stage up to date: the body of every task.

    Returns `Cached` when DVC had nothing to do, `Restored` when it had the result of the same work, `Completed` after a
    run, and a failed state with a name of its own for what a retry cannot mend. Raises `StageError` for what it may: a
    crash, a time-out.
    """
    if stopping.is_set():  # a retry after Ctrl-C must not start again what was just ended
        return Failed(name=INTERRUPTED_STATE, message=f"{stage} was interrupted.")
    project = project_at(root)
    if not project.is_stale(stage):
        return Completed(name=CACHED_STATE, message="DVC has nothing to do.")
    try:
        bar, logger = ProgressBar(stage), get_run_logger()

        def tell(line: str) -> None:
            logger.info(line)
            bar.see(line)

        work = reproduce(stage, project, tell)
    except BadInputError as error:
        return Failed(name=BAD_INPUT_STATE, message=str(error))
    except StageInterruptedError as error:
        return Failed(name=INTERRUPTED_STATE, message=str(error))
    except FullDiskError as error:
        return Failed(name=FULL_DISK_STATE, message=str(error))
    if not work.ran:
        return Completed(
            name=RESTORED_STATE, message=f"DVC had the result; it was here in {work.seconds:.0f} s."
        )
    if project.push and (problem := push([stage], project, logger.info)):
        logger.warning("%s is not on the remote yet (%s); the end of the flow tries again.", stage, problem)
    return Completed(message=f"Ran in {work.seconds:.0f} s.")


def reproduce(stage: str, project: Project, on_line: Callable[[str], None]) -> Work:
    """Run one stage through DVC, unless it finds the result of the same work.

    Raises `BadInputError` when the stage exited with code 2, `StageInterruptedError` when it was ended from outside, else
    `StageError`.
    """
    # MLflow links back by it; the same for all of a flow.
    os.environ["SPIN_PREFECT_RUN_ID"] = flow_run.id or ""
    started = time.monotonic()
    command = ["repro", *(["--pull"] if project.pull else []), "--single-item", stage]
    ended = dvc(command, project, on_line, project.timeout)
    project.forget()
    if ended.code:
        raise _error(stage, ended, project.timeout)
    ran = any(line.startswith("Running stage '") for line in ended.lines)
    if ran:
        keep_warm(project.root, project.command_of(stage))
    return Work(time.monotonic() - started, ran)


def _error(stage: str, ended: Exit, timeout: float | None) -> StageError:
    """Say in one sentence how the stage failed."""
    if ended.timed_out:
        return StageError(
            f"{stage} ran longer than {timeout:g} s and was ended; raise the limit or make it smaller."
        )
    exits = [match.group(1) for line in ended.lines if (match := STAGE_EXIT.search(line))]
    code = int(exits[-1]) if exits else ended.code
    if stopping.is_set() or code in _INTERRUPTED:
        return StageInterruptedError(f"{stage} was interrupted; the same command goes on where it was.")
    said = [line for line in ended.lines if not CHATTER.match(line)]
    of_stage = [line for line in said if not line.startswith("ERROR: failed to reproduce")]
    last = (of_stage or said or ["nothing was printed"])[-1].strip()
    if exits and code == BAD_INPUT:
        return BadInputError(f"{stage}: {last.removeprefix('spin: ')}")
    full = next((line for line in ended.lines if _FULL.search(line)), None)
    if full:
        return FullDiskError(f"{stage} had no room on the disk ({full.strip()}); free some and run it again.")
    return StageError(f"{stage} ended with exit code {code}; its last line was: {last}")


def _may_help(task: Task[..., Any], run: Any, state: State[Any]) -> bool:
    """Whether another try may end otherwise."""
    return state.name not in NOT_RETRIED


def stage_task(name: str, show: Show | None = None) -> Task[..., Any]:
    """Make the task of a stage of STAGES and enter it in `TASKS`; `show` publishes what a finished stage made.

    DVC alone decides what is stale, so Prefect's caching is off.
    """
    declared = STAGES[name]

    def bring_up_to_date(stage: str, root: Path) -> State[Any]:
        state = run_stage(stage, root)
        if show is not None and state.is_completed():
            show(stage, root)
        return state

    TASKS[name] = task(
        name=name,
        description=declared.help,
        tags=["gpu"] if declared.gpu else [],
        task_run_name="{stage}",
        cache_policy=NO_CACHE,
        retries=1,
        retry_condition_fn=_may_help,
        retry_delay_seconds=5,
        persist_result=False,
    )(bring_up_to_date)
    return TASKS[name]
