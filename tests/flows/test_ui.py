"""`make ui` as a stranger meets it: its servers answer their own page and nobody else's, and nothing stays Running."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = "http://evil.example"
SLEEPER = "stages:\n  data:\n    cmd: echo started > started && sleep 600\n    outs: [data]\n"


class Ui(NamedTuple):
    """A `python -m flows.ui` of a project of its own."""

    root: Path
    process: "subprocess.Popen[str]"
    prefect: str
    mlflow: str
    env: dict[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: "object", seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.3)
    return False


def start_ui(root: Path, ports: tuple[int, int]) -> Ui:
    own = {"SPIN_PREFECT_PORT": str(ports[0]), "SPIN_MLFLOW_PORT": str(ports[1])}
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    env = {**clean, **own, "COLUMNS": "300"}
    with (root / "ui.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.ui"], cwd=root, env=env, stdout=log, stderr=log, text=True
        )
    said = wait_until(lambda: "Ctrl-C ends" in (root / "ui.log").read_text(), 120)
    assert said, (root / "ui.log").read_text()
    return Ui(root, process, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", env)


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    root = tmp_path_factory.mktemp("ui")
    for name in ("flows", "tasks"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", root)
    (root / "dvc.yaml").write_text(SLEEPER)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=root, check=True)
    started = start_ui(root, (free_port(), free_port()))
    yield started
    started.process.send_signal(signal.SIGINT)
    started.process.wait(60)


def status(url: str, body: object = None, method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
    """Ask as a page would: status and headers of the answer."""
    data = None if body is None else json.dumps(body).encode()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **sent}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, dict(reply.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


def prefect(ui: Ui, *arguments: str) -> str:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(command, cwd=ui.root, env=ui.env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_foreign_page_is_refused_by_prefect(ui: Ui) -> None:
    made = {"name": "evil", "flow_id": "0" * 8, "job_variables": {"command": "touch pwned"}}
    for path in ("deployments/", "deployments/filter", "flow_runs/filter"):
        url = f"{ui.prefect}/api/{path}"
        code, headers = status(url, method="OPTIONS", Origin=FOREIGN, Access_Control_Request_Method="POST")
        assert code == 400
        assert "access-control-allow-origin" not in {name.lower() for name in headers}
        assert status(url, made, "POST", Origin=FOREIGN)[0] in (401, 403)
        assert status(url, made, "POST", Host="evil.example")[0] in (401, 403), "DNS rebinding"
        assert status(url, made, "POST")[0] in (401, 403), "not even from here without the secret"
    assert status(f"{ui.prefect}/api/admin/settings")[0] == 401


@pytest.mark.slow
def test_a_foreign_page_is_refused_by_mlflow(ui: Ui) -> None:
    url = f"{ui.mlflow}/api/2.0/mlflow/experiments"
    assert status(f"{url}/create", {"name": "evil"}, "POST", Origin=FOREIGN)[0] == 403
    assert status(f"{url}/search?max_results=1", Host="evil.example")[0] == 403
    assert status(f"{url}/search?max_results=1")[0] == 200


@pytest.mark.slow
def test_the_secret_is_the_users_alone_and_the_command_knows_it(ui: Ui) -> None:
    for name in (".spin/prefect/auth", "prefect.toml"):
        assert (ui.root / name).stat().st_mode & 0o077 == 0, name
    assert "spin-diffusion/self-play" in prefect(ui, "deployment", "ls")


@pytest.mark.slow
def test_a_server_that_dies_is_started_again_and_what_was_cut_off_is_marked(ui: Ui) -> None:
    # MLflow is killed with all its children: it comes back while the others go on.
    supervisor = children_of(ui.process.pid, "mlflow")[0]
    os.killpg(children_of(supervisor, "mlflow")[0], signal.SIGKILL)
    assert wait_until(lambda: "The MLflow process ended" in (ui.root / "ui.log").read_text())
    assert wait_until(lambda: answers(f"{ui.mlflow}/health"))

    # A run is under way when all of it is killed at once.
    prefect(ui, "deployment", "run", "spin-diffusion/self-play")
    assert wait_until(lambda: (ui.root / "started").is_file(), 120)
    ui.process.kill()
    ui.process.wait()
    assert wait_until(lambda: not answers(f"{ui.prefect}/api/health"))

    # Started again, nothing says Running that does not run, and the run goes on.
    (ui.root / "started").unlink()
    ports = [int(url.rpartition(":")[2]) for url in (ui.prefect, ui.mlflow)]
    again = start_ui(ui.root, (ports[0], ports[1]))
    try:
        assert "1 runs of this folder were cut off" in (ui.root / "ui.log").read_text()
        assert wait_until(lambda: (ui.root / "started").is_file())
        assert prefect(again, "flow-run", "ls").upper().count("RUNNING") == 1
    finally:
        again.process.send_signal(signal.SIGINT)
        again.process.wait(60)


def children_of(pid: int, pattern: str) -> list[int]:
    done = subprocess.run(
        ["pgrep", "-P", str(pid), "-f", pattern], capture_output=True, text=True, check=True
    )
    return [int(line) for line in done.stdout.split()]


def answers(url: str) -> bool:
    try:
        return status(url)[0] == 200
    except OSError:
        return False
