"""`python -m benchmarks.worker_game`: play the game of this folder by the deployment, in a worker of its own.

Ends with code 0 when the run has completed, and with 1 when it has not, or the worker died. Started again after that it
waits for the run that was cut off, or starts a new one if that has ended.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.server import client_settings, free_port, server_settings, start_prefect, wait_for
from tasks.process import let_go

DEPLOYMENT = "spin-diffusion/self-play"
START_SECONDS = 90.0


@contextmanager
def prefect_for_workers(root: Path, log: Path) -> Iterator[dict[str, str]]:
    """Keep a Prefect server with the project's deployments; yields what its workers have in their environment."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    server = start_prefect(root, port, log, ui=False)
    try:
        wait_for(f"{api}/health", server, log)
        clients = {
            "PREFECT_API_URL": api,
            "PREFECT_API_AUTH_STRING": client_settings(root, api)["api.auth_string"],
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        env = {**os.environ, **clients}
        with log.open("ab") as stream:
            subprocess.run(
                [sys.executable, "-m", "flows.deploy"],
                cwd=root,
                env=env,
                check=True,
                stdout=stream,
                stderr=stream,
            )
        yield clients
    finally:
        let_go(server)
        server.wait()


def under_way(client: Any, deployment: Any) -> Any:
    """Return the id of the deployment's run that has not ended, or of a new one."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    )
    left = [run for run in runs if not run.state.is_final()]
    return left[0].id if left else client.create_flow_run_from_deployment(deployment.id).id


def wait_for_a_worker(log: Path, worker: "subprocess.Popen[bytes]") -> bool:
    """Return whether the worker polls; until then what it was left with is not marked."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and worker.poll() is None:
        if "started!" in log.read_text("utf-8", errors="replace"):
            return True
        time.sleep(0.2)
    return False


def play(root: Path) -> int:
    """Start the worker, see the run to its end, and end the worker."""
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    log = root / ".spin" / "worker.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as stream:
        worker = subprocess.Popen(
            [sys.executable, "-m", "flows.worker"], cwd=root, stdout=stream, stderr=stream
        )
    try:
        if not wait_for_a_worker(log, worker):
            return 1
        with temporary_settings(server_settings(root)), get_client(sync_client=True) as client:
            run = under_way(client, client.read_deployment_by_name(DEPLOYMENT))
            while worker.poll() is None:
                state = client.read_flow_run(run).state
                if state and state.is_final() and state.name != "StartsAgain":
                    return 0 if state.is_completed() else 1
                time.sleep(0.5)
        return 1
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(play(Path.cwd()))
