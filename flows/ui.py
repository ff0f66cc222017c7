"""`python -m flows.ui`: Prefect's and MLflow's pages and a worker on localhost, until Ctrl-C.

Each server runs under a supervisor in a process group of its own, because MLflow leaves its children behind: when this
process ends, whatever the reason, so does all it started. Nothing listens on any address but 127.0.0.1.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from flows import environment
from flows.server import start_prefect, ui_file, wait_for
from tasks.process import let_go, start

POOL = "spin"
BUSY_PORT = 2


def busy_port() -> str | None:
    """Return the sentence about the first port that something else listens on, or None."""
    for name, port in (("Prefect", environment.PREFECT_PORT), ("MLflow", environment.MLFLOW_PORT)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((environment.HOST, port))
            except OSError:
                return f"Port {port} must be free for {name}, but something listens on it; end that and try again."
    return None


def start_mlflow(root: Path, log: Path) -> "subprocess.Popen[str]":
    """Start MLflow's server on the store that the stages write."""
    store = root.resolve() / environment.STATE / "mlflow"
    (store / "artifacts").mkdir(parents=True, exist_ok=True)
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("sqlite:", "postgresql:", "mysql:")):
        uri = environment.places(root)["MLFLOW_TRACKING_URI"]
    command = [sys.executable, "-m", "mlflow", "server", "--host", environment.HOST, "--workers", "1"]
    command += ["--port", str(environment.MLFLOW_PORT), "--backend-store-uri", uri]
    command += ["--default-artifact-root", (store / "artifacts").as_uri()]
    own = [f"{name}:{environment.MLFLOW_PORT}" for name in (environment.HOST, "localhost")]
    command += ["--allowed-hosts", ",".join(own)]
    command += ["--cors-allowed-origins", ",".join(f"http://{each}" for each in own)]
    with log.open("ab") as stream:
        return start(command, root, 5.0, {**os.environ}, stream.fileno())


def register(root: Path, env: dict[str, str], log: Path) -> None:
    """Make the work pool and the deployments of prefect.yaml; raises `RuntimeError` if Prefect refuses."""
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    for command in (
        [*prefect, "work-pool", "create", POOL, "--type", "process", "--overwrite"],
        [*prefect, "deploy", "--all"],
    ):
        with log.open("ab") as stream:
            done = subprocess.run(
                command, cwd=root, env=env, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
            )
        if done.returncode:
            raise RuntimeError(
                f"`{' '.join(command[2:])}` ended with exit code {done.returncode}; {log} says why."
            )


def serve(root: Path, signals: list[int]) -> int:
    """Start everything, print the addresses and wait; returns the exit code."""
    logs = root / environment.STATE / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    env = {**environment.places(root), **os.environ, **environment.guarded(root, environment.PREFECT_PORT)}
    environment.write_client_settings(root)
    servers: list[subprocess.Popen[str]] = []
    try:
        # Servers first: the deployments need Prefect, the worker needs both.
        servers.append(start_prefect(root, environment.PREFECT_PORT, logs / "prefect.log", ui=True))
        servers.append(start_mlflow(root, logs / "mlflow.log"))
        wait_for(f"{environment.PREFECT_API}/health", servers[0], logs / "prefect.log")
        register(root, env, logs / "deploy.log")
        with (logs / "worker.log").open("ab") as stream:
            worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
            servers.append(start(worker, root, 30.0, env, stream.fileno()))
        wait_for(f"{environment.MLFLOW_URL}/health", servers[1], logs / "mlflow.log")

        # Up: say so, and wait.
        ui_file(root).write_text(str(os.getpid()), encoding="utf-8")
        print_addresses(root, logs)
        return wait_until_stopped(servers, signals, logs)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        ui_file(root).unlink(missing_ok=True)
        for server in reversed(servers):  # the worker first: it ends its runs while Prefect still listens
            let_go(server)
        for server in servers:
            server.wait()


def print_addresses(root: Path, logs: Path) -> None:
    """Say where the pages are and how to start a run."""
    print(f"Prefect  {environment.PREFECT_API.removesuffix('/api')}")
    print(f"         it asks once in each browser for: {environment.secret(root)}")
    print(f"MLflow   {environment.MLFLOW_URL}")
    print(f"Worker   of the pool {POOL}; logs in {logs}")
    print("A run    prefect deployment run 'spin-diffusion/toy'   (in this folder, from another shell)")
    print("Ctrl-C ends them all.", flush=True)


def wait_until_stopped(servers: "list[subprocess.Popen[str]]", signals: list[int], logs: Path) -> int:
    """Return 0 when asked to stop, 1 when one of the servers ended by itself."""
    while not signals:
        time.sleep(0.2)
        for server in servers:
            if server.poll() is not None:
                print(
                    f"A server ended by itself with exit code {server.returncode}; see {logs}.",
                    file=sys.stderr,
                )
                return 1
    return 0


def main() -> int:
    """Run until SIGINT or SIGTERM; exit code 2 when a port is busy."""
    sentence = busy_port()
    if sentence:
        print(sentence, file=sys.stderr)
        return BUSY_PORT
    signals: list[
        int
    ] = []  # no event: a handler that sets what the main thread waits for can lock itself out
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: signals.append(got))
    return serve(Path.cwd(), signals)


if __name__ == "__main__":
    sys.exit(main())
