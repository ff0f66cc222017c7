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
from collections.abc import Callable
from pathlib import Path

from flows import environment
from flows.deploy import register
from flows.server import client_settings, start_prefect, ui_file, wait_for
from flows.worker import POOL, make_place, only_worker, start_worker, worker_name
from tasks.process import let_go, start

BUSY_PORT = 2
MAX_RESTARTS, RESTART_WINDOW = 3, 120.0


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


class Services:
    """The servers and the worker: each is started again when it ends by itself."""

    def __init__(self, root: Path, logs: Path, env: dict[str, str]) -> None:
        self.root, self.logs, self.env = root, logs, env
        self._starts: dict[str, Callable[[], subprocess.Popen[str]]] = {
            "Prefect": lambda: start_prefect(root, environment.PREFECT_PORT, logs / "prefect.log", ui=True),
            "MLflow": lambda: start_mlflow(root, logs / "mlflow.log"),
            "worker": self._start_worker,
        }
        self.running: dict[str, subprocess.Popen[str]] = {}
        self._ended: dict[str, list[float]] = {name: [] for name in self._starts}

    def _start_worker(self) -> "subprocess.Popen[str]":
        with (self.logs / "worker.log").open("ab") as stream:
            return start_worker(self.root, self.env, stream.fileno())

    def start(self, name: str) -> "subprocess.Popen[str]":
        """Start one of them."""
        self.running[name] = self._starts[name]()
        return self.running[name]

    def start_again_what_ended(self) -> None:
        """Raise `RuntimeError` for one that keeps ending: more than `MAX_RESTARTS` times in `RESTART_WINDOW` seconds."""
        for name, process in list(self.running.items()):
            if process.poll() is None:
                continue
            now = time.monotonic()
            self._ended[name] = [when for when in self._ended[name] if now - when < RESTART_WINDOW] + [now]
            if len(self._ended[name]) > MAX_RESTARTS:
                raise RuntimeError(f"The {name} process keeps ending; {self.logs} says why.")
            print(
                f"The {name} process ended with exit code {process.returncode}; it is started again.",
                flush=True,
            )
            self.start(name)

    def end(self) -> None:
        """The worker first, to its end: it ends its runs, and Prefect hears of it while it still listens."""
        for name in ("worker", "MLflow", "Prefect"):
            if name in self.running:
                let_go(self.running[name])
                self.running[name].wait()


def tell_what_waits(root: Path, env: dict[str, str], log: Path) -> None:
    """Tell MLflow what it missed; at the first start this makes its database, whole where the server would be killed on the way."""
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "spin", "sync"]
        subprocess.run(command, cwd=root, env=env, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL)


def serve(root: Path, signals: list[int]) -> int:
    """Start everything, print the addresses and wait; returns the exit code."""
    logs = root / environment.STATE / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    env = {**environment.places(root), **os.environ, **environment.guarded(root, environment.PREFECT_PORT)}
    environment.write_client_settings(root, environment.PREFECT_API, environment.secret(root))
    services = Services(root, logs, env)
    try:
        # Servers first: the deployments need Prefect, the worker needs both.
        prefect = services.start("Prefect")
        tell_what_waits(root, env, logs / "mlflow.log")
        mlflow = services.start("MLflow")
        wait_for(f"{environment.PREFECT_API}/health", prefect, logs / "prefect.log")
        settings = client_settings(root, environment.PREFECT_API)
        register(root, env, settings, logs / "deploy.log")
        make_place(root, settings)
        services.start("worker")
        wait_for(f"{environment.MLFLOW_URL}/health", mlflow, logs / "mlflow.log")

        # Up: say so, and look after them until asked to stop.
        ui_file(root).write_text(str(os.getpid()), encoding="utf-8")
        print_addresses(root, logs)
        while not signals:
            time.sleep(0.2)
            services.start_again_what_ended()
        return 0
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        ui_file(root).unlink(missing_ok=True)
        services.end()


def print_addresses(root: Path, logs: Path) -> None:
    """Say where the pages are and how to start a run."""
    print(f"Prefect  {environment.PREFECT_API.removesuffix('/api')}")
    print(f"         it asks once in each browser for: {environment.secret(root)}")
    from flows.links import runs_page  # late: Prefect is imported by now

    print(f"MLflow   {runs_page(root) or f'{environment.MLFLOW_URL}/#/experiments'}")
    print(f"Worker   {worker_name(root)} of the pool {POOL}; logs in {logs}")
    print("A run    prefect deployment run 'spin-diffusion/self-play'   (in this folder, from another shell)")
    print("Ctrl-C ends them all.", flush=True)


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
    try:
        with only_worker(Path.cwd()):
            return serve(Path.cwd(), signals)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return BUSY_PORT


if __name__ == "__main__":
    sys.exit(main())
