"""`python -m flows.worker`: a worker for a Prefect server that is elsewhere, in this clone of the project, until Ctrl-C.

The deployments name no folder: a run goes to a free worker and works in that worker's clone, which tells by `SPIN_PROJECT`.
Each worker polls the queue of all and one of its own, named as itself, for runs that are meant for its machine.
"""

import argparse
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flows import environment
from flows.left_running import end_left_running
from flows.server import server_settings
from tasks.process import let_go, start

POOL, SHARED_QUEUE = "spin", "default"
FOLDER = "SPIN_PROJECT"
"""Tells a run in which folder its worker works."""
BAD_INPUT = 2
GRACE_SECONDS = 30.0


def worker_name(root: Path) -> str:
    """Name the worker of this clone: the same at every start, and another for every clone on every machine."""
    digest = hashlib.sha256(str(root.resolve()).encode()).hexdigest()
    return f"{socket.gethostname()}-{digest[:6]}"


def make_pool(client: Any) -> None:
    """Make the pool unless it is there, with whatever somebody set on it."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


def make_place(root: Path, settings: dict[str, str]) -> None:
    """Make the worker's own queue, as one that is missing would keep it from all, and end what its folder left running."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.settings import temporary_settings

    name = worker_name(root)
    with temporary_settings(settings), get_client(sync_client=True) as client:
        make_pool(client)
        with suppress(ObjectAlreadyExists):
            client.create_work_queue(
                name=name, work_pool_name=POOL, description=f"For the worker in {root.resolve()}"
            )
    left = end_left_running(root, settings, name)
    if left:
        print(
            f"{left} runs of this folder were cut off; those of a deployment start again, others are marked as Crashed."
        )


def start_worker(
    root: Path, env: dict[str, str], output: int | None, limit: int | None = None
) -> "subprocess.Popen[str]":
    """Start the worker of this clone, for at most `limit` runs at once; ends with `tasks.process.let_go`."""
    name = worker_name(root)
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        POOL,
        "--type",
        "process",
        "--name",
        name,
    ]
    command += ["--work-queue", SHARED_QUEUE, "--work-queue", name]
    command += [] if limit is None else ["--limit", str(limit)]
    return start(command, root, GRACE_SECONDS, {**env, FOLDER: str(root.resolve())}, output)


@contextmanager
def only_worker(root: Path) -> Iterator[None]:
    """Hold the place of this clone's worker; raises `RuntimeError` if another one has it."""
    place = root / environment.STATE / "prefect" / "worker.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                "This folder has a worker already, by `make ui` or by hand; end that and try again."
            ) from None
        yield


def serve(root: Path, limit: int | None, signals: list[int]) -> int:
    """Start the worker and wait for its end or a signal; returns the exit code."""
    with only_worker(root):
        make_place(root, server_settings(root))
        print(
            f"Worker {worker_name(root)} of the pool {POOL}, in {root.resolve()}. Ctrl-C ends it.", flush=True
        )
        process = start_worker(root, {**environment.places(root), **os.environ}, None, limit)
        while process.poll() is None and not signals:
            time.sleep(0.2)
        let_go(process)
        return 0 if signals else process.wait()


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; exit code 2 when there is no server to work for."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.worker", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--limit", type=int, metavar="N", help="runs at once (default: any number)")
    given = parser.parse_args(arguments)
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: signals.append(got))
    try:
        return serve(Path.cwd(), given.limit, signals)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
