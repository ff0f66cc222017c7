"""Clones of a miniature project with a worker each, one Prefect server and a folder as their DVC remote."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = """
stages:
  data: {cmd: 'echo data >> $COUNTED && echo data > data', params: [seed], outs: [data]}
  train:
    foreach: {iter1: data}
    do:
      cmd: 'echo ${key} >> $COUNTED && cat ${item} > ${key} && echo trained >> ${key}'
      deps: ['${item}']
      params: [training.batch_size]
      outs: ['${key}']
  report: {cmd: 'echo $$ > waiting; until test -e go; do sleep 0.1; done; echo report > report', deps: [iter1], outs: [report]}
"""
"""Every training is counted where all clones see it; the report waits for a file, so that it can be killed."""


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return what the condition gives as soon as that counts as true; fails after some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        met = condition()
        if met:
            return met
        time.sleep(0.2)
    raise AssertionError(f"not met in {seconds:.0f} s")


def make_clone(folder: Path, remote: Path) -> Path:
    """Make a DVC project with this repository's flows, the miniature pipeline and a remote named by a relative path."""
    for name in ("flows", "tasks", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("prefect.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    (folder / "dvc.yaml").write_text(PIPELINE)
    dvc(folder, "init", "--no-scm", "-q")
    dvc(folder, "remote", "add", "-q", "-d", "store", os.path.relpath(remote, folder))
    return folder


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


class Clone(NamedTuple):
    """A clone and its worker."""

    root: Path
    worker: "subprocess.Popen[str]"
    name: str
    """Of the worker, and of the queue for its machine."""


def start_worker(root: Path, env: dict[str, str]) -> Clone:
    """Start `python -m flows.worker` in a clone and wait until it polls."""
    log = root / "worker.log"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "flows.worker"]
        process = subprocess.Popen(command, cwd=root, env=env, stdout=stream, stderr=stream, text=True)
    wait_until(lambda: process.poll() is not None or "started!" in log.read_text(), 60)
    assert process.poll() is None, log.read_text()
    return Clone(root, process, log.read_text().partition("Worker ")[2].partition(" of the pool")[0])


def stop_worker(clone: Clone) -> None:
    clone.worker.send_signal(signal.SIGINT)
    clone.worker.wait(60)


class Team(NamedTuple):
    """Two clones that share a server and a remote."""

    client: Any
    a: Clone
    b: Clone
    env: dict[str, str]
    counted: Path
    notified: list[dict[str, str]]

    def start(self, deployment: str, clone: Clone | None, **parameters: Any) -> Any:
        """Start a run, on the machine of a clone or anywhere; returns its id."""
        found = self.client.read_deployment_by_name(f"spin-diffusion/{deployment}")
        queue = {} if clone is None else {"work_queue_name": clone.name}
        made = self.client.create_flow_run_from_deployment(found.id, parameters={"run": parameters}, **queue)
        return made.id

    def run(self, deployment: str, clone: Clone | None, **parameters: Any) -> Any:
        """Start a run and wait for its end; returns it."""
        return self.ended(self.start(deployment, clone, **parameters))

    def ended(self, run: Any, seconds: float = 90.0) -> Any:
        """Wait for the end of a run; a crash that is followed by a new start is none."""

        def final() -> Any:
            found = self.client.read_flow_run(run)
            return found if found.state.is_final() and found.state.name != "StartsAgain" else None

        return wait_until(final, seconds)

    def trained(self) -> list[str]:
        """What was run so far, in whichever clone."""
        return self.counted.read_text().split() if self.counted.is_file() else []


def listen(notified: list[dict[str, str]]) -> Any:
    """Return a web server on a free port that keeps the JSON it is sent; call its `serve_forever` in a thread."""
    import http.server

    class Keep(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            notified.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    return http.server.HTTPServer(("127.0.0.1", 0), Keep)
