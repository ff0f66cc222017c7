"""MLflow while a stage runs: its machine, its previews, a server that is away, a database that was killed when it was made."""

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from spin.params.schema import Params
from spin.tracking.connection import connected
from spin.tracking.notes import current_run
from spin.tracking.outbox import entries
from spin.tracking.runs import stage_run
from tests.tracking.told import picture_of, runs, tell

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"
OPTIONS = argparse.Namespace(all=False, params=ROOT / "profiles" / "toy.yaml")


BORN = """
import os, sqlite3, sys, threading, time
from pathlib import Path
from spin.tracking.connection import connected
def in_the_middle(file):
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=0) as database:
            return database.execute("select 1 from sqlite_master where name like '_alembic_tmp_%'").fetchone()
    except sqlite3.Error:
        return None
def end(folder=Path(sys.argv[1]) / ".spin/mlflow"):
    while not any(in_the_middle(file) for file in folder.glob("*mlflow.db*") if not file.name.endswith("journal")):
        time.sleep(0.0005)
    os._exit(9)
threading.Thread(target=end, daemon=True).start()
with connected(Path(sys.argv[1])) as client:
    client.search_experiments()
"""
"""Ends itself while MLflow's tables are half made."""


def test_a_database_that_was_killed_while_it_was_made_is_made_again(store: Path, params: Params) -> None:
    done = subprocess.run([sys.executable, "-c", BORN, str(store)], cwd=ROOT, timeout=120)
    assert done.returncode == 9
    tell(params, "train@iter1", store, 0.5)
    assert [run.info.status for run in runs(store, params)] == ["FINISHED"]


def test_the_machine_is_sampled_and_previews_are_shown_while_a_stage_runs(
    store: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    (store / "picture.png").write_text("early")
    with stage_run(params, "train@iter1", store, gpu=True):
        current_run().preview(store / "picture.png")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = runs(store, params)
            if found and "system/cpu_utilization_percentage" in found[0].data.metrics:
                break
            time.sleep(0.2)
        assert found[0].info.status == "RUNNING"
        assert picture_of(found[0]) == "early"
        assert "system/disk_usage_percentage" in found[0].data.metrics


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder),
    ]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                break
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.slow
def test_a_server_that_is_away_for_the_middle_third_ends_with_every_point_once(
    store: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with stage_run(params, "train@iter1", store) as run:
        with server(store, port):
            for step in range(1, 101):
                current_run().update({"loss": 1 / step}, step)
            deadline = time.monotonic() + 60
            while not entries(store)[0].sent().get("offset") and time.monotonic() < deadline:
                time.sleep(0.1)
        for step in range(101, 201):
            current_run().update({"loss": 1 / step}, step)
        time.sleep(1)
        again = server(store, port)
        again.__enter__()
        for step in range(201, 301):
            current_run().update({"loss": 1 / step}, step)
        run.metrics([{"step": step, "loss": 1 / step} for step in range(1, 301)])
    try:
        (told,) = runs(store, params)
        with connected(store) as client:
            history = client.get_metric_history(told.info.run_id, "loss")
    finally:
        again.__exit__(None, None, None)
    assert told.info.status == "FINISHED"
    assert sorted(point.step for point in history) == list(range(1, 301))
