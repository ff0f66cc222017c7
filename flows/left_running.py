"""What a killed worker or flow left behind in Prefect: runs that say Running for ever, and GPU slots that they hold."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flows import environment

ENDED = "It was cut off: its process is gone. Start it again and it resumes."
SLOTS = "gpu"
"""The tag whose concurrency limit is the number of GPUs."""


def _lock_file(root: Path) -> Path:
    return root / environment.STATE / "prefect" / "flows.lock"


@contextmanager
def run_from_a_shell(root: Path) -> Iterator[None]:
    """Hold, as long as the block runs, what tells `end_left_running` that a flow of a shell is alive."""
    _lock_file(root).parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(root).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # let go by the kernel, however the process ends
        yield


def _flows_run_from_a_shell(root: Path) -> bool:
    if not _lock_file(root).is_file():
        return False
    with _lock_file(root).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def end_left_running(root: Path, settings: dict[str, str]) -> int:
    """Mark as Crashed every run of this project that says Running while no worker is up; return how many flows that were.

    Call it before the worker starts, against a server of this project's own. A flow that a shell runs is left alone.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    alive = _flows_run_from_a_shell(root)
    with temporary_settings(settings), get_client(sync_client=True) as client:
        left = [run for run in _unfinished_flows(client) if run.deployment_id is not None or not alive]
        for run in left:
            _crash(client, run.id)
        if left and not alive:
            with suppress(Exception):  # there is no such limit where nobody made one
                client.reset_concurrency_limit_by_tag(SLOTS)
    return len(left)


def _unfinished_flows(client: Any) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter

    states = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    runs: list[Any] = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(states))
    return runs


def _crash(client: Any, flow_run: Any) -> None:
    """The tasks first: a task that ends gives its slot back."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.states import Crashed

    of_flow = FlowRunFilter.model_validate({"id": {"any_": [flow_run]}})
    for task in client.read_task_runs(flow_run_filter=of_flow):
        if task.state is not None and not task.state.is_final():
            client.set_task_run_state(task.id, Crashed(message=ENDED), force=True)
    client.set_flow_run_state(flow_run, Crashed(message=ENDED), force=True)
