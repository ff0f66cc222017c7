"""What a killed worker or flow left behind in Prefect: runs that say Running for ever, and GPU slots that they hold.

Several machines may work for one server, so a start of one looks after its own runs alone: those that it marked in its
folder, and those that its worker took. A run that is alive holds a lock on its mark, which the kernel lets go however the
process ends.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flows import environment

ENDED = "It was cut off: its process is gone. Started again it resumes."
GOES_ON = "It was cut off: its process was gone. It goes on where it was."
STARTS_AGAIN, MAX_STARTS = "a crashed run is to start again", 3
"""The automation of prefect.yaml that does the same while the server is up, and how often a run starts at most."""
SLOTS = "gpu"
"""The tag whose concurrency limit is the number of GPUs."""


def _marks(root: Path) -> Path:
    return root / environment.STATE / "prefect" / "runs"


def _mark(root: Path, flow_run: Any) -> Path:
    return _marks(root) / str(flow_run)


@contextmanager
def under_way(root: Path) -> Iterator[None]:
    """Mark the flow run that this is part of as alive in the project at `root` as long as the block runs."""
    from prefect.runtime import flow_run

    mark = _mark(root, flow_run.id)
    mark.parent.mkdir(parents=True, exist_ok=True)
    with mark.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)


def _is_alive(mark: Path) -> bool:
    if not mark.is_file():
        return False
    with mark.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def end_left_running(root: Path, settings: dict[str, str], worker: str) -> int:
    """Bring every run of this folder that says Running without being alive to a state that is true; return how many.

    A run of a deployment starts again, as it does when its process alone is killed; any other is marked as Crashed. Call
    it before the folder's worker, named `worker`, starts.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    with temporary_settings(settings), get_client(sync_client=True) as client:
        unfinished = _unfinished_flows(client)
        left = [
            run for run in unfinished if _was_here(run, root, worker) and not _is_alive(_mark(root, run.id))
        ]
        again = any(each.enabled for each in client.read_automations_by_name(STARTS_AGAIN)) if left else False
        for run in left:
            _end(client, run, again and _may_start_again(run))

        # Only where nobody else is at work: all slots go. Those of the dead alone come free after some minutes.
        if left and len(left) == len(unfinished):
            with suppress(Exception):  # there is no such limit where nobody made one
                client.reset_concurrency_limit_by_tag(SLOTS)
    for mark in _marks(root).glob("*"):
        if not _is_alive(mark):
            mark.unlink(missing_ok=True)
    return len(left)


def _was_here(run: Any, root: Path, worker: str) -> bool:
    """Whether the folder's worker took the run last; one of a shell has no worker, but a mark."""
    taken_by = run.labels.get("prefect.worker.name")
    return taken_by == worker or (taken_by is None and _mark(root, run.id).is_file())


def _may_start_again(run: Any) -> bool:
    """Whether a worker may take the run again: not one of a shell, one that was being cancelled, or one that keeps dying."""
    return run.deployment_id is not None and not run.state.is_cancelling() and run.run_count < MAX_STARTS


def _unfinished_flows(client: Any) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter

    states = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    runs: list[Any] = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(states))
    return runs


def _end(client: Any, flow_run: Any, again: bool) -> None:
    """The tasks first: a task that ends gives its slot back."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.states import AwaitingRetry, Crashed

    of_flow = FlowRunFilter.model_validate({"id": {"any_": [flow_run.id]}})
    for task in client.read_task_runs(flow_run_filter=of_flow):
        if task.state is not None and not task.state.is_final():
            client.set_task_run_state(task.id, Crashed(message=ENDED), force=True)
    state: Any = AwaitingRetry(message=GOES_ON) if again else Crashed(message=ENDED)
    client.set_flow_run_state(flow_run.id, state, force=True)
